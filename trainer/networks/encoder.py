"""The forward pass of SAM's image encoder, written once for training, quantization and export.

Equal to segment_anything's own to float precision, with less work and a graph that integer
kernels like:

- tokens stay 2-D through every Linear, so that each becomes one Gemm with its bias;
- the patch embedding is one Linear on gray patches, normalization folded in;
- q, k and v are computed before windows are padded, and each moves to its heads in one transpose;
- relative positions enter the attention product as further columns of q and one-hot rows of k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cxrseg.trainer.networks.layers import apply_linear, project, project_biases
from cxrseg.trainer.networks.sam import PATCH


def layer_norm(norm: Any, x: Tensor) -> Tensor:
    """Apply a LayerNorm (or SAM's LayerNorm2d) over the last axis of x."""
    return F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.eps)


def relative_scores(products: Tensor) -> Tensor:
    """Pick the score of each key from the products of queries with all distances.

    Decomposed relative positions (Li et al. 2022, MViTv2, section 4.1): query i and key k of one
    axis share the vector i - k + side - 1 of the table. All distances are multiplied at once;
    then row i is shifted by i, by padding and reshaping, so that no table is gathered.

    Args:
        products: [..., side, 2 * side - 1]: queries along an axis, times the axis' table.

    Returns:
        [..., side, side]; the last axis counts keys from the last to the first.
    """
    side = products.shape[-2]
    rows = products.reshape(*products.shape[:-2], side * (2 * side - 1))
    return F.pad(rows, (0, side)).reshape(*products.shape[:-1], 2 * side)[..., :side]


def one_hot_rows(side: int, like: Tensor) -> Tensor:
    """Return [2 * side, side * side]: the keys of each grid row, then of each column, as 0 and 1.

    Rows and columns count from the last to the first, as `relative_scores` does.
    """
    eye = torch.eye(side, dtype=like.dtype, device=like.device).flip(0)
    return torch.cat([eye.repeat_interleave(side, dim=1), eye.repeat(1, side)])


