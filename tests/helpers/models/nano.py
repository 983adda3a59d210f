"""A nano network with random weights, quantized and compiled as ``cxrseg-export`` does it.

PYTHONPATH=tests python -m helpers.models.nano OUT.onnx
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cxrseg.export.graph import files as writing
from cxrseg.export.graph.compile import Compiled, compile_model
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import calibrate, quantize
from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.fit.checkpoint import Description, Loaded, build
from cxrseg.trainer.networks.sam import ARCHITECTURES, Architecture
from helpers.models.exported import FIELDS


@dataclass(frozen=True)
class Nano:
    """A compiled network in a file, and the description of the one that it was made of."""

    description: Description
    compiled: Compiled
    path: Path


def write_nano(path: Path, architecture: Architecture, size: int) -> Nano:
    """Write a network of an architecture in INT8."""
    torch.manual_seed(3)
    description = Description(architecture, FIELDS, Preprocessing(size))
    model, config = build(description).eval(), QuantizationConfig()
    with torch.no_grad():  # equal constants would be stored once
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    quantize(model, config)
    calibrate(model, [torch.rand(2, 1, size, size) for _ in range(3)])
    quantized = replace(description, stage=2, quantization=config)
    compiled = compile_model(Loaded(model, quantized, "0" * 64), "int8", layer_table(model))
    writing.save(compiled.graph, path)
    return Nano(description, compiled, path)


if __name__ == "__main__":
    write_nano(Path(sys.argv[1]), ARCHITECTURES["vit_n"], 64)
