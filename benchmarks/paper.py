"""``cxrseg-bench paper``: all of the paper's evidence, for one checkpoint, in one command."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import click

from cxrseg.benchmarks.accuracy.accuracy import accuracy
from cxrseg.benchmarks.accuracy.significance import significance
from cxrseg.benchmarks.accuracy.ssim import ssim
from cxrseg.benchmarks.harness.legacy_options import (
    columns_and_values,
    data_option,
    limit_option,
    protocol_option,
    require_bench,
    seed_option,
    split_option,
    threads_option,
    where_option,
)
from cxrseg.benchmarks.quantization.compression import compression
from cxrseg.benchmarks.quantization.error import quantization_error
from cxrseg.benchmarks.quantization.exports import card_of_export
from cxrseg.benchmarks.quantization.ranks import ranks
from cxrseg.benchmarks.report.page import check_page, write_page
from cxrseg.benchmarks.report.sections import TITLE
from cxrseg.benchmarks.speed import latency, roofline
from cxrseg.export import cli as export
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Protocol
from cxrseg.runtime.terminal.console import DEBUG, FAILED, OK, echo, fail

PAGE = "report.html"

COMMANDS: dict[str, click.Command] = {
    "export-int8": export.command,
    "export-fp32": export.command,
    "accuracy-int8": accuracy.command,
    "accuracy-fp32": accuracy.command,
    "significance": significance.command,
    "ssim": ssim.command,
    "quantization-error": quantization_error.command,
    "ranks": ranks.command,
    "compression": compression.command,
    "latency": latency.latency.command,
    "roofline": roofline.roofline.command,
}
"""Part -> the command that makes it, in the order of making."""

FIGURES: dict[str, tuple[str, ...]] = {
    "significance": tuple(significance.plots),
    "ssim": tuple(ssim.plots),
    "quantization-error": tuple(quantization_error.plots),
    "ranks": tuple(ranks.plots),
    "roofline": (roofline.PLOT,),
}
"""Part -> names of the figures that it may draw."""

Status = Literal["done", "not passed", "failed", "skipped"]

Words = Sequence[str | Path]

_PATH = click.Path(path_type=Path)
_MODEL = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Part:
    """One part of the evidence.

    Attributes:
        name: Its name, for --skip.
        command: Makes it.
        words: The command line without the output; each path is one of its inputs.
        output: The file that it makes.
        figures: Names of the figures that it may draw beside it.
        unfit: Why it does not apply here; empty where it does.
    """

    name: str
    command: click.Command
    words: Words
    output: Path
    figures: Sequence[str] = ()
    unfit: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Attributes:
        name: The part.
        outcome: How it ended.
        why: Why, if not well.
        date: When it was made; empty if it was not.
        seconds: How long that took.
        inputs: Digest of all that it depends on.
        result: SHA-256 of the file that it made.
    """

    name: str
    outcome: Status
    why: str = ""
    date: str = ""
    seconds: float | None = None
    inputs: str = ""
    result: str = ""


def parts_of(
    folder: Path, words: Mapping[str, Words], unfit: Mapping[str, str] | None = None
) -> list[Part]:
    """Return the parts in the order of `COMMANDS`.

    Args:
        folder: Where their files go.
        words: Part -> its command line without the output; a part that is not there is left out.
        unfit: Part -> why it does not apply.
    """
    found = []
    for name, command in COMMANDS.items():
        if name in words:
            exports = command is export.command
            output = f"{name.removeprefix('export-')}.onnx" if exports else f"{name}.json"
            why = (unfit or {}).get(name, "")
            figures = FIGURES.get(name, ())
            found.append(Part(name, command, words[name], folder / output, figures, why))
    return found


def run_parts(
    parts: Sequence[Part], skip: Collection[str], earlier: Mapping[str, Outcome]
) -> Iterator[Outcome]:
    """Make all parts, one after the other; what is there already, of the same inputs, is kept.

    Args:
        parts: The parts; one that reads what another makes stands after it.
        skip: Names of those that are not to be made.
        earlier: Part -> what became of it in an earlier run.

    Yields:
        What became of each part.

    Raises:
        KeyboardInterrupt, click.Abort: Ctrl-C ends the whole run.
    """
    missing = {part.output: part.name for part in parts}
    for number, part in enumerate(parts, start=1):
        lacking = [missing[word] for word in part.words if word in missing]
        inputs, before = fingerprint(part), earlier.get(part.name)
        if part.unfit:
            outcome = Outcome(part.name, "skipped", part.unfit)
        elif lacking:
            outcome = Outcome(part.name, "skipped", f"needs {' and '.join(lacking)}")
        elif before and before.inputs == inputs and before.result == digest(part.output) != "":
            outcome = before
        elif part.name in skip:
            outcome = Outcome(part.name, "skipped", "by --skip")
        else:
            echo(f"cxrseg-bench: {part.name}, {number} of {len(parts)} ...", err=True)
            outcome = replace(attempt(part), inputs=inputs)
        if outcome.outcome in ("done", "not passed"):
            del missing[part.output]
        elif part.output.exists():
            outcome = replace(outcome, why=f"{outcome.why}; an earlier result is left as it was")
        time = "" if outcome.seconds is None else f"{outcome.seconds:g} s"
        if outcome is before:
            time = f"made {outcome.date} of the same inputs, kept"
        told = "; ".join(filter(None, (outcome.why, time)))
        echo(f"{outcome.outcome}: {part.name}{f' ({told})' if told else ''}")
        yield outcome


