from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cxrseg.runtime import Radiograph, Segmenter
from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol, labels_of
from cxrseg.runtime.core.orientation import Orientation
from cxrseg.runtime.quality import assess as quality
from cxrseg.runtime.quality.outline_flags import _fragmented
from cxrseg.runtime.quality.prediction import Prediction
from cxrseg.runtime.quality.reference import Reference
from cxrseg.runtime.quality.rules import RULES
from cxrseg.runtime.readers import read
from helpers.drawing import phantoms
from helpers.models.reference import shipped
from helpers.paths import DATA, REPO

FIELDS = labels_of("fields")
WELL = {"right_lung": 0.14, "left_lung": 0.13}
EXAMPLE = REPO / "examples/phantom.png"

Pixels = NDArray[np.float32]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(device="cpu", threads=1)


def drawn(seed: int) -> Pixels:
    return np.asarray(phantoms.draw(seed, 320).image / 255, np.float32)


def codes(flags: tuple[Flag, ...]) -> list[str]:
    return [flag.code for flag in flags]


def logits_of(mask: NDArray[np.uint8], height: float = 8) -> NDArray[np.float32]:
    """Return sharp logits [2, h, w] of a label mask."""
    return np.stack([np.where(mask == value, height, -height) for value in (1, 2)]).astype("f4")