@dataclass(frozen=True)
class Windows:
    """How tokens on a square grid are grouped for attention.

    Attributes:
        batch: Number of images.
        side: Cells a side of the grid.
        window: Cells a side of a window; the grid's side for global attention.
        heads: Attention heads.
    """

    batch: int
    side: int
    window: int
    heads: int

    @property
    def count(self) -> int:
        """Windows along a side, the last one padded where it does not fit."""
        return -(-self.side // self.window)

    def pad(self, x: Tensor, bias: Tensor) -> Tensor:
        """Fill the windows that stick out of the grid [B * side * side, C] with a row.

        SAM pads the tokens with zeros before qkv; the padding's q, k and v are then the bias,
        which is appended here instead, at no cost in the Linear.
        """
        padding = self.count * self.window - self.side
        if not padding:
            return x
        x = x.reshape(self.batch, self.side, self.side, -1)
        bias = bias.reshape(1, 1, 1, -1)
        x = torch.cat([x, bias.expand(self.batch, self.side, padding, -1)], dim=2)
        return torch.cat([x, bias.expand(self.batch, padding, x.shape[2], -1)], dim=1)

    def split(self, x: Tensor, keys_last: bool = False) -> Tensor:
        """Group padded tokens by window and head: [N, window ** 2, D], or [N, D, window ** 2]."""
        batch, count, window, heads = self.batch, self.count, self.window, self.heads
        dim, tokens = x.shape[-1] // heads, window * window
        if count == 1:
            x = x.reshape(batch, tokens, heads, dim)
            x = x.permute(0, 2, 3, 1) if keys_last else x.transpose(1, 2)
        else:
            x = x.reshape(batch, count, window, count, window, heads, dim)
            x = x.permute(0, 1, 3, 5, 2, 4, 6)
            if keys_last:  # in two steps: ONNX Runtime moves rows at once, but no single elements
                x = x.reshape(-1, tokens, dim).transpose(1, 2)
        return x.reshape((-1, dim, tokens) if keys_last else (-1, tokens, dim))

    def join(self, x: Tensor) -> Tensor:
        """Undo `split` and `pad`: [N, window ** 2, D] to [B * side * side, C]."""
        batch, side, count, window, heads = (
            self.batch,
            self.side,
            self.count,
            self.window,
            self.heads,
        )
        if count == 1:
            x = x.reshape(batch, heads, window * window, -1).transpose(1, 2)
        else:
            x = x.reshape(batch, count, count, heads, window, window, -1)
            x = x.permute(0, 1, 4, 2, 5, 3, 6)
        if count * window != side:
            whole = count * window
            x = x.reshape(batch, whole, whole, -1)[:, :side, :side]
        return x.reshape(batch * side * side, -1)


def repeat(quantizer: Any, x: Tensor) -> Tensor:
    """Quantize x with the range that `quantizer` has of another tensor."""
    return x if isinstance(quantizer, nn.Identity) else torch.as_tensor(quantizer.repeat(x))


def add_relative_positions(
    attention: Any, q: Tensor, k: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Extend scaled queries and keys so that their product adds the relative positions.

    Args:
        attention: SAM's encoder attention.
        q: Queries [N, side * side, D].
        k: Quantized keys [N, D, side * side].
        side: Cells a side of a window.

    Returns:
        Queries [N, side * side, D + 2 * side], and keys [N, D + 2 * side, side * side].
    """
    quantizer = attention.quantizers["key"]
    grid = q.reshape(-1, side, side, q.shape[-1])
    rel_h = (grid @ attention.rel_pos_h.T).transpose(1, 2)
    rel_h = relative_scores(rel_h).transpose(1, 2)
    rel_w = relative_scores(grid @ attention.rel_pos_w.T)
    if attention.scale != 1:
        q = q * attention.scale
    shape = (*q.shape[:2], side)
    query = torch.cat([q, rel_h.reshape(shape), rel_w.reshape(shape)], dim=-1)
    rows = repeat(quantizer, one_hot_rows(side, q).expand(len(k), -1, -1))
    return query, repeat(quantizer, torch.cat([k, rows], dim=1))


def mix(quantizer: Any, weights: Tensor, values: Tensor) -> Tensor:
    """Return the means [N, T, D] of values, weighted by quantized probabilities [N, T, T]."""
    if hasattr(quantizer, "mix"):
        return torch.as_tensor(quantizer.mix(weights, values))
    return torch.as_tensor(quantizer(weights) @ values)


def attend(attention: Any, x: Tensor, windows: Windows) -> Tensor:
    """Multi-head attention, with decomposed relative positions where the network has them.

    Keys and values are quantized as they leave their Linear, so that they move as bytes.

    Args:
        attention: SAM's encoder attention with its `quantizers`.
        x: Tokens [B * side * side, C].
        windows: How they are grouped.

    Returns:
        [B * side * side, C], before the output projection.
    """
    quantize, side = attention.quantizers, windows.window
    parts = project(attention.qkv, x)
    if windows.count * side != windows.side:
        biases = project_biases(attention.qkv)
        parts = [windows.pad(part, bias) for part, bias in zip(parts, biases, strict=True)]
    # ONNX Runtime keeps a Gemm in float whose output is clipped and quantized to int8 right away.
    parts[1:] = [part.reshape(windows.batch, -1, part.shape[-1]) for part in parts[1:]]
    q = windows.split(parts[0])
    k = windows.split(quantize["key"](parts[1]), keys_last=True)
    v = windows.split(quantize["value"](parts[2]))
    if attention.use_rel_pos:
        q, k = add_relative_positions(attention, q, k, side)
    elif attention.scale != 1:
        q = q * attention.scale
    weights = (quantize["query"](q) @ k).softmax(dim=-1)
    return windows.join(mix(quantize["probability"], weights, v))


def encoder_block(block: Any, x: Tensor, batch: int, side: int) -> Tensor:
    """One block of the image encoder on tokens [B * side * side, C]."""
    windows = Windows(batch, side, block.window_size or side, block.attn.num_heads)
    mixed = attend(block.attn, layer_norm(block.norm1, x), windows)
    x = x + apply_linear(block.attn.proj, mixed)
    hidden = block.mlp.act(apply_linear(block.mlp.lin1, layer_norm(block.norm2, x)))
    return x + apply_linear(block.mlp.lin2, hidden)


def encode(encoder: Any, image: Tensor, checkpointing: bool = False) -> Tensor:
    """Embed gray images.

    Args:
        encoder: SAM's image encoder.
        image: float32 [B, 1, S, S] in [0, 1].
        checkpointing: Recompute activations in the backward pass to save memory.

    Returns:
        [B, (S / 16) ** 2, C] with C the width of the neck.
    """
    batch, _, size, _ = image.shape
    side = size // PATCH
    patches = image.reshape(batch, side, PATCH, side, PATCH).transpose(2, 3)
    x = apply_linear(encoder.patch_embed, patches.reshape(-1, PATCH * PATCH))
    x = x.reshape(batch, side, side, -1) + encoder.pos_embed
    x = x.reshape(batch * side * side, -1)
    for block in encoder.blocks:
        if checkpointing:
            x = checkpoint(encoder_block, block, x, batch, side, use_reentrant=False)
        else:
            x = encoder_block(block, x, batch, side)
    projection, norm1, convolution, norm2 = encoder.neck
    x = layer_norm(norm1, apply_linear(projection, x))
    x = convolution(x.reshape(batch, side, side, -1).permute(0, 3, 1, 2))
    return layer_norm(norm2, x.permute(0, 2, 3, 1)).reshape(batch, side * side, -1)
