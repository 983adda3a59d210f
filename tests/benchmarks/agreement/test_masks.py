"""Shares of equal pixels, counted by hand, and the limits on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxrseg.benchmarks.agreement.masks import Pair, compare_all, complaints, shares_of_images
from cxrseg.benchmarks.agreement.providers import provider_backend
from cxrseg.export.verify.agreement import SAME_NETWORK
from cxrseg.runtime.core.preprocess import preprocess
from cxrseg.runtime.inference.devices import PROVIDERS
from cxrseg.runtime.inference.loading import LoadedModel, load_model
from cxrseg.runtime.readers import read

CPU = PROVIDERS["cpu"]


def test_figures_by_hand() -> None:
    pair = Pair("a", "b", (("x", 1.0), ("y", 0.95), ("z", 0.95)), 3)
    assert pair.mean == pytest.approx(2.9 / 3)
    assert (pair.worst, pair.worst_image) == (0.95, "y")


def test_different_masks_are_counted(model: Path, data: Path) -> None:
    """The other backend finds no left lung."""
    loaded = load_model(model, "cpu", 1)
    run = provider_backend(loaded)

    def half(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        logits = run(batch).copy()
        logits[1] = -1
        return logits

    images = [(f"{n}.png", data.parent / f"images/{n}.png") for n in (1, 2)]
    backends = {"same": run, "half": half}
    same, other = compare_all(backends, (CPU, run), images, loaded.card)
    assert (same.mean, same.worst, same.with_lungs) == (1, 1, 2)
    assert [name for name, _ in other.shares] == ["1.png", "2.png"]
    assert other.second == CPU
    for (name, share), (_, path) in zip(other.shares, images, strict=True):
        logits = run(_batch(loaded, path))
        left = cv2.resize(logits[1], (64, 64)) > np.maximum(0, cv2.resize(logits[0], (64, 64)))
        # Where the left lung goes, the right lung may take a border pixel; none do here.
        assert share == pytest.approx(1 - left.mean(), abs=1e-9), name
    assert other.worst < 0.95


def _batch(loaded: LoadedModel, path: Path) -> Any:
    return preprocess(read(path).pixels, loaded.card.preprocessing)[None, None]


def test_repeated_images_all_count(model: Path, data: Path) -> None:
    loaded = load_model(model, "cpu", 1)
    run = provider_backend(loaded)
    images = [("1.png", data.parent / "images/1.png")] * 2
    (pair,) = compare_all({"same": run}, (CPU, run), images, loaded.card)
    assert len(pair.shares) == 2


def test_every_image_is_recorded() -> None:
    pairs = [
        Pair("a", "c", (("x", 1.0), ("y", 0.5)), 2),
        Pair("b", "c", (("x", 0.25), ("y", 1)), 2),
    ]
    assert shares_of_images(pairs) == [
        {"image": "x", "equal": {"a": 1.0, "b": 0.25}},
        {"image": "y", "equal": {"a": 0.5, "b": 1.0}},
    ]


def test_limits_on_both_sides() -> None:
    enough, worst = SAME_NETWORK.mean, SAME_NETWORK.worst
    at_limit = Pair("a", "b", (("x", 1.0), ("y", worst), *((str(n), 1.0) for n in range(8))), 10)
    assert at_limit.mean >= enough
    assert complaints([at_limit], SAME_NETWORK) == []
    below = Pair("a", "b", (("x", worst - 1e-6), *((str(n), 1.0) for n in range(99))), 100)
    assert below.mean > enough
    assert len(complaints([below], SAME_NETWORK)) == 1
    on_average = Pair("a", "b", (("x", 0.9985), ("y", 0.9985)), 2)
    assert len(complaints([on_average], SAME_NETWORK)) == 1


def test_empty_masks_prove_nothing() -> None:
    (error,) = complaints([Pair("a", "b", (("x", 1.0), ("y", 1.0), ("z", 1.0)), 1)], SAME_NETWORK)
    assert "lungs are found on 1 of 3 images" in str(error)
