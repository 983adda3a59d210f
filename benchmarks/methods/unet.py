"""The network that a user would pick instead, MONAI's U-Net, exported to files like ours."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray

from cxrseg.export.graph.compile import finish, trace
from cxrseg.export.graph.files import atomic_outputs, save
from cxrseg.runtime.core.model_card import METADATA_KEY, ModelCard
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.inference.session import INPUT
from cxrseg.trainer.fit.checkpoint import Loaded

NAME = "monai-unet"
"""Name in the model card."""


def write_fp32(loaded: Loaded, path: Path) -> None:
    """Export to an ONNX file with the contract of a model file of cxrseg.

    Args:
        loaded: The network.
        path: The file to write.
    """
    description = loaded.description
    card = ModelCard(
        name=NAME,
        version=package_version(),
        labels=description.labels,
        preprocessing=description.preprocessing,
        checkpoint_sha256=loaded.sha256,
        metrics=description.metrics,
    )
    graph = trace(loaded.model, description.preprocessing.size)
    finish(graph, card)
    with atomic_outputs(path) as beside:
        save(graph, beside)


def write_int8(fp32: Path, images: Iterable[NDArray[np.float32]], path: Path) -> None:
    """Quantize as ONNX Runtime's users do: static, QDQ, per channel, ranges from the data.

    Args:
        fp32: File of `write_fp32`.
        images: float32 [S, S] as `cxrseg.runtime.core.preprocess` makes them, to calibrate with.
        path: The file to write.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = ({INPUT: image[None, None]} for image in images)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._feeds, None)

    card = onnx.load(fp32).metadata_props[0].value
    with atomic_outputs(path) as beside, TemporaryDirectory() as folder:
        prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(quantized)
        onnx.helper.set_model_props(model, {METADATA_KEY: card})
        beside.write_bytes(model.SerializeToString())
