"""``cxrseg-bench agreement``: the same masks from other execution providers and from PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrseg.benchmarks.agreement.masks import Pair, compare_all, complaints, shares_of_images
from cxrseg.benchmarks.agreement.providers import (
    REFERENCE,
    RUNS,
    WARMUP,
    Speed,
    idle,
    open_devices,
    placement,
    provider_backend,
    time_all,
)
from cxrseg.benchmarks.harness.options import ImageOptions, SeedOptions, ThreadOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.result import Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.harness.samples import list_images, model_facts
from cxrseg.export.extra import require_export
from cxrseg.export.verify.agreement import SAME_NETWORK, Backend
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.model_card import ModelCard
from cxrseg.runtime.core.preprocess import preprocess
from cxrseg.runtime.inference.loading import LoadedModel
from cxrseg.runtime.inference.model_file import read_bytes
from cxrseg.runtime.inference.session import default_threads
from cxrseg.runtime.readers import read
from cxrseg.runtime.terminal.console import echo, fail

if TYPE_CHECKING:
    from cxrseg.trainer.fit.checkpoint import Loaded

TORCH = "PyTorch as trained"
"""How tables call the checkpoint's network with fake quantization."""


@dataclass(frozen=True)
class Options(SeedOptions, ThreadOptions, ImageOptions):
    """Options of ``cxrseg-bench agreement``."""

    model: Path = argument(type=PATH)
    checkpoint: Path | None = option(
        "--checkpoint",
        default=None,
        metavar="model.ckpt",
        type=PATH,
        help="Also compare with this network in PyTorch, as trained, with fake quantization.",
    )


@benchmark("agreement", Options)
def agreement(options: Options) -> Result:
    """Compare masks of every execution provider, and of PyTorch, with those of the CPU.

    MODEL is a file written by cxrseg-export. ONNX Runtime's CPU provider is the reference. All
    other providers that are installed are compared with it, and PyTorch with --checkpoint; --split,
    --where and --protocol choose rows of a CSV. Masks are compared at the size of the model's
    input. The providers are timed in turn, the network alone, on the first image.

    \b
    Columns
      equal pixels      share with the same label: mean over images, and the worst image
      with lungs        images on which the CPU provider finds lungs
      median ms         one inference; ratio to CPU: divided by the CPU provider's
      cores busy        CPU time / time: OpenVINO takes its own number of threads, whatever
                        --threads says; taskset -c 0 in front of the command holds all to one
      nodes             parts of the graph that the provider runs; elsewhere: that it leaves to
                        others, such as the CPU

    \b
    Exit code 1
      masks agree on less than 99.9 % of the pixels on average or 99.5 % in the worst image;
      lungs are found on less than half of the images; a provider is offered but does not start
      or runs no part of the model; or there is nothing to compare

    OpenVINO comes with the package onnxruntime-openvino. It takes the place of onnxruntime and
    needs a virtual environment of its own: never install both in one.

    \b
    Examples
      cxrseg-bench agreement model.onnx --images xrays/ -o agreement.json
      cxrseg-bench agreement model.onnx --images pairs.csv --split val --limit 20 \\
          --where source=shenzhen --checkpoint model.ckpt
    """
    if options.checkpoint is not None:
        require_export("cxrseg-bench agreement")
    images, dataset = list_images(options)
    threads = options.threads or default_threads()
    opened, failed = open_devices(options.model, threads)
    for error in failed.values():
        fail(error)
    reference = opened[REFERENCE]
    trained = open_checkpoint(options, reference.card)
    if trained is None and len(opened) == 1:
        raise CxrsegError(
            "cxrseg-bench agreement",
            "nothing to compare: no execution provider but the CPU's works here",
            "install onnxruntime-openvino in a virtual environment of its own, or give"
            " --checkpoint",
        )
    backends = backends_of(opened, trained)
    cpu = backends.pop(reference.provider)
    pairs = compare_all(backends, (reference.provider, cpu), images, reference.card)
    speeds = _speeds(options, list(opened.values()), images[0][1], threads)
    errors = [*idle(speeds), *complaints(pairs, SAME_NETWORK)]
    for error in errors:
        fail(error)
    passed = not errors and not failed
    return Result(
        title=f"{options.model.name} on {len(images)} images of {options.images.name}",
        data={
            "model": model_facts(options.model, reference),
            "checkpoint": _checkpoint_facts(options, trained, reference.card),
            "settings": {
                "reference": reference.provider,
                "threads": threads,
                "runs": RUNS,
                "warmup": WARMUP,
                "limits": asdict(SAME_NETWORK),
            },
            "dataset": dataset,
            "pairs": [
                {"first": pair.first, "second": pair.second, **pair.figures()} for pair in pairs
            ],
            "latency": [asdict(speed) for speed in speeds],
            "failed": {device: str(error) for device, error in failed.items()},
            "passed": passed,
        },
        tables=[pairs_table(pairs), speeds_table(speeds, failed)],
        definitions=(
            "Label masks at the size of the model's input; share of pixels with the same label."
            f" Latency: the network alone on the first image, {RUNS} runs after {WARMUP} that are"
            f" dropped, providers in turn in shuffled order, threads {threads}. Cores busy: CPU"
            " time / time. Nodes: parts of the graph that the provider runs, and that others do."
        ),
        images=shares_of_images(pairs),
        passed=passed,
    )


