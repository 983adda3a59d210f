from __future__ import annotations

import numpy as np
import pytest

from cxrseg.export.reference.fit import fit
from cxrseg.export.reference.observe import Observation, Outlines, framed
from cxrseg.export.reference.statistics import balance, fit_gaussian
from cxrseg.runtime.core.errors import CxrsegError


def test_fit_leaves_out_what_lies_far() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 3)) * (1, 2, 3)
    vectors[:5] += 100
    gaussian = fit_gaussian(vectors, np.ones(500), kept=0.98)
    assert np.abs(gaussian.mean).max() < 0.5
    np.testing.assert_allclose(gaussian.deviations(), (1, 2, 3), rtol=0.15)
    assert gaussian.distance(gaussian.mean) == pytest.approx(0)


def test_every_group_weighs_the_same() -> None:
    np.testing.assert_allclose(balance(["a", "b", "a"]), [0.5, 1, 0.5])


def test_framing_keeps_most_of_the_image() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.random((100, 80), np.float32)
    for _ in range(20):
        out = framed(pixels, rng)
        assert out.dtype == np.float32 and 80 < out.shape[0] < 125 and 64 < out.shape[1] < 100


@pytest.mark.parametrize("shape", [np.zeros(12), np.arange(12.0)])
def test_outlines_that_are_alike_cannot_be_fitted(shape: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    outlines = {"fields": Outlines(shape, 1.0, {"upper": 0.0})}
    observations = [
        Observation("a", f"p{n}", cells, cells, outlines)  # type: ignore[arg-type]
        for n in range(80)
        for cells in [rng.normal(size=(6, 6))]
    ]
    with pytest.raises(CxrsegError, match="the model's outlines are alike on all images"):
        fit(observations)


def test_few_images_cannot_be_fitted() -> None:
    cells = np.zeros((6, 6))
    with pytest.raises(CxrsegError, match="3 images show anything, too few to fit"):
        fit([Observation("a", "p", cells, cells, {})] * 3)
