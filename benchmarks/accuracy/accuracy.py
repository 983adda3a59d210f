"""``cxrseg-bench accuracy``: agreement of a model's masks with reference masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cxrseg.benchmarks.harness.legacy_options import (
    by_option,
    columns_and_values,
    data_option,
    device_option,
    limit_option,
    output_option,
    protocol_option,
    seed_option,
    split_option,
    threads_option,
    where_option,
)
from cxrseg.runtime.core.labels import Protocol
from cxrseg.runtime.terminal.console import echo, watched

_PATH = click.Path(path_type=Path)


@click.command("accuracy")
@click.argument("model", required=False, type=_PATH)
@data_option
@split_option
@where_option
@by_option
@protocol_option
@output_option
@click.option(
    "--picture",
    metavar="FILE.png",
    type=_PATH,
    help="Draw the ten images of the lowest Dice there, with the outlines of model and"
    " reference. It shows images of patients: store it like them.",
)
@device_option
@threads_option
@limit_option
@seed_option
@click.pass_context
def command(
    context: click.Context,
    model: Path | None,
    data: Path,
    split: str,
    where: tuple[str, ...],
    by: str | None,
    protocol: Protocol,
    output: Path | None,
    picture: Path | None,
    device: str,
    threads: int | None,
    limit: int | None,
    seed: int,
) -> None:
    """Compare a model's lungs with reference masks.

    MODEL is a file written by cxrseg-export; by default the one that ships with cxrseg. Overlap
    (Dice, intersection over union, surface Dice) and surface distances (HD95, ASSD) are taken at
    the size of each image, of both lungs together and, where the reference tells sides, of each
    lung. Intervals are drawn over patients (column patient), or over images without such a
    column.

    Masks are gray images of 0 and 255, or label maps of 0, 1 (right lung) and 2 (left lung).
    Sides are known of label maps, of masks with files of the same name in sibling folders like
    masks_right and masks_left, and of masks that fall into two parts. Right and left are the
    patient's.

    \b
    Rows of the split external are evaluated with --split external alone.

    \b
    Examples
      cxrseg-bench accuracy --data pairs.csv
      cxrseg-bench accuracy model.onnx --data pairs.csv --where source=shenzhen -o accuracy.json
    """
    # Imported here, so that --help answers at once.
    from cxrseg.benchmarks.accuracy.accuracy_report import (
        DEFINITIONS,
        lungs_table,
        markdown,
        plain_scores,
        sides_text,
        union_table,
        worst_table,
    )
    from cxrseg.benchmarks.accuracy.picture import check_picture, picture_png
    from cxrseg.benchmarks.accuracy.scoring import score
    from cxrseg.benchmarks.accuracy.summary import summaries, worst
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        command_line,
        csv_facts,
        environment,
        model_facts,
        now,
        write_record,
    )
    from cxrseg.benchmarks.harness.legacy_samples import grouping, read_cases
    from cxrseg.runtime.core.atomic import write_together
    from cxrseg.runtime.inference.session import default_threads
    from cxrseg.runtime.segmenter import Segmenter

    cases = read_cases(data, split, columns_and_values(where), protocol, limit)
    by = grouping(cases, by, data)
    if output is not None:
        check_output(output)
    if picture is not None:
        check_picture(picture)
    segmenter = Segmenter(model, device, threads, protocol)

    date = now()
    scores = list(watched(score(segmenter, cases, by), len(cases)))
    figures = summaries(scores, by, seed)
    loaded = segmenter.model
    title = f"{segmenter.path.name} on {data.name}, split {split}"
    tables = [union_table(figures), lungs_table(figures), sides_text(scores), worst_table(scores)]
    parts = [part for part in tables if part]
    for line in "\n\n".join([title, *parts]).split("\n"):
        echo(line)
    if output is not None:
        record: dict[str, Any] = {
            "command": command_line(context),
            "date": date,
            **environment(),
            "model": model_facts(segmenter.path, loaded),
            "settings": {
                "provider": loaded.provider,
                "threads": threads or default_threads(),
                "protocol": protocol,
            },
            "data": csv_facts(data, split, where, limit, len(scores)),
            "seed": seed,
            "definitions": DEFINITIONS,
            **plain_scores(scores, figures, by),
        }
        write_record(output, "accuracy", record, markdown(title, record, parts))
        echo(f"written: {output}, {output.with_suffix('.md')}")
    if picture is not None:
        chosen = [(scores[i], cases[i]) for i in worst(scores)]
        write_together({picture: picture_png(segmenter, chosen)})
        echo(f"written: {picture} (shows images of patients)")
