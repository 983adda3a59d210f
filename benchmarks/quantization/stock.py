"""What there is without this project: segment_anything's own modules through torch's exporter."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from cxrseg.trainer.fit.checkpoint import Loaded
from cxrseg.trainer.fit.start import float_state
from cxrseg.trainer.networks.sam import ARCHITECTURES, build_sam, resize_positions


class Stock(nn.Module):
    """segment_anything's encoder and decoder, as published, with the weights of a network of ours.

    Args:
        loaded: The network; loses its quantizers and adapters.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        model, size = loaded.sam, loaded.description.preprocessing.size
        # Attention windows as published, also where ours does without.
        self.sam: Any = build_sam(ARCHITECTURES[model.architecture.name], size).eval()
        state = {
            name.replace("patch_embed.proj.proj", "patch_embed.proj"): value
            for name, value in float_state(model).items()
        }
        # Its own normalization is not in our weights.
        self.sam.load_state_dict(resize_positions(state, self.sam), strict=False)
        self.channels = len(model.labels)
        box = torch.tensor([[0.0, 0.0, size, size]])
        prompt: Any = self.sam.prompt_encoder
        with torch.no_grad():
            sparse, dense = prompt(points=None, boxes=box, masks=None)
            positions = prompt.get_dense_pe()
        self.register_buffer("sparse", sparse)
        self.register_buffer("dense", dense)
        self.register_buffer("positions", positions)

    def forward(self, image: Tensor) -> Tensor:
        """Segment float32 [1, 1, S, S] in [0, 1] with the whole image as box."""
        rgb = (255 * image).expand(-1, 3, -1, -1)
        embedding = self.sam.image_encoder((rgb - self.sam.pixel_mean) / self.sam.pixel_std)
        masks, _ = self.sam.mask_decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=self.positions,
            sparse_prompt_embeddings=self.sparse,
            dense_prompt_embeddings=self.dense,
        )
        return torch.as_tensor(masks[:, : self.channels])


def export_stock(loaded: Loaded) -> bytes:
    """Return the FP32 ONNX file that torch makes of segment_anything's own modules.

    Args:
        loaded: The network; loses its quantizers and adapters.
    """
    stock = Stock(loaded).requires_grad_(False)
    size = loaded.description.preprocessing.size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            stock,
            (torch.zeros(1, 1, size, size),),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no graph")
    return bytes(program.model_proto.SerializeToString())
