"""The forward pass of SAM, written once for training, quantization and export.

Equal to segment_anything's own to float precision, with less work and a graph that integer
kernels like:

- tokens stay 2-D through every Linear, so that each becomes one Gemm with its bias;
- the patch embedding is one Linear on gray patches, normalization folded in;
- q, k and v are computed before windows are padded;
- relative positions enter the attention product as further columns of q and one-hot rows of k;
- the mask decoder takes a batch, and its transposed convolutions (kernel = stride) are Linears.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cxrseg.trainer.layers import apply_linear, effective
from cxrseg.trainer.sam import PATCH


def layer_norm(norm: Any, x: Tensor) -> Tensor:
    """Apply a LayerNorm (or SAM's LayerNorm2d) over the last axis of x."""
    return F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.eps)


def relative_scores(query: Tensor, positions: Tensor) -> Tensor:
    """Multiply queries along one axis with the vectors of their distances to every key.

    Decomposed relative positions (Li et al. 2022, MViTv2, section 4.1): query i and key k of one
    axis share the vector i - k + side - 1 of the table. All distances are multiplied at once;
    then row i is shifted by i, by padding and reshaping, so that no table is gathered.

    Args:
        query: [..., side, C].
        positions: Table [2 * side - 1, C].

    Returns:
        [..., side, side]; the last axis counts keys from the last to the first.
    """
    side = query.shape[-2]
    lead = query.shape[:-2]
    products = (query @ positions.T).reshape(*lead, side * (2 * side - 1))
    return F.pad(products, (0, side)).reshape(*lead, side, 2 * side)[..., :side]


def one_hot_rows(side: int, like: Tensor) -> Tensor:
    """Return [2 * side, side * side]: the keys of each grid row, then of each column, as 0 and 1.

    Rows and columns count from the last to the first, as `relative_scores` does.
    """
    eye = torch.eye(side, dtype=like.dtype, device=like.device).flip(0)
    return torch.cat([eye.repeat_interleave(side, dim=1), eye.repeat(1, side)])


def attend(attention: Any, qkv: Tensor, side: int) -> Tensor:
    """Multi-head attention with decomposed relative positions on square grids.

    Args:
        attention: SAM's encoder attention with its `quantizers`.
        qkv: [B, side * side, 3 * C].
        side: Cells a side of the grid (or of the window).

    Returns:
        [B, side * side, C].
    """
    batch, tokens, width = qkv.shape
    heads = attention.num_heads
    dim = width // 3 // heads
    q, k, v = (
        qkv.reshape(batch, tokens, 3, heads, dim)
        .permute(2, 0, 3, 1, 4)
        .reshape(3, batch * heads, tokens, dim)
        .unbind(0)
    )
    grid = q.reshape(batch * heads, side, side, dim)
    rel_h = relative_scores(grid.transpose(1, 2), attention.rel_pos_h).transpose(1, 2)
    rel_w = relative_scores(grid, attention.rel_pos_w)
    relative = torch.cat([rel_h, rel_w], dim=-1).reshape(batch * heads, tokens, 2 * side)
    query = torch.cat([q * attention.scale, relative], dim=-1)
    rows = one_hot_rows(side, q).expand(batch * heads, -1, -1)
    key = torch.cat([k.transpose(1, 2), rows], dim=1)
    quantize = attention.quantizers
    weights = (quantize["query"](query) @ quantize["key"](key)).softmax(dim=-1)
    out: Tensor = quantize["probability"](weights) @ quantize["value"](v)
    return out.reshape(batch, heads, tokens, dim).transpose(1, 2).reshape(batch, tokens, -1)


