"""The edge SAM: convolutions in place of the ViT, SAM's prompt encoder and two-way decoder.

The encoder's features at 1/4 and 1/8 of the side join the upsampling of the masks, as the
high-resolution features of SAM 2 do (Ravi et al. 2024, section 4). One mask token stands for one
label, and the IoU token predicts the Dice of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrseg.trainer.networks.convolutions import (
    ConvEncoder,
    Convolution,
    Features,
    Residual,
    fold_norms,
)
from cxrseg.trainer.networks.decoder import Prompt, attend_to_image, first_queries
from cxrseg.trainer.networks.sam import PATCH, segment_anything
from cxrseg.trainer.networks.sizes import (
    MAX_BLOCKS,
    MAX_WIDTH,
    require_labels,
    require_whole,
)

HEADS = 8
"""Of the two-way transformer, as in SAM."""

DEPTH = 2
"""Blocks of the two-way transformer, as in SAM."""

MASK_CHANNELS = 16
"""Width of the convolutions that a mask prompt goes through, as in SAM."""

RARE = -2.0
"""Logit bias that masks begin with: most pixels belong to none."""


EDGE_NAMES = ("conv_n", "conv_t")

LENGTHS = {"channels": (4, 4), "blocks": (3, 3)}
"""How many numbers an architecture has of each."""


@dataclass(frozen=True)
class EdgeArchitecture:
    """Size of an edge SAM.

    Attributes:
        name: One of `EDGE`.
        channels: Of the stem, and of the stages at 1/4, 1/8 and 1/16 of the side.
        blocks: Residual blocks of each stage.
        decoder_dim: Width of neck, prompt encoder and mask decoder.
        decoder_mlp: Hidden width of the two-way transformer's MLPs.
        folded: Whether the batch norms are part of the convolutions: before adapters and
            quantizers they have to be.

    Raises:
        ValueError: There is no such network, or it is far larger than any that is known.
    """

    name: str
    channels: tuple[int, int, int, int]
    blocks: tuple[int, int, int]
    decoder_dim: int = 128
    decoder_mlp: int = 256
    folded: bool = False

    def __post_init__(self) -> None:
        for name in ("channels", "blocks"):
            require_whole(f"the length of {name}", len(getattr(self, name)), *LENGTHS[name])
        for number in (*self.channels, self.decoder_dim, self.decoder_mlp):
            require_whole("a number of channels", number, 1, MAX_WIDTH)
        for number in self.blocks:
            require_whole("a number of blocks", number, 0, MAX_BLOCKS)
        if self.decoder_dim % (2 * HEADS) or not isinstance(self.folded, bool):
            raise ValueError("its decoder's width is not a multiple of its heads")
        if self.name not in EDGE_NAMES:
            raise ValueError("its name is not known")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (lists, ints, strings, a bool) for a checkpoint."""
        return {**asdict(self), "channels": list(self.channels), "blocks": list(self.blocks)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EdgeArchitecture:
        """Rebuild from `to_dict`."""
        channels, blocks = tuple(data["channels"]), tuple(data["blocks"])
        return cls(**{**data, "channels": channels, "blocks": blocks})


EDGE: dict[str, EdgeArchitecture] = {
    "conv_n": EdgeArchitecture("conv_n", (4, 8, 8, 16), (0, 1, 1), decoder_dim=32, decoder_mlp=32),
    "conv_t": EdgeArchitecture("conv_t", (24, 32, 64, 160), (1, 1, 2)),
}
"""``conv_t`` is the edge size; ``conv_n`` is for trials."""


INSIDE, OUTSIDE, NOWHERE = 1, 0, -1
"""What a click marks, by SAM's numbers; a place that is marked so is no click."""


@dataclass(frozen=True)
class Clicks:
    """Places that someone marked.

    Attributes:
        places: float32 [B, N, 2]: x and y in pixels of the input, the center of the first at 0.5.
        marks: int64 [B, N]: `INSIDE`, `OUTSIDE` or `NOWHERE`.
    """

    places: Tensor
    marks: Tensor

    def after(self, earlier: Clicks | None) -> Clicks:
        """Return the clicks of both, earlier ones first."""
        if earlier is None:
            return self
        places = torch.cat([earlier.places, self.places], dim=1)
        return Clicks(places, torch.cat([earlier.marks, self.marks], dim=1))


class EdgeDecoder(nn.Module):
    """SAM's two-way transformer, and an upsampling that the encoder's features join.

    Args:
        architecture: Size of the network.
        labels: Number of masks.
    """

    def __init__(self, architecture: EdgeArchitecture, labels: int) -> None:
        super().__init__()
        sam = segment_anything()
        dim = architecture.decoder_dim
        _, quarter, eighth, _ = architecture.channels
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(labels, dim)
        self.transformer = sam.TwoWayTransformer(DEPTH, dim, HEADS, architecture.decoder_mlp)
        self.up8 = Convolution(dim, eighth, size=1, rounded=True)
        self.refine8 = Residual(eighth)
        self.up4 = Convolution(eighth, quarter, size=1, rounded=True)
        self.refine4 = Residual(quarter)
        self.hypernetwork = _mlp(dim, dim, quarter)
        self.iou_head = _mlp(dim, dim, labels)
        self.bias = nn.Parameter(torch.full((labels,), RARE))

    def forward(self, features: Features, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """Turn an image's features and a prompt into masks.

        Args:
            features: Of the image encoder.
            prompt: From `EdgeSAM.embed`.

        Returns:
            Logits [B, C, S / 4, S / 4], and the logit of each mask's Dice [B, C].
        """
        embedding = features.embedding
        tokens = embedding.flatten(2).transpose(1, 2)
        queries, keys = attend_to_image(self.transformer, tokens, prompt)
        x = keys.transpose(1, 2).reshape(embedding.shape)
        x = self.refine8(F.relu(enlarged(self.up8, x) + features.eighth))
        x = self.refine4(F.relu(enlarged(self.up4, x) + features.quarter))
        labels = self.mask_tokens.num_embeddings
        kernels = self.hypernetwork(queries[:, 1 : 1 + labels])
        masks = (kernels @ x.flatten(2)).reshape(len(x), labels, *x.shape[-2:])
        return masks + self.bias.reshape(-1, 1, 1), self.iou_head(queries[:, 0])


def enlarged(layer: Any, x: Tensor) -> Tensor:
    """Apply a 1 x 1 convolution to x [B, C, H, W] and repeat each pixel: [B, out, 2 H, 2 W]."""
    out = F.interpolate(layer(x), scale_factor=2.0, mode="nearest")
    # In INT8 the larger map is bytes as well, so that the sum to come is one of integers.
    return torch.as_tensor(layer.output.repeat(out)) if hasattr(layer, "weight_scale") else out


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    sizes = ((inputs, hidden), (hidden, hidden), (hidden, outputs))
    first, second, third = (nn.Linear(*pair) for pair in sizes)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


class EdgeSAM(nn.Module):
    """A convolutional SAM for lungs: gray image in, one logit map per label out.

    Args:
        architecture: Size of the network.
        image_size: Side S of the input in pixels, a multiple of 16.
        labels: Channel names, known to `cxrseg.runtime.core.labels`, at least one.

    Raises:
        ValueError: There are no labels.
    """

    def __init__(
        self, architecture: EdgeArchitecture, image_size: int, labels: Sequence[str]
    ) -> None:
        super().__init__()
        self.labels = require_labels(labels)
        self.architecture = architecture
        self.image_size = image_size
        dim, grid = architecture.decoder_dim, (image_size // PATCH, image_size // PATCH)
        self.image_encoder = ConvEncoder(architecture.channels, architecture.blocks, dim)
        self.prompt_encoder: Any = segment_anything().PromptEncoder(
            dim, grid, (image_size, image_size), MASK_CHANNELS, nn.ReLU
        )
        self.mask_decoder = EdgeDecoder(architecture, len(labels))
        if architecture.folded:
            fold_norms(self)

    def forward(self, image: Tensor) -> Tensor:
        """Segment.

        Args:
            image: float32 [B, 1, S, S] in [0, 1], as `cxrseg.runtime.core.preprocess` makes it.

        Returns:
            Logits float32 [B, C, S / 4, S / 4], C = number of labels; above 0 is lung.
        """
        masks, _ = self.mask_decoder(self.image_encoder(image), self.no_prompt())
        return torch.as_tensor(masks)

    def no_prompt(self) -> Prompt:
        """Return the prompt that says nothing."""
        decoder, encoder = self.mask_decoder, self.prompt_encoder
        nothing = encoder.no_mask_embed.weight.new_zeros(1, 0, self.architecture.decoder_dim)
        tokens, queries = first_queries(decoder, nothing)
        dense = encoder.no_mask_embed.weight.reshape(-1)
        return Prompt(tokens, queries, dense, encoder.get_dense_pe().flatten(2).transpose(1, 2))

    def prompt(self, clicks: Clicks, mask: Tensor) -> Prompt:
        """Return the prompt of clicks that correct a mask.

        Args:
            clicks: Of each image, for one structure.
            mask: float32 logits [B, 1, S / 4, S / 4] of that structure so far.
        """
        encoder, size = self.prompt_encoder, (self.image_size, self.image_size)
        # SAM ends clicks that come without a box by one that is nowhere.
        places = F.pad(clicks.places, (0, 0, 0, 1))
        marks = F.pad(clicks.marks, (0, 1), value=NOWHERE)[..., None]
        known = torch.stack([encoder.point_embeddings[i].weight[0] for i in (OUTSIDE, INSIDE)])
        where = encoder.pe_layer.forward_with_coords(places, size)
        sparse = where + known[marks[..., 0].clamp(min=0)]
        sparse = torch.where(marks == NOWHERE, encoder.not_a_point_embed.weight[0], sparse)
        tokens, queries = first_queries(self.mask_decoder, sparse)
        dense = encoder.mask_downscaling(mask).flatten(2).transpose(1, 2)
        return Prompt(tokens, queries, dense, encoder.get_dense_pe().flatten(2).transpose(1, 2))

    def fold(self) -> None:
        """Fold the batch norms, in place; the network gives the same."""
        fold_norms(self)
        self.architecture = replace(self.architecture, folded=True)

    def unused_modules(self) -> list[nn.Module]:
        """Return the parts of SAM that a prompt-free mask never reaches."""
        prompt = self.prompt_encoder
        return [
            self.mask_decoder.iou_head,
            prompt.mask_downscaling,
            prompt.not_a_point_embed,
            *prompt.point_embeddings,
        ]
