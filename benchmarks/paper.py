"""``cxrseg-bench paper``: all of the paper's evidence, for one checkpoint, in one command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click

from cxrseg.benchmarks.accuracy.accuracy import Options as AccuracyOptions
from cxrseg.benchmarks.accuracy.accuracy import accuracy
from cxrseg.benchmarks.accuracy.significance import Options as SignificanceOptions
from cxrseg.benchmarks.accuracy.significance import significance
from cxrseg.benchmarks.accuracy.ssim import Options as SsimOptions
from cxrseg.benchmarks.accuracy.ssim import ssim
from cxrseg.benchmarks.harness.options import RowOptions, SeedOptions, ThreadOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument, option, parameters
from cxrseg.benchmarks.harness.parts import (
    Outcome,
    Part,
    benchmark_part,
    read_outcomes,
    run_parts,
)
from cxrseg.benchmarks.harness.record import check_output, write_record
from cxrseg.benchmarks.harness.result import Result, Table
from cxrseg.benchmarks.harness.runner import circumstances_of
from cxrseg.benchmarks.harness.samples import csv_facts, read_samples
from cxrseg.benchmarks.quantization.compression import Options as CompressionOptions
from cxrseg.benchmarks.quantization.compression import compression
from cxrseg.benchmarks.quantization.error import Options as ErrorOptions
from cxrseg.benchmarks.quantization.error import quantization_error
from cxrseg.benchmarks.quantization.exports import card_of_export
from cxrseg.benchmarks.quantization.ranks import Options as RanksOptions
from cxrseg.benchmarks.quantization.ranks import ranks
from cxrseg.benchmarks.report.page import check_page, write_page
from cxrseg.benchmarks.report.sections import TITLE
from cxrseg.benchmarks.speed.latency import Options as LatencyOptions
from cxrseg.benchmarks.speed.latency import latency
from cxrseg.benchmarks.speed.roofline import Options as RooflineOptions
from cxrseg.benchmarks.speed.roofline import roofline
from cxrseg.export.options import ExportOptions
from cxrseg.export.pipeline import export
from cxrseg.runtime.files.atomic import prepare_folder
from cxrseg.runtime.terminal.console import FAILED, OK, echo, fail
from cxrseg.trainer.fit.checkpoint import MODEL, Loaded, load
from cxrseg.trainer.networks.unet import UNet

PAGE = "report.html"

PARTS = (
    *("export-int8", "export-fp32", "accuracy-int8", "accuracy-fp32", "significance", "ssim"),
    *("quantization-error", "ranks", "compression", "latency", "roofline"),
)
"""Names of the parts, in the order of making."""

LAYER_IMAGES = 8
"""Images whose layers' outputs are compared; each costs the outputs of all layers, twice."""

_MODEL = click.Path(exists=True, dir_okay=False, path_type=Path)

Precision = Literal["int8", "fp32"]


@dataclass(frozen=True)
class Options(RowOptions, ThreadOptions, SeedOptions):
    """What evidence is made of."""

    run: Path = argument(metavar="CHECKPOINT|RUN", type=PATH)
    data: Path = option("--data", metavar="CSV", type=PATH, help="Images with reference masks.")
    folder: Path = option(
        "-o",
        "--output",
        metavar="FOLDER",
        type=PATH,
        help="Where the files, the results and the page go; made if it is not there.",
    )
    int8: Path | None = option(
        "--int8",
        default=None,
        metavar="FILE.onnx",
        type=_MODEL,
        help="INT8 export of CHECKPOINT to measure.  [default: export it]",
    )
    fp32: Path | None = option(
        "--fp32",
        default=None,
        metavar="FILE.onnx",
        type=_MODEL,
        help="FP32 export of CHECKPOINT to measure.  [default: export it]",
    )
    baseline: Path | None = option(
        "--baseline",
        default=None,
        metavar="FILE.onnx",
        type=_MODEL,
        help="Model whose maps of similarity ours are compared with.  [default: the FP32 export]",
    )
    no_xrays: bool = option(
        "--no-xrays",
        default=False,
        is_flag=True,
        help="Draw no plot that shows X-rays, so that the page may be shown to anyone.",
    )
    skip: tuple[str, ...] = option(
        "--skip",
        default=(),
        multiple=True,
        metavar="PART",
        type=click.Choice(PARTS),
        help=f"Do not make a part; repeatable. Parts are {', '.join(PARTS)}.",
    )
    runs: int = option(
        "--runs",
        default=50,
        metavar="N",
        type=click.IntRange(1, 100_000),
        help="Inferences that are timed.",
    )

    @property
    def checkpoint(self) -> Path:
        """The checkpoint: that of the run, if a run was given."""
        return self.run / MODEL if self.run.is_dir() else self.run

    def model(self, precision: Precision) -> Path:
        """Return the model file of a precision, given or to be exported."""
        given: Path | None = getattr(self, precision)
        return given or self.folder / f"{precision}.onnx"


