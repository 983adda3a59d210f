"""``cxrseg-bench agreement``: the same masks from other execution providers and from PyTorch."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.legacy_options import (
    images_and_facts,
    limit_option,
    output_option,
    split_option,
    threads_option,
    where_option,
)
from cxrseg.export.extra import require_export
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol
from cxrseg.runtime.inference.devices import PROVIDERS
from cxrseg.runtime.terminal.console import FAILED, OK, echo, fail

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cxrseg.export.verify.agreement import Backend
    from cxrseg.runtime.core.model_card import ModelCard
    from cxrseg.runtime.inference.session import LoadedModel
    from cxrseg.trainer.fit.checkpoint import Loaded

REFERENCE = "cpu"
"""The device that the others are compared with."""

TORCH = "PyTorch as trained"
"""How tables call the checkpoint's network with fake quantization."""

RUNS = 50
"""Inferences of each provider that are timed."""

WARMUP = 5
"""Inferences of each provider before them that are not."""

SEED = 0
"""Seed of the order in which providers take turns."""

_DIGITS = 6
_US = 3
_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Pair:
    """Masks of one backend against those of another.

    Attributes:
        first: Name of the backend.
        second: Name of the one that it is compared with.
        shares: For each image its name and the share of pixels with the same label, in [0, 1].
        with_lungs: Number of images on which the second finds lungs: two empty masks agree and
            prove nothing.
    """

    first: str
    second: str
    shares: tuple[tuple[str, float], ...]
    with_lungs: int

    @property
    def mean(self) -> float:
        """Mean share over images."""
        return sum(share for _, share in self.shares) / len(self.shares)

    @property
    def worst(self) -> float:
        """Lowest share over images."""
        return min(share for _, share in self.shares)

    @property
    def worst_image(self) -> str:
        """Name of the image with the lowest share; the first of equal ones."""
        return min(self.shares, key=lambda each: each[1])[0]


@dataclass(frozen=True)
class Speed:
    """Time of one inference of the network alone.

    Attributes:
        provider: The execution provider.
        median: Median in ms.
        p5: 5th percentile in ms.
        p95: 95th percentile in ms.
        ratio: Median divided by the reference's.
        cores: CPU time of the process divided by the time: providers choose their threads
            themselves, whatever was asked for.
        samples: All times in ms.
    """

    provider: str
    median: float
    p5: float
    p95: float
    ratio: float
    cores: float
    samples: tuple[float, ...]


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
    from cxrseg.runtime.inference.session import available_devices, load_model

    opened = {REFERENCE: load_model(model, REFERENCE, threads)}
    failed: dict[str, CxrsegError] = {}
    for device in available_devices():
        if device == REFERENCE:
            continue
        try:
            loaded = load_model(model, device, threads)
        except CxrsegError as error:
            failed[device] = error
            continue
        found = loaded.session.get_providers()[0]
        if found == PROVIDERS[device]:
            opened[device] = loaded
        else:
            failed[device] = CxrsegError(f"--device {device}", f"fell back to {found}")
    return opened, failed


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
    import onnxruntime

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


def provider_backend(loaded: LoadedModel) -> Backend:
    """Return a function that runs a loaded model and refuses values that are not numbers."""
    import numpy as np

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            (output,) = loaded.session.run([loaded.output_name], {loaded.input_name: batch})
        # ONNX Runtime's exceptions share no base class below Exception.
        except Exception as error:
            raise CxrsegError(loaded.provider, f"the model failed ({error})") from error
        logits = np.asarray(output[0], dtype=np.float32)
        if not np.isfinite(logits).all():
            raise CxrsegError(loaded.provider, "the model gave values that are not numbers")
        return logits

    return run