def attempt(part: Part) -> Outcome:
    """Make a part; whatever fails is told and goes no further.

    Results that an earlier run of it left are removed first, so that nothing old is taken for new;
    a model file is replaced when the new one is there. The tables that the command prints are kept
    for its own files.

    Raises:
        KeyboardInterrupt, click.Abort: Ctrl-C ends the whole run.
    """
    from cxrseg.benchmarks.harness.legacy_record import check_output, now, result_files

    words = [*map(str, part.words), "-o", str(part.output)]
    date, start = now(), monotonic()
    try:
        if part.output.suffix == ".json":
            check_output(part.output, part.figures)
            for file in result_files(part.output, part.figures):
                file.unlink(missing_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            code = part.command.main(words, part.command.name, standalone_mode=False)
    except click.Abort:
        raise
    except CxrsegError as error:
        return _failed(part, error)
    except click.ClickException as error:
        return _failed(part, CxrsegError(part.name, error.format_message()))
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        cause = f"unexpected failure ({type(error).__name__}: {error})"
        return _failed(part, CxrsegError(part.name, cause))
    seconds, result = round(monotonic() - start, 1), digest(part.output)
    if code:
        why = "its tables tell"
        return Outcome(part.name, "not passed", why, date, seconds, result=result)
    return Outcome(part.name, "done", "", date, seconds, result=result)


def _failed(part: Part, error: CxrsegError) -> Outcome:
    fail(error)
    return Outcome(part.name, "failed", str(error))


def fingerprint(part: Part) -> str:
    """Return a digest of what a part depends on: options, and what its inputs hold.

    Of a run's folder the checkpoint counts, which its logs belong to; of a CSV its own text, not
    the images and masks that it names.
    """
    from cxrseg.runtime.core.version import package_version
    from cxrseg.trainer.fit.checkpoint import MODEL

    told = [package_version(), part.name]
    for word in part.words:
        if not isinstance(word, Path):
            told.append(word)
        elif word.is_dir():
            told += ["run", digest(word / MODEL)]
        else:
            told.append(digest(word))
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; nothing where there is none that can be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """Return what became of the parts in an earlier run.

    Args:
        path: The record of that run.

    Returns:
        Part -> outcome; nothing where there is no such record, or one of another version.
    """
    from cxrseg.benchmarks.harness.legacy_record import read_record

    try:
        record = read_record(path) if path.exists() else None
        return {each["name"]: Outcome(**each) for each in (record or {}).get("parts", ())}
    except (CxrsegError, KeyError, TypeError):
        return {}  # all parts are made again


@click.command("paper")
@click.argument("checkpoint", metavar="CHECKPOINT|RUN", type=_PATH)
@data_option
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    metavar="FOLDER",
    type=_PATH,
    help="Where the files, the results and the page go; made if it is not there.",
)
@click.option(
    "--int8",
    metavar="FILE.onnx",
    type=_MODEL,
    help="INT8 export of CHECKPOINT to measure.  [default: export it]",
)
@click.option(
    "--fp32",
    metavar="FILE.onnx",
    type=_MODEL,
    help="FP32 export of CHECKPOINT to measure.  [default: export it]",
)
@click.option(
    "--baseline",
    metavar="FILE.onnx",
    type=_MODEL,
    help="Model whose maps of similarity ours are compared with.  [default: the FP32 export]",
)
@click.option(
    "--no-xrays",
    is_flag=True,
    help="Draw no figure that shows X-rays, so that the page may be shown to anyone.",
)
@click.option(
    "--skip",
    multiple=True,
    metavar="PART",
    type=click.Choice(list(COMMANDS)),
    help=f"Do not make a part; repeatable. Parts are {', '.join(COMMANDS)}.",
)
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="Inferences that are timed.",
)
@split_option
@where_option
@protocol_option
@threads_option
@limit_option
@seed_option
@click.pass_context
def command(
    context: click.Context,
    checkpoint: Path,
    data: Path,
    folder: Path,
    int8: Path | None,
    fp32: Path | None,
    baseline: Path | None,
    no_xrays: bool,
    skip: tuple[str, ...],
    runs: int,
    split: str,
    where: tuple[str, ...],
    protocol: Protocol,
    threads: int | None,
    limit: int | None,
    seed: int,
) -> int:
    """Make all of the paper's evidence for a checkpoint, and a page of it.

    CHECKPOINT is a model.ckpt of cxrseg-train after both stages; RUN is the folder of the run,
    which also tells how ranks developed. It is exported in INT8 and in FP32; then each subcommand
    runs as it would by itself and leaves its files in FOLDER, and report.html shows them all.

    What an earlier run left in FOLDER is kept where the inputs are the same; to make a part again
    delete its .json. A part that fails is told, and the others go on. Exit code 1 when one failed
    or was not passed.

    \b
    Examples
      cxrseg-bench paper runs/ward7 --data xrays.csv -o runs/ward7/paper
      cxrseg-bench paper model.ckpt --int8 ward7.onnx --data xrays.csv -o paper --skip latency
    """
    require_bench("paper")
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        circumstances,
        command_line,
        csv_facts,
        environment,
        now,
        table,
        write_record,
    )
    from cxrseg.benchmarks.harness.legacy_samples import read_cases
    from cxrseg.runtime.core.atomic import prepare_folder
    from cxrseg.trainer.fit.checkpoint import MODEL, load

    run = checkpoint
    if checkpoint.is_dir():
        checkpoint = checkpoint / MODEL
    cases = read_cases(data, split, columns_and_values(where), protocol, limit)
    loaded = load(checkpoint)
    description = loaded.description
    given = {"int8": int8, "fp32": fp32}
    for path in given.values():
        if path is not None:
            card_of_export(path, loaded.sha256)
    prepare_folder(folder)
    record_path, page_path = folder / "paper.json", folder / PAGE
    check_output(record_path)
    check_page(page_path)

    model = {name: path or folder / f"{name}.onnx" for name, path in given.items()}
    both = [model["int8"], model["fp32"]]
    timed = ["--runs", str(runs), "--seed", str(seed)]
    on_threads = [] if threads is None else ["--threads", str(threads)]
    on_cpu = ["--device", "cpu", *on_threads]
    chosen = ["--split", split, "--protocol", protocol, "--seed", str(seed)]
    chosen += [word for term in where for word in ("--where", term)]
    few = [] if limit is None else ["--limit", str(limit)]
    # Each image costs the outputs of all layers, so the command takes 8 unless told otherwise.
    few_layers = [] if limit is None else ["--limit", str(min(8, limit))]
    rows: Words = ["--data", data, *chosen, *few]
    scores = [folder / f"accuracy-{name}.json" for name in model]
    words: dict[str, Words] = {
        **{
            f"export-{name}": [checkpoint, "--precision", name]
            for name, path in given.items()
            if path is None
        },
        **{f"accuracy-{name}": [path, *rows, *on_cpu] for name, path in model.items()},
        "significance": [*scores, *rows],
        "ssim": [
            *(model["int8"], baseline or model["fp32"], *rows, *on_cpu),
            *([] if no_xrays else ["--xrays"]),
        ],
        "quantization-error": [*both, "--images", data, *chosen, *few_layers, *on_threads],
        "ranks": [run],
        "compression": [checkpoint, "--files", *both],
        "latency": [*both, *on_cpu, *timed],
        "roofline": [*both, *on_threads, *timed],
    }
    unfit = {}
    if description.quantization is None:
        unfit["export-int8"] = "the checkpoint is of stage 1, trained in float"
    if description.adapters is None:
        unfit["ranks"] = "the checkpoint has no adapters"

    record: dict[str, Any] = {
        "command": command_line(context),
        "date": now(),
        **environment("torch"),
        "checkpoint": {
            "file": checkpoint.name,
            "sha256": loaded.sha256,
            "model": description.architecture.name,
            "method": description.method,
            "stage": description.stage,
        },
        "data": csv_facts(data, split, where, limit, len(cases)),
        "seed": seed,
    }
    earlier, parts = read_outcomes(record_path), parts_of(folder, words, unfit)
    outcomes = {part.name: earlier[part.name] for part in parts if part.name in earlier}
    for outcome in run_parts(parts, skip, earlier):
        outcomes[outcome.name] = outcome
        # After each part, so that a run that is interrupted can go on from there.
        record["parts"] = [asdict(outcomes[p.name]) for p in parts if p.name in outcomes]
        facts = [
            f"# Evidence for {checkpoint.name}",
            f"`{record['command']}`",
            f"{circumstances(record)}; checkpoint SHA-256 `{loaded.sha256}`.",
            table(
                ["part", "outcome", "made", "seconds", "why"],
                [
                    [e["name"], e["outcome"], e["date"], str(e["seconds"] or ""), e["why"]]
                    for e in record["parts"]
                ],
            ),
        ]
        write_record(record_path, "paper", record, "\n\n".join(facts))
    made = {e.name for e in outcomes.values() if e.outcome in ("done", "not passed")}
    stale = {part.output.name for part in parts if part.name not in made}
    title = f"{TITLE}: {description.architecture.name}"
    for problem in write_page(folder, page_path, title, stale):
        fail(problem)
    echo(f"written: {page_path}")
    wrong = [each for each in outcomes.values() if each.outcome in ("failed", "not passed")]
    return FAILED if wrong else OK
