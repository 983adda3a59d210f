"""What is done for the table of methods: training, export, accuracy, box prompts, latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrseg.benchmarks.accuracy.accuracy import Options as AccuracyOptions
from cxrseg.benchmarks.accuracy.accuracy import accuracy
from cxrseg.benchmarks.harness.parts import Outcome, Part, benchmark_part
from cxrseg.benchmarks.methods.box_prompts import Options as BoxOptions
from cxrseg.benchmarks.methods.box_prompts import box_prompts
from cxrseg.benchmarks.methods.lines import is_done
from cxrseg.benchmarks.methods.options import Options, words
from cxrseg.benchmarks.methods.rows import Precision, Trial
from cxrseg.benchmarks.speed.latency import Options as LatencyOptions
from cxrseg.benchmarks.speed.latency import latency
from cxrseg.export.options import ExportOptions
from cxrseg.export.pipeline import export
from cxrseg.runtime.core.labels import Protocol
from cxrseg.trainer.fit.checkpoint import MODEL
from cxrseg.trainer.fit.run import is_started
from cxrseg.trainer.fit.stages import train

LATENCY = "latency.json"
"""Record of all files' latencies."""


def parts_of(options: Options, trials: Sequence[Trial]) -> list[Part]:
    """Return what there is to do before all files are timed: training, export, accuracy."""
    parts = [_training(trial) for trial in trials]
    if options.train_only:
        return parts
    asked = [trial for trial in trials if trial.row.name in words(options.rows)]
    for trial in asked:
        for precision in trial.row.precisions:
            parts.append(_export(trial, precision))
            parts += [_accuracy(options, trial, precision, x) for x in trial.protocols]
        if not (options.no_box or trial.row.is_unet):
            parts += [_box(options, trial, protocol) for protocol in trial.protocols]
    return parts


def latency_part(
    options: Options, trials: Sequence[Trial], outcomes: Mapping[str, Outcome]
) -> Part:
    """Return the part that times all files of the first seed that were exported, in turn."""
    files = [
        trial.file(precision)
        for trial in trials
        for precision in trial.row.precisions
        if trial.seed == trials[0].seed and is_done(f"{trial.name}: export {precision}", outcomes)
    ]
    chosen = LatencyOptions(
        models=tuple(files),
        device="cpu",
        threads=options.threads,
        runs=options.runs,
        seed=options.seed,
    )
    unfit = "" if files else "no file was exported"
    return benchmark_part("latency", latency, chosen, options.folder / LATENCY, unfit)


def _training(trial: Trial) -> Part:
    run = trial.run

    def make(path: Path) -> bool:
        if not path.is_file():
            train(run, resume=is_started(run))
        return True

    starts = [x for x in (run.checkpoint, *run.data) if x is not None]
    settings = run.recipe.model_dump_json()
    return Part(f"{trial.name}: train", run.output / MODEL, make, [settings, *starts])


def _export(trial: Trial, precision: Precision) -> Part:
    checkpoint = trial.run.output / MODEL

    def make(path: Path) -> bool:
        ranges = trial.run.data[0] if trial.row.is_unet and precision == "int8" else None
        export(checkpoint, path, ExportOptions(precision=precision, calibration_images=ranges))
        return True

    name = f"{trial.name}: export {precision}"
    return Part(name, trial.file(precision), make, [checkpoint, precision, *trial.run.data])


def _measured_on(options: Options, protocol: Protocol) -> dict[str, Any]:
    return {
        "data": options.test,
        "protocol": protocol,
        "limit": options.limit,
        "seed": options.seed,
    }


def _accuracy(options: Options, trial: Trial, precision: Precision, protocol: Protocol) -> Part:
    chosen = AccuracyOptions(
        model=trial.file(precision),
        device="cpu",
        threads=options.threads,
        **_measured_on(options, protocol),
    )
    name = f"{trial.name}: accuracy {precision} {protocol}"
    return benchmark_part(name, accuracy, chosen, trial.record(precision, protocol))


def _box(options: Options, trial: Trial, protocol: Protocol) -> Part:
    chosen = BoxOptions(
        model=trial.file(trial.row.precisions[0]),
        checkpoint=trial.run.output / MODEL,
        **_measured_on(options, protocol),
    )
    name = f"{trial.name}: box {protocol}"
    return benchmark_part(name, box_prompts, chosen, trial.record("box", protocol))
