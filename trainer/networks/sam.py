"""Segment Anything's own modules, sized by a small configuration.

Meta's checkpoints load by their own names because nothing is renamed: only the position tables
change with the image size.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from cxrseg.trainer.networks.sizes import MAX_BLOCKS, MAX_WIDTH, require_whole

DECODER_HEADS = 8
"""Attention heads of the mask decoder."""

PATCH = 16
"""Side of a patch in pixels; the encoder's grid has S / 16 cells a side."""

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""SAM's RGB normalization, on a 0..255 scale."""


@dataclass(frozen=True)
class Architecture:
    """Size of a SAM.

    Attributes:
        name: One of `ARCHITECTURES`.
        embed_dim: Width of the image encoder.
        depth: Number of encoder blocks.
        heads: Attention heads of the encoder.
        window: Side of an attention window in cells; 0 for global attention.
        global_blocks: Blocks with global attention where `window` is not 0.
        decoder_dim: Width of neck, prompt encoder and mask decoder.
        decoder_mlp: Hidden width of the mask decoder's MLPs.
        relative_positions: Whether attention adds SAM's decomposed relative positions.
        activation: Of the encoder's MLPs: ``gelu`` as in Meta's networks, or ``relu``, which costs
            integer kernels nothing.

    Raises:
        ValueError: There is no such network, or it is far larger than any that is known.
    """

    name: str
    embed_dim: int
    depth: int
    heads: int
    window: int = 0
    global_blocks: tuple[int, ...] = ()
    decoder_dim: int = 256
    decoder_mlp: int = 2048
    relative_positions: bool = True
    activation: Literal["gelu", "relu"] = "gelu"

    def __post_init__(self) -> None:
        require_whole("depth", self.depth, 1, MAX_BLOCKS)
        require_whole("heads", self.heads, 1, MAX_BLOCKS)
        require_whole("window", self.window, 0, MAX_WIDTH)
        for name in ("embed_dim", "decoder_dim", "decoder_mlp"):
            require_whole(name, getattr(self, name), 1, MAX_WIDTH)
        for block in self.global_blocks:
            require_whole("a block with global attention", block, 0, self.depth - 1)
        if self.embed_dim % self.heads or self.decoder_dim % (2 * DECODER_HEADS):
            raise ValueError("its widths are not multiples of its heads")
        if self.activation not in ("gelu", "relu") or not isinstance(self.name, str):
            raise ValueError("its name or its activation is not known")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (lists, ints, strings) for a checkpoint."""
        return {**asdict(self), "global_blocks": list(self.global_blocks)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Architecture:
        """Rebuild from `to_dict`."""
        return cls(**{**data, "global_blocks": tuple(data["global_blocks"])})

    def with_global_attention(self) -> Architecture:
        """Return the same network without attention windows (faster below 512 px, needs tuning)."""
        return replace(self, window=0, global_blocks=())


ARCHITECTURES: dict[str, Architecture] = {
    "vit_n": Architecture("vit_n", 32, 2, 2, decoder_dim=32, decoder_mlp=64),
    "vit_t": Architecture(
        "vit_t", 320, 6, 5, decoder_mlp=512, relative_positions=False, activation="relu"
    ),
    "vit_b": Architecture("vit_b", 768, 12, 12, 14, (2, 5, 8, 11)),
    "vit_l": Architecture("vit_l", 1024, 24, 16, 14, (5, 11, 17, 23)),
    "vit_h": Architecture("vit_h", 1280, 32, 16, 14, (7, 15, 23, 31)),
}
"""``vit_b``, ``vit_l``, ``vit_h`` are Meta's; ``vit_t`` is the edge size, ``vit_n`` for trials.

``vit_t`` is wide and shallow because INT8 speeds up products alone: they grow with depth times
width squared, what lies between them with depth times width. With 12 blocks of 192, relative
positions and GELU, of as many parameters, INT8 gains 1.6 times over FP32 instead of 2.1.
"""


def segment_anything() -> Any:
    """Return the package `segment_anything.modeling`.

    The package's ``__init__`` needs torchvision for parts that are not used here. Where it cannot
    be imported, the package is registered without running it.
    """
    try:
        importlib.import_module("segment_anything")
    except (ImportError, RuntimeError):
        spec = importlib.util.find_spec("segment_anything")
        if spec is None:
            raise
        sys.modules["segment_anything"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("segment_anything.modeling")


def build_sam(architecture: Architecture, image_size: int) -> nn.Module:
    """Build a SAM for square images, freshly initialized.

    Args:
        architecture: Size of the network.
        image_size: Side S of the input in pixels, a multiple of 16.

    Returns:
        segment_anything's ``Sam`` with ``image_encoder``, ``prompt_encoder``, ``mask_decoder``.
    """
    sam = segment_anything()
    grid = image_size // PATCH
    dim = architecture.decoder_dim
    global_blocks = architecture.global_blocks if architecture.window else ()
    model: Any = sam.Sam(
        image_encoder=sam.ImageEncoderViT(
            img_size=image_size,
            patch_size=PATCH,
            embed_dim=architecture.embed_dim,
            depth=architecture.depth,
            num_heads=architecture.heads,
            out_chans=dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            act_layer=nn.ReLU if architecture.activation == "relu" else nn.GELU,
            use_rel_pos=architecture.relative_positions,
            window_size=architecture.window,
            global_attn_indexes=global_blocks,
        ),
        prompt_encoder=sam.PromptEncoder(
            embed_dim=dim,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=sam.MaskDecoder(
            transformer_dim=dim,
            transformer=sam.TwoWayTransformer(
                depth=2,
                embedding_dim=dim,
                num_heads=DECODER_HEADS,
                mlp_dim=architecture.decoder_mlp,
            ),
            iou_head_hidden_dim=dim,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )
    nn.init.trunc_normal_(model.image_encoder.pos_embed, std=0.02)
    return cast(nn.Module, model)


def resize_positions(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fit a state dict's position tables to a model of another image size.

    Absolute positions are interpolated bicubically, relative positions linearly (as
    segment_anything's ``get_rel_pos`` does).

    Args:
        state: Names as in `model`; tables of any size.
        model: The network to load into.

    Returns:
        A new dict whose tables have the model's shapes.
    """
    fitted = dict(state)
    for name, target in model.state_dict().items():
        table = state.get(name)
        if table is None or table.shape == target.shape:
            continue
        if name.endswith("pos_embed"):
            grid = F.interpolate(
                table.permute(0, 3, 1, 2),
                size=target.shape[1:3],
                mode="bicubic",
                align_corners=False,
            )
            fitted[name] = grid.permute(0, 2, 3, 1)
        elif name.endswith(("rel_pos_h", "rel_pos_w")):
            row = F.interpolate(table.T.unsqueeze(0), size=target.shape[0], mode="linear")
            fitted[name] = row.squeeze(0).T
    return fitted
