"""``cxrseg-bench ssim``: where on the image the masks of one model are nearer to the truth.

It makes figure 2 of the paper, with a table over all images beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.legacy_figures import Drawing, blank, drawing, styled
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
    from cxrseg.benchmarks.accuracy.similarity import Maps, Similarity

FIGURE = "maps"

DEFINITIONS = (
    "SSIM (Wang et al. 2004: Gaussian window of 11 px, sigma 1.5 px) of the mask of both lungs with"
    " the reference mask, at the size of each image, at most 512 px a side; mean over the image,"
    " then over images. Where both masks are empty it is 1, so that the background lifts it: the"
    " difference tells more than the level. CI: bootstrap over patients."
)

_DIGITS = 6
_PATH = click.Path(path_type=Path)


def summarize(found: Sequence[Similarity], by: str | None, seed: int) -> dict[str, dict[str, Any]]:
    """Return the figures per group, and last over all images, as plain data.

    Args:
        found: The images, at least one.
        by: Name of the grouping column; None = no groups.
        seed: Seed of the bootstrap.
    """
    import numpy as np

    from cxrseg.benchmarks.accuracy.intervals import bootstrap_interval
    from cxrseg.benchmarks.accuracy.summary import ALL

    groups: dict[str, list[Similarity]] = {}
    for each in sorted(found, key=lambda each: each.group) if by else ():
        groups.setdefault(f"{by} {each.group}", []).append(each)
    groups[ALL] = list(found)
    figures = {}
    for name, members in groups.items():
        differences = [each.difference for each in members]
        patients = [each.case.patient for each in members]
        interval = bootstrap_interval(differences, patients, seed)
        figures[name] = {
            "images": len(members),
            "patients": len(set(patients)),
            "ours": round(float(np.mean([each.ours for each in members])), _DIGITS),
            "baseline": round(float(np.mean([each.baseline for each in members])), _DIGITS),
            "difference": round(float(np.mean(differences)), _DIGITS),
            "ci95": interval and [round(bound, _DIGITS) for bound in interval],
            "better": sum(each > 0 for each in differences),
            "worse": sum(each < 0 for each in differences),
        }
    return figures


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures of `summarize` as an aligned Markdown table."""
    from cxrseg.benchmarks.harness.legacy_record import table

    rows = [
        [
            name,
            str(each["images"]),
            str(each["patients"]),
            f"{each['ours']:.4f}",
            f"{each['baseline']:.4f}",
            f"{each['difference']:+.5f}",
            "-" if each["ci95"] is None else "{:+.5f} to {:+.5f}".format(*each["ci95"]),
            str(each["better"]),
            str(each["worse"]),
        ]
        for name, each in figures.items()
    ]
    header = ["SSIM, images of", "n", "patients", "ours", "baseline", "difference", "95 % CI"]
    return table([*header, "better", "worse"], rows)


