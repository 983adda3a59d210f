"""Masks compared by hand, and the images to compare them on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cxrseg.export.verify.agreement import Agreement, compare
from cxrseg.export.verify.backends import saturates, torch_backend
from cxrseg.export.verify.images import synthetic_radiographs
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing
from helpers.models.exported import FIELDS


class TestVerify:
    def test_agreement_by_hand(self) -> None:
        def left(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            logits = np.full((2, 8, 8), -1, np.float32)
            logits[0, :, :4] = 1
            return logits

        def nothing(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.full((2, 8, 8), -1, np.float32)

        images, spec = synthetic_radiographs(3), Preprocessing(32)
        assert compare(left, left, images, spec, FIELDS) == Agreement(1.0, 1.0, 3, 3)
        differ = compare(left, nothing, images, spec, FIELDS)
        assert differ.mean == differ.worst == pytest.approx(0.5)
        assert differ.with_lungs == 0, "the second backend found none"
        both = compare(left, nothing, images, spec, (FIELDS[0], "right_lung_whole"))
        assert both.mean == pytest.approx(0.75), "each protocol counts"

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_no_numbers_prove_nothing(self, value: float) -> None:
        """Masks of a network that gives NaN everywhere agree."""

        class Broken(torch.nn.Module):
            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return torch.full((1, 2, 8, 8), value)

        broken, spec = torch_backend(Broken()), Preprocessing(32)
        with pytest.raises(CxrsegError, match="values that are not numbers; train again"):
            compare(broken, broken, synthetic_radiographs(1), spec, FIELDS)

    def test_eight_bit_products_are_tried(self) -> None:
        """Seven bits are exact on every CPU; what eight are depends on it."""
        assert not saturates(limit=63)
        assert isinstance(saturates(), bool)

    def test_synthetic_images_differ_and_repeat(self) -> None:
        first, second = synthetic_radiographs(2), synthetic_radiographs(2)
        np.testing.assert_array_equal(first, second)
        assert np.abs(first[0] - first[1]).max() > 0.05
        assert all(i.dtype == np.float32 and i.min() >= 0 and i.max() <= 1 for i in first)