def open_checkpoint(options: Options, card: ModelCard) -> Loaded | None:
    """Read the checkpoint that a model file was exported from, or one like it.

    Args:
        options: ``checkpoint`` names it; its network stays as it was trained, quantizers included.
        card: Card of the model file.

    Returns:
        The network; None where no checkpoint is named.

    Raises:
        CxrsegError: The checkpoint is unusable, or its input or labels are not the model's.
    """
    if options.checkpoint is None:
        return None
    from cxrseg.trainer.fit.checkpoint import load

    loaded = load(options.checkpoint)
    description = loaded.description
    if description.preprocessing != card.preprocessing or description.labels != card.labels:
        cause = "has another input or other labels than the model file"
        remedy = "give the checkpoint that the model was exported from"
        raise CxrsegError(options.checkpoint, cause, remedy)
    if loaded.sha256 != card.checkpoint_sha256:
        text = f"warning: {options.model} was not exported from {options.checkpoint}"
        echo(text, err=True)
    return loaded


def backends_of(opened: Mapping[str, LoadedModel], trained: Loaded | None) -> dict[str, Backend]:
    """Return name -> backend of every provider, the CPU's first, and of the trained network."""
    backends = {loaded.provider: provider_backend(loaded) for loaded in opened.values()}
    if trained is not None:
        from cxrseg.export.verify.backends import torch_backend

        backends[TORCH] = torch_backend(trained.model)
    return backends


def _speeds(
    options: Options, models: Sequence[LoadedModel], image: Path, threads: int
) -> list[Speed]:
    batch = preprocess(read(image).content, models[0].card.preprocessing)[None, None]
    content = read_bytes(options.model)
    nodes = [placement(content, model.provider, batch, threads) for model in models]
    return time_all(models, batch, options.seed, nodes)


def _checkpoint_facts(
    options: Options, trained: Loaded | None, card: ModelCard
) -> dict[str, Any] | None:
    if options.checkpoint is None or trained is None:
        return None
    return {
        "file": options.checkpoint.name,
        "sha256": trained.sha256,
        "is_the_models": trained.sha256 == card.checkpoint_sha256,
    }


def pairs_table(pairs: Sequence[Pair]) -> Table:
    """Return the agreements as a table."""
    return Table(
        ["masks of", "equal pixels, mean", "worst", "worst image", "images", "with lungs"],
        [
            [
                f"{pair.first} : {pair.second}",
                f"{pair.mean:.6f}",
                f"{pair.worst:.6f}",
                pair.worst_image,
                str(len(pair.shares)),
                str(pair.with_lungs),
            ]
            for pair in pairs
        ],
    )


def speeds_table(speeds: Sequence[Speed], failed: Mapping[str, CxrsegError]) -> Table:
    """Return the latencies as a table, with a note of providers that could not be started."""
    header = ["latency of", "median ms", "5th pct.", "95th pct.", "ratio to CPU", "cores busy"]
    rows = []
    for speed in speeds:
        own = speed.nodes.get(speed.provider, 0)
        rows.append(
            [
                speed.provider,
                *(f"{speed.latency_ms[name]:.2f}" for name in ("median", "p5", "p95")),
                f"{speed.ratio:.3f}",
                f"{speed.cores_busy:.2f}",
                str(own),
                str(sum(speed.nodes.values()) - own),
            ]
        )
    note = " ".join(f"Not started: {error}." for error in failed.values())
    return Table([*header, "nodes", "nodes elsewhere"], rows, note=note)
