"""The way back: from a model file to a checkpoint that training can start from.

Whoever has the shipped file has a base: its int8 weights, times their scales, are the trained
network to seven bits. What the export computed once and for all is rebuilt to give the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrseg.export.graph.passes import constant
from cxrseg.export.verify.agreement import SAME_WEIGHTS, Agreement, Limits, compare
from cxrseg.export.verify.backends import onnx_backend, torch_backend
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.model_card import ModelCard
from cxrseg.runtime.inference.loading import load_model
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.fit.checkpoint import Description, build, save
from cxrseg.trainer.networks.build import require_sam
from cxrseg.trainer.networks.decoder import first_queries, whole_image_box
from cxrseg.trainer.networks.layers import GrayPatchEmbed
from cxrseg.trainer.networks.lungsam import PROMPT_ONLY, LungSAM
from cxrseg.trainer.networks.sam import ARCHITECTURES, PIXEL_MEAN, PIXEL_STD

USE = "use an INT8 file that cxrseg-export wrote"

FIT_STEPS = 600
FIT_LOSS = 1e-5
"""Steps of the fit of the prompt's first attention, and the mean squared error it must reach."""


def recover(
    model: Path,
    output: Path,
    radiographs: Sequence[NDArray[np.float32]],
    say: Callable[[str], None] = lambda _: None,
    limits: Limits = SAME_WEIGHTS,
) -> Agreement:
    """Write a float checkpoint of stage 1 that gives the masks of an INT8 model file.

    Args:
        model: An INT8 file of `cxrseg.export.pipeline.export`.
        output: The checkpoint to write.
        radiographs: float32 [H, W] images to compare masks on.
        say: Called with a line for each step.
        limits: On how many pixels the masks must agree; only the mean is held to.

    Returns:
        Agreement of masks, network : file.

    Raises:
        CxrsegError: The file is no such model, or the masks differ; nothing is written.
    """
    card = load_model(model, "cpu").card
    say("reading the weights")
    network, description = rebuild(model, card)
    say("comparing masks")
    backends = torch_backend(network), onnx_backend(model, True)
    found = compare(*backends, radiographs, card.preprocessing, card.labels)
    if found.mean < limits.mean or 2 * found.with_lungs < found.images:
        raise CxrsegError(
            model,
            f"its masks cannot be reproduced (they agree on {found.mean:.4f} of the pixels; "
            f"{found.with_lungs} of {found.images} images with lungs)",
            "verify on X-rays of the kind it was trained on (--verify-images)",
        )
    save(network, description, output)
    return found


def rebuild(path: Path, card: ModelCard) -> tuple[LungSAM, Description]:
    """Build the float network of a model file.

    Args:
        path: The file.
        card: Its card.

    Raises:
        CxrsegError: The file lacks what a network of its name has.
    """
    name = card.name.removeprefix("cxrseg-")
    if name not in ARCHITECTURES:
        raise CxrsegError(path, f"of a network that is not known ({name})", USE)
    architecture = ARCHITECTURES[name]
    stored = Stored(path, ir.load(path).graph)
    if not any(key.endswith(".weight_int8") for key in stored.graph.initializers):
        raise CxrsegError(path, "holds no weights in INT8", USE)
    tables = stored.relative_positions() if architecture.relative_positions else []
    if architecture.window and tables[0].shape[0] != 2 * architecture.window - 1:
        architecture = architecture.with_global_attention()
    description = Description(
        architecture=architecture,
        labels=card.labels,
        preprocessing=card.preprocessing,
        metrics=card.metrics,
        version=card.version,
    )
    torch.manual_seed(0)  # parts that no mask depends on are drawn
    try:
        network = require_sam(build(description).eval(), path)
        with torch.no_grad():
            restore_layers(network, stored)
            restore_encoder(network, stored, tables)
            restore_prompt(network, stored)
    except (RuntimeError, ValueError, IndexError) as error:
        cause = f"its weights do not fit {name} ({' '.join(str(error).split())[:200]})"
        raise CxrsegError(path, cause, USE) from None
    fit_first_attention(network, stored.tokens()[1])
    return network, description


