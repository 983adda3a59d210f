"""How far the output of each layer is from that in FP32, all layers before it in INT8 too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from cxrseg.benchmarks.quantization.layers import Float, LayerPair
from cxrseg.trainer.adapt.sensitivity import CAP_DB

FETCHED = 16
"""Outputs of layers that are held at once; those of attention are large."""

LOGITS = "logits"
"""How the last row calls the model's output."""


@dataclass(frozen=True)
class Noise:
    """The noise in a layer's output.

    Attributes:
        name: The layer, or `LOGITS`.
        signal: Root mean square of the FP32 output.
        noise: Root mean square of the difference.
        sqnr: 10 log10(sum(FP32^2) / sum(difference^2)) in dB, over all images; at most `CAP_DB`.
    """

    name: str
    signal: float
    noise: float
    sqnr: float


def output_noise(
    reference: ir.Model,
    integer: ir.Model,
    layers: Sequence[LayerPair],
    batches: Iterable[Float],
    threads: int,
) -> list[Noise]:
    """Run both graphs as they are written, unfused, and compare the output of each layer.

    Args:
        reference: Model of the FP32 file; gets more outputs.
        integer: Model of the INT8 file; gets more outputs.
        layers: From `pair_layers`.
        batches: Images float32 [1, 1, S, S], at least one.
        threads: CPU threads.

    Returns:
        A row per layer, and last that of the logits.
    """
    logits = tuple(str(model.graph.outputs[0].name) for model in (reference, integer))
    outputs = [*(layer.outputs for layer in layers), logits]
    sessions = [
        _session(model, [pair[which] for pair in outputs], threads)
        for which, model in enumerate((reference, integer))
    ]
    sums = np.zeros((len(outputs), 3))
    for batch in batches:
        for start in range(0, len(outputs), FETCHED):
            names = zip(*outputs[start : start + FETCHED], strict=True)
            results = [
                session.run(list(own), {"image": batch})
                for session, own in zip(sessions, names, strict=True)
            ]
            for row, (exact, noisy) in enumerate(zip(*results, strict=True), start=start):
                signal = exact.astype(np.float64)
                error = noisy - signal
                sums[row] += np.square(signal).sum(), np.square(error).sum(), signal.size
    names_of_rows = [*(layer.name for layer in layers), LOGITS]
    return [_noise(name, *row) for name, row in zip(names_of_rows, sums, strict=True)]


def _noise(name: str, signal: float, noise: float, count: float) -> Noise:
    ratio = 10 * np.log10(max(signal, 1e-30) / noise) if noise else CAP_DB
    rms = np.sqrt([signal / count, noise / count])
    return Noise(name, float(rms[0]), float(rms[1]), min(CAP_DB, float(ratio)))


def _session(model: ir.Model, outputs: Sequence[str], threads: int) -> Any:
    """Return a session that also gives inner values, so that no layer is fused with the next."""
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    given = {str(value.name) for value in model.graph.outputs}
    for name in dict.fromkeys(outputs):
        if name not in given:
            values[name].type = ir.TensorType(ir.DataType.FLOAT)
            model.graph.outputs.append(values[name])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
