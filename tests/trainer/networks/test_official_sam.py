"""Meta's SAM at full size: its file layout and its forward pass. Slow; run with ``-m slow``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from cxrseg.trainer.networks.lungsam import LungSAM, load_official
from cxrseg.trainer.networks.sam import ARCHITECTURES, segment_anything

FIELDS = ("right_lung", "left_lung")


def official(name: str) -> Any:
    """Return a SAM from segment_anything's own builder, its zero tables filled."""
    segment_anything()
    builders = import_module("segment_anything.build_sam")
    torch.manual_seed(0)
    sam = builders.sam_model_registry[name]()
    with torch.no_grad():
        for parameter_name, parameter in sam.named_parameters():
            if "rel_pos" in parameter_name or "pos_embed" in parameter_name:
                parameter.normal_(0, 0.02)
    return sam


@pytest.mark.slow
@torch.no_grad()
def test_vit_b_equals_segment_anything_at_1024_pixels(tmp_path: Path) -> None:
    sam = official("vit_b")
    # The layout of sam_vit_b_01ec64.pth: a bare state dict, without the normalization's buffers.
    torch.save(sam.state_dict(), tmp_path / "sam_vit_b.pth")
    model = LungSAM(ARCHITECTURES["vit_b"], 1024, FIELDS).eval()
    load_official(model, tmp_path / "sam_vit_b.pth")

    gray = torch.rand(1, 1, 1024, 1024)
    color = (255 * gray.expand(-1, 3, -1, -1) - sam.pixel_mean) / sam.pixel_std
    box = torch.tensor([[0.0, 0.0, 1024.0, 1024.0]])
    sparse, dense = sam.prompt_encoder(points=None, boxes=box, masks=None)
    expected, _ = sam.mask_decoder.predict_masks(
        image_embeddings=sam.image_encoder(color),
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )
    found = model(gray)
    assert found.shape == (1, 2, 256, 256)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected[:, :2], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_l", "vit_h"])
def test_larger_files_fit(name: str, tmp_path: Path) -> None:
    """Names and shapes alone, without memory for weights."""
    segment_anything()
    builders = import_module("segment_anything.build_sam")
    with torch.device("meta"):
        state = builders.sam_model_registry[name]().state_dict()
        model = LungSAM(ARCHITECTURES[name], 1024, FIELDS)
    wanted = {n: v.shape for n, v in model.state_dict().items()}
    assert wanted == {n: v.shape for n, v in state.items()}
