"""AdaLoRA: nothing changes when adapters come or go, and ranks share one budget."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cxrseg.trainer.adapt.adapters import (
    RankAllocation,
    adapted_layers,
    add_adapters,
    freeze_singular_values,
    merge_adapters,
    orthogonality,
    ranks,
)
from cxrseg.trainer.adapt.settings import AdapterConfig
from cxrseg.trainer.networks.lungsam import LungSAM

Make = Callable[..., LungSAM]

CONFIG = AdapterConfig(init_rank=6, target_rank=3, warmup=0.1, final=0.3, interval=1)
STEPS = 30
PER_BLOCK = 6


@torch.no_grad()
def randomize_singular_values(model: LungSAM) -> None:
    generator = torch.Generator().manual_seed(1)
    for layer in adapted_layers(model).values():
        value = layer.lora_E["default"]
        value.copy_(10 * torch.randn(value.shape, generator=generator))


def take_steps(model: LungSAM, allocation: RankAllocation, images: Tensor, steps: int) -> list[int]:
    """Fit random logits with a plain optimizer, as the training loop would.

    Returns the steps at which ranks were allocated.
    """
    allocated = []
    target = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-2, weight_decay=0.0)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        (model(images) - target).square().mean().backward()
        optimizer.step()
        if allocation.step(step):
            allocated.append(step)
    return allocated


@torch.no_grad()
def test_fresh_adapters_change_nothing(nano: Make, images: Tensor) -> None:
    model = nano(window=3, global_blocks=(1,))
    before = model(images)
    add_adapters(model, CONFIG, STEPS)
    torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_every_target_has_an_adapter_of_its_own(nano: Make) -> None:
    model = nano()
    add_adapters(model, CONFIG, STEPS)
    parts = ("attn.qkv.q", "attn.qkv.k", "attn.qkv.v", "attn.proj", "mlp.lin1", "mlp.lin2")
    expected = [f"image_encoder.blocks.{i}.{part}" for i in range(2) for part in parts]
    assert list(adapted_layers(model)) == expected


@torch.no_grad()
def test_merging_is_exact(nano: Make, images: Tensor) -> None:
    # Padding of the windows takes its values from the bias of the split projection.
    model = nano(window=3, global_blocks=(1,))
    plain = model(images)
    names = list(model.state_dict())
    add_adapters(model, CONFIG, STEPS)
    randomize_singular_values(model)
    adapted = model(images)
    assert (adapted - plain).abs().max() > 1e-2, "the adapters must matter"
    merge_adapters(model)
    assert not adapted_layers(model)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(images), adapted, rtol=1e-5, atol=1e-5)


def test_base_weights_are_frozen_and_adapters_learn(nano: Make, images: Tensor) -> None:
    model = nano()
    add_adapters(model, CONFIG, STEPS)
    randomize_singular_values(model)
    model(images).square().mean().backward()
    for name, parameter in model.image_encoder.named_parameters():
        is_adapter = any(part in name for part in ("lora_A", "lora_B", "lora_E"))
        assert parameter.requires_grad == is_adapter, name
        if is_adapter:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert all(p.requires_grad for p in model.mask_decoder.parameters())


def test_held_singular_values_get_no_gradient(nano: Make, images: Tensor) -> None:
    model = nano()
    add_adapters(model, CONFIG, STEPS)
    randomize_singular_values(model)
    freeze_singular_values(model)
    model(images).square().mean().backward()
    for layer in adapted_layers(model).values():
        assert layer.lora_E["default"].grad is None
        assert layer.lora_A["default"].grad.abs().max() > 0


def test_ranks_share_the_budget(nano: Make, images: Tensor) -> None:
    model = nano()
    allocation = add_adapters(model, CONFIG, STEPS)
    take_steps(model, allocation, images, STEPS)
    found = ranks(model)
    assert len(found) == 2 * PER_BLOCK
    assert sum(found.values()) == CONFIG.target_rank * len(found)
    assert len(set(found.values())) > 1, "the budget must not be shared out evenly"
    assert max(found.values()) <= CONFIG.init_rank


def test_allocations_are_told(nano: Make, images: Tensor) -> None:
    model = nano()
    allocation = add_adapters(model, CONFIG.model_copy(update={"interval": 4}), STEPS)
    assert take_steps(model, allocation, images, STEPS) == [6, 9, 12, 15, 18, 21]
    assert list(allocation.ranks().values()) == list(ranks(model).values())
    assert next(iter(allocation.ranks())) == "blocks.0.attn.qkv.q"


def test_ranks_are_fixed_at_the_end(nano: Make, images: Tensor) -> None:
    model = nano()
    allocation = add_adapters(model, CONFIG, STEPS)
    last = STEPS - int(CONFIG.final * STEPS)
    assert not allocation.is_final(last - 1)
    assert allocation.is_final(last)
    take_steps(model, allocation, images, last + 1)
    held = {n: layer.lora_E["default"] == 0 for n, layer in adapted_layers(model).items()}
    assert sum(int(zero.sum()) for zero in held.values()) > 0
    for step in range(last + 2, STEPS + 1):
        allocation.step(step)
    for name, layer in adapted_layers(model).items():
        assert torch.equal(layer.lora_E["default"] == 0, held[name]), name


def test_allocation_goes_on_from_its_state(nano: Make, images: Tensor) -> None:
    one = nano()
    first = add_adapters(one, CONFIG, STEPS)
    take_steps(one, first, images, 12)
    state = first.state_dict()
    assert state["exp_avg_ipt"]

    other = nano()
    second = add_adapters(other, CONFIG, STEPS)
    assert not second.state_dict()["exp_avg_ipt"]
    other.load_state_dict(one.state_dict())
    second.load_state_dict(state)
    after = second.state_dict()
    assert after.keys() == state.keys()
    for key in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
        assert after[key].keys() == state[key].keys()
        for name in state[key]:
            torch.testing.assert_close(after[key][name], state[key][name])
    for model, allocation in ((one, first), (other, second)):
        model.zero_grad()
        model(images).square().mean().backward()
        allocation.step(13)
    assert ranks(one) == ranks(other)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=name)


def test_allocation_state_is_plain_data(nano: Make, images: Tensor, tmp_path: object) -> None:
    model = nano()
    allocation = add_adapters(model, CONFIG, STEPS)
    take_steps(model, allocation, images, STEPS)
    path = f"{tmp_path}/state.pt"
    torch.save(allocation.state_dict(), path)
    assert torch.load(path, weights_only=True).keys() == allocation.state_dict().keys()


@torch.no_grad()
def test_orthogonality_is_zero_for_orthonormal_factors(nano: Make) -> None:
    model = nano()
    add_adapters(model, CONFIG, STEPS)
    assert orthogonality(model) > 0.1
    for layer in adapted_layers(model).values():
        for factor in (layer.lora_A["default"], layer.lora_B["default"].T):
            basis, _ = torch.linalg.qr(torch.randn(factor.shape[1], factor.shape[0]))
            factor.copy_(basis.T)
    assert float(orthogonality(model)) == pytest.approx(0, abs=1e-5)
    # One vector of twice the length: its Gram entry is 4 instead of 1 in one of 24 factors.
    next(iter(adapted_layers(model).values())).lora_A["default"][0] *= 2
    assert float(orthogonality(model)) == pytest.approx(3 / (2 * 2 * PER_BLOCK), abs=1e-5)


@pytest.mark.parametrize("bad", [{"init_rank": 0}, {"final": 0}, {"warmup": 1.0}, {"rank": 3}])
def test_nonsense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        AdapterConfig.model_validate(bad)


def test_ranks_that_begin_at_their_target_are_fixed(nano: Make, images: Tensor) -> None:
    model = nano()
    config = AdapterConfig(init_rank=3, target_rank=3, interval=1)
    allocation = add_adapters(model, config, 20)
    assert config.fixed and allocation.is_final(0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(1, 21):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
        assert not allocation.step(step)
    assert set(allocation.ranks().values()) == {3}


def test_a_target_above_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="target_rank"):
        AdapterConfig(init_rank=3, target_rank=4)