def chosen(found: Sequence[Similarity], count: int) -> list[Similarity]:
    """Return images spread evenly over the ranks of the difference, from best to worst.

    Both ends are among them where `count` is 2 or more; a single one is the median.
    """
    ranked = sorted(found, key=lambda each: (-each.difference, each.case.name))
    if count == 1:
        return [ranked[(len(ranked) - 1) // 2]]
    count = min(count, len(ranked))
    return [ranked[round(i * (len(ranked) - 1) / max(1, count - 1))] for i in range(count)]


@styled
def draw(rows: Sequence[tuple[Similarity, Maps]], names: tuple[str, str]) -> Drawing:
    """Draw images with the maps of both models and their difference, one row each.

    Args:
        rows: The images, at least one.
        names: Names of our model and of the baseline.
    """
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    titles = ("input", "ground truth", f"SSIM of\n{names[1]}", f"SSIM of\n{names[0]}", "difference")
    colors = LinearSegmentedColormap.from_list("better", ["#c00000", "#ffffff", "#008000"])
    figure, axes = blank(10, 2.1 * len(rows) + 1, len(rows), len(titles))
    largest = max(1e-3, *(float(np.abs(maps.ours - maps.baseline).max()) for _, maps in rows))
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
    similar = {"cmap": "viridis", "vmin": 0, "vmax": 1}
    # A single pixel must not fade all others.
    change = {"cmap": colors, "vmin": -min(largest, 0.5), "vmax": min(largest, 0.5)}
    for line, (each, maps) in zip(axes, rows, strict=True):
        planes = (
            (maps.radiograph, gray),
            (maps.truth, gray),
            (maps.baseline, similar),
            (maps.ours, similar),
            (maps.ours - maps.baseline, change),
        )
        images = []
        for axis, (plane, look) in zip(line, planes, strict=True):
            images.append(axis.imshow(plane, **look, interpolation="nearest"))
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        if 0 < maps.truth.mean() < 1:
            line[4].contour(maps.truth, levels=[0.5], colors="#b0b0b0", linewidths=0.4)
        line[2].set_xlabel(f"mean {each.baseline:.4f}")
        line[3].set_xlabel(f"mean {each.ours:.4f}")
        line[4].set_xlabel(f"mean {each.difference:+.5f}")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    for column, shared in ((3, axes[:, 2:4]), (4, axes[:, 4])):
        figure.colorbar(images[column], ax=shared, location="bottom", aspect=30, pad=0.01)
    return drawing(
        figure,
        "Structural similarity with the reference mask, around each pixel, and its difference:"
        f" green where {names[0]} is nearer to the reference than {names[1]}, red where it is"
        " farther. Images spread evenly from the largest gain to the largest loss.",
        shows_patients=True,
    )


@click.command("ssim")
@click.argument("model", type=_PATH)
@click.argument("baseline", type=_PATH)
@data_option
@split_option
@where_option
@by_option
@protocol_option
@output_option
@click.option(
    "--figure",
    is_flag=True,
    help="With -o: also draw maps, as FILE-maps.png and .svg. They show images of patients: store"
    " them like those.",
)
@click.option(
    "--rows",
    default=4,
    show_default=True,
    metavar="N",
    type=click.IntRange(1, 50),
    help="Images in the figure, from the largest gain to the largest loss.",
)
@device_option
@threads_option
@limit_option
@seed_option
@click.pass_context
def command(
    context: click.Context,
    model: Path,
    baseline: Path,
    data: Path,
    split: str,
    where: tuple[str, ...],
    by: str | None,
    protocol: Protocol,
    output: Path | None,
    figure: bool,
    rows: int,
    device: str,
    threads: int | None,
    limit: int | None,
    seed: int,
) -> None:
    """Compare two models by the structural similarity of their masks with the truth.

    MODEL and BASELINE are files written by cxrseg-export. SSIM weighs form: it falls where an
    outline runs differently, around that place alone. A map of it tells where one model is nearer
    to the reference mask than the other.

    \b
    Examples
      cxrseg-bench ssim ward7.onnx decoder-only.onnx --data pairs.csv
      cxrseg-bench ssim int8.onnx fp32.onnx --data pairs.csv -o ssim.json --figure
    """
    require_bench("ssim")
    from cxrseg.benchmarks.accuracy.similarity import maps_of, similarities
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        circumstances,
        command_line,
        csv_facts,
        environment,
        model_facts,
        now,
        write_record,
        written,
    )
    from cxrseg.benchmarks.harness.legacy_samples import grouping, read_cases
    from cxrseg.runtime.segmenter import Segmenter

    if figure and output is None:
        raise click.UsageError("--figure needs -o")
    if output is not None:
        check_output(output, [FIGURE] if figure else [])
    cases = read_cases(data, split, columns_and_values(where), protocol, limit)
    by = grouping(cases, by, data)
    models = [Segmenter(path, device, threads, protocol) for path in (model, baseline)]

    date = now()
    found = list(watched(similarities(models[0], models[1], cases, by), len(cases)))
    figures = summarize(found, by, seed)
    title = f"{model.name} against {baseline.name} on {data.name}, split {split}"
    page = table(figures)
    for line in f"{title}\n\n{page}".split("\n"):
        echo(line)
    if output is None:
        return
    drawn = {}
    if figure:
        shown = [(e, maps_of(models[0], models[1], e.case)) for e in chosen(found, rows)]
        drawn[FIGURE] = draw(shown, (model.name, baseline.name))
    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment("scikit-image"),
        "models": [model_facts(each.path, each.model) for each in models],
        "settings": {"protocol": protocol, "provider": models[0].model.provider},
        "data": csv_facts(data, split, where, limit, len(cases)),
        "seed": seed,
        "definitions": DEFINITIONS,
        "groups": figures,
        "images": [
            {
                "image": each.case.name,
                **({by: each.group} if by else {}),
                "ours": round(each.ours, _DIGITS),
                "baseline": round(each.baseline, _DIGITS),
            }
            for each in found
        ],
    }
    facts = [
        f"# SSIM: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; bootstrap seed {seed}.",
        DEFINITIONS,
        page,
    ]
    write_record(output, "ssim", record, "\n\n".join(facts), drawn)
    echo(written(output, drawn))