def open_checkpoint(path: Path, card: ModelCard) -> Loaded:
    """Read the checkpoint that a model file was exported from, or one like it.

    Args:
        path: A ``model.ckpt``; its network stays as it was trained, quantizers included.
        card: Card of the model file.

    Raises:
        CxrsegError: The checkpoint is unusable, or its input or labels are not the model's.
    """
    from cxrseg.trainer.fit.checkpoint import load

    loaded = load(path)
    description = loaded.description
    if description.preprocessing != card.preprocessing or description.labels != card.labels:
        cause = "has another input or other labels than the model file"
        raise CxrsegError(path, cause, "give the checkpoint that the model was exported from")
    return loaded


def compare_all(
    backends: Mapping[str, Backend],
    reference: tuple[str, Backend],
    images: Sequence[tuple[str, Path]],
    card: ModelCard,
) -> list[Pair]:
    """Compare the masks of backends with those of a reference, at the size of the model's input.

    Args:
        backends: Name -> backend.
        reference: Name and backend of what they are compared with.
        images: Name and path of each X-ray, at least one; one is in memory at a time.
        card: The model's card.

    Raises:
        CxrsegError: An image cannot be read or a backend fails.
    """
    from cxrseg.export.verify.agreement import compare
    from cxrseg.runtime.readers import read

    shares: dict[str, list[tuple[str, float]]] = {name: [] for name in backends}
    with_lungs = dict.fromkeys(backends, 0)
    for image, path in images:
        pixels = read(path).pixels
        for name, backend in backends.items():
            found = compare(backend, reference[1], [pixels], card.preprocessing, card.labels)
            shares[name].append((image, found.mean))
            with_lungs[name] += found.with_lungs
    return [Pair(name, reference[0], tuple(shares[name]), with_lungs[name]) for name in backends]


def time_all(models: Sequence[LoadedModel], batch: NDArray[np.float32]) -> list[Speed]:
    """Time one inference of each model, in turn.

    Args:
        models: The first is what the others are compared with.
        batch: float32 [1, 1, S, S].

    Raises:
        CxrsegError: A model fails.
    """
    import numpy as np

    from cxrseg.benchmarks.speed.latency import Run, interleaved

    used: list[list[float]] = [[] for _ in models]

    def timed(backend: Backend, seconds: list[float]) -> Run:
        def run() -> object:
            start = time.process_time()
            output = backend(batch)
            seconds.append(time.process_time() - start)
            return output

        return run

    runs = [timed(provider_backend(each), kept) for each, kept in zip(models, used, strict=True)]
    samples = interleaved(runs, RUNS, WARMUP, SEED).samples
    medians = [float(np.median(each)) for each in samples]
    speeds = []
    for model, times, seconds, median in zip(models, samples, used, medians, strict=True):
        p5, p95 = (round(float(value), _US) for value in np.percentile(times, (5, 95)))
        speeds.append(
            Speed(
                provider=model.provider,
                median=round(median, _US),
                p5=p5,
                p95=p95,
                ratio=round(median / medians[0], _DIGITS),
                cores=round(1000 * sum(seconds[WARMUP:]) / sum(times), 2),
                samples=tuple(times),
            )
        )
    return speeds


def pairs_table(pairs: Sequence[Pair]) -> str:
    """Return the agreements as an aligned Markdown table."""
    from cxrseg.benchmarks.harness.legacy_record import table

    return table(
        ["masks of", "equal pixels, mean", "worst", "worst image", "images", "with lungs"],
        [
            [
                f"{each.first} : {each.second}",
                f"{each.mean:.6f}",
                f"{each.worst:.6f}",
                each.worst_image,
                str(len(each.shares)),
                str(each.with_lungs),
            ]
            for each in pairs
        ],
    )


def speeds_table(speeds: Sequence[Speed], placements: Mapping[str, Mapping[str, int]]) -> str:
    """Return the latencies as an aligned Markdown table.

    Args:
        speeds: Of each provider.
        placements: Provider -> what `placement` counted for it.
    """
    from cxrseg.benchmarks.harness.legacy_record import table

    rows = []
    for each in speeds:
        nodes = placements[each.provider]
        own = nodes.get(each.provider, 0)
        rows.append(
            [
                each.provider,
                f"{each.median:.2f}",
                f"{each.p5:.2f}",
                f"{each.p95:.2f}",
                f"{each.ratio:.3f}",
                f"{each.cores:.2f}",
                str(own),
                str(sum(nodes.values()) - own),
            ]
        )
    header = ["latency of", "median ms", "5th pct.", "95th pct.", "ratio to CPU", "cores busy"]
    return table([*header, "nodes", "nodes elsewhere"], rows)


