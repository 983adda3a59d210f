"""``cxrseg-bench latency``: size, speed and memory of model files on this machine."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from cxrseg.benchmarks.harness.legacy_options import output_option, threads_option
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol, labels_of
from cxrseg.runtime.inference.devices import AUTO, DEVICES, PROVIDERS
from cxrseg.runtime.terminal.console import echo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cxrseg.runtime.core.model_card import ModelCard
    from cxrseg.runtime.segmenter import Segmenter

IMAGE = (2000, 2000)
"""Height and width in pixels of the generated radiograph."""

LOADS = 5
"""Number of times that each model is loaded, after one that does not count."""

IMAGE_RUNS = 10
"""Number of whole images, or as many as there are runs if that is less; one more is dropped."""

MAX_INPUT = 2**28
"""Largest number of values accepted for a model's input; a foreign model may ask for any."""

STEPS = ("preprocess", "inference", "postprocess")
"""Steps of a whole image, as the runtime names them."""

_WINDOW_S = 0.02
_QUIET_WINDOWS = 2
_QUIET_SHARE = 0.2
_MAX_REST_S = 2.0

_US = 3
_DIGITS = 6
_PATH = click.Path(path_type=Path)

Run = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Rounds:
    """Times of several subjects that were measured in turn.

    Attributes:
        order: For each round that counts, the subjects' indices in the order they ran.
        samples: For each subject, one time per round that counts, in ms, rounded to 1 µs.
    """

    order: list[list[int]]
    samples: list[list[float]]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that is ready to be measured.

    Attributes:
        title: Its file name, numbered where another model has the same.
        path: The file.
        size: Size of the file in bytes.
        sha256: SHA-256 of the file, lower-case hex.
        device: Name of the device that runs it.
        provider: The execution provider that runs it.
        threads: CPU threads of one inference.
        session: The `onnxruntime.InferenceSession`.
        input_name: Name of the input, float32.
        shape: Shape of the input for one image, [1, C, H, W].
        segmenter: The runtime's segmenter on the same session; None without a model card.
        protocol: What the segmenter segments.
    """

    title: str
    path: Path
    size: int
    sha256: str
    device: str
    provider: str
    threads: int
    session: Any
    input_name: str
    shape: tuple[int, ...]
    segmenter: Segmenter | None
    protocol: Protocol

    def load(self) -> object:
        """Read the file and create a session like the one at hand."""
        from cxrseg.runtime.inference.session import open_session

        return open_session(self.path, self.device, self.threads)[1]

    def infer(self, image: NDArray[np.float32]) -> object:
        """Run the network alone on float32 [1, C, H, W].

        Raises:
            CxrsegError: The model fails.
        """
        try:
            return self.session.run(None, {self.input_name: image})
        # ONNX Runtime's exceptions share no base class below Exception.
        except Exception as error:
            cause = f"the model failed on random input {list(self.shape)} ({error})"
            raise CxrsegError(self.path, cause, "leave it out") from error


def interleaved(
    runs: Sequence[Run],
    rounds: int,
    warmup: int,
    seed: int,
    step: Run = lambda: None,
    clock: Clock = time.perf_counter,
    rest: Run | None = None,
) -> Rounds:
    """Time several subjects in turn, so that disturbances of the machine hit all alike.

    Every round runs each subject once, in an order that is shuffled anew.

    Args:
        runs: What to time, one callable per subject.
        rounds: Number of rounds that count.
        warmup: Number of rounds before them that do not.
        seed: Seed of the orders.
        step: Called after each run, outside of its time.
        clock: Returns the time in s.
        rest: Called before each run, outside of its time; None = `settle`.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    order = [[int(i) for i in rng.permutation(len(runs))] for _ in range(warmup + rounds)]
    samples: list[list[float]] = [[] for _ in runs]
    for number, members in enumerate(order):
        for index in members:
            (rest or settle)()
            start = clock()
            kept = runs[index]()
            elapsed = clock() - start
            # Not before the clock was read: to free a session takes time.
            del kept
            if number >= warmup:
                samples[index].append(round(1000 * elapsed, _US))
            step()
    return Rounds(order[warmup:], samples)


