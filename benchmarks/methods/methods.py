"""``cxrseg-bench methods``: ways to train, on the same images and for as long, in one table.

Each row is a recipe that goes through the product's own training, export, accuracy and latency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from cxrseg.benchmarks.harness.options import RowOptions
from cxrseg.benchmarks.harness.parameters import parameters
from cxrseg.benchmarks.harness.parts import Outcome, Part, digest, read_outcomes, run_parts
from cxrseg.benchmarks.harness.record import check_output, write_record
from cxrseg.benchmarks.harness.result import Result
from cxrseg.benchmarks.harness.runner import circumstances_of
from cxrseg.benchmarks.harness.samples import read_samples
from cxrseg.benchmarks.methods.lines import lines_of
from cxrseg.benchmarks.methods.options import Options, trials_of, words
from cxrseg.benchmarks.methods.rows import Trial
from cxrseg.benchmarks.methods.steps import LATENCY, latency_part, parts_of
from cxrseg.benchmarks.methods.tables import DEFINITIONS, PLOT, draw, tables
from cxrseg.runtime.files.atomic import prepare_folder
from cxrseg.runtime.terminal.console import FAILED, OK, echo

RESULT = "methods.json"


def compare_methods(options: Options) -> int:
    """Train in several ways on the same images, and compare accuracy, size and latency.

    DATA is as cxrseg-train takes it: folders and CSV files. Every row is trained on its training
    images for as long as its recipe says, exported, and measured on the test images of --test.
    adalora-qat and adalora-ptq go on from adalora; adalora-qat sees the images of stage2 besides.

    \b
    Rows
      full          SAM, every weight, FP32
      decoder       SAM, mask decoder and prompt encoder alone, FP32
      lora          SAM, low-rank adapters of one fixed rank, and decoder, FP32
      adalora       SAM, the same with one budget of ranks that is spent where it matters, FP32
      adalora-ptq   adalora, calibrated to INT8 without training
      adalora-qat   adalora, trained on for INT8: the recipe's stage2
      unet-size     MONAI's U-Net of about the size of vit_t, FP32 and INT8
      unet-latency  MONAI's U-Net of about the latency of vit_t in INT8, FP32 and INT8

    Rows of the SAM start from --checkpoint, U-Nets from random weights or --start. Methods want
    different learning rates: give a row its own with --row-recipe, and keep the budget.

    Each row is a run of cxrseg-train in FOLDER/seed0/ROW. The same command goes on after Ctrl-C or
    a crash: it keeps what is trained, exported and measured. A row that fails is reported, and the
    others go on.

    \b
    Examples
      cxrseg-bench methods xrays.csv --test xrays.csv -o runs/methods --checkpoint base.ckpt \\
          --recipe vit_t-site
      cxrseg-bench methods pairs.csv --test pairs.csv -o runs/unet --rows unet-size \\
          --recipe long.yaml --train-only
    """
    trials = trials_of(options)
    if not options.train_only:
        for protocol in trials[0].protocols:
            read_samples(options.test, RowOptions(protocol=protocol, limit=options.limit))
    prepare_folder(options.folder)
    output = options.folder / RESULT
    check_output(output, [PLOT])
    facts = circumstances_of("methods", options)
    earlier, outcomes = read_outcomes(output), dict[str, Outcome]()

    def make(parts: Sequence[Part]) -> None:
        for outcome in run_parts(parts, (), earlier):
            outcomes[outcome.name] = outcome
            # After each part, so that a run that is interrupted can go on from there.
            write_record(output, facts, _result(options, trials, [], {**earlier, **outcomes}))

    make(parts_of(options, trials))
    if not options.train_only:
        make([latency_part(options, trials, outcomes)])
    asked = [trial for trial in trials if trial.row.name in words(options.rows)]
    lines = [] if options.train_only else lines_of(asked, outcomes, options.folder / LATENCY)
    result = _result(options, trials, lines, {**earlier, **outcomes})
    write_record(output, facts, result)
    for line in "\n\n".join(table.to_text() for table in result.tables).split("\n"):
        echo(line)
    echo(f"written: {output}")
    wrong = [outcome for outcome in outcomes.values() if outcome.outcome != "done"]
    return FAILED if wrong else OK


def _result(
    options: Options,
    trials: Sequence[Trial],
    lines: Sequence[dict[str, Any]],
    outcomes: Mapping[str, Outcome],
) -> Result:
    asked = [trial for trial in trials if trial.row.name in words(options.rows)]
    plots = [draw(lines)] if lines and all(line["latency_ms"] for line in lines) else []
    names = ", ".join(path.name for path in options.data)
    return Result(
        title=f"{len(asked)} ways to train on {names}, measured on {options.test.name}",
        data={
            "rows": list(lines),
            "recipes": {
                trial.row.name: trial.run.recipe.model_dump(mode="json") for trial in asked
            },
            "test_sha256": digest(options.test),
            "parts": [asdict(outcome) for outcome in outcomes.values()],
        },
        tables=tables(lines),
        plots=plots,
        definitions=DEFINITIONS,
    )


def _called(**values: Any) -> int:
    return compare_methods(Options(**values))


methods = click.Command(
    "methods",
    params=[*parameters(Options)],
    callback=_called,
    help=compare_methods.__doc__,
    no_args_is_help=True,
)