def complaints(
    pairs: Sequence[Pair], placements: Mapping[str, Mapping[str, int]]
) -> list[CxrsegError]:
    """Return what is wrong with a comparison; nothing where all is well.

    Args:
        pairs: The agreements.
        placements: Provider -> what `placement` counted for it.
    """
    from cxrseg.export.verify.agreement import SAME_NETWORK

    found = []
    for provider, nodes in placements.items():
        if not nodes.get(provider):
            cause = "runs no part of the model: ONNX Runtime leaves all of it to others"
            found.append(CxrsegError(provider, cause, "install its driver and libraries"))
    for each in pairs:
        name = f"{each.first} : {each.second}"
        if each.mean < SAME_NETWORK.mean or each.worst < SAME_NETWORK.worst:
            cause = (
                f"masks agree on {each.mean:.6f} of the pixels, {each.worst:.6f} in the worst "
                f"image ({each.worst_image}); needed are "
                f"{SAME_NETWORK.mean} and {SAME_NETWORK.worst}"
            )
            found.append(CxrsegError(name, cause))
        if 2 * each.with_lungs < len(each.shares):
            cause = (
                f"lungs are found on {each.with_lungs} of {len(each.shares)} images, too few to "
                "compare masks"
            )
            found.append(CxrsegError(name, cause, "give X-rays of the kind it was trained on"))
    return found


