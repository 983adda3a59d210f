"""The forward pass of SAM's prompt encoder and mask decoder, for training, quantization and export.

Equal to segment_anything's own to float precision; but the mask decoder takes a batch, and its
transposed convolutions (kernel = stride) are Linears.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrseg.trainer.networks.encoder import layer_norm
from cxrseg.trainer.networks.layers import apply_linear


@dataclass(frozen=True)
class Prompt:
    """All that the mask decoder takes besides the image.

    Attributes:
        tokens: From `first_queries`, [B or 1, N, C].
        queries: The same.
        dense: Dense prompt embedding, [C], or [B, side * side, C] of a mask.
        positions: Positional encoding of the grid, [1, side * side, C].
    """

    tokens: Tensor
    queries: Tensor
    dense: Tensor
    positions: Tensor


def embed_prompt(encoder: Any, decoder: Any, box: Tensor | None = None) -> Prompt:
    """Embed a box prompt, by default the whole image.

    Args:
        encoder: SAM's prompt encoder.
        decoder: SAM's mask decoder.
        box: float32 [B, 4], corners x0, y0, x1, y1 in pixels of the model input.
    """
    tokens, queries = first_queries(decoder, whole_image_box(encoder, box))
    dense = encoder.no_mask_embed.weight.reshape(-1)
    positions = encoder.get_dense_pe().flatten(2).transpose(1, 2)
    return Prompt(tokens, queries, dense, positions)


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


def attend_to_image(transformer: Any, embedding: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Let prompt and image attend to one another: the forward pass of SAM's two-way transformer.

    Args:
        transformer: SAM's `TwoWayTransformer`.
        embedding: [B, side * side, C].
        prompt: From `embed_prompt`.

    Returns:
        Queries [B, N, C] and keys [B, side * side, C].
    """
    tokens = prompt.tokens.expand(len(embedding), -1, -1)
    queries = prompt.queries.expand(len(embedding), -1, -1)
    positions, keys = prompt.positions, embedding + prompt.dense
    for index, layer in enumerate(transformer.layers):
        if index:
            queries = self_attention(layer, queries, tokens)
        queries, keys = cross_attention(layer, queries, keys, tokens, positions)
    attended = transformer.final_attn_token_to_image(q=queries + tokens, k=keys + positions, v=keys)
    return layer_norm(transformer.norm_final_attn, queries + attended), keys


def decode(decoder: Any, embedding: Tensor, prompt: Prompt, channels: int) -> Tensor:
    """Turn an image embedding and a prompt into mask logits.

    Args:
        decoder: SAM's mask decoder.
        embedding: [B, side * side, C].
        prompt: From `embed_prompt`.
        channels: Number of mask tokens to turn into masks, from the first.

    Returns:
        Logits [B, channels, 4 * side, 4 * side].
    """
    batch, cells, _ = embedding.shape
    side = int(cells**0.5)
    queries, keys = attend_to_image(decoder.transformer, embedding, prompt)

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
