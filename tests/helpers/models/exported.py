"""What the tests ask of an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from cxrseg.export.graph.compile import promised_products
from cxrseg.export.report import Report
from cxrseg.export.verify.backends import onnx_backend
from cxrseg.runtime.core.model_card import METADATA_KEY, ModelCard

FIELDS = ("right_lung", "left_lung")


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def int8_layers(report: Report) -> list[str]:
    return [name for name in products(report) if ".matmul." not in name]


def products(report: Report) -> list[str]:
    """Return the names of the products that the report calls int8."""
    return promised_products(report.precision)


def card_of(path: Path) -> ModelCard:
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    return ModelCard.from_json(properties[METADATA_KEY])


def logits_of(path: Path, image: NDArray[np.float32]) -> NDArray[np.float32]:
    return onnx_backend(path.read_bytes(), True)(image)