def parts_of(options: Options, loaded: Loaded) -> list[Part]:
    """Return the parts in the order of `PARTS`.

    Args:
        options: What was asked for.
        loaded: The checkpoint.
    """
    int8, fp32 = options.model("int8"), options.model("fp32")
    device: dict[str, Any] = {"device": "cpu", "threads": options.threads}
    timed: dict[str, Any] = {
        "runs": options.runs,
        "threads": options.threads,
        "seed": options.seed,
    }
    rows: dict[str, Any] = {
        name: getattr(options, name) for name in ("split", "where", "protocol", "limit")
    }
    seeded = {"data": options.data, **rows, "seed": options.seed}
    few = min(LAYER_IMAGES, options.limit or LAYER_IMAGES)
    scores = (options.folder / "accuracy-int8.json", options.folder / "accuracy-fp32.json")
    compared = options.baseline or fp32
    runs: dict[str, tuple[Any, Any]] = {
        "accuracy-int8": (accuracy, AccuracyOptions(model=int8, **seeded, **device)),
        "accuracy-fp32": (accuracy, AccuracyOptions(model=fp32, **seeded, **device)),
        "significance": (
            significance,
            SignificanceOptions(first=scores[0], second=scores[1], **seeded),
        ),
        "ssim": (
            ssim,
            SsimOptions(
                model=int8,
                baseline=compared,
                xrays=not options.no_xrays,
                **seeded,
                **device,
            ),
        ),
        "quantization-error": (
            quantization_error,
            ErrorOptions(
                model=int8,
                reference=fp32,
                images=options.data,
                threads=options.threads,
                seed=options.seed,
                **{**rows, "limit": few},
            ),
        ),
        "ranks": (ranks, RanksOptions(run=options.checkpoint)),
        "compression": (
            compression,
            CompressionOptions(checkpoint=options.checkpoint, files=(int8, fp32)),
        ),
        "latency": (latency, LatencyOptions(models=(int8, fp32), device="cpu", **timed)),
        "roofline": (roofline, RooflineOptions(models=(int8, fp32), **timed)),
    }
    unfit = _unfit(loaded)
    exports = [
        _export_part(name, options, unfit)
        for name in ("int8", "fp32")
        if not getattr(options, name)
    ]
    return [
        *exports,
        *(
            benchmark_part(name, what, chosen, options.folder / f"{name}.json", unfit.get(name, ""))
            for name, (what, chosen) in runs.items()
        ),
    ]


def _unfit(loaded: Loaded) -> dict[str, str]:
    """Return part -> why it does not apply to this checkpoint."""
    unfit = {}
    if isinstance(loaded.model, UNet):
        unfit["export-int8"] = "a U-Net is calibrated at export; give the INT8 file with --int8"
    elif loaded.description.quantization is None:
        unfit["export-int8"] = "the checkpoint is of stage 1, trained in float"
    if loaded.description.adapters is None:
        unfit["ranks"] = "the checkpoint has no adapters"
    return unfit


def _export_part(precision: Precision, options: Options, unfit: dict[str, str]) -> Part:
    name = f"export-{precision}"

    def make(path: Path) -> bool:
        export(options.checkpoint, path, ExportOptions(precision=precision))
        return True

    output = options.model(precision)
    return Part(name, output, make, [options.checkpoint, precision], (), unfit.get(name, ""))


def make_evidence(options: Options) -> int:
    """Make all of the paper's evidence for a checkpoint, and a page of it.

    CHECKPOINT is a model.ckpt of cxrseg-train after both stages; RUN is the folder of a run.
    The checkpoint is exported in INT8 and in FP32; then each benchmark runs as it would by itself
    and leaves its files in FOLDER, and report.html shows them all.

    A part that FOLDER already holds is kept where its inputs are the same; to make a part again
    delete its .json. A part that fails is reported, and the others go on. The exit code is 1 when a
    part failed or missed a limit.

    \b
    Examples
      cxrseg-bench paper runs/ward7 --data xrays.csv -o runs/ward7/paper
      cxrseg-bench paper model.ckpt --int8 ward7.onnx --data xrays.csv -o paper --skip latency
    """
    samples = read_samples(options.data, options)
    loaded = load(options.checkpoint)
    for path in (options.int8, options.fp32):
        if path is not None:
            card_of_export(path, loaded.sha256)
    prepare_folder(options.folder)
    record_path, page_path = options.folder / "paper.json", options.folder / PAGE
    check_output(record_path)
    check_page(page_path)

    facts = circumstances_of("paper", options)
    data = {
        "checkpoint": {
            "file": options.checkpoint.name,
            "sha256": loaded.sha256,
            "model": loaded.description.architecture.name,
            "method": loaded.description.method,
            "stage": loaded.description.stage,
        },
        "dataset": csv_facts(options.data, options, len(samples)),
    }
    parts, earlier = parts_of(options, loaded), read_outcomes(record_path)
    outcomes = {part.name: earlier[part.name] for part in parts if part.name in earlier}
    for outcome in run_parts(parts, options.skip, earlier):
        outcomes[outcome.name] = outcome
        # After each part, so that a run that is interrupted can go on from there.
        ordered = [outcomes[part.name] for part in parts if part.name in outcomes]
        write_record(record_path, facts, _result(options, data, ordered))
    made = {o.name for o in outcomes.values() if o.outcome in ("done", "not passed")}
    stale = {part.output.name for part in parts if part.name not in made}
    title = f"{TITLE}: {loaded.description.architecture.name}"
    for problem in write_page(options.folder, page_path, title, stale):
        fail(problem)
    echo(f"written: {page_path}")
    wrong = [o for o in outcomes.values() if o.outcome in ("failed", "not passed")]
    return FAILED if wrong else OK


def _result(options: Options, data: dict[str, Any], outcomes: Sequence[Outcome]) -> Result:
    rows = [[o.name, o.outcome, o.date, str(o.seconds or ""), o.why] for o in outcomes]
    return Result(
        title=f"Evidence for {options.checkpoint.name}",
        data={**data, "parts": [asdict(outcome) for outcome in outcomes]},
        tables=[Table(["part", "outcome", "made", "seconds", "why"], rows)],
    )


def _called(**values: Any) -> int:
    return make_evidence(Options(**values))


paper = click.Command(
    "paper", params=[*parameters(Options)], callback=_called, help=make_evidence.__doc__
)
