"""``cxrseg-bench latency``: size, speed and memory of model files on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from cxrseg.benchmarks.harness.options import DeviceOptions, SeedOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.result import Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.speed.models import TimedModel, open_models, random_input
from cxrseg.benchmarks.speed.processes import cxrseg_run, peak_memory
from cxrseg.benchmarks.speed.timing import Schedule, distribution, interleaved, median
from cxrseg.export.verify.images import synthetic_radiographs
from cxrseg.runtime.inference.session import default_threads
from cxrseg.runtime.models import default_model

IMAGE = (2000, 2000)
"""Height and width in pixels of the generated radiograph."""

WARMUP = 5
"""Inferences of each model that do not count."""

LOADS = 5
"""Number of times that each model is loaded, after one that does not count."""

IMAGE_RUNS = 10
"""Number of whole images, or as many as there are runs if that is less; one more is dropped."""

_DIGITS = 6


@dataclass(frozen=True)
class Options(DeviceOptions, SeedOptions):
    """Options of ``cxrseg-bench latency``."""

    models: tuple[Path, ...] = argument(default=(), nargs=-1, metavar="[MODEL]...", type=PATH)
    runs: int = option(
        "--runs",
        default=50,
        metavar="N",
        type=click.IntRange(1, 100_000),
        help="Inferences of each model that count.",
    )


@benchmark("latency", Options)
def latency(options: Options) -> Result:
    """Measure size, speed and memory of models on this computer.

    MODEL is an ONNX file; by default the one that ships with cxrseg. Several models take turns, in
    an order that changes from round to round, and are compared with the first.

    \b
    Columns
      MB, load ms       size of the file; time to read it and make it ready (median)
      latency ms        one inference, the network alone (median, percentiles)
      images/s          1 / latency
      image ms          a whole image of 2000 x 2000 pixels: preparation, network, mask (median)
      peak MB           memory of cxrseg-run with such an image; not told on Windows
      rel.              divided by the first model's

    A file without a model card of cxrseg is run as it is, with one input float32 [1, C, S, S];
    image ms and peak MB stay empty.

    \b
    Examples
      cxrseg-bench latency
      cxrseg-bench latency int8.onnx fp32.onnx --device cpu --threads 2 -o latency.json
    """
    threads = options.threads or default_threads()
    models = open_models(options.models or [default_model()], options.device, threads)
    settings = {
        "provider": models[0].provider,
        "threads": threads,
        "runs": options.runs,
        "warmup": WARMUP,
        "loads": LOADS,
        "image_runs": _image_runs(options.runs),
        "image": list(IMAGE),
    }
    figures = measure(models, options.runs, options.seed)
    return Result(
        title=f"{models[0].provider}, threads {threads}, runs {options.runs}",
        data={"settings": settings, "models": figures},
        tables=[figures_table(figures)],
        definitions=_definitions(settings),
    )


def measure(models: Sequence[TimedModel], runs: int, seed: int) -> list[dict[str, Any]]:
    """Measure models against each other.

    Args:
        models: The models; the first is what the others are compared with.
        runs: Number of inferences of each that count.
        seed: Seed of the inputs and of the orders.

    Returns:
        Plain data for each model: sizes in bytes, times in ms, throughput in images/s.

    Raises:
        CxrsegError: A model fails.
    """
    loads = interleaved([model.load for model in models], Schedule(LOADS, 1, seed))
    latencies = time_networks(models, runs, seed)
    image = sample_image(seed)
    segmenters = {model.title: model.segmenter for model in models if model.segmenter}
    segmenting = [partial(segmenter.segment, image) for segmenter in segmenters.values()]
    times_of_images = interleaved(segmenting, Schedule(_image_runs(runs), 1, seed))
    image_ms = {
        title: {"median": median(times)}
        for title, times in zip(segmenters, times_of_images, strict=True)
    }
    return [
        {
            "title": model.title,
            "file": model.path.name,
            "sha256": model.sha256,
            "card": _card(model),
            "input": list(model.shape),
            "size_bytes": model.size,
            "load_ms": {"median": median(load)},
            "latency_ms": times,
            "throughput": round(1000 / times["median"], _DIGITS),
            "image_ms": image_ms.get(model.title),
            "peak_memory_bytes": _peak_memory(model, image),
            "relative": {
                "size": round(model.size / models[0].size, _DIGITS),
                "latency": round(times["median"] / latencies[0]["median"], _DIGITS),
            },
        }
        for model, load, times in zip(models, loads, latencies, strict=True)
    ]


def time_networks(models: Sequence[TimedModel], runs: int, seed: int) -> list[dict[str, float]]:
    """Time one inference of each model in turn, the network alone, on random input.

    Args:
        models: The models.
        runs: Number of inferences of each that count, after `WARMUP` that do not.
        seed: Seed of the inputs and of the orders.

    Returns:
        For each model its `distribution` of times.

    Raises:
        CxrsegError: A model fails.
    """
    inputs = {model.shape: random_input(model.shape, seed) for model in models}
    inferences = [partial(model.infer, inputs[model.shape]) for model in models]
    schedule = Schedule(runs, WARMUP, seed)
    return [distribution(times) for times in interleaved(inferences, schedule)]


def sample_image(seed: int) -> NDArray[np.uint8]:
    """Return the drawing of a chest, uint8 of size `IMAGE`."""
    (small,) = synthetic_radiographs(1, seed)
    return np.rint(255 * cv2.resize(small, IMAGE[::-1])).astype(np.uint8)


def _image_runs(runs: int) -> int:
    return min(runs, IMAGE_RUNS)


def _peak_memory(model: TimedModel, image: NDArray[np.uint8]) -> int | None:
    if model.protocol is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.png")
        cv2.imwrite(str(path), image)
        words = [*cxrseg_run(), str(path), "-o", folder, "--model", str(model.path)]
        words += ["--device", model.device, "--threads", str(model.threads)]
        return peak_memory([*words, "--protocol", model.protocol], model.path)


def _card(model: TimedModel) -> dict[str, str] | None:
    if model.segmenter is None:
        return None
    card = model.segmenter.model.card
    return {"name": card.name, "version": card.version, "protocol": str(model.protocol)}


def figures_table(figures: Sequence[Mapping[str, Any]]) -> Table:
    """Return what `measure` gives as a table; ratios where there are several models."""
    header = ["model", "MB", "load ms", "latency ms", "5th pct.", "95th pct.", "images/s"]
    header += ["image ms", "peak MB"]
    rows = []
    for model in figures:
        times, image, peak = model["latency_ms"], model["image_ms"], model["peak_memory_bytes"]
        rows.append(
            [
                model["title"],
                f"{model['size_bytes'] / 1e6:.2f}",
                f"{model['load_ms']['median']:.1f}",
                *(f"{times[name]:.2f}" for name in ("median", "p5", "p95")),
                f"{model['throughput']:.2f}",
                "-" if image is None else f"{image['median']:.1f}",
                "-" if peak is None else f"{peak / 1e6:.0f}",
            ]
        )
    if len(figures) > 1:
        header += ["rel. size", "rel. latency"]
        for row, model in zip(rows, figures, strict=True):
            row += [f"{model['relative'][name]:.3f}" for name in ("size", "latency")]
    return Table(header, rows)


def _definitions(settings: Mapping[str, Any]) -> str:
    height, width = settings["image"]
    return (
        f"Medians. Latency: one inference of the network alone, {settings['runs']} runs after"
        f" {settings['warmup']} that are dropped; the models take turns in shuffled order. Load:"
        f" reading the file and creating the session, {settings['loads']} times. Image:"
        f" preprocessing, network and postprocessing of {width} x {height} pixels,"
        f" {settings['image_runs']} times. Peak: resident memory of cxrseg-run with such an image."
        " Rel.: divided by the first model's. 1 MB = 10^6 bytes."
    )
