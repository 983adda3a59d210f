"""``cxrseg-bench paper``: all of the paper's evidence, for one checkpoint, in one command."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from cxrseg.benchmarks import (
    accuracy,
    compression,
    latency,
    quantization_error,
    ranks,
    roofline,
    significance,
    ssim,
)
from cxrseg.benchmarks.options import (
    columns_and_values,
    limit_option,
    protocol_option,
    require_bench,
    seed_option,
    split_option,
    threads_option,
    where_option,
)
from cxrseg.benchmarks.report import RUN, TITLE, check_page, write_page
from cxrseg.runtime.console import DEBUG, FAILED, OK, echo, fail
from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.labels import Protocol

INT8, FP32 = "int8.onnx", "fp32.onnx"
PAGE = "report.html"

Status = Literal["done", "not passed", "failed", "skipped"]

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Part:
    """One part of the evidence.

    Attributes:
        name: Its name, for --skip, and of the files that it writes.
        run: Does it; returns an exit code, or None for 0.
        needs: Parts that must be done before it.
        figures: Names of the figures that it may draw.
        unfit: Why it does not apply here; empty where it does.
        record: Whether it writes a record.
    """

    name: str
    run: Callable[[], object]
    needs: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    unfit: str = ""
    record: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a part: its name, how it ended and, if not well, why."""

    name: str
    outcome: Status
    why: str = ""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        checkpoint: The ``model.ckpt``.
        run: The run's folder where it was given, else the checkpoint.
        folder: Where everything goes.
        data: CSV of images and masks.
        rows: Options that choose its rows, as words of a command line.
        limit: Most images; None = all.
        verify: X-rays to verify the exports on; None for synthetic ones.
        baseline: Model to compare maps with; None = the FP32 export.
        xrays: Whether to draw the figure that shows X-rays.
        threads: Words that set the CPU threads.
        runs: Runs that are timed.
        margin: Margin of equivalence.
        seed: Seed of everything.
        adapted: Whether the checkpoint has adapters.
        quantized: Whether it is of stage 2.
    """

    checkpoint: Path
    run: Path
    folder: Path
    data: Path
    rows: tuple[str, ...]
    limit: int | None
    verify: Path | Sequence[Path] | None
    baseline: Path | None
    xrays: bool
    threads: tuple[str, ...]
    runs: int
    margin: float
    seed: int
    adapted: bool
    quantized: bool


@dataclass
class Progress:
    """Outcomes so far, in order."""

    outcomes: list[Outcome] = field(default_factory=list)

    def done(self, name: str) -> bool:
        """Tell whether a part gave what others build on."""
        good = ("done", "not passed")
        return any(each.name == name and each.outcome in good for each in self.outcomes)


def parts_of(request: Request) -> list[Part]:
    """Return all parts, in order. A further one, such as `baselines`, is one more entry here.

    Args:
        request: What is asked for.
    """
    folder, data = request.folder, ("--data", str(request.data))
    int8, fp32 = str(folder / INT8), str(folder / FP32)
    few = () if request.limit is None else ("--limit", str(request.limit))
    rows, seed = (*request.rows, *few), ("--seed", str(request.seed))
    cpu = ("--device", "cpu", *request.threads)

    def part(
        name: str,
        command: click.Command,
        *args: str,
        needs: tuple[str, ...] = ("export-int8", "export-fp32"),
        figures: tuple[str, ...] = (),
        unfit: str = "",
    ) -> Part:
        words = [*args, "-o", str(folder / f"{name}.json")]
        return Part(name, lambda: _call(command, words), needs, figures, unfit)

    quantization = () if request.limit is None else ("--limit", str(min(8, request.limit)))
    # Rows of every source count here: what is compared are layers, not masks.
    images = ("--images", str(request.data), *request.rows, *quantization)
    baseline = fp32 if request.baseline is None else str(request.baseline)
    return [
        Part(
            "export-int8",
            lambda: _export(request, INT8),
            unfit="" if request.quantized else "the checkpoint is of stage 1, trained in float",
            record=False,
        ),
        Part("export-fp32", lambda: _export(request, FP32), record=False),
        part(
            "accuracy-int8",
            accuracy.command,
            int8,
            *data,
            *rows,
            *cpu,
            *seed,
            needs=("export-int8",),
        ),
        part(
            "accuracy-fp32",
            accuracy.command,
            fp32,
            *data,
            *rows,
            *cpu,
            *seed,
            needs=("export-fp32",),
        ),
        part(
            "significance",
            significance.command,
            str(folder / "accuracy-int8.json"),
            str(folder / "accuracy-fp32.json"),
            *data,
            *rows,
            *seed,
            "--margin",
            str(request.margin),
            needs=("accuracy-int8", "accuracy-fp32"),
            figures=(significance.FIGURE,),
        ),
        part(
            "ssim",
            ssim.command,
            int8,
            baseline,
            *data,
            *rows,
            *cpu,
            *seed,
            *(("--figure",) if request.xrays else ()),
            needs=("export-int8", *(() if request.baseline else ("export-fp32",))),
            figures=(ssim.FIGURE,),
        ),
        part(
            "quantization-error",
            quantization_error.command,
            int8,
            fp32,
            *images,
            *seed,
            *request.threads,
            figures=(quantization_error.WEIGHTS, quantization_error.OUTPUTS),
        ),
        part(
            "ranks",
            ranks.command,
            str(request.run),
            needs=(),
            figures=(ranks.RANKS, ranks.BUDGET),
            unfit="" if request.adapted else "the checkpoint has no adapters",
        ),
        part(
            "compression",
            compression.command,
            str(request.checkpoint),
            "--files",
            int8,
            fp32,
        ),
        part("latency", latency.command, int8, fp32, *cpu, *seed, "--runs", str(request.runs)),
        part(
            "roofline",
            roofline.command,
            int8,
            fp32,
            *request.threads,
            *seed,
            "--runs",
            str(request.runs),
            figures=(roofline.FIGURE,),
        ),
    ]


NAMES = (
    "export-int8",
    "export-fp32",
    "accuracy-int8",
    "accuracy-fp32",
    "significance",
    "ssim",
    "quantization-error",
    "ranks",
    "compression",
    "latency",
    "roofline",
)
"""Names of the parts, for --skip."""


def _call(command: click.Command, words: Sequence[str]) -> object:
    """Run a subcommand as if it had been typed, its tables kept for its own files."""
    with contextlib.redirect_stdout(io.StringIO()):
        return command.main(args=list(words), prog_name=command.name, standalone_mode=False)


def _export(request: Request, name: str) -> None:
    from cxrseg.export.exporting import export

    export(
        request.checkpoint,
        request.folder / name,
        precision="int8" if name == INT8 else "fp32",
        verify_images=request.verify,
        say=lambda text: echo(f"cxrseg-bench: {text} ...", err=True),
    )


def attempt(part: Part, folder: Path) -> Outcome:
    """Do a part; whatever fails is told and goes no further.

    What an earlier run of it left is removed first, so that nothing old is taken for new.

    Args:
        part: The part.
        folder: Where its files are.

    Raises:
        KeyboardInterrupt, click.Abort: Ctrl-C ends the whole run.
    """
    try:
        if part.record:
            forget(folder / f"{part.name}.json", part.figures)
        code = part.run()
    except (KeyboardInterrupt, click.Abort):
        raise
    except CxrsegError as error:
        fail(error)
        return Outcome(part.name, "failed", str(error))
    except click.ClickException as error:
        return _failed(part.name, error.format_message())
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        return _failed(part.name, f"unexpected failure ({type(error).__name__}: {error})")
    if code:
        return Outcome(part.name, "not passed", "ended with exit code 1; its tables tell why")
    return Outcome(part.name, "done")


def _failed(name: str, cause: str) -> Outcome:
    fail(CxrsegError(name, cause))
    return Outcome(name, "failed", cause)


def forget(path: Path, figures: Sequence[str]) -> None:
    """Remove an earlier result and its figures.

    Args:
        path: The JSON file of the result.
        figures: Names of its figures.

    Raises:
        CxrsegError: A file of somebody else has such a name.
    """
    from cxrseg.benchmarks.record import check_output, figure_files

    check_output(path, figures)
    files = [path, path.with_suffix(".md")]
    for name in figures:
        files += figure_files(path, name)
    for file in files:
        file.unlink(missing_ok=True)


def run_parts(
    parts: Sequence[Part], skip: Sequence[str], folder: Path, there: Callable[[str], bool]
) -> list[Outcome]:
    """Do all parts, one after the other.

    Args:
        parts: The parts.
        skip: Names of those to leave out.
        folder: Where their files are.
        there: Tells of a part that is left out whether what it makes is there, of this checkpoint.

    Returns:
        An outcome for each part.
    """
    progress = Progress()
    kept = {name for name in skip if there(name)}
    for number, part in enumerate(parts, start=1):
        lacking = [name for name in part.needs if name not in kept and not progress.done(name)]
        if part.name in skip:
            outcome = Outcome(part.name, "skipped", "by --skip")
        elif part.unfit:
            outcome = Outcome(part.name, "skipped", part.unfit)
        elif lacking:
            outcome = Outcome(part.name, "skipped", f"needs {' and '.join(lacking)}")
        else:
            echo(f"cxrseg-bench: {part.name}, {number} of {len(parts)} ...", err=True)
            outcome = attempt(part, folder)
        progress.outcomes.append(outcome)
        echo(f"{outcome.outcome}: {part.name}{f' ({outcome.why})' if outcome.why else ''}")
    return progress.outcomes


@click.command("paper")
@click.argument("checkpoint", metavar="CHECKPOINT|RUN", type=_PATH)
@click.option(
    "--data",
    required=True,
    metavar="CSV",
    type=_PATH,
    help="Columns image, mask, split and others; paths relative to the file.",
)
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    metavar="FOLDER",
    type=_PATH,
    help="Where the files, the results and the page go; made if it is not there.",
)
@split_option
@where_option
@protocol_option
@click.option(
    "--baseline",
    metavar="FILE.onnx",
    type=_PATH,
    help="Model whose maps of similarity ours are compared with.  [default: the FP32 export]",
)
@click.option(
    "--verify-images",
    metavar="DIR",
    type=_PATH,
    help="X-rays to verify the exports on.  [default: images of split val in the CSV, if any]",
)
@click.option(
    "--no-xrays",
    is_flag=True,
    help="Draw no figure that shows X-rays, so that the page may be shown to anyone.",
)
@click.option(
    "--margin",
    default=0.005,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Mean difference of Dice below which INT8 and FP32 count as equivalent.",
)
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="Inferences that are timed.",
)
@click.option(
    "--skip",
    multiple=True,
    metavar="PART",
    type=click.Choice(NAMES),
    help="Leave out a part, repeatable; exports that are there are then used. Parts are"
    f" {', '.join(NAMES)}.",
)
@threads_option
@limit_option
@seed_option
@click.pass_context
def command(
    context: click.Context,
    checkpoint: Path,
    data: Path,
    folder: Path,
    split: str,
    where: tuple[str, ...],
    protocol: Protocol,
    baseline: Path | None,
    verify_images: Path | None,
    no_xrays: bool,
    margin: float,
    runs: int,
    skip: tuple[str, ...],
    threads: int | None,
    limit: int | None,
    seed: int,
) -> int:
    """Make all of the paper's evidence for a checkpoint, and a page of it.

    CHECKPOINT is a model.ckpt of cxrseg-train after both stages; RUN is the folder of the run,
    which also tells how ranks developed. It is exported in INT8 and in FP32; then each subcommand
    runs as it would by itself and leaves its files in FOLDER, and report.html shows them all. A
    part that fails is told, and the others go on. Exit code 1 when one failed or was not passed.

    \b
    Example
      cxrseg-bench paper runs/ward7 --data xrays.csv -o runs/ward7/paper
    """
    require_bench("paper")
    from cxrseg.benchmarks.cases import read_cases
    from cxrseg.benchmarks.record import (
        check_output,
        circumstances,
        command_line,
        csv_facts,
        environment,
        now,
        table,
        write_record,
    )
    from cxrseg.runtime.batch import prepare_folder
    from cxrseg.trainer.checkpoint import MODEL, load

    run = checkpoint
    if checkpoint.is_dir():
        checkpoint = checkpoint / MODEL
    chosen = columns_and_values(where)
    cases = read_cases(data, split, chosen, protocol, limit)
    description = load(checkpoint).description
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    prepare_folder(folder)
    check_output(folder / f"{RUN}.json")
    check_page(folder / PAGE)
    words = [word for term in where for word in ("--where", term)]
    request = Request(
        checkpoint=checkpoint,
        run=run,
        folder=folder,
        data=data,
        rows=("--split", split, "--protocol", protocol, *words),
        limit=limit,
        verify=verify_images or _val_images(data, protocol),
        baseline=baseline,
        xrays=not no_xrays,
        threads=() if threads is None else ("--threads", str(threads)),
        runs=runs,
        margin=margin,
        seed=seed,
        adapted=description.adapters is not None,
        quantized=description.quantization is not None,
    )

    date = now()
    outcomes = run_parts(
        parts_of(request), skip, folder, lambda name: _is_export(folder, name, sha256)
    )
    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment("torch"),
        "checkpoint": {
            "file": checkpoint.name,
            "sha256": sha256,
            "model": description.architecture.name,
            "method": description.method,
            "stage": description.stage,
        },
        "data": csv_facts(data, split, where, limit, len(cases)),
        "seed": seed,
        "parts": [asdict(each) for each in outcomes],
    }
    page = table(
        ["part", "outcome", "why"], [[each.name, each.outcome, each.why] for each in outcomes]
    )
    facts = [
        f"# Evidence for {checkpoint.name}",
        f"`{record['command']}`",
        f"{circumstances(record)}; checkpoint SHA-256 `{sha256}`.",
        page,
    ]
    write_record(folder / f"{RUN}.json", RUN, record, "\n\n".join(facts))
    title = f"{TITLE}: {description.architecture.name}"
    for problem in write_page(folder, folder / PAGE, title):
        fail(problem)
    echo(f"written: {folder / PAGE}")
    wrong = [each for each in outcomes if each.outcome in ("failed", "not passed")]
    return FAILED if wrong else OK


def _val_images(data: Path, protocol: Protocol) -> list[Path] | None:
    """Return the images of split val, or None where the CSV has none."""
    from cxrseg.benchmarks.cases import read_cases

    try:
        return [case.image for case in read_cases(data, "val", (), protocol, 32)]
    except CxrsegError:
        return None  # the CSV itself was read before


def _is_export(folder: Path, name: str, checkpoint: str) -> bool:
    """Tell whether the file of an export is there and is of this checkpoint."""
    from cxrseg.runtime.session import load_model

    path = {"export-int8": folder / INT8, "export-fp32": folder / FP32}.get(name)
    if path is None or not path.is_file():
        return False
    return load_model(path, "cpu").card.checkpoint_sha256 == checkpoint
