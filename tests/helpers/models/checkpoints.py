"""Descriptions of nano networks, for checkpoints."""

from __future__ import annotations

from typing import Any

from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.adapt.settings import AdapterConfig, QuantizationConfig
from cxrseg.trainer.fit.checkpoint import Description
from cxrseg.trainer.networks.lungsam import LungSAM

FIELDS = ("right_lung", "left_lung")


WHOLE = ("right_lung_whole", "left_lung_whole")


ADAPTERS = AdapterConfig(init_rank=4, target_rank=2)


QUANTIZATION = QuantizationConfig(keep_float=("image_encoder.neck.*", "*.1.attn.matmul"))


def describe(model: LungSAM, **more: Any) -> Description:
    return Description(model.architecture, model.labels, Preprocessing(model.image_size), **more)
