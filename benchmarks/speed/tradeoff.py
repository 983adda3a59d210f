"""``cxrseg-bench tradeoff``: Dice of several models against their latency, to choose one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.legacy_options import (
    by_option,
    columns_and_values,
    data_option,
    device_option,
    limit_option,
    output_option,
    protocol_option,
    require_bench,
    seed_option,
    split_option,
    threads_option,
    where_option,
)
from cxrseg.runtime.core.labels import Protocol
from cxrseg.runtime.terminal.console import echo, watched

if TYPE_CHECKING:
    from cxrseg.benchmarks.harness.legacy_figures import Drawing

FIGURE = "latency"
"""Name of the figure."""

WARMUP = 5
"""Inferences of each model that do not count."""

_PATH = click.Path(path_type=Path)


def table_of(models: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures as an aligned Markdown table: Dice over all images and per group."""
    from cxrseg.benchmarks.accuracy.summary import ALL
    from cxrseg.benchmarks.harness.legacy_record import table

    groups = list(models[0]["dice"])
    rows = [
        [
            each["title"],
            str(each["input"][-1]),
            f"{each['size_bytes'] / 1e6:.2f}",
            f"{each['latency_ms']:.2f}",
            f"{each['relative_latency']:.2f}",
            *(f"{each['dice'][group]['mean']:.4f}" for group in groups),
            f"{each['dice'][ALL]['p5']:.4f}",
        ]
        for each in models
    ]
    header = ["model", "px", "MB", "latency ms", "rel.", *(f"Dice, {name}" for name in groups)]
    return table([*header, f"5th pct., {ALL}"], rows)


def draw(models: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw mean Dice over latency, a line per group of images and a point per model."""
    from cxrseg.benchmarks.harness.legacy_figures import (
        BLUE,
        GRAY,
        GREEN,
        ORANGE,
        RED,
        blank,
        drawing,
        styled,
    )

    @styled
    def plot() -> Drawing:
        figure, axes = blank(6, 3.8)
        (axis,) = axes[0]
        ordered = sorted(models, key=lambda each: float(each["latency_ms"]))
        times = [each["latency_ms"] for each in ordered]
        groups = list(ordered[0]["dice"])
        for index, group in enumerate(groups):
            color = (BLUE, ORANGE, GREEN, RED, GRAY)[index % 5]
            spreads = [each["dice"][group] for each in ordered]
            axis.plot(times, [each["mean"] for each in spreads], "o-", color=color, label=group)
        for time, each in zip(times, ordered, strict=True):
            axis.annotate(
                f"{each['input'][-1]} px",
                (time, max(spread["mean"] for spread in each["dice"].values())),
                textcoords="offset points",
                xytext=(0, 6),
                ha="center",
            )
        axis.set_xlabel("latency of one inference, ms (median)")
        axis.set_ylabel("mean Dice")
        axis.margins(0.08, 0.15)
        axis.legend()
        return drawing(figure, "Mean Dice against the latency of the network, a point per model.")

    return plot()


@click.command("tradeoff")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=_PATH)
@data_option
@split_option
@where_option
@by_option
@protocol_option
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="Inferences of each model that are timed.",
)
@output_option
@device_option
@threads_option
@limit_option
@seed_option
@click.pass_context
def command(
    context: click.Context,
    models: tuple[Path, ...],
    data: Path,
    split: str,
    where: tuple[str, ...],
    by: str | None,
    protocol: Protocol,
    runs: int,
    output: Path | None,
    device: str,
    threads: int | None,
    limit: int | None,
    seed: int,
) -> None:
    """Compare models by Dice and by latency, to choose one.

    Every MODEL segments the same images, as in accuracy; then all take turns, as in latency. Use
    a split that no figure is reported of (--split val): a choice is a decision.

    \b
    Example
      cxrseg-bench tradeoff 224.onnx 320.onnx --data pairs.csv --split val -o sizes.json
    """
    require_bench("tradeoff")
    # Imported here, so that --help answers at once.
    from cxrseg.benchmarks.accuracy.scoring import score
    from cxrseg.benchmarks.accuracy.summary import summaries
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        command_line,
        csv_facts,
        environment,
        model_facts,
        now,
        write_record,
        written,
    )
    from cxrseg.benchmarks.harness.legacy_samples import grouping, read_cases
    from cxrseg.benchmarks.speed.latency import interleaved, median, open_subjects, random_input
    from cxrseg.runtime.inference.session import default_threads
    from cxrseg.runtime.segmenter import Segmenter

    if output is not None:
        check_output(output, [FIGURE])
    cases = read_cases(data, split, columns_and_values(where), protocol, limit)
    by = grouping(cases, by, data)
    threads = threads or default_threads()
    subjects = open_subjects(models, device, threads)
    date = now()

    found: list[dict[str, Any]] = []
    for subject in subjects:
        segmenter = Segmenter(subject.path, device, threads, protocol)
        echo(f"{subject.title}: {len(cases)} images", err=True)
        figures = summaries(list(watched(score(segmenter, cases, by), len(cases))), by, seed)
        found.append(
            {
                "title": subject.title,
                **model_facts(subject.path, segmenter.model),
                "input": list(subject.shape),
                "size_bytes": subject.size,
                "dice": {group: each.to_dict()["dice"] for group, each in figures.items()},
            }
        )
    inputs = {each.shape: random_input(each.shape, seed) for each in subjects}
    rounds = interleaved(
        [lambda each=each: each.infer(inputs[each.shape]) for each in subjects],  # type: ignore[misc]
        runs,
        WARMUP,
        seed,
    )
    for each, samples in zip(found, rounds.samples, strict=True):
        each["latency_ms"] = median(samples)
        each["relative_latency"] = round(each["latency_ms"] / found[0]["latency_ms"], 6)

    page = table_of(found)
    for line in page.split("\n"):
        echo(line)
    if output is None:
        return
    record = {
        "command": command_line(context),
        "date": date,
        **environment("matplotlib"),
        "settings": {
            "provider": subjects[0].provider,
            "threads": threads,
            "protocol": protocol,
            "runs": runs,
            "warmup": WARMUP,
        },
        "data": csv_facts(data, split, where, limit, len(cases)),
        "seed": seed,
        "models": found,
    }
    drawings = {FIGURE: draw(found)}
    write_record(output, "tradeoff", record, _markdown(record, page), drawings)
    echo(written(output, drawings))


def _markdown(record: Mapping[str, Any], page: str) -> str:
    from cxrseg.benchmarks.harness.legacy_record import circumstances

    settings, data = record["settings"], record["data"]
    return "\n\n".join(
        [
            f"# Tradeoff on {data['csv']}, split {data['split']}",
            f"`{record['command']}`",
            f"{circumstances(record)}; seed {record['seed']}.",
            f"Mean Dice over images. Latency: median of {settings['runs']} inferences of the "
            f"network alone in shuffled turns, {settings['provider']}, {settings['threads']} "
            "threads; rel.: divided by the first model's. 1 MB = 10^6 bytes.",
            page,
        ]
    )