class Stored:
    """Constants of a model file by the names that the network gives them.

    Args:
        path: The file, for messages.
        graph: Its graph.
    """

    def __init__(self, path: Path, graph: ir.Graph) -> None:
        self.path = path
        self.graph = graph

    def get(self, name: str) -> Tensor:
        """Return a float constant, also where it is stored in FP16.

        Raises:
            CxrsegError: There is none.
        """
        for key in (name, f"{name}_fp16"):
            array = constant(self.graph.initializers.get(key))
            if array is not None:
                return torch.from_numpy(array.copy()).float()
        raise CxrsegError(
            self.path,
            f"lacks {name}, so that it is no base to train from",
            USE,
        )

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """Return effective weight and bias of a layer, in float."""
        if f"{name}.weight_int8" not in self.graph.initializers:
            return self.get(f"{name}.weight"), self.get(f"{name}.bias")
        weight = self.get(f"{name}.weight_int8")
        scale = self.get(f"{name}.weight_scale").reshape(-1, *[1] * (weight.ndim - 1))
        bias = self.graph.initializers.get(f"{name}.bias_int32")
        if bias is None:
            return weight * scale, torch.zeros(len(weight))
        return weight * scale, self.get(f"{name}.bias_int32") * self.get(f"{name}.bias_scale")

    def relative_positions(self) -> list[Tensor]:
        """Return the tables [2 * side - 1, D] that meet q: height, width, height, ..."""
        tables = []
        for node in self.graph:
            if node.op_type != "MatMul":
                continue
            array = _behind_cast(node.inputs[1])
            if array is not None and array.ndim == 2:
                tables.append(array.T)
        if not tables:
            raise CxrsegError(self.path, "holds no table of positions", USE)
        return tables

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Return the decoder's tokens and first queries, each [7, C].

        Tokens are added wherever queries attend; the first queries, to their sum, only once.
        """
        found: dict[str, tuple[int, Tensor]] = {}
        for value in self.graph.initializers.values():
            array = constant(value)
            if array is None or array.dtype.kind != "f" or array.shape[:2] != (1, 7):
                continue
            uses = list(value.uses())
            if uses and uses[0][0].op_type == "Cast":
                uses = list(uses[0][0].outputs[0].uses())
            found[str(value.name)] = len(uses), torch.from_numpy(array[0].copy()).float()
        if len(found) != 2:
            raise CxrsegError(self.path, "holds no constant prompt", USE)
        (_, queries), (_, tokens) = sorted(found.values(), key=lambda each: each[0])
        return tokens, queries


def _behind_cast(value: ir.Value | None) -> Tensor | None:
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Cast":
        value = node.inputs[0]
    array = constant(value)
    return None if array is None else torch.from_numpy(array.copy()).float()


def restore_layers(network: LungSAM, stored: Stored) -> None:
    """Give every layer a weight whose effective weight is the stored one."""
    for row in layer_table(network):
        name, layer = row.name, row.module
        if row.constant or row.kind == "attention":
            continue
        if name.endswith(".qkv"):
            parts = [stored.layer(f"{name}.{part}") for part in "qkv"]
            attention: Any = network.get_submodule(name.removesuffix(".qkv"))
            weight, bias = (torch.cat([p[i] for p in parts]) for i in range(2))
            third = len(weight) // 3
            weight[:third] /= attention.scale
            bias[:third] /= attention.scale
        else:
            weight, bias = stored.layer(name)
        set_effective(layer, weight, bias)


def set_effective(layer: Any, weight: Tensor, bias: Tensor) -> None:
    """Undo `cxrseg.trainer.networks.layers.effective`."""
    if isinstance(layer, GrayPatchEmbed):
        conv: Any = layer.proj
        mean, std = (weight.new_tensor(v).reshape(1, -1, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
        folded = weight.reshape(len(weight), 1, *conv.kernel_size)
        conv.weight.copy_(folded * std / (255 * conv.in_channels))
        conv.bias.copy_(bias + (conv.weight * (mean / std)).flatten(1).sum(dim=1))
    elif isinstance(layer, nn.ConvTranspose2d):
        rows, columns = layer.kernel_size
        blocks = weight.reshape(rows, columns, layer.out_channels, layer.in_channels)
        layer.weight.copy_(blocks.permute(3, 2, 0, 1))
        if layer.bias is not None:
            layer.bias.copy_(bias.reshape(rows * columns, -1).mean(dim=0))
    else:
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(bias)


def restore_encoder(network: LungSAM, stored: Stored, tables: list[Tensor]) -> None:
    """Restore normalizations, absolute and relative positions."""
    for name, module in network.named_modules():
        if "norm" not in type(module).__name__.lower() or name.startswith("prompt_encoder"):
            continue
        if name != f"{PROMPT_ONLY.removesuffix('self_attn.')}norm1":
            for kind, parameter in module.named_parameters():
                parameter.copy_(stored.get(f"{name}.{kind}"))
    encoder: Any = network.image_encoder
    encoder.pos_embed.copy_(stored.get("image_encoder.pos_embed"))
    blocks = [block for block in encoder.blocks if block.attn.use_rel_pos]
    for block, height, width in zip(blocks, tables[::2], tables[1::2], strict=True):
        block.attn.rel_pos_h.copy_(height * block.attn.scale)
        block.attn.rel_pos_w.copy_(width * block.attn.scale)


def restore_prompt(network: LungSAM, stored: Stored) -> None:
    """Restore tokens and the prompt encoder as far as the whole-image prompt depends on them."""
    prompt: Any = network.prompt_encoder
    decoder = network.mask_decoder
    tokens, _ = stored.tokens()
    decoder.iou_token.weight.copy_(tokens[:1])
    decoder.mask_tokens.weight.copy_(tokens[1:5])
    prompt.no_mask_embed.weight.copy_(stored.get("dense").reshape(1, -1))
    positions = stored.get("positions")
    matrix = frequencies(positions, math.isqrt(positions.shape[1]))
    prompt.pe_layer.positional_encoding_gaussian_matrix.copy_(matrix)
    for corner in prompt.point_embeddings[2:]:
        corner.weight.zero_()
    corners = whole_image_box(prompt)[0]
    for corner, wanted, bare in zip(prompt.point_embeddings[2:], tokens[5:], corners, strict=True):
        corner.weight.copy_((wanted - bare).reshape(1, -1))


def frequencies(positions: Tensor, side: int) -> Tensor:
    """Return a matrix [2, C / 2] that gives this positional encoding.

    The cell at (x, y) in (-1, 1) has sin and cos of 2 pi (x, y) times SAM's matrix, so the phase
    moves by 4 pi / side times a row from one cell to the next. That leaves multiples of side / 2
    open, which no cell can tell apart, but for a sign that all cells have in common.

    Args:
        positions: [1, side * side, C]: all sines, then all cosines.
        side: Cells a side.
    """
    sine, cosine = positions.reshape(side, side, -1).double().chunk(2, dim=-1)
    phase = torch.complex(cosine, sine)
    across = (phase[:, 1:] * phase[:, :-1].conj()).sum((0, 1)).angle()
    down = (phase[1:] * phase[:-1].conj()).sum((0, 1)).angle()
    matrix = torch.stack([across, down]) * side / (4 * math.pi)
    corner = (1 / side - 1) * 2 * math.pi * matrix.sum(dim=0)
    opposite = (phase[0, 0] * torch.polar(torch.ones_like(corner), -corner)).real < 0
    matrix[0] += opposite * side / 2
    return matrix.float()


def fit_first_attention(network: LungSAM, queries: Tensor) -> None:
    """Train the decoder's first self-attention until the prompt gives these queries again.

    Of that layer only its result is in the file; a fresh one has far more weights than it takes.

    Args:
        network: Everything else restored; is changed.
        queries: [7, C], what the layer gave.

    Raises:
        CxrsegError: The fit failed.
    """
    first = network.mask_decoder.transformer.layers[0]
    parameters = [*first.self_attn.parameters(), *first.norm1.parameters()]
    with torch.no_grad():
        prompt = whole_image_box(network.prompt_encoder)
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FIT_STEPS)
    for _ in range(FIT_STEPS):
        _, found = first_queries(network.mask_decoder, prompt)
        loss = (found[0] - queries).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    if not loss.item() < FIT_LOSS:
        raise CxrsegError("the prompt's first attention", "could not be rebuilt", USE)