@click.command("agreement")
@click.argument("model", type=_PATH)
@click.option(
    "--images",
    required=True,
    metavar="FOLDER|CSV",
    type=_PATH,
    help="X-rays: a folder, or a CSV with the columns image, mask, split and others.",
)
@split_option
@where_option
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="fields",
    show_default=True,
    help="Rows of another value in a column protocol are left out.",
)
@limit_option
@click.option(
    "--checkpoint",
    metavar="model.ckpt",
    type=_PATH,
    help="Also compare with this network in PyTorch, as trained, with fake quantization.",
)
@threads_option
@output_option
@click.pass_context
def command(
    context: click.Context,
    model: Path,
    images: Path,
    split: str,
    where: tuple[str, ...],
    protocol: Protocol,
    limit: int | None,
    checkpoint: Path | None,
    threads: int | None,
    output: Path | None,
) -> int:
    """Compare masks of every execution provider, and of PyTorch, with those of the CPU.

    MODEL is a file written by cxrseg-export. ONNX Runtime's CPU provider is the reference. Against
    it run all other providers that are installed, one more with --checkpoint; --split, --where and
    --protocol choose rows of a CSV. Masks are compared at the size of the model's input. The
    providers are timed in turn, the network alone, on the first image.

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
    if checkpoint is not None:
        require_export("cxrseg-bench agreement")
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        command_line,
        environment,
        now,
        write_record,
    )
    from cxrseg.runtime.core.preprocess import preprocess
    from cxrseg.runtime.inference.session import default_threads
    from cxrseg.runtime.readers import read

    if output is not None:
        check_output(output)
    chosen, data = images_and_facts(context, images, split, where, protocol, limit)
    threads = threads or default_threads()
    opened, failed = open_devices(model, threads)
    for error in failed.values():
        fail(error)
    reference = opened[REFERENCE]
    if checkpoint is None and len(opened) == 1:
        cause = "nothing to compare: no execution provider but the CPU's works here"
        remedy = (
            "install onnxruntime-openvino in a virtual environment of its own, or give --checkpoint"
        )
        raise CxrsegError("cxrseg-bench agreement", cause, remedy)

    date = now()
    backends = {
        each.provider: provider_backend(each)
        for device, each in opened.items()
        if device != REFERENCE
    }
    trained = None
    if checkpoint is not None:
        from cxrseg.export.verify.backends import torch_backend

        trained = open_checkpoint(checkpoint, reference.card)
        backends[TORCH] = torch_backend(trained.model)
        if trained.sha256 != reference.card.checkpoint_sha256:
            echo(f"warning: {model} was not exported from {checkpoint}", err=True)
    batch = preprocess(read(chosen[0][1]).pixels, reference.card.preprocessing)[None, None]
    content = model.read_bytes()
    placements = {
        each.provider: placement(content, each.provider, batch, threads) for each in opened.values()
    }
    echo(f"cxrseg-bench: comparing masks of {len(chosen)} images ...", err=True)
    pairs = compare_all(
        backends, (reference.provider, provider_backend(reference)), chosen, reference.card
    )
    echo("cxrseg-bench: timing ...", err=True)
    speeds = time_all(list(opened.values()), batch)

    title = f"{model.name} on {len(chosen)} images of {images.name}"
    tables = [pairs_table(pairs), speeds_table(speeds, placements)]
    for line in "\n\n".join([title, *tables]).split("\n"):
        echo(line)
    wrong = complaints(pairs, placements)
    for error in wrong:
        fail(error)
    passed = not wrong and not failed
    if output is not None:
        from cxrseg.export.verify.agreement import SAME_NETWORK

        facts = environment()
        if trained is not None:
            import torch

            facts["versions"]["torch"] = str(torch.__version__)
        record: dict[str, Any] = {
            "command": command_line(context),
            "date": date,
            **facts,
            "model": {
                "file": model.name,
                "name": reference.card.name,
                "version": reference.card.version,
                "sha256": reference.sha256,
            },
            "checkpoint": None
            if checkpoint is None or trained is None
            else {
                "file": checkpoint.name,
                "sha256": trained.sha256,
                "is_the_models": trained.sha256 == reference.card.checkpoint_sha256,
            },
            "settings": {
                "reference": reference.provider,
                "threads": threads,
                "runs": RUNS,
                "warmup": WARMUP,
                "limits": asdict(SAME_NETWORK),
            },
            "seed": SEED,
            "data": data,
            "pairs": [_plain_pair(each) for each in pairs],
            "latency": [_plain_speed(each, placements) for each in speeds],
            "failed": {device: str(error) for device, error in failed.items()},
            "passed": passed,
        }
        write_record(output, "agreement", record, _markdown(title, record, tables))
        echo(f"written: {output}, {output.with_suffix('.md')}")
    return OK if passed else FAILED


def _plain_pair(pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "mean": round(pair.mean, _DIGITS),
        "worst": round(pair.worst, _DIGITS),
        "worst_image": pair.worst_image,
        "with_lungs": pair.with_lungs,
        "images": [{"image": name, "equal": round(share, _DIGITS)} for name, share in pair.shares],
    }


def _plain_speed(speed: Speed, placements: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    return {
        "provider": speed.provider,
        "latency_ms": {
            "median": speed.median,
            "p5": speed.p5,
            "p95": speed.p95,
            "samples": list(speed.samples),
        },
        "ratio": speed.ratio,
        "cores_busy": speed.cores,
        "nodes": dict(placements[speed.provider]),
    }


def _markdown(title: str, record: Mapping[str, Any], tables: Sequence[str]) -> str:
    from cxrseg.benchmarks.harness.legacy_record import circumstances

    settings = record["settings"]
    facts = [
        f"# Agreement: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; model SHA-256 `{record['model']['sha256']}`.",
        "Label masks at the size of the model's input; share of pixels with the same label. "
        f"Latency: the network alone on the first image, {settings['runs']} runs after "
        f"{settings['warmup']} that are dropped, providers in turn in shuffled order, threads "
        f"{settings['threads']}. Cores busy: CPU time / time. Nodes: parts of the graph that the "
        "provider runs, and that others do.",
    ]
    failed = [f"Not started: {error}." for error in record["failed"].values()]
    return "\n\n".join([*facts, *tables, *failed])
