"""Exports of the trained nano model, traced once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from cxrseg.export.graph import compile as compiling
from cxrseg.export.options import ExportOptions
from cxrseg.export.pipeline import export as run_export
from cxrseg.export.report import Report
from cxrseg.export.verify.images import synthetic_radiographs
from cxrseg.trainer.adapt.quantizers import QuantizedWeight

Export = Callable[..., Report]


@pytest.fixture(scope="session")
def export(fine_run: Path, phantom_data: Path) -> Iterator[Export]:
    """Export a checkpoint, by default the fine-tuned one, verified on phantoms.

    A network is traced once, which takes most of the time of an export.
    """
    traced: dict[tuple[bool, int], bytes] = {}
    trace = compiling.trace

    def trace_once(network: torch.nn.Module, size: int) -> ir.Model:
        integer = any(isinstance(m, QuantizedWeight) for m in network.modules())
        weights = hash(tuple(float(v.double().sum()) for v in network.state_dict().values()))
        key = (integer, weights)
        if key not in traced:
            traced[key] = ir.to_proto(trace(network, size)).SerializeToString()
        model = ir.from_proto(onnx.load_from_string(traced[key]))
        assert isinstance(model, ir.Model)
        return model

    def run(output: Path, checkpoint: Path = fine_run / "model.ckpt", **options: object) -> Report:
        options.setdefault("verify_images", phantom_data / "val/images")
        return run_export(checkpoint, output, ExportOptions(**options))  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "trace", trace_once)
        yield run


@pytest.fixture(scope="session")
def int8(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Return the default export."""
    return export(tmp_path_factory.mktemp("int8") / "model.onnx", license_note="for tests")


@pytest.fixture(scope="session")
def gpu(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Return the export for a GPU."""
    return export(tmp_path_factory.mktemp("gpu") / "model.onnx", profile="gpu")


@pytest.fixture(scope="session")
def fp32(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Return the export in floating point."""
    return export(tmp_path_factory.mktemp("fp32") / "model.onnx", precision="fp32")


@pytest.fixture(scope="session")
def batch() -> NDArray[np.float32]:
    """Return a drawn chest as the nano model takes it, float32 [1, 1, 96, 96]."""
    image = cv2.resize(synthetic_radiographs(1)[0], (96, 96))
    return np.asarray(image, np.float32)[None, None]