def settle(
    clock: Clock = time.perf_counter,
    busy: Clock = time.process_time,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Wait until no thread of this process computes.

    ONNX Runtime's threads spin for a while after an inference, up to a second on some CPUs, and
    those of one model would take the cores from the next.

    Args:
        clock: Returns the time in s.
        busy: Returns the CPU time of this process in s.
        sleep: Waits for a time in s.
    """
    end = clock() + _MAX_REST_S
    quiet = 0
    while quiet < _QUIET_WINDOWS and clock() < end:
        start, used = clock(), busy()
        sleep(_WINDOW_S)
        idle = busy() - used < _QUIET_SHARE * (clock() - start)
        quiet = quiet + 1 if idle else 0


def random_input(shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Return values in [0, 1), float32 of `shape`, the same for the same shape and seed."""
    import numpy as np

    return np.random.default_rng((seed, *shape)).random(tuple(shape), dtype=np.float32)


def sample_image(seed: int) -> NDArray[np.uint8]:
    """Return a drawing of a chest, uint8 of size `IMAGE`: two dark ellipses and noise."""
    import numpy as np

    height, width = IMAGE
    image = np.random.default_rng(seed).integers(170, 200, IMAGE, dtype=np.uint8)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    for middle in (-0.42, 0.42):
        image[((x - middle) / 0.3) ** 2 + (y / 0.7) ** 2 < 1] -= np.uint8(120)
    return image


def peak_memory(subject: Subject, image: NDArray[np.uint8]) -> int | None:
    """Return the peak memory of a fresh process that loads a model and segments one image.

    Args:
        subject: The model, one with a segmenter.
        image: uint8 of size `IMAGE`.

    Returns:
        The largest resident set in bytes, Python and its libraries included, memory of a graphics
        card not; None on systems that do not tell (Windows).

    Raises:
        CxrsegError: The process failed.
    """
    if find_spec("resource") is None:
        return None
    code = "from cxrseg.benchmarks.speed.latency import segment_once; segment_once()"
    args = [str(subject.path.absolute()), subject.device, str(subject.threads), subject.protocol]
    result = subprocess.run(
        # -P: no module is taken from the folder that the user happens to be in.
        [sys.executable, "-P", "-c", code, *args],
        input=image.tobytes(),
        capture_output=True,
        check=False,
    )
    words = result.stdout.split()
    if result.returncode == 0 and words and words[-1].isdigit():
        return int(words[-1])
    told = result.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
    cause = f"the process that measures its memory failed ({told[-1][:200]})"
    raise CxrsegError(subject.path, cause, "close other programs and try again")


def segment_once() -> None:
    """Body of the process whose memory is measured.

    Takes model, device, threads and protocol as arguments and the image on stdin; prints the
    peak in bytes.
    """
    import numpy as np

    from cxrseg.runtime.segmenter import Segmenter

    model, device, threads, protocol = sys.argv[1:]
    image = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(IMAGE)
    Segmenter(model, device, int(threads), cast(Protocol, protocol)).segment(image)
    print(peak_bytes())


def peak_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    import resource

    # Linux's ru_maxrss also counts the process that started this one; the status does not.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def open_subjects(paths: Sequence[Path], device: str, threads: int) -> list[Subject]:
    """Open models, all on one device.

    Args:
        paths: ONNX files, with or without a model card.
        device: One of `devices.DEVICES`; ``auto`` takes what works for the first model, and
            the others must run there too.
        threads: CPU threads of one inference.

    Raises:
        CxrsegError: A file is missing, corrupt or has no fixed image input, or the device is not
            available.
    """
    from cxrseg.runtime.core.model_card import METADATA_KEY
    from cxrseg.runtime.inference.session import load_model, open_session
    from cxrseg.runtime.segmenter import Segmenter

    subjects = []
    for path, title in zip(paths, _titles(paths), strict=True):
        data, session, provider = open_session(path, device, threads)
        device = next(name for name, each in PROVIDERS.items() if each == provider)
        segmenter = None
        protocol = PROTOCOLS[0]
        if METADATA_KEY in session.get_modelmeta().custom_metadata_map:
            protocol = _protocol(load_model(path, device, threads).card)
            segmenter = Segmenter(path, device, threads, protocol)
            session = segmenter.model.session
        name, shape = _image_input(session, path)
        subject = Subject(
            title=title,
            path=path,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            device=device,
            provider=provider,
            threads=threads,
            session=session,
            input_name=name,
            shape=shape,
            segmenter=segmenter,
            protocol=protocol,
        )
        subjects.append(subject)
    return subjects


def _titles(paths: Sequence[Path]) -> list[str]:
    """Return the file names; of equal ones, the later are numbered."""
    titles: list[str] = []
    for path in paths:
        title, number = path.name, 1
        while title in titles:
            number += 1
            title = f"{path.name} ({number})"
        titles.append(title)
    return titles


def _protocol(card: ModelCard) -> Protocol:
    names = set(card.labels)
    return next(each for each in PROTOCOLS if names & {label.name for label in labels_of(each)})


def _image_input(session: Any, path: Path) -> tuple[str, tuple[int, ...]]:
    """Return name and shape, for one image, of the only input, float32 [N or 1, C, H, W]."""
    ports = session.get_inputs()
    shape = list(ports[0].shape) if len(ports) == 1 else []
    if len(shape) == 4 and not isinstance(shape[0], int):
        shape[0] = 1
    fits = (
        len(shape) == 4
        and ports[0].type == "tensor(float)"
        and all(isinstance(length, int) and length > 0 for length in shape)
        and shape[0] == 1
        and math.prod(shape) <= MAX_INPUT
    )
    if not fits:
        found = ", ".join(f"{port.name} {port.type} {port.shape}" for port in ports) or "none"
        cause = f"its input is not one image of fixed size: {found} instead of float32 [1, C, S, S]"
        raise CxrsegError(path, cause, "export it for one size")
    return ports[0].name, tuple(shape)


def measure(
    subjects: Sequence[Subject], runs: int, warmup: int, seed: int, step: Run = lambda: None
) -> dict[str, Any]:
    """Measure models against each other.

    Args:
        subjects: The models; the first is what the others are compared with.
        runs: Number of inferences of each that count.
        warmup: Number of inferences of each before them that do not.
        seed: Seed of the inputs and of the orders.
        step: Called `steps` times in all.

    Returns:
        Plain data. ``order``: for each round of inferences, the indices of the models as they
        ran. ``models``: for each model sizes in bytes, times in ms, throughput in images/s.

    Raises:
        CxrsegError: A model fails.
    """
    loads = interleaved([each.load for each in subjects], LOADS, 1, seed, step)
    inputs = {each.shape: random_input(each.shape, seed) for each in subjects}
    network = interleaved(
        [_inference(each, inputs[each.shape]) for each in subjects], runs, warmup, seed, step
    )
    image = sample_image(seed)
    whole = [each for each in subjects if each.segmenter is not None]
    timings: list[list[dict[str, float]]] = [[] for _ in whole]
    images = interleaved(
        [_whole_image(each, image, kept) for each, kept in zip(whole, timings, strict=True)],
        _image_runs(runs),
        1,
        seed,
        step,
    )
    latencies = [distribution(samples) for samples in network.samples]
    models: list[dict[str, Any]] = []
    for index, each in enumerate(subjects):
        latency = latencies[index]
        models.append(
            {
                "title": each.title,
                "file": each.path.name,
                "sha256": each.sha256,
                "card": _card(each),
                "input": list(each.shape),
                "size_bytes": each.size,
                "load_ms": {
                    "median": median(loads.samples[index]),
                    "samples": loads.samples[index],
                },
                "latency_ms": latency,
                "throughput": round(1000 / latency["median"], _DIGITS),
                "image_ms": None,
                "peak_memory_bytes": None,
                "relative": {
                    "size": round(each.size / subjects[0].size, _DIGITS),
                    "latency": round(latency["median"] / latencies[0]["median"], _DIGITS),
                },
            }
        )
    for index, each in enumerate(whole):
        model = models[subjects.index(each)]
        model["image_ms"] = {
            "median": median(images.samples[index]),
            # The first is the one that does not count.
            **{name: median([kept[name] for kept in timings[index][1:]]) for name in STEPS},
            "samples": images.samples[index],
        }
        model["peak_memory_bytes"] = peak_memory(each, image)
        step()
    # One line of the file per round.
    order = [" ".join(str(index) for index in members) for members in network.order]
    return {"order": order, "models": models}


def steps(subjects: Sequence[Subject], runs: int, warmup: int) -> int:
    """Return how often `measure` calls its `step`."""
    whole = sum(each.segmenter is not None for each in subjects)
    return len(subjects) * (LOADS + 1 + warmup + runs) + whole * (_image_runs(runs) + 2)


def _image_runs(runs: int) -> int:
    return min(runs, IMAGE_RUNS)


def _inference(subject: Subject, image: NDArray[np.float32]) -> Run:
    return lambda: subject.infer(image)


def _whole_image(subject: Subject, image: NDArray[np.uint8], kept: list[dict[str, float]]) -> Run:
    def run() -> object:
        assert subject.segmenter is not None
        result = subject.segmenter.segment(image, subject.title)
        kept.append(result.timings)
        return result

    return run


def median(samples: Sequence[float]) -> float:
    """Return the median of times in ms, to the microsecond."""
    import numpy as np

    return round(float(np.median(samples)), _US)


def distribution(samples: list[float]) -> dict[str, Any]:
    """Return median, 5th and 95th percentile of times, and the times, as plain data."""
    import numpy as np

    p5, p95 = (round(float(value), _US) for value in np.percentile(samples, (5, 95)))
    return {"median": median(samples), "p5": p5, "p95": p95, "samples": samples}


def _card(subject: Subject) -> dict[str, str] | None:
    if subject.segmenter is None:
        return None
    card = subject.segmenter.model.card
    return {"name": card.name, "version": card.version, "protocol": subject.protocol}


def figures_table(models: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures of `measure`'s models as an aligned Markdown table; 1 MB = 10^6 bytes."""
    from cxrseg.benchmarks.harness.legacy_record import table

    header = ["model", "MB", "load ms", "latency ms", "5th pct.", "95th pct.", "images/s"]
    header += ["image ms", "peak MB"]
    if len(models) > 1:
        header += ["rel. size", "rel. latency"]
    rows = []
    for each in models:
        latency, image, peak = each["latency_ms"], each["image_ms"], each["peak_memory_bytes"]
        row = [
            each["title"],
            f"{each['size_bytes'] / 1e6:.2f}",
            f"{each['load_ms']['median']:.1f}",
            *(f"{latency[name]:.2f}" for name in ("median", "p5", "p95")),
            f"{each['throughput']:.2f}",
            "-" if image is None else f"{image['median']:.1f}",
            "-" if peak is None else f"{peak / 1e6:.0f}",
        ]
        if len(models) > 1:
            row += [f"{each['relative'][name]:.3f}" for name in ("size", "latency")]
        rows.append(row)
    return table(header, rows)


@contextmanager
def bar(total: int) -> Iterator[Run]:
    """Give what advances a progress bar on stderr, if that is a terminal, by one of `total`."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=total, file=sys.stderr) as bar:
        yield lambda: bar.update(1)


@click.command("latency")
@click.argument("models", metavar="[MODEL]...", nargs=-1, type=_PATH)
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default=AUTO,
    show_default=True,
    help="What to compute on, the same for all models.",
)
@threads_option
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="Inferences of each model that count.",
)
@click.option(
    "--warmup",
    metavar="N",
    type=click.IntRange(0, 100_000),
    default=5,
    show_default=True,
    help="Inferences of each model before them that do not count.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of the inputs and of the order.",
)
@output_option
@click.pass_context
def command(
    context: click.Context,
    models: tuple[Path, ...],
    device: str,
    threads: int | None,
    runs: int,
    warmup: int,
    seed: int,
    output: Path | None,
) -> None:
    """Measure size, speed and memory of models on this computer.

    MODEL is an ONNX file; by default the one that ships with cxrseg. Several take turns, in an
    order that changes from round to round, and are compared with the first.

    \b
    Columns
      MB, load ms       size of the file; time to read it and make it ready (median)
      latency ms        one inference, the network alone (median, percentiles)
      images/s          1 / latency
      image ms          a whole image of 2000 x 2000 pixels: preparation, network, mask (median)
      peak MB           memory of a program that loads the model and segments such an image;
                        not told on Windows
      rel.              divided by the first model's

    A file without a model card of cxrseg is run as it is, with one input float32 [1, C, S, S];
    image ms and peak MB stay empty.

    \b
    Examples
      cxrseg-bench latency
      cxrseg-bench latency int8.onnx fp32.onnx --device cpu --threads 2 -o latency.json
    """
    # Imported here, so that --help answers at once.
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        command_line,
        environment,
        now,
        write_record,
    )
    from cxrseg.runtime.inference.session import default_threads
    from cxrseg.runtime.models import default_model

    if output is not None:
        check_output(output)
    threads = threads or default_threads()
    subjects = open_subjects(models or [default_model()], device, threads)

    date = now()
    with bar(steps(subjects, runs, warmup)) as step:
        figures = measure(subjects, runs, warmup, seed, step)
    provider = subjects[0].provider
    title = f"{provider}, threads {threads}, runs {runs}"
    page = figures_table(figures["models"])
    for line in f"{title}\n\n{page}".split("\n"):
        echo(line)
    if output is None:
        return

    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment(),
        "settings": {
            "provider": provider,
            "threads": threads,
            "runs": runs,
            "warmup": warmup,
            "loads": LOADS,
            "image_runs": _image_runs(runs),
            "image": list(IMAGE),
        },
        "seed": seed,
        **figures,
    }
    write_record(output, "latency", record, _markdown(title, record, page))
    echo(f"written: {output}, {output.with_suffix('.md')}")


def _markdown(title: str, record: Mapping[str, Any], page: str) -> str:
    from cxrseg.benchmarks.harness.legacy_record import circumstances

    settings = record["settings"]
    height, width = settings["image"]
    facts = [
        f"# Latency: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; seed {record['seed']}.",
        f"Medians. Latency: one inference of the network alone, {settings['runs']} runs after "
        f"{settings['warmup']} that are dropped; the models take turns in shuffled order. Load: "
        f"reading the file and creating the session, {settings['loads']} times. Image: "
        f"preprocessing, network and postprocessing of {width} x {height} pixels, "
        f"{settings['image_runs']} times. Peak: resident memory of a fresh process that segments "
        "one such image. Rel.: divided by the first model's. 1 MB = 10^6 bytes.",
    ]
    hashes = "\n".join(
        f"- {each['title']}: input {each['input']}, SHA-256 `{each['sha256']}`"
        for each in record["models"]
    )
    return "\n\n".join([*facts, page, hashes])
