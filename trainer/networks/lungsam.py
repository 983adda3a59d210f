"""LungSAM: a prompt-free SAM with one output channel per lung label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.networks.decoder import decode, embed_prompt
from cxrseg.trainer.networks.encoder import encode
from cxrseg.trainer.networks.layers import GrayPatchEmbed
from cxrseg.trainer.networks.sam import Architecture, build_sam, resize_positions
from cxrseg.trainer.networks.sizes import require_labels
from cxrseg.trainer.networks.torch_file import read_torch_file

ATTENTION_OPERANDS = ("query", "key", "probability", "value")
"""Inputs of the encoder's two attention products, where quantizers can be put."""

PROMPT_ONLY = "mask_decoder.transformer.layers.0.self_attn."
"""How the names of the layers begin that see nothing but the prompt, which is constant."""


class LungSAM(nn.Module):
    """Segment Anything for lungs: gray image in, one logit map per label out.

    The submodules are segment_anything's, under their own names. Mask token i predicts label i,
    so Meta's four mask tokens serve up to four labels.

    Args:
        architecture: Size of the network.
        image_size: Side S of the input in pixels, a multiple of 16.
        labels: Channel names, one to four, known to `cxrseg.runtime.core.labels`.

    Raises:
        ValueError: Too many labels, or none.
    """

    def __init__(self, architecture: Architecture, image_size: int, labels: Sequence[str]) -> None:
        super().__init__()
        sam: Any = build_sam(architecture, image_size)
        if not 1 <= len(labels) <= sam.mask_decoder.num_mask_tokens:
            raise ValueError(f"{len(labels)} labels; a mask decoder has 1 to 4")
        self.labels = require_labels(labels)
        self.architecture = architecture
        self.image_size = image_size
        self.gradient_checkpointing = False
        self.image_encoder: Any = sam.image_encoder
        self.prompt_encoder: Any = sam.prompt_encoder
        self.mask_decoder: Any = sam.mask_decoder
        self.image_encoder.patch_embed = GrayPatchEmbed(self.image_encoder.patch_embed.proj)
        for block in self.image_encoder.blocks:
            block.attn.quantizers = nn.ModuleDict({n: nn.Identity() for n in ATTENTION_OPERANDS})

    def forward(self, image: Tensor, box: Tensor | None = None) -> Tensor:
        """Segment.

        Args:
            image: float32 [B, 1, S, S] in [0, 1], as `cxrseg.runtime.core.preprocess` makes it.
            box: float32 [B, 4] box prompt in input pixels; None for the whole image.

        Returns:
            Logits float32 [B, C, S / 4, S / 4], C = number of labels; above 0 is lung.
        """
        embedding = encode(self.image_encoder, image, self.gradient_checkpointing)
        prompt = embed_prompt(self.prompt_encoder, self.mask_decoder, box)
        return decode(self.mask_decoder, embedding, prompt, len(self.labels))

    def unused_modules(self) -> list[nn.Module]:
        """Return the parts of SAM that a prompt-free mask never reaches."""
        prompt = self.prompt_encoder
        heads = self.mask_decoder.output_hypernetworks_mlps
        return [
            self.mask_decoder.iou_prediction_head,
            prompt.mask_downscaling,
            prompt.not_a_point_embed,
            *prompt.point_embeddings[:2],
            *heads[len(self.labels) :],
        ]


def load_weights(model: LungSAM, state: dict[str, Tensor], source: Path) -> None:
    """Load float weights by SAM's names, strictly, after fitting the position tables.

    Raises:
        CxrsegError: The weights belong to another network.
    """
    wanted = model.state_dict()
    fitted = resize_positions(state, model)
    missing = [name for name in wanted if name not in fitted]
    extra = [name for name in fitted if name not in wanted]
    shapes = [n for n in wanted if n in fitted and wanted[n].shape != fitted[n].shape]
    if missing or extra or shapes:
        example = (missing + extra + shapes)[0]
        raise CxrsegError(
            source,
            f"its weights do not fit {model.architecture.name} "
            f"({len(missing)} missing, {len(extra)} unknown, {len(shapes)} of another shape, "
            f"first: {example})",
            "choose the --model that the checkpoint was made for",
        )
    model.load_state_dict(fitted)


def load_official(model: LungSAM, path: Path) -> None:
    """Load one of Meta's ``sam_vit_*.pth`` files.

    Raises:
        CxrsegError: The file is no such checkpoint, or one of another size.
    """
    state = read_torch_file(path)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CxrsegError(path, "not a SAM state dict", "give an official sam_vit_*.pth")
    # Buffers of SAM's own normalization, which is folded into the patch embedding here.
    weights = {k: v for k, v in state.items() if k not in ("pixel_mean", "pixel_std")}
    load_weights(model, weights, path)


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Count parameters, or only those that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def freeze(modules: Sequence[nn.Module]) -> None:
    """Exclude modules from training."""
    for module in modules:
        module.requires_grad_(False)
