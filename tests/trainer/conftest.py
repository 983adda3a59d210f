"""Networks of the nano size, in any state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cxrseg.trainer.networks.lungsam import LungSAM
from cxrseg.trainer.networks.sam import ARCHITECTURES

FIELDS = ("right_lung", "left_lung")

RECIPE = """
model: vit_n
image_size: 64
method: full
"""

MakeNano = Callable[..., LungSAM]


@torch.no_grad()
def randomize(model: nn.Module, seed: int) -> None:
    """Give the tables that begin at zero values that matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w", "bias")):
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))


def make(size: int = 64, labels: Sequence[str] = FIELDS, seed: int = 0, **changes: Any) -> LungSAM:
    torch.manual_seed(seed)
    model = LungSAM(replace(ARCHITECTURES["vit_n"], **changes), size, labels)
    randomize(model, seed)
    return model.eval()


@pytest.fixture
def nano() -> MakeNano:
    """Build a nano model with random weights, position tables and biases among them.

    Options: `size`, `labels`, `seed`, and fields of `Architecture`.
    """
    return make


@pytest.fixture
def images() -> torch.Tensor:
    """Return float32 [2, 1, 64, 64] in [0, 1]."""
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Write a recipe for a quick run with more lines added."""

    def write(more: str = "") -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE + more)
        return path

    return write