def assessed(pixels: Pixels, mask: NDArray[np.uint8], **options: object) -> list[str]:
    shares = {x.name: float(np.mean(mask == x.value)) for x in FIELDS}
    options.setdefault("reference", shipped())
    prediction = Prediction(logits_of(mask), FIELDS, shares, options.pop("other_logits", {}))  # type: ignore[arg-type]
    return codes(quality.assess(pixels, prediction, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(12))
def test_phantoms_are_not_flagged(segmenter: Segmenter, seed: int) -> None:
    assert codes(segmenter.segment(drawn(seed)).flags) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_example_is_not_flagged(protocol: str) -> None:
    result = Segmenter(device="cpu", threads=1, protocol=protocol).segment(EXAMPLE)  # type: ignore[arg-type]
    assert result.flags == ()


CHANGES: list[tuple[str, Callable[[Pixels], Pixels], list[str]]] = [
    ("inverted", lambda x: 1 - x, ["inverted"]),
    ("upside down", lambda x: x[::-1, ::-1], ["upside_down"]),
    ("left turn", np.rot90, ["rotated"]),
    ("right turn", lambda x: np.rot90(x, 3), ["rotated"]),
    (
        "cut",
        lambda x: x[:, int(0.35 * x.shape[1]) :],
        ["cropped", "lung_missing", "implausible_shape", "not_chest"],
    ),
    ("noise", lambda x: np.random.default_rng(1).random(x.shape, np.float32), ["not_chest"]),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("change", "expected"), [x[1:] for x in CHANGES], ids=[x[0] for x in CHANGES]
)
def test_what_should_be_flagged(
    segmenter: Segmenter, change: Callable[[Pixels], Pixels], expected: list[str], seed: int
) -> None:
    result = segmenter.segment(np.ascontiguousarray(change(drawn(seed))))
    found = codes(result.flags)
    assert found[0] in expected
    for flag in result.flags:
        assert flag.reason[0].islower() and not flag.reason.endswith(".")
    json.dumps(result.to_dict(), allow_nan=False)


def test_blank_image_is_flagged(segmenter: Segmenter) -> None:
    for gray in (0.0, 0.5, 1.0):
        result = segmenter.segment(Radiograph(np.full((300, 300), gray, np.float32)))
        assert codes(result.flags) in (["no_lung"], ["not_chest"])


def test_image_that_its_file_tells_to_be_turned_is_fine(segmenter: Segmenter) -> None:
    turned = Radiograph(np.ascontiguousarray(drawn(0).T), orientation=Orientation("F", "L"))
    assert segmenter.segment(turned).flags == ()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mirrored_chest_is_told(protocol: Protocol) -> None:
    segmenter = Segmenter(device="cpu", threads=1, protocol=protocol)
    found = [codes(segmenter.segment(drawn(seed)[:, ::-1]).flags) for seed in range(8)]
    assert sum("mirrored" in each for each in found) >= 2, found


@pytest.mark.xrays
def test_real_lateral_views_are_flagged(segmenter: Segmenter) -> None:
    views = sorted((DATA / "not_frontal/lateral").iterdir())
    missed = [view.name for view in views if not segmenter.segment(view).flags]
    assert len(views) > 20 and len(missed) <= 0.05 * len(views), missed


@pytest.mark.xrays
@pytest.mark.parametrize("source", ["shenzhen", "covidradio_viral"])
def test_real_chests_are_flagged_when_mirrored(segmenter: Segmenter, source: str) -> None:
    with (DATA / "pairs.csv").open(newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if (row["source"], row["split"]) == (source, "val")
        ]
    images = [read(DATA / row["image"]) for row in rows[:: len(rows) // 10]]
    flagged = [codes(segmenter.segment(image).flags) for image in images]
    assert sum(map(bool, flagged)) <= 1, flagged
    mirrored = [replace(x, pixels=np.ascontiguousarray(x.pixels[:, ::-1])) for x in images]
    found = [codes(segmenter.segment(image).flags) for image in mirrored]
    assert sum("mirrored" in each for each in found) >= 0.6 * len(images), found


def test_cause_is_told_once() -> None:
    phantom = phantoms.draw(0, 320)
    inverted = np.asarray(1 - phantom.image / 255, np.float32)
    assert assessed(inverted, phantom.mask) == ["inverted"]
    lies = Flag("photometric_lies", "said by the reader")
    assert assessed(inverted, phantom.mask, known=[lies]) == []
    noise = np.random.default_rng(0).random((320, 320), np.float32)
    assert assessed(noise, phantom.mask) == ["not_chest"]
    assert assessed(noise, phantom.mask, known=[Flag("not_frontal_view", "said")]) == []


def test_missing_lungs() -> None:
    phantom = phantoms.draw(0, 320)
    pixels = np.asarray(phantom.image / 255, np.float32)
    one = np.where(phantom.mask == 2, 0, phantom.mask).astype(np.uint8)
    assert assessed(pixels, one) == ["lung_missing"]
    assert assessed(pixels, np.zeros_like(one)) == ["no_lung"]


def test_outlines_out_of_distribution() -> None:
    phantom = phantoms.draw(3, 320)
    pixels = np.asarray(phantom.image / 255, np.float32)
    rows = np.arange(320)[:, None]
    # The upper seventh of both lungs.
    tips = np.where(rows < 90, phantom.mask, 0).astype(np.uint8)
    assert assessed(pixels, tips)[0] in ("implausible_shape", "not_chest")
    squares = np.zeros_like(phantom.mask)
    squares[100:150, 60:110], squares[100:150, 230:260] = 1, 2
    squares[220:260, 60:110] = 1
    assert assessed(pixels, squares)


NEEDING = (
    *("inverted", "upside_down", "rotated", "not_chest"),
    *("mirrored", "cropped", "implausible_shape", "low_confidence"),
)


def test_codes_that_cannot_be_judged_are_in_the_order_of_the_rules() -> None:
    assert quality.not_assessed(shipped(), FIELDS) == ()
    assert quality.not_assessed(None, FIELDS) == NEEDING
    # What the image alone shows is still judged; of not_chest, only a part.
    uncovered = ("not_chest", "mirrored", "cropped", "implausible_shape", "low_confidence")
    assert quality.not_assessed(only_fields(), labels_of("whole")) == uncovered
    assert quality.not_assessed(only_fields(), FIELDS) == ()
    assert quality.not_assessed(shipped(), FIELDS[:1]) == uncovered


def only_fields() -> Reference:
    """Return a reference that covers one protocol."""
    data = shipped().to_dict()
    for part in ("limits", "shapes", "uncertainty"):
        data[part] = {"fields": data[part]["fields"]}
    data["mirror"] = {"fields": data["mirror"]["fields"]}
    return Reference.from_dict(data)


@pytest.mark.parametrize("seed", range(3))
def test_without_a_reference_only_flags_that_need_none_are_raised(seed: int) -> None:
    phantom = phantoms.draw(seed, 320)
    pixels = np.asarray(phantom.image / 255, np.float32)
    noise = np.random.default_rng(seed).random((320, 320), np.float32)
    for wrong in (1 - pixels, np.rot90(pixels), pixels[::-1], noise):
        image = np.ascontiguousarray(wrong)
        assert assessed(image, phantom.mask)
        assert not {*assessed(image, phantom.mask, reference=None)} & {*NEEDING}
    one = np.where(phantom.mask == 2, 0, phantom.mask).astype(np.uint8)
    assert assessed(pixels, one, reference=None) == ["lung_missing"]
    assert assessed(pixels, np.zeros_like(one), reference=None) == ["no_lung"]
    assert assessed(np.zeros_like(pixels), phantom.mask, reference=None) == ["not_chest"]
    dim = np.asarray(np.round(pixels * 10) / 255, np.float32)
    assert assessed(dim, phantom.mask, reference=None) == ["low_contrast"]
    pieces = phantom.mask.copy()
    pieces[150:170] = 0
    assert assessed(pixels, pieces, reference=None) == ["fragmented", "fragmented"]


def test_uncovered_protocol_is_judged_by_the_image_alone() -> None:
    phantom = phantoms.draw(0, 320)
    pixels = np.asarray(phantom.image / 255, np.float32)
    labels = labels_of("whole")
    shares = {label.name: 0.1 for label in labels}

    def flags(image: Pixels, mask: NDArray[np.uint8]) -> list[str]:
        prediction = Prediction(logits_of(mask), labels, shares)
        return codes(quality.assess(image, prediction, only_fields()))

    assert flags(np.ascontiguousarray(pixels[::-1]), phantom.mask) == ["upside_down"]
    rows = np.arange(320)[:, None]
    tips = np.where(rows < 90, phantom.mask, 0).astype(np.uint8)
    assert flags(pixels, tips) == []
    # Under the covered one, outlines of the other do not count.
    other = {"whole": logits_of(phantom.mask)}
    assert assessed(pixels, phantom.mask, reference=only_fields(), other_logits=other) == []


def test_pieces() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 10:20], mask[40:50, 10:20], mask[10:50, 40:50] = 1, 1, 2
    (flag,) = _fragmented(mask, FIELDS)
    assert flag.code == "fragmented" and "right lung" in flag.reason
    assert flag.value == pytest.approx(1 / 3) and flag.threshold == RULES["fragmented"].limit


def test_uncertain_outlines() -> None:
    phantom = phantoms.draw(0, 320)
    pixels = np.asarray(phantom.image / 255, np.float32)
    shy = quality.assess(pixels, Prediction(logits_of(phantom.mask, 1), FIELDS, WELL), shipped())
    assert codes(shy) == ["low_confidence"]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda x: np.round(x * 10) / 255, "low_contrast"),
        (lambda x: np.clip(3 * x - 1.8, 0, 1), "saturated"),
        (lambda x: np.clip(3 * x, 0, 1), "saturated"),
    ],
)
def test_spoiled_gray_values(spoil: Callable[[Pixels], Pixels], code: str) -> None:
    phantom = phantoms.draw(1, 320)
    pixels = np.asarray(spoil(phantom.image / 255), np.float32)
    assert code in assessed(pixels, phantom.mask)


def test_dark_file_of_many_gray_levels_is_fine() -> None:
    phantom = phantoms.draw(1, 320)
    twelve_bits = np.asarray(phantom.image / 255 * 4095 / 65535, np.float32)
    assert assessed(twelve_bits, phantom.mask) == []


def test_tiny_image() -> None:
    phantom = phantoms.draw(0, 320)
    small = np.asarray(phantoms.draw(0, (80, 90)).image / 255, np.float32)
    assert assessed(small, phantom.mask) == ["tiny"]
