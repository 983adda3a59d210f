"""The counts that the paper argues with, taken from the real tensors of SAM ViT-B and of ours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from cxrseg.trainer.adapt.adapters import add_adapters
from cxrseg.trainer.adapt.settings import AdapterConfig
from cxrseg.trainer.fit.checkpoint import Description
from cxrseg.trainer.networks.build import build_network, require_sam
from cxrseg.trainer.networks.lungsam import count_parameters, freeze
from cxrseg.trainer.networks.sam import ARCHITECTURES, Architecture, build_sam

PAPER_RATIO = 2.24
"""Compression that the paper claims for SAM ViT-B (arXiv 2604.01167)."""

PAPER_RANK = 48
"""Initial rank of the paper's adapters, on q, k and v of each encoder block."""

PAPER_FINAL_RANK = 32
"""Rank that its pruning leaves in each layer."""

PAPER_SIZE = 1024
"""Side of SAM's input in pixels, to which the paper upsamples images of 512."""

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
    """What a method of fine-tuning trains.

    Attributes:
        what: The method, in words.
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


@cache
def _paper_sam() -> nn.Module:
    with torch.device("meta"):
        return build_sam(ARCHITECTURES["vit_b"], PAPER_SIZE)


def paper_adapters(architecture: Architecture, rank: int) -> int:
    """Return the parameters of adapters P, Lambda, Q on q, k and v of every block."""
    return 3 * architecture.depth * rank * (2 * architecture.embed_dim + 1)


def paper_accounting() -> Accounting:
    """Count the real tensors of SAM ViT-B as the paper does."""
    sam = _paper_sam()
    layers = {name: m for name, m in sam.named_modules() if isinstance(m, nn.Linear)}
    projections = [layers.pop(name) for name in list(layers) if name.endswith(".qkv")]
    linear = sum(layer.weight.numel() for layer in layers.values())
    qkv = sum(count_parameters(layer) for layer in projections)
    adapters = paper_adapters(ARCHITECTURES["vit_b"], PAPER_RANK)
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
    """Count what the paper's methods of fine-tuning train of SAM ViT-B."""
    sam = _paper_sam()
    full = count_parameters(sam)
    decoder, prompts = (
        count_parameters(sam.get_submodule(name)) for name in ("mask_decoder", "prompt_encoder")
    )
    start, end = (
        decoder + prompts + paper_adapters(ARCHITECTURES["vit_b"], rank)
        for rank in (PAPER_RANK, PAPER_FINAL_RANK)
    )
    return [
        Trained("full fine-tuning", full, full),
        Trained("mask decoder", decoder, full, PAPER_FEWER["decoder"]),
        Trained(f"AdaLoRA on q, k, v, rank {PAPER_RANK}, and decoder", start, full),
        Trained(f"the same, final rank {PAPER_FINAL_RANK}", end, full, PAPER_FEWER["adalora"]),
    ]


def our_trained(description: Description) -> list[Trained]:
    """Count what the methods of ``cxrseg-train`` train of a network.

    Parts of SAM that no mask depends on are not trained.

    Args:
        description: The network, with the adapters' settings where it has any.

    Returns:
        Full training, the decoder alone, and AdaLoRA with its first and its final budget.

    Raises:
        CxrsegError: The network is no SAM.
    """
    name, size = description.model, description.preprocessing.size
    config = description.adapters or AdapterConfig()
    with torch.device("meta"):
        network = build_network(description.architecture, size, description.labels)
        model = require_sam(network, name)
        everything = count_parameters(model)
        freeze(model.unused_modules())
        full = count_parameters(model, trainable=True)
        freeze([model.image_encoder])
        decoder = count_parameters(model, trainable=True)
        add_adapters(model, config, total_steps=0)
    adapted = count_parameters(model, trainable=True)
    # Every adapter's size is proportional to its rank.
    final = decoder + round((adapted - decoder) * config.target_rank / config.init_rank)
    adapters = f"AdaLoRA on q, k, v, proj, lin1, lin2, rank {config.init_rank}, and decoder"
    return [
        Trained(f"{name}, full", full, everything),
        Trained(f"{name}, decoder", decoder, everything),
        Trained(f"{name}, {adapters}", adapted, everything),
        Trained(f"the same, final rank {config.target_rank} on average", final, everything),
    ]
