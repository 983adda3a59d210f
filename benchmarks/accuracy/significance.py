"""``cxrseg-bench significance``: does INT8 change Dice, and if not, is it shown to be equal?"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.legacy_figures import BLUE, GREEN, Drawing, blank, drawing, styled
from cxrseg.benchmarks.harness.legacy_options import (
    by_option,
    columns_and_values,
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
from cxrseg.benchmarks.harness.record import images_file
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Protocol
from cxrseg.runtime.terminal.console import echo, watched

if TYPE_CHECKING:
    from cxrseg.benchmarks.accuracy.paired import Comparison
    from cxrseg.benchmarks.harness.legacy_samples import Case

ALL = "all"
"""Name of the group that holds every image."""

FIGURE = "differences"

MAX_RECORD_BYTES = 200_000_000
"""Largest result file that is read."""

DEFINITIONS = (
    "Dice of both lungs together at the size of each image; differences are the first model minus"
    " the second. CI: bootstrap over patients. Wilcoxon: signed-rank test over images, two-sided,"
    " zero differences left out; Holm: corrected for the number of groups. r: matched-pairs"
    " rank-biserial correlation, from -1 (the second model scores higher on every image) to 1."
    " TOST: two one-sided t tests on the mean difference of each patient; a small p shows that the"
    " mean difference lies within the margin. Equivalent: TOST p below 0.05 and the 90 % interval"
    " inside the margin. Without a significant difference and without equivalence the images are"
    " too few to tell: undecided."
)

_PATH = click.Path(path_type=Path)
_RECORD = ".json"


@dataclass(frozen=True)
class Item:
    """What is known of an image beside its scores.

    Attributes:
        image: Its name.
        patient: Its patient, or its name where patients are not known.
        group: Its group; empty without groups.
    """

    image: str
    patient: str
    group: str


def read_record(path: Path) -> dict[str, Any]:
    """Read a result of ``cxrseg-bench accuracy``.

    Raises:
        CxrsegError: It is missing, or no such result.
    """
    remedy = "give a file that cxrseg-bench accuracy -o wrote"
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise CxrsegError(path, "is too large for a result", remedy)
        record = json.loads(path.read_bytes())
        if record["benchmark"] != "accuracy":
            raise ValueError(f"a result of {record['benchmark']}")
        images = json.loads(images_file(path).read_bytes())["images"]
        for each in images:
            if not isinstance(each["image"], str) or not 0 <= float(each["dice"]) <= 1:
                raise ValueError("an image without name or Dice")
        told = record["data"]
        return {
            "images": images,
            "model": told["model"],
            "settings": dict(told["settings"]),
            "data": dict(told["dataset"]),
        }
    except OSError as error:
        raise CxrsegError(path, f"cannot be read ({error.strerror})", "check the path") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CxrsegError(path, f"is no accuracy result ({error})", remedy) from error


def items_of(
    record: Mapping[str, Any], by: str | None, path: Path
) -> tuple[list[Item], str | None]:
    """Return the images of a result, and the column that groups them.

    Raises:
        CxrsegError: The result has no groups by `by`.
    """
    images = record["images"]
    if by is None:
        by = "source" if images and "source" in images[0] else None
    if by is not None and not all(by in each for each in images):
        raise CxrsegError(path, f"has no groups by {by!r}", "name another --by, or give --data")
    items = [
        Item(each["image"], each["image"], str(each[by]) if by is not None else "")
        for each in images
    ]
    return items, by


def recorded_scores(path: Path, record: Mapping[str, Any], items: Sequence[Item]) -> list[float]:
    """Return the Dice of each image from a result.

    Raises:
        CxrsegError: The result lacks an image.
    """
    dice = {each["image"]: float(each["dice"]) for each in record["images"]}
    for item in items:
        if item.image not in dice:
            cause = f"lacks the image {item.image}"
            raise CxrsegError(path, cause, "take both results on the same images")
    return [dice[item.image] for item in items]


@dataclass(frozen=True)
class Pair:
    """Both scores of an image: of the first model and of the second."""

    item: Item
    first: float
    second: float


def compare_groups(
    pairs: Sequence[Pair], by: str | None, margin: float, seed: int
) -> dict[str, Comparison]:
    """Compare paired scores per group, with Holm's correction, and last over all images.

    Args:
        pairs: The images, at least one.
        by: Name of the grouping column; None = no groups.
        margin: Margin of equivalence.
        seed: Seed of the bootstrap.

    Returns:
        ``column value`` -> comparison, and `ALL`.
    """
    from cxrseg.benchmarks.accuracy.paired import compare, holm

    def over(chosen: Sequence[Pair]) -> Comparison:
        first, second = [each.first for each in chosen], [each.second for each in chosen]
        return compare(first, second, [each.item.patient for each in chosen], margin, seed)

    found: dict[str, Comparison] = {}
    for group in sorted({each.item.group for each in pairs}) if by is not None else ():
        found[f"{by} {group}"] = over([each for each in pairs if each.item.group == group])
    corrected = holm([each.wilcoxon_p for each in found.values()])
    found = {
        name: replace(each, holm_p=p)
        for (name, each), p in zip(found.items(), corrected, strict=True)
    }
    return {**found, ALL: over(pairs)}


def table(found: Mapping[str, Comparison]) -> str:
    """Return the comparisons as an aligned Markdown table."""
    from cxrseg.benchmarks.harness.legacy_record import table

    header = ["images of", "n", "patients", "first", "second", "difference", "95 % CI"]
    header += ["better", "worse", "Wilcoxon p", "Holm p", "r", "TOST p", "verdict"]
    rows = [
        [
            name,
            str(each.images),
            str(each.patients),
            f"{each.first:.4f}",
            f"{each.second:.4f}",
            f"{each.difference:+.5f}",
            "-" if each.ci95 is None else f"{each.ci95[0]:+.5f} to {each.ci95[1]:+.5f}",
            str(each.better),
            str(each.worse),
            _p(each.wilcoxon_p),
            "-" if each.holm_p is None else _p(each.holm_p),
            f"{each.rank_biserial:+.2f}",
            "-" if each.tost_p is None else _p(each.tost_p),
            each.verdict,
        ]
        for name, each in found.items()
    ]
    return table(header, rows)


def _p(value: float) -> str:
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


@styled
def draw(
    pairs: Sequence[Pair], found: Mapping[str, Comparison], by: str | None, titles: tuple[str, str]
) -> Drawing:
    """Draw the difference of each image, per group, with mean, interval and margin.

    Args:
        pairs: The images.
        found: The comparisons.
        by: Name of the grouping column.
        titles: Names of the two models.
    """
    import numpy as np
    from matplotlib.ticker import NullLocator

    figure, axes = blank(7, 1.2 + 0.6 * len(found))
    axis, rng = axes[0, 0], np.random.default_rng(0)
    margin = next(iter(found.values())).margin
    axis.axvspan(-margin, margin, color=GREEN, alpha=0.15, lw=0)
    axis.axvline(0, color="black", lw=0.6)
    for row, (name, each) in enumerate(found.items()):
        chosen = [p for p in pairs if name in (ALL, f"{by} {p.item.group}")]
        own = np.array([p.first - p.second for p in chosen])
        place = row + rng.uniform(-0.28, 0.28, len(own))
        axis.scatter(own, place, s=5, color=BLUE, alpha=0.35, lw=0, rasterized=True)
        low, high = each.ci95 or (each.difference, each.difference)
        axis.plot([low, high], [row, row], color="black", lw=2.5, solid_capstyle="butt")
        axis.plot(each.difference, row, "o", color="black", ms=4)
    axis.set_yticks(range(len(found)), [f"{n}\n{c.verdict}" for n, c in found.items()])
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set_xscale("symlog", linthresh=margin)
    largest = max(2 * margin, *(abs(p.first - p.second) for p in pairs))
    axis.set_xlim(-1.2 * largest, 1.2 * largest)
    ticks = [margin * 10**power for power in range(4) if margin * 10**power < largest]
    ticks = [*(-tick for tick in reversed(ticks)), 0, *ticks]
    axis.set_xticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(f"Dice, {titles[0]} minus {titles[1]}")
    return drawing(
        figure,
        f"Dice of {titles[0]} minus Dice of {titles[1]}: one dot per image, the mean with its 95 % "
        "interval in black, the margin of equivalence shaded. The scale is linear within the "
        "margin and logarithmic beyond.",
    )


@click.command("significance")
@click.argument("first", type=_PATH)
@click.argument("second", type=_PATH)
@click.option(
    "--data",
    metavar="CSV",
    type=_PATH,
    help="Columns image, mask, split and others; paths relative to the file. With two results of"
    " cxrseg-bench accuracy it may be left out; patients are then not known.",
)
@split_option
@where_option
@by_option
@protocol_option
@click.option(
    "--margin",
    default=0.005,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Mean difference of Dice below which two models count as equivalent.",
)
@output_option
@device_option
@threads_option
@limit_option
@seed_option
@click.pass_context
def command(
    context: click.Context,
    first: Path,
    second: Path,
    data: Path | None,
    split: str,
    where: tuple[str, ...],
    by: str | None,
    protocol: Protocol,
    margin: float,
    output: Path | None,
    device: str,
    threads: int | None,
    limit: int | None,
    seed: int,
) -> None:
    """Test whether two models score differently, and whether they are equivalent.

    FIRST and SECOND are files written by cxrseg-export, the INT8 and the FP32 one of a checkpoint,
    or results of cxrseg-bench accuracy (.json) on the same images. Dice is compared image by image:
    Wilcoxon's signed-rank test as in the paper, per source with Holm's correction, with its effect
    size; and, since a difference that is not significant is no proof of equality, two one-sided
    tests against a margin with the bootstrap interval of the mean difference over patients.

    With -o the differences are also drawn, as FILE-differences.png and .svg.

    \b
    Examples
      cxrseg-bench significance int8.onnx fp32.onnx --data pairs.csv -o significance.json
      cxrseg-bench significance accuracy-int8.json accuracy-fp32.json --data pairs.csv
    """
    require_bench("significance")
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        circumstances,
        command_line,
        csv_facts,
        environment,
        now,
        write_record,
        written,
    )
    from cxrseg.benchmarks.harness.legacy_samples import grouping, read_cases

    if output is not None:
        check_output(output, [FIGURE])
    records = {path: read_record(path) for path in (first, second) if path.suffix == _RECORD}
    _check_same(records, split, protocol)
    cases: list[Case] = []
    if data is not None:
        cases = read_cases(data, split, columns_and_values(where), protocol, limit)
        by = grouping(cases, by, data)
        items = [Item(c.name, c.patient, c.row[by] if by else "") for c in cases]
    elif len({first, second} & set(records)) < len({first, second}):
        raise click.UsageError("a model needs images to run on: give --data")
    elif where or limit:
        raise click.UsageError("--where and --limit choose rows of --data")
    else:
        items, by = items_of(records[first], by, first)
        if {item.image for item in items} != {e["image"] for e in records[second]["images"]}:
            cause = f"holds other images than {first.name}"
            raise CxrsegError(second, cause, "take both results on the same images")
    if not items:
        raise CxrsegError(first, "holds no image", "take it again")

    date = now()
    scores: list[list[float]] = []
    models = []
    for path in (first, second):
        if path in records:
            scores.append(recorded_scores(path, records[path], items))
            model = records[path].get("model")
            models.append({"result": path.name, **(model if isinstance(model, dict) else {})})
        else:
            values, model = run(path, cases, device, threads, protocol)
            scores.append(values)
            models.append(model)
    titles = (first.name, second.name)
    pairs = [Pair(*each) for each in zip(items, *scores, strict=True)]
    found = compare_groups(pairs, by, margin, seed)
    title = f"{titles[0]} against {titles[1]}, {len(pairs)} images, margin {margin:g}"
    page = table(found)
    for line in f"{title}\n\n{page}".split("\n"):
        echo(line)
    if output is None:
        return
    figures = {FIGURE: draw(pairs, found, by, titles)}
    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment("scipy"),
        "models": models,
        "settings": {"protocol": protocol, "split": split, "margin": margin},
        "data": None if data is None else csv_facts(data, split, where, limit, len(pairs)),
        "seed": seed,
        "definitions": DEFINITIONS,
        "groups": {name: {**asdict(each), "verdict": each.verdict} for name, each in found.items()},
    }
    facts = [
        f"# Significance: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; bootstrap seed {seed}.",
        DEFINITIONS,
        page,
    ]
    write_record(output, "significance", record, "\n\n".join(facts), figures)
    echo(written(output, figures))


def _check_same(records: Mapping[Path, Mapping[str, Any]], split: str, protocol: str) -> None:
    """Refuse results of another split or protocol than asked for.

    Raises:
        CxrsegError: There is such a result.
    """
    wanted: list[tuple[str, str, Callable[[Mapping[str, Any]], object]]] = [
        ("split", split, lambda record: record["data"].get("split")),
        ("protocol", protocol, lambda record: record["settings"].get("protocol")),
    ]
    for path, record in records.items():
        for name, value, get in wanted:
            if get(record) != value:
                cause = f"was measured with --{name} {get(record)}, not {value}"
                raise CxrsegError(path, cause, f"give --{name} {get(record)}")


def run(
    path: Path, cases: Sequence[Case], device: str, threads: int | None, protocol: Protocol
) -> tuple[list[float], dict[str, Any]]:
    """Score a model on images with the code of ``accuracy``.

    Returns:
        Dice of both lungs together for each case, and what the record tells of the model.

    Raises:
        CxrsegError: The model cannot be loaded, or an image not be read.
    """
    from cxrseg.benchmarks.accuracy.scoring import score
    from cxrseg.benchmarks.harness.legacy_record import model_facts
    from cxrseg.runtime.segmenter import Segmenter

    segmenter = Segmenter(path, device, threads, protocol)
    echo(f"cxrseg-bench: {path.name} on {len(cases)} images ...", err=True)
    values = [each.union.dice for each in watched(score(segmenter, cases), len(cases))]
    return values, model_facts(segmenter.path, segmenter.model)
