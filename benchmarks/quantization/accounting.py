"""The counts that the paper argues with, taken from the real tensors of SAM ViT-B and of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from cxrseg.trainer.adapt.adapters import AdapterConfig, add_adapters
from cxrseg.trainer.networks.build import build_network, require_sam
from cxrseg.trainer.networks.lungsam import count_parameters, freeze
from cxrseg.trainer.networks.sam import ARCHITECTURES, Architecture, build_sam

if TYPE_CHECKING:
    from cxrseg.trainer.fit.checkpoint import Description

PAPER_RATIO = 2.24
"""Compression that the paper claims for SAM ViT-B (arXiv 2604.01167)."""

PAPER_RANK = 48
"""Initial rank of the paper's adapters, on q, k and v of each encoder block."""

PAPER_FINAL_RANK = 32
"""Rank that its pruning leaves in each layer."""

PAPER_SIZE = 1024
"""Side of SAM's input in pixels, to which the paper enlarges images of 512."""

PAPER_COUNTS = {
    "linear": 67.6e6,
    "qkv": 21.3e6,
    "adapters": 2.7e6,
    "float_bytes": 366e6,
    "quantized_bytes": 163e6,
    "ratio": PAPER_RATIO,
}
"""What the paper and its script say, by the names of `Accounting`."""

PAPER_FEWER = {"decoder": 23.6, "adalora": 16.6}
"""How many times fewer parameters the paper trains than full fine-tuning does, by method."""


@dataclass(frozen=True)
class Accounting:
    """The paper's count for SAM ViT-B: Linear weights in one byte, qkv and adapters in four.

    Attributes:
        linear: Weights of all Linear layers but qkv.
        qkv: Weights and biases of the qkv projections.
        adapters: Parameters of the adapters.
        left_out: Parameters of the network that it does not count.
        float_bytes: What it counts, in FP32.
        quantized_bytes: Linear in INT8, the others in FP32.
        ratio: float_bytes / quantized_bytes.
    """

    linear: int
    qkv: int
    adapters: int
    left_out: int
    float_bytes: int
    quantized_bytes: int
    ratio: float


@dataclass(frozen=True)
class Trained:
    """What a way of fine-tuning trains.

    Attributes:
        what: The way, in words.
        trained: Number of trained parameters.
        full: Number that full fine-tuning trains: all of the network.
        paper: How many times fewer the paper says; None where it says nothing.
    """

    what: str
    trained: int
    full: int
    paper: float | None = None

    @property
    def fewer(self) -> float:
        """How many times fewer than full fine-tuning."""
        return self.full / self.trained


def paper_adapters(architecture: Architecture, rank: int) -> int:
    """Return the parameters of adapters P, Lambda, Q on q, k and v of every block."""
    return 3 * architecture.depth * rank * (2 * architecture.embed_dim + 1)


def paper_accounting() -> Accounting:
    """Count the real tensors of SAM ViT-B in the way of the paper."""
    architecture = ARCHITECTURES["vit_b"]
    with torch.device("meta"):
        sam = build_sam(architecture, PAPER_SIZE)
    linear = qkv = 0
    for name, module in sam.named_modules():
        if isinstance(module, nn.Linear):
            if name.endswith(".qkv"):
                qkv += count_parameters(module)
            else:
                linear += module.weight.numel()
    adapters = paper_adapters(architecture, PAPER_RANK)
    float_bytes = 4 * (linear + qkv + adapters)
    quantized_bytes = linear + 4 * (qkv + adapters)
    return Accounting(
        linear=linear,
        qkv=qkv,
        adapters=adapters,
        left_out=count_parameters(sam) - linear - qkv,
        float_bytes=float_bytes,
        quantized_bytes=quantized_bytes,
        ratio=float_bytes / quantized_bytes,
    )


def paper_trained() -> list[Trained]:
    """Count what the paper's ways of fine-tuning train of SAM ViT-B."""
    architecture = ARCHITECTURES["vit_b"]
    with torch.device("meta"):
        sam = build_sam(architecture, PAPER_SIZE)
    full = count_parameters(sam)
    parts = dict(sam.named_children())
    decoder = count_parameters(parts["mask_decoder"])
    both = decoder + count_parameters(parts["prompt_encoder"])

    def adapted(rank: int) -> int:
        return both + paper_adapters(architecture, rank)

    start, end = PAPER_RANK, PAPER_FINAL_RANK
    return [
        Trained("full fine-tuning", full, full),
        Trained("mask decoder", decoder, full, PAPER_FEWER["decoder"]),
        Trained(f"AdaLoRA on q, k, v, rank {start}, and decoder", adapted(start), full),
        Trained(f"the same, rank {end} as it ends", adapted(end), full, PAPER_FEWER["adalora"]),
    ]


def our_trained(description: Description) -> Iterator[Trained]:
    """Count what the methods of ``cxrseg-train`` train of a network.

    Parts of SAM that no mask depends on are not trained.

    Args:
        description: The network, with the adapters' settings where it has any.

    Yields:
        Full training, the decoder alone, and AdaLoRA at the start and as its budget ends.
    """
    config = description.adapters or AdapterConfig()
    with torch.device("meta"):
        model = require_sam(
            build_network(
                description.architecture, description.preprocessing.size, description.labels
            ),
            description.model,
        )
        full = count_parameters(model)
        freeze(model.unused_modules())
        yield Trained(f"{description.model}, full", count_parameters(model, trainable=True), full)
        freeze([model.image_encoder])
        decoder = count_parameters(model, trainable=True)
        yield Trained(f"{description.model}, decoder", decoder, full)
        add_adapters(model, config, total_steps=0)
    adapted = count_parameters(model, trainable=True)
    where = "on q, k, v, proj, lin1, lin2"
    yield Trained(
        f"{description.model}, AdaLoRA {where}, rank {config.init_rank}, and decoder",
        adapted,
        full,
    )
    # Every adapter's size is proportional to its rank.
    ended = decoder + round((adapted - decoder) * config.target_rank / config.init_rank)
    yield Trained(f"the same, rank {config.target_rank} on average as it ends", ended, full)
