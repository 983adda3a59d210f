"""Exports of the trained nano model, traced once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from cxrseg.export import pipeline as exporting
from cxrseg.export.graph import compile as compiling
from cxrseg.export.graph.trace import Shipped
from cxrseg.export.pipeline import Report
from cxrseg.trainer.adapt.quantizers import QuantizedWeight

Export = Callable[..., Report]


@pytest.fixture(scope="session")
def export(fine_run: Path, phantom_data: Path) -> Iterator[Export]:
    """Export a checkpoint, by default the fine-tuned one, verified on phantoms.

    A network is traced once, which takes most of the time of an export.
    """
    traced: dict[tuple[bool, int], bytes] = {}
    trace = compiling.trace

    def trace_once(network: Shipped, size: int) -> ir.Model:
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
        return exporting.export(checkpoint, output, **options)  # type: ignore[arg-type]

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
