"""AdaLoRA: low-rank adapters in SVD form whose ranks share one budget (Zhang et al. 2023).

peft keeps the adapters and the rank allocator. q, k and v get adapters of their own, because one
adapter on the fused projection cannot follow independent updates at the same number of parameters.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from cxrseg.trainer.adapt.settings import AdapterConfig
from cxrseg.trainer.networks.build import AnySAM
from cxrseg.trainer.networks.layers import SplitLinear, effective
from cxrseg.trainer.networks.lungsam import LungSAM

TARGETS = r"blocks\.\d+\.(attn\.qkv\.[qkv]|attn\.proj|mlp\.lin[12])|(stage\d+\..+|neck)\.kernel"
"""Layers of the image encoder that are adapted: Linears of a ViT, kernels of a ConvEncoder."""

RANK = "rank/"
"""What the logged rank of a layer is called before the layer's name in the encoder."""

TOTAL_RANK = f"{RANK}total"
"""What the sum of all ranks is called in the log."""


class RankAllocation:
    """peft's rank allocator over the adapters of one model.

    Args:
        tuner: peft's AdaLoraModel around the image encoder.
        config: Its configuration here.
    """

    def __init__(self, tuner: Any, config: AdapterConfig) -> None:
        self._tuner = tuner
        self.config = config

    def step(self, step: int) -> bool:
        """Update importances and masks after an optimizer step, while gradients are there.

        Args:
            step: Number of optimizer steps taken, from 1.

        Returns:
            Whether the budget was allocated anew.
        """
        if self.config.fixed:
            return False
        allocator = self._tuner.rankallocator
        for name, parameter in self._tuner.model.named_parameters():
            # A resumed memory lies on the CPU.
            for memory in (allocator.ipt, allocator.exp_avg_ipt, allocator.exp_avg_unc):
                if name in memory:
                    memory[name] = memory[name].to(parameter.device)
        self._tuner.update_and_allocate(step)
        config = self._tuner.peft_config["default"]
        last = config.total_step - config.tfinal
        # Later steps repeat the last allocation.
        return step == last or (step < last and bool(allocator.budget_schedule(step)[1]))

    def ranks(self) -> dict[str, int]:
        """Return the rank of each adapted layer, by its name in the encoder."""
        return ranks(self._tuner.model)

    def is_final(self, step: int) -> bool:
        """Tell whether the ranks no longer change after `step` optimizer steps."""
        config = self._tuner.peft_config["default"]
        return self.config.fixed or bool(step >= config.total_step - config.tfinal)

    def state_dict(self) -> dict[str, Any]:
        """Return the allocator's memory as plain data, for resuming."""
        allocator = self._tuner.rankallocator
        return {
            "ipt": dict(allocator.ipt),
            "exp_avg_ipt": dict(allocator.exp_avg_ipt),
            "exp_avg_unc": dict(allocator.exp_avg_unc),
            "rank_pattern": self._tuner.peft_config["default"].rank_pattern,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        allocator = self._tuner.rankallocator
        allocator.ipt = dict(state["ipt"])
        allocator.exp_avg_ipt = dict(state["exp_avg_ipt"])
        allocator.exp_avg_unc = dict(state["exp_avg_unc"])
        self._tuner.peft_config["default"].rank_pattern = state["rank_pattern"]


def add_adapters(model: AnySAM, config: AdapterConfig, total_steps: int) -> RankAllocation:
    """Put adapters on the image encoder, in place, and freeze its other weights.

    The update starts at zero, so the model computes what it did before.

    Args:
        model: A float model without adapters; batch norms are folded.
        config: Ranks and schedule.
        total_steps: Optimizer steps of the training to come; a schedule needs at least 10.
    """
    with warnings.catch_warnings():
        # peft imports optional back ends that warn about themselves.
        warnings.simplefilter("ignore")
        from peft import AdaLoraConfig
        from peft.tuners.adalora import AdaLoraModel

    if isinstance(model, LungSAM):
        for block in model.image_encoder.blocks:
            block.attn.qkv = SplitLinear(block.attn.qkv)
    total = max(total_steps, 10)
    peft_config = AdaLoraConfig(
        target_modules=TARGETS,
        init_r=config.init_rank,
        target_r=config.target_rank,
        lora_alpha=config.alpha,
        orth_reg_weight=config.orthogonality,
        total_step=total,
        tinit=int(config.warmup * total),
        tfinal=int(config.final * total),
        deltaT=max(1, min(config.interval, total // 10)),
    )
    build: Any = AdaLoraModel  # peft has no type hints
    tuner = build(model.image_encoder, peft_config, "default")
    return RankAllocation(tuner, config)


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Return the adapted layers by name, in the order of the network."""
    return {n: m for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}


def orthogonality(model: nn.Module) -> Tensor:
    """Return the mean of ||P^T P - I|| and ||Q Q^T - I|| (Frobenius) over all adapters."""
    penalties = []
    for layer in adapted_layers(model).values():
        for factor in (layer.lora_A["default"], layer.lora_B["default"].T):
            gram = factor @ factor.T
            eye = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
            penalties.append(torch.linalg.matrix_norm(gram - eye))
    return torch.stack(penalties).mean()


def ranks(model: nn.Module) -> dict[str, int]:
    """Return the number of nonzero singular values of each adapted layer."""
    layers = adapted_layers(model)
    return {n: int(layer.lora_E["default"].count_nonzero()) for n, layer in layers.items()}


def freeze_singular_values(model: nn.Module) -> None:
    """Hold the singular values, and so the ranks, while P and Q go on learning."""
    for layer in adapted_layers(model).values():
        layer.lora_E.requires_grad_(False)


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Replace adapted and split layers by plain Linears with the same effective weight."""
    for name, module in list(model.named_modules()):
        if not isinstance(module, SplitLinear):
            continue
        model.set_submodule(name, _plain(module))
    for name, module in adapted_layers(model).items():
        model.set_submodule(name, _plain(module))


def _plain(layer: nn.Module) -> nn.Linear:
    weight, bias = effective(layer)
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear
