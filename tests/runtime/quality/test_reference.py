from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import PROTOCOLS
from cxrseg.runtime.inference.loading import load_model
from cxrseg.runtime.models import default_model
from cxrseg.runtime.quality import features
from cxrseg.runtime.quality.gaussian import Gaussian
from cxrseg.runtime.quality.reference import (
    BROADEST,
    FORMAT_VERSION,
    MAX_CHARACTERS,
    Reference,
    read_reference,
)
from cxrseg.runtime.quality.rules import FITTED, RULES
from helpers.drawing import phantoms
from helpers.models.reference import shipped, shipped_json

FILE = Path("ward7.onnx")


def test_model_that_ships_has_its_reference_inside() -> None:
    text = load_model(default_model(), "cpu", 1).reference
    assert text is not None and text == shipped_json() and len(text) < 10_000
    reference = read_reference(text, default_model())
    assert reference is not None and reference.images > 3000
    assert reference.protocols == PROTOCOLS
    for protocol in PROTOCOLS:
        limits = reference.limits[protocol]
        assert all(limits[name] >= RULES[name].limit for name in FITTED)
    statistics = reference.statistics
    assert statistics.thumbnail.mean.size == features.CELLS**2
    assert {*statistics.mirror} == {("fields",), ("whole",), ("fields", "whole")}


def test_reference_survives_its_json() -> None:
    text = shipped().to_json()
    assert text == shipped_json() == Reference.from_json(text).to_json()


def test_numbers_have_four_digits() -> None:
    data = shipped().to_dict()
    data["thumbnail"]["mean"] = [1 / 3] * features.CELLS**2
    short = Reference.from_dict(data).to_dict()["thumbnail"]["mean"]
    assert short == [0.3333] * features.CELLS**2


def test_model_may_have_no_reference() -> None:
    assert read_reference(None, FILE) is None


def change(path: str, value: object) -> dict[str, Any]:
    """Return the shipped data with one value replaced, or without it where it is None."""
    data: dict[str, Any] = copy.deepcopy(shipped().to_dict())
    *parents, last = path.split(".")
    inner = data
    for name in parents:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return data


WEIGHTS = [0.0] * 30
FIELDS_ONLY = {"fields": 1.0}


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        ("format_version", None, "the reference must hold"),
        ("format_version", FORMAT_VERSION + 1, "format 2 is not one that this program understands"),
        ("format_version", 0, "format 0 is not"),
        ("format_version", "1", "must be numbers"),
        ("format_version", True, "must be numbers"),
        ("images", None, "the reference must hold"),
        ("images", 0, "must be numbers of 1 or more"),
        ("images", 1.5, "must be numbers of 1 or more"),
        ("surplus", 1, "the reference must hold"),
        ("limits", {}, "limits must hold fields, whole"),
        ("limits", [], "limits must hold"),
        ("limits.other", {}, "limits must hold fields, whole"),
        ("limits.fields.mirror", None, "limits.fields must hold"),
        ("limits.fields.mirror", -1, "limits.fields.mirror is not above 0"),
        ("limits.fields.mirror", "0.5", "limits.fields.mirror must be 1 numbers"),
        ("limits.fields.surplus", 1, "limits.fields must hold"),
        ("shapes.whole", None, "shapes must hold fields, whole"),
        ("shapes.whole.mean", [0.0] * 11, "shapes.whole.mean must be 12 numbers"),
        ("shapes.whole.root", [0.0] * 78, "is not that of a distribution"),
        ("thumbnail.mean", [True] * 36, "thumbnail.mean must be 36 numbers"),
        ("thumbnail.mean", ["1"] * 36, "thumbnail.mean must be 36 numbers"),
        ("thumbnail.mean", [[0.0]] * 36, "thumbnail.mean must be 36 numbers"),
        ("thumbnail.mean", [float("nan")] * 36, "too large, or none"),
        ("thumbnail.mean", [float("inf")] * 36, "too large, or none"),
        ("thumbnail.mean", [1e300] * 36, "too large, or none"),
        ("thumbnail.mean", [10**400] * 36, "holds a number that is too large"),
        ("thumbnail.root", {}, "thumbnail.root must be 666 numbers"),
        ("uncertainty", FIELDS_ONLY, "uncertainty must hold fields, whole"),
        ("uncertainty.fields", 0, "uncertainty.fields is not above 0"),
        ("mirror.fields", WEIGHTS, "mirror must be 24 numbers"),
        ("mirror.fields whole", None, "mirror must hold fields, whole, fields whole"),
    ],
)
def test_damaged_reference_is_refused(path: str, value: object, cause: str) -> None:
    with pytest.raises(CxrsegError) as failed:
        read_reference(json.dumps(change(path, value)), FILE)
    assert failed.value.subject == "ward7.onnx"
    assert cause in failed.value.cause and "quality-fit" in failed.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        *("", "no json", "[]", "null", "7", "[" * 50_000, '{"format_version": ' + "9" * 5000 + "}"),
        " " * (MAX_CHARACTERS + 1),
    ],
    ids=["empty", "text", "list", "null", "number", "nested", "digits", "huge"],
)
def test_hostile_reference_is_refused(text: str) -> None:
    with pytest.raises(CxrsegError, match="has a quality reference that cannot be used"):
        read_reference(text, FILE)


def test_broad_outlines_raise_the_out_of_distribution_score() -> None:
    phantom = phantoms.draw(0, 320)
    cells = features.thumbnail(np.asarray(phantom.image / 255, np.float32))
    lungs = features.shape(phantoms.draw(0, features.GRID).mask)
    assert cells is not None and lungs is not None
    usual = shipped().statistics
    sharp, plain, broad, broadest = (
        usual.deviation("fields", cells, lungs, band) for band in (0.5, 1.0, 2.0, 100.0)
    )
    distances = usual.thumbnail.distance(cells.ravel()), usual.shapes["fields"].distance(lungs)
    assert (
        sharp.out_of_distribution
        == plain.out_of_distribution
        == pytest.approx(np.hypot(*distances))
    )
    assert broad.out_of_distribution == pytest.approx(plain.out_of_distribution * 2**0.5)
    assert broadest.out_of_distribution == pytest.approx(plain.out_of_distribution * BROADEST**0.5)
    assert broad.shape == plain.shape == pytest.approx(distances[1])


def test_gaussian_knows_its_deviations() -> None:
    rng = np.random.default_rng(0)
    gaussian = Gaussian(rng.normal(size=5), np.triu(rng.uniform(1, 2, (5, 5))))
    inverse = np.linalg.inv(gaussian.root.T @ gaussian.root)
    np.testing.assert_allclose(gaussian.deviations(), np.sqrt(np.diag(inverse)))
    points = rng.normal(size=(7, 5))
    away = points - gaussian.mean
    expected = np.sqrt(np.einsum("ij,jk,ik->i", away, np.linalg.inv(inverse), away))
    np.testing.assert_allclose(gaussian.distance(points), expected)
