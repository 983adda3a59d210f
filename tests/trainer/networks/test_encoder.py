"""The rewritten forward pass against segment_anything's own, and loading Meta's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.networks.encoder import encode, relative_scores
from cxrseg.trainer.networks.lungsam import LungSAM, load_official
from cxrseg.trainer.networks.sam import ARCHITECTURES, build_sam

Make = Callable[..., LungSAM]

BUILDS: dict[str, dict[str, Any]] = {
    "global attention": {},
    "windows that fit": {"window": 2, "global_blocks": (1,)},
    "windows with padding": {"window": 3, "global_blocks": (1,)},
    "windows alone": {"window": 3},
    "windows wider than the grid": {"window": 7, "global_blocks": (0,)},
    "no relative positions": {"relative_positions": False},
    "ReLU": {"activation": "relu", "relative_positions": False},
}


def official_of(model: LungSAM) -> Any:
    """Return segment_anything's model with the weights of ours."""
    sam: Any = build_sam(model.architecture, model.image_size)
    state = {
        k.replace("patch_embed.proj.proj", "patch_embed.proj"): v
        for k, v in model.state_dict().items()
    }
    missing, unexpected = sam.load_state_dict(state, strict=False)
    assert set(missing) <= {"pixel_mean", "pixel_std"}
    assert not unexpected
    return sam.eval()


@torch.no_grad()
def reference(sam: Any, image: Tensor, box: Tensor, channels: int) -> Tensor:
    """Run segment_anything on gray images as its own `Sam.forward` does, one by one."""
    outputs = []
    for gray, corners in zip(image, box, strict=True):
        rgb = (255 * gray).expand(3, -1, -1)
        embedding = sam.image_encoder(((rgb - sam.pixel_mean) / sam.pixel_std)[None])
        sparse, dense = sam.prompt_encoder(points=None, boxes=corners[None], masks=None)
        masks, _ = sam.mask_decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        outputs.append(masks[0, :channels])
    return torch.stack(outputs)


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
@torch.no_grad()
def test_equals_segment_anything(build: dict[str, Any], nano: Make, images: Tensor) -> None:
    model = nano(**build)
    whole = torch.tensor([[0.0, 0.0, 64.0, 64.0]]).expand(2, -1)
    expected = reference(official_of(model), images, whole, 2)
    assert expected.std() > 0.01, "the comparison needs logits that vary"
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_box_prompt_equals_segment_anything(nano: Make, images: Tensor) -> None:
    model = nano()
    box = torch.tensor([[3.0, 9.0, 40.0, 60.0], [20.0, 1.0, 63.0, 30.0]])
    expected = reference(official_of(model), images, box, 2)
    torch.testing.assert_close(model(images, box), expected, rtol=1e-5, atol=1e-5)
    assert (model(images) - expected).abs().max() > 1e-3, "the box must matter"


@torch.no_grad()
def test_encoder_equals_segment_anything(nano: Make, images: Tensor) -> None:
    model = nano(window=3, global_blocks=(1,))
    sam = official_of(model)
    rgb = (255 * images).expand(-1, 3, -1, -1)
    expected = sam.image_encoder((rgb - sam.pixel_mean) / sam.pixel_std)
    found = encode(model.image_encoder, images).transpose(1, 2).reshape(expected.shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_windows_matter(nano: Make, images: Tensor) -> None:
    windowed = nano(window=3, global_blocks=(1,), seed=3)
    free = nano(seed=3)
    state = {k: v for k, v in windowed.state_dict().items() if "blocks.0.attn.rel_pos" not in k}
    free.load_state_dict(state, strict=False)
    assert (windowed(images) - free(images)).abs().max() > 1e-3


@torch.no_grad()
def test_images_of_a_batch_do_not_mix(nano: Make, images: Tensor) -> None:
    model = nano(window=3, global_blocks=(1,))
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-5, atol=1e-5)


def test_gradient_checkpointing_changes_nothing(nano: Make, images: Tensor) -> None:
    model = nano()
    grads = []
    for on in (False, True):
        model.gradient_checkpointing = on
        model.zero_grad()
        model(images).square().mean().backward()
        grad = model.image_encoder.blocks[0].mlp.lin1.weight.grad
        grads.append(grad.clone())
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(grads[0], grads[1])


def test_relative_scores_take_the_vector_of_the_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 4, 5, generator=generator)
    positions = torch.randn(7, 5, generator=generator)
    scores = relative_scores(query @ positions.T)
    assert scores.shape == (2, 3, 4, 4)
    for i in range(4):
        for key in range(4):
            expected = query[:, :, i] @ positions[i - key + 3]
            torch.testing.assert_close(scores[:, :, i, 3 - key], expected)


@pytest.mark.parametrize(("labels", "message"), [((), "1 to 4"), (("right_lung",) * 5, "1 to 4")])
def test_number_of_labels_is_checked(labels: tuple[str, ...], message: str, nano: Make) -> None:
    with pytest.raises(ValueError, match=message):
        nano(labels=labels)


def test_unknown_label_is_refused(nano: Make) -> None:
    with pytest.raises(KeyError, match="spleen"):
        nano(labels=("spleen",))


@pytest.fixture
def official(nano: Make, tmp_path: Path) -> tuple[Path, LungSAM]:
    """Return a file as Meta writes them, and the network that it came from."""
    model = nano(seed=11)
    path = tmp_path / "sam_vit_n.pth"
    torch.save(official_of(model).state_dict(), path)
    return path, model


def test_official_file_loads(official: tuple[Path, LungSAM], nano: Make, images: Tensor) -> None:
    path, source = official
    model = nano(seed=12)
    assert (model(images) - source(images)).abs().max() > 1e-3
    load_official(model, path)
    torch.testing.assert_close(model(images), source(images))


def test_official_file_loads_to_another_size(official: tuple[Path, LungSAM], nano: Make) -> None:
    path, source = official
    model = nano(size=96, seed=12)
    load_official(model, path)
    before, after = source.state_dict(), model.state_dict()
    tables = ("pos_embed", "rel_pos_h", "rel_pos_w")
    for name, value in after.items():
        if name.endswith(tables):
            assert value.shape != before[name].shape
            assert value.isfinite().all()
        else:
            torch.testing.assert_close(value, before[name], msg=name)
    # The ends of a resized table stay near those of the original.
    positions = "image_encoder.pos_embed"
    assert after[positions].shape == (1, 6, 6, 32)
    down = torch.nn.functional.interpolate(
        after[positions].permute(0, 3, 1, 2), size=(4, 4), mode="bicubic", align_corners=False
    ).permute(0, 2, 3, 1)
    pair = torch.stack([down.flatten(), before[positions].flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.9
    assert model(torch.rand(1, 1, 96, 96)).shape == (1, 2, 24, 24)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"depth": 3}, "missing"),
        ({"depth": 1, "global_blocks": ()}, "unknown"),
        ({"embed_dim": 64}, "another shape"),
    ],
)
def test_another_network_is_refused(
    changes: dict[str, Any], cause: str, official: tuple[Path, LungSAM]
) -> None:
    model = LungSAM(replace(ARCHITECTURES["vit_n"], **changes), 64, ("right_lung",))
    with pytest.raises(CxrsegError, match=cause) as refused:
        load_official(model, official[0])
    assert "sam_vit_n.pth" in str(refused.value)
    assert "--model" in refused.value.remedy


@pytest.mark.parametrize("content", [[1, 2], {"weights": 3}, torch.zeros(2)])
def test_other_contents_are_refused(content: object, nano: Make, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CxrsegError, match="not a SAM state dict"):
        load_official(nano(), path)
