"""A model on every execution provider that works here: opened, placed, timed."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cxrseg.benchmarks.speed.timing import Run, Schedule, distribution, interleaved
from cxrseg.export.verify.agreement import Backend
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference.devices import PROVIDERS
from cxrseg.runtime.inference.loading import LoadedModel, load_model
from cxrseg.runtime.inference.running import run_model
from cxrseg.runtime.inference.session import available_devices

REFERENCE = "cpu"
"""The device that the others are compared with."""

RUNS = 50
"""Inferences of each provider that are timed."""

WARMUP = 5
"""Inferences of each provider before them that are not."""

_DIGITS = 6


@dataclass(frozen=True)
class Speed:
    """Time of one inference of the network alone.

    Attributes:
        provider: The execution provider.
        latency_ms: Median and percentiles of the time, in ms.
        ratio: Median divided by the reference's.
        cores_busy: CPU time of the process divided by the time: providers choose their threads
            themselves, whatever was asked for.
        nodes: What `placement` counts.
    """

    provider: str
    latency_ms: dict[str, float]
    ratio: float
    cores_busy: float
    nodes: dict[str, int]


def open_devices(
    model: Path, threads: int
) -> tuple[dict[str, LoadedModel], dict[str, CxrsegError]]:
    """Load a model on every device that the installed ONNX Runtime offers.

    Args:
        model: A model file of cxrseg.
        threads: CPU threads of one inference, for providers that heed them.

    Returns:
        Device -> model, `REFERENCE` first, and device -> why it could not be started.

    Raises:
        CxrsegError: The file cannot be run on `REFERENCE`.
    """
    opened = {REFERENCE: load_model(model, REFERENCE, threads)}
    failed: dict[str, CxrsegError] = {}
    for device in available_devices():
        if device != REFERENCE:
            try:
                opened[device] = load_model(model, device, threads)
            except CxrsegError as error:
                failed[device] = error
    return opened, failed


def provider_backend(loaded: LoadedModel) -> Backend:
    """Return a function that runs a loaded model, and refuses values that are not numbers."""

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return run_model(loaded, batch, loaded.provider)

    return run


def placement(
    model: bytes, provider: str, batch: NDArray[np.float32], threads: int
) -> dict[str, int]:
    """Count where the nodes of the optimized graph run, by profiling one inference.

    A provider that heads a session's list may still leave nodes, or all of them, to the CPU.

    Args:
        model: The file's bytes.
        provider: An execution provider that is known to start.
        batch: float32 [1, 1, S, S].
        threads: CPU threads of one inference.

    Returns:
        Execution provider -> number of nodes. A compiling provider runs many operators as one.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        providers = list(dict.fromkeys((provider, PROVIDERS[REFERENCE])))
        session = onnxruntime.InferenceSession(
            model, options, providers=providers, enable_fallback=0
        )
        session.run(None, {session.get_inputs()[0].name: batch})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = (event["args"] for event in events if event["name"].endswith("_kernel_time"))
    return dict(Counter(args["provider"] for args in ran if args.get("provider")))


def idle(speeds: Sequence[Speed]) -> list[CxrsegError]:
    """Return an error for each provider that leaves all of the model to others."""
    cause = "runs no part of the model: ONNX Runtime leaves all of it to others"
    remedy = "install its driver and libraries"
    return [
        CxrsegError(speed.provider, cause, remedy)
        for speed in speeds
        if not speed.nodes.get(speed.provider)
    ]


def time_all(
    models: Sequence[LoadedModel],
    batch: NDArray[np.float32],
    seed: int,
    nodes: Sequence[dict[str, int]],
) -> list[Speed]:
    """Time one inference of each model, in turn.

    Args:
        models: The first is what the others are compared with.
        batch: float32 [1, 1, S, S].
        seed: Seed of the orders.
        nodes: For each model what `placement` counts.

    Raises:
        CxrsegError: A model fails.
    """
    cpu_times: list[list[float]] = [[] for _ in models]

    def timed(backend: Backend, kept: list[float]) -> Run:
        def run() -> object:
            start = time.process_time()
            output = backend(batch)
            kept.append(1000 * (time.process_time() - start))
            return output

        return run

    pairs = zip(models, cpu_times, strict=True)
    runs = [timed(provider_backend(model), kept) for model, kept in pairs]
    times = interleaved(runs, Schedule(RUNS, WARMUP, seed))
    latencies = [distribution(each) for each in times]
    return [
        Speed(
            provider=model.provider,
            latency_ms=latency,
            ratio=round(latency["median"] / latencies[0]["median"], _DIGITS),
            cores_busy=round(sum(kept[WARMUP:]) / sum(each), 2),
            nodes=where,
        )
        for model, latency, kept, each, where in zip(
            models, latencies, cpu_times, times, nodes, strict=True
        )
    ]
