"""Where weights start from: merged, resized, reordered, or averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.adapt.adapters import adapted_layers
from cxrseg.trainer.fit.checkpoint import load, save
from cxrseg.trainer.fit.start import float_state, model_soup, select_labels, start_from
from cxrseg.trainer.networks.lungsam import LungSAM
from helpers.models.checkpoints import ADAPTERS, FIELDS, QUANTIZATION, WHOLE, describe

Make = Callable[..., LungSAM]


@torch.no_grad()
def test_start_from_merges_a_quantized_checkpoint(
    finished: tuple[Path, LungSAM], images: Tensor
) -> None:
    path, model = finished
    description = describe(model, adapters=ADAPTERS, quantization=QUANTIZATION)
    started, images_seen = start_from(path, description)
    assert images_seen == 70
    assert not adapted_layers(started)
    assert list(started.state_dict()) == list(float_state(load(path).model))
    # The same network but for the rounding.
    expected = model(images)
    found = started.eval()(images)
    assert (found - expected).abs().max() < 0.3 * expected.std()
    rounded = load(path).model
    float_state(rounded)
    torch.testing.assert_close(found, rounded(images), rtol=0, atol=0)


def test_average_of_weights(nano: Make) -> None:
    models = [nano(seed=seed) for seed in range(3)]
    states = [{n: v.clone() for n, v in m.state_dict().items()} for m in models]
    model_soup(models[0], models[1:])
    for name, value in models[0].state_dict().items():
        wanted = sum(state[name].double() for state in states) / 3
        torch.testing.assert_close(value.double(), wanted, atol=1e-6, rtol=1e-5)
        assert torch.equal(models[1].state_dict()[name], states[1][name])


@torch.no_grad()
def test_start_from_another_image_size(nano: Make, tmp_path: Path) -> None:
    model = nano(size=64)
    save(model, describe(model), tmp_path / "model.ckpt")
    larger = replace(describe(model), preprocessing=Preprocessing(96))
    started, _ = start_from(tmp_path / "model.ckpt", larger)
    assert started.image_size == 96
    assert started(torch.rand(1, 1, 96, 96)).shape == (1, 2, 24, 24)
    before, after = model.state_dict(), started.state_dict()
    tables = [n for n in before if n.endswith(("pos_embed", "rel_pos_h", "rel_pos_w"))]
    assert len(tables) == 5
    for name in before:
        if name in tables:
            assert before[name].shape != after[name].shape
        else:
            torch.testing.assert_close(after[name], before[name], msg=name)


@torch.no_grad()
@pytest.mark.parametrize(
    "new", [FIELDS, WHOLE, WHOLE[::-1], ("left_lung_whole", "right_lung"), FIELDS + WHOLE]
)
def test_each_label_keeps_its_own_token(
    new: tuple[str, ...], nano: Make, images: Tensor, tmp_path: Path
) -> None:
    old = FIELDS + WHOLE
    model = nano(labels=old)
    save(model, describe(model), tmp_path / "model.ckpt")
    started, _ = start_from(tmp_path / "model.ckpt", replace(describe(model), labels=new))
    before, after = model(images), started.eval()(images)
    assert after.shape[1] == len(new)
    # The tokens that are left attend too, but in another order, which changes nothing.
    torch.testing.assert_close(
        after, before[:, [old.index(name) for name in new]], rtol=1e-4, atol=1e-5
    )
    spread = (before[:, 0] - before[:, 2]).abs().max()
    assert spread > 1e-2, "channels must differ"


@torch.no_grad()
def test_labels_that_are_new_take_the_tokens_left(nano: Make, images: Tensor) -> None:
    model = nano(labels=FIELDS)
    state = select_labels(model.state_dict(), FIELDS, ("right_lung_whole", "left_lung"))
    token = "mask_decoder.mask_tokens.weight"
    before = model.state_dict()[token]
    assert torch.equal(state[token], before[[0, 1, 2, 3]])
    swapped = select_labels(model.state_dict(), FIELDS, ("left_lung", "right_lung_whole"))
    assert torch.equal(swapped[token], before[[1, 0, 2, 3]])
    head = "mask_decoder.output_hypernetworks_mlps.{}.layers.0.weight"
    assert torch.equal(swapped[head.format(0)], model.state_dict()[head.format(1)])
    assert torch.equal(swapped[head.format(1)], model.state_dict()[head.format(0)])


def test_start_from_another_network_is_refused(nano: Make, tmp_path: Path) -> None:
    model = nano()
    save(model, describe(model), tmp_path / "model.ckpt")
    deeper = replace(describe(model), architecture=replace(model.architecture, depth=3))
    with pytest.raises(CxrsegError, match="do not fit vit_n"):
        start_from(tmp_path / "model.ckpt", deeper)