def windowed(attention: Any, qkv: Tensor, side: int, window: int) -> Tensor:
    """Run `attend` in windows of a square grid.

    SAM pads the tokens with zeros before qkv; the padding's q, k and v are then the bias, which
    is appended here instead, at no cost in the Linear.

    Args:
        attention: SAM's encoder attention.
        qkv: [B, side * side, 3 * C].
        side: Cells a side of the grid.
        window: Cells a side of a window.

    Returns:
        [B, side * side, C].
    """
    batch, _, width = qkv.shape
    count = -(-side // window)
    padding = count * window - side
    x = qkv.reshape(batch, side, side, width)
    if padding:
        bias = effective(attention.qkv)[1].reshape(1, 1, 1, width)
        x = torch.cat([x, bias.expand(batch, side, padding, width)], dim=2)
        x = torch.cat([x, bias.expand(batch, padding, side + padding, width)], dim=1)
    x = x.reshape(batch, count, window, count, window, width).transpose(2, 3)
    x = attend(attention, x.reshape(-1, window * window, width), window)
    x = x.reshape(batch, count, count, window, window, -1).transpose(2, 3)
    x = x.reshape(batch, count * window, count * window, -1)[:, :side, :side]
    return x.reshape(batch, side * side, -1)


def encoder_block(block: Any, x: Tensor, batch: int, side: int) -> Tensor:
    """One block of the image encoder on tokens [B * side * side, C]."""
    qkv = apply_linear(block.attn.qkv, layer_norm(block.norm1, x))
    qkv = qkv.reshape(batch, side * side, -1)
    if block.window_size:
        mixed = windowed(block.attn, qkv, side, block.window_size)
    else:
        mixed = attend(block.attn, qkv, side)
    x = x + apply_linear(block.attn.proj, mixed.reshape(x.shape))
    hidden = F.gelu(apply_linear(block.mlp.lin1, layer_norm(block.norm2, x)))
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
    x = (x.reshape(batch, side * side, -1) + encoder.pos_embed.reshape(1, side * side, -1)).reshape(
        batch * side * side, -1
    )
    for block in encoder.blocks:
        if checkpointing:
            x = checkpoint(encoder_block, block, x, batch, side, use_reentrant=False)
        else:
            x = encoder_block(block, x, batch, side)
    projection, norm1, convolution, norm2 = encoder.neck
    x = layer_norm(norm1, apply_linear(projection, x))
    x = convolution(x.reshape(batch, side, side, -1).permute(0, 3, 1, 2))
    return layer_norm(norm2, x.permute(0, 2, 3, 1)).reshape(batch, side * side, -1)


def first_queries(decoder: Any, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decoder's tokens and what its first self-attention makes of them.

    Neither depends on the image, so both are constants where the prompt is one.

    Args:
        decoder: SAM's mask decoder.
        prompt: Sparse prompt embeddings, [B, N, C].

    Returns:
        Tokens and queries, each [B, 5 + N, C].
    """
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([tokens.expand(len(prompt), -1, -1), prompt], dim=1)
    return tokens, self_attention(decoder.transformer.layers[0], tokens, tokens)


def self_attention(layer: Any, queries: Tensor, tokens: Tensor) -> Tensor:
    """First part of a two-way block: queries [B, N, C] attend to one another."""
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        q = queries + tokens
        queries = queries + layer.self_attn(q=q, k=q, v=queries)
    return layer_norm(layer.norm1, queries)


def cross_attention(
    layer: Any, queries: Tensor, keys: Tensor, tokens: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Second part of a two-way block: queries attend to image keys [B, N, C], then the reverse."""
    k = keys + positions
    attended = layer.cross_attn_token_to_image(q=queries + tokens, k=k, v=keys)
    queries = layer_norm(layer.norm2, queries + attended)
    queries = layer_norm(layer.norm3, queries + layer.mlp(queries))
    attended = layer.cross_attn_image_to_token(q=k, k=queries + tokens, v=queries)
    return queries, layer_norm(layer.norm4, keys + attended)


def decode(
    decoder: Any,
    embedding: Tensor,
    tokens: Tensor,
    queries: Tensor,
    dense: Tensor,
    positions: Tensor,
    channels: int,
) -> Tensor:
    """Turn an image embedding and a prompt into mask logits.

    Args:
        decoder: SAM's mask decoder.
        embedding: [B, side * side, C].
        tokens: From `first_queries`, [B or 1, N, C].
        queries: The same.
        dense: Dense prompt embedding, [C].
        positions: Positional encoding of the grid, [1, side * side, C].
        channels: Number of mask tokens to turn into masks, from the first.

    Returns:
        Logits [B, channels, 4 * side, 4 * side].
    """
    batch, cells, _ = embedding.shape
    side = int(cells**0.5)
    tokens, queries = tokens.expand(batch, -1, -1), queries.expand(batch, -1, -1)
    transformer, keys = decoder.transformer, embedding + dense
    for index, layer in enumerate(transformer.layers):
        if index:
            queries = self_attention(layer, queries, tokens)
        queries, keys = cross_attention(layer, queries, keys, tokens, positions)
    attended = transformer.final_attn_token_to_image(q=queries + tokens, k=keys + positions, v=keys)
    queries = layer_norm(transformer.norm_final_attn, queries + attended)

    expand1, norm, _, expand2, _ = decoder.output_upscaling
    x = apply_linear(expand1, keys.reshape(batch * cells, -1)).reshape(batch * cells * 4, -1)
    x = F.gelu(layer_norm(norm, x))
    x = F.gelu(apply_linear(expand2, x)).reshape(batch, cells * 16, -1)
    kernels = torch.stack(
        [decoder.output_hypernetworks_mlps[i](queries[:, 1 + i]) for i in range(channels)], dim=2
    )
    # Sub-pixels of both expansions lie inside each cell: (row, column, i1, j1, i2, j2).
    masks = (x @ kernels).reshape(batch, side, side, 2, 2, 2, 2, channels)
    return masks.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(batch, channels, 4 * side, 4 * side)


def whole_image_box(prompt_encoder: nn.Module, box: Tensor | None = None) -> Tensor:
    """Embed a box prompt, by default the whole image.

    Args:
        prompt_encoder: SAM's prompt encoder.
        box: float32 [B, 4], corners x0, y0, x1, y1 in pixels of the model input.

    Returns:
        Sparse embeddings [B or 1, 2, C].
    """
    encoder: Any = prompt_encoder
    if box is None:
        height, width = encoder.input_image_size
        like = encoder.no_mask_embed.weight
        box = torch.tensor([[0.0, 0.0, width, height]], dtype=like.dtype, device=like.device)
    sparse, _ = encoder(points=None, boxes=box, masks=None)
    return torch.as_tensor(sparse)
