"""``cxrseg-bench accuracy``: agreement of a model's masks with reference masks."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.options import (
    columns_and_values,
    limit_option,
    output_option,
    split_option,
    threads_option,
    where_option,
)
from cxrseg.runtime.console import echo
from cxrseg.runtime.devices import AUTO, DEVICES
from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.labels import PROTOCOLS, Protocol

if TYPE_CHECKING:
    from cxrseg.benchmarks.cases import Case
    from cxrseg.runtime.segmenter import Segmenter

WORST = 10
"""Number of images listed by name for their low Dice."""

ALL = "all"
"""Name of the group that holds every image."""

_DIGITS = 6
_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Score:
    """Agreement on one image.

    Attributes:
        image: Name of the image in the CSV.
        patient: Its patient, or the name of the image.
        group: Its value in the grouping column; empty without one.
        dice: Dice coefficient of the union of lungs at native size, in [0, 1].
        iou: Intersection over union of the same, in [0, 1].
        flags: Codes of the runtime's quality flags.
    """

    image: str
    patient: str
    group: str
    dice: float
    iou: float
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    """Distribution of one measure over images.

    Attributes:
        mean: Mean over images.
        sd: Sample standard deviation; 0 for one image.
        median: Median.
        p5: 5th percentile.
        ci95: Bootstrap interval of the mean over patients; None with fewer than two patients.
    """

    mean: float
    sd: float
    median: float
    p5: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Summary:
    """Figures of one group of images.

    Attributes:
        images: Number of images.
        patients: Number of patients.
        flagged: Number of images with a quality flag.
        dice: Distribution of the Dice coefficient.
        iou: Distribution of intersection over union.
    """

    images: int
    patients: int
    flagged: int
    dice: Spread
    iou: Spread


def score(segmenter: Segmenter, cases: Iterable[Case], by: str | None = None) -> Iterator[Score]:
    """Segment images and compare each with its reference mask at native size.

    Args:
        segmenter: The loaded model.
        cases: Images with masks.
        by: Column whose value becomes the group.

    Yields:
        One score per case, in order.

    Raises:
        CxrsegError: An image or mask cannot be read, or their sizes differ.
    """
    from cxrseg.benchmarks.metrics import dice, iou
    from cxrseg.trainer.data import read_mask

    for case in cases:
        result = segmenter.segment(case.image)
        lungs = result.mask != 0
        height, width = lungs.shape
        truth = read_mask(case.mask, (height, width)) != 0
        yield Score(
            image=case.name,
            patient=case.patient,
            group=case.row[by] if by else "",
            dice=dice(lungs, truth),
            iou=iou(lungs, truth),
            flags=tuple(flag.code for flag in result.flags),
        )


def summarize(scores: Sequence[Score], seed: int = 0) -> Summary:
    """Return the figures of a group of images.

    Args:
        scores: At least one.
        seed: Seed of the bootstrap.
    """
    patients = [each.patient for each in scores]
    return Summary(
        images=len(scores),
        patients=len(set(patients)),
        flagged=sum(bool(each.flags) for each in scores),
        dice=_spread([each.dice for each in scores], patients, seed),
        iou=_spread([each.iou for each in scores], patients, seed),
    )


def _spread(values: Sequence[float], patients: Sequence[str], seed: int) -> Spread:
    import numpy as np

    from cxrseg.benchmarks.metrics import bootstrap_interval

    interval = bootstrap_interval(values, patients, seed)
    return Spread(
        mean=round(float(np.mean(values)), _DIGITS),
        sd=round(float(np.std(values, ddof=1)), _DIGITS) if len(values) > 1 else 0.0,
        median=round(float(np.median(values)), _DIGITS),
        p5=round(float(np.percentile(values, 5)), _DIGITS),
        ci95=None
        if interval is None
        else (round(interval[0], _DIGITS), round(interval[1], _DIGITS)),
    )


def summaries(scores: Sequence[Score], by: str | None, seed: int = 0) -> dict[str, Summary]:
    """Return the figures of each group, by name, and last those of `ALL` images."""
    groups: dict[str, list[Score]] = {}
    if by:
        for each in sorted(scores, key=lambda each: each.group):
            groups.setdefault(f"{by} {each.group}", []).append(each)
    groups[ALL] = list(scores)
    return {name: summarize(members, seed) for name, members in groups.items()}


def worst(scores: Sequence[Score], count: int = WORST) -> list[Score]:
    """Return the images of the lowest Dice, lowest first."""
    return sorted(scores, key=lambda each: (each.dice, each.image))[:count]


def figures_table(figures: Mapping[str, Summary]) -> str:
    """Return the figures as an aligned Markdown table."""
    from cxrseg.benchmarks.record import table

    header = [
        "images of",
        "n",
        "patients",
        "flagged",
        "Dice",
        "95 % CI",
        "SD",
        "median",
        "5th pct.",
    ]
    return table(
        [*header, "IoU", "IoU 95 % CI"],
        [
            [
                name,
                *(str(count) for count in (each.images, each.patients, each.flagged)),
                f"{each.dice.mean:.4f}",
                _interval(each.dice),
                *(f"{value:.4f}" for value in (each.dice.sd, each.dice.median, each.dice.p5)),
                f"{each.iou.mean:.4f}",
                _interval(each.iou),
            ]
            for name, each in figures.items()
        ],
    )


def _interval(spread: Spread) -> str:
    return "-" if spread.ci95 is None else f"{spread.ci95[0]:.4f} to {spread.ci95[1]:.4f}"


def worst_table(scores: Sequence[Score]) -> str:
    """Return the images of the lowest Dice as an aligned Markdown table."""
    from cxrseg.benchmarks.record import table

    return table(
        ["lowest Dice", "Dice", "IoU", "flags"],
        [
            [each.image, f"{each.dice:.4f}", f"{each.iou:.4f}", ", ".join(each.flags)]
            for each in worst(scores)
        ],
    )


def _with_progress(scores: Iterator[Score], count: int) -> Iterator[Score]:
    if count < 2 or not sys.stderr.isatty():
        yield from scores
        return
    with click.progressbar(scores, length=count, file=sys.stderr, show_pos=True) as bar:
        yield from bar


@click.command("accuracy")
@click.argument("model", required=False, type=_PATH)
@click.option(
    "--data",
    required=True,
    metavar="CSV",
    type=_PATH,
    help="Columns image, mask, split and others; paths relative to the file.",
)
@split_option
@where_option
@click.option(
    "--by",
    metavar="COLUMN",
    help="Also give figures per value of this column.  [default: source, if it is there]",
)
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="fields",
    show_default=True,
    help="What to segment. Rows of another value in a column protocol are left out.",
)
@output_option
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default=AUTO,
    show_default=True,
    help="What to compute on.",
)
@threads_option
@limit_option
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of the bootstrap.",
)
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
    device: str,
    threads: int | None,
    limit: int | None,
    seed: int,
) -> None:
    """Compare a model's lungs with reference masks.

    MODEL is a file written by cxrseg-export; by default the one that ships with cxrseg. Dice and
    intersection over union of both lungs together are taken at the size of each image. Intervals
    are drawn over patients (column patient), or over images without such a column.

    \b
    Masks are gray images of 0 and 255, or label maps of 0, 1 and 2.
    Rows of the split external are evaluated with --split external alone.

    \b
    Examples
      cxrseg-bench accuracy --data pairs.csv
      cxrseg-bench accuracy model.onnx --data pairs.csv --where source=shenzhen -o accuracy.json
    """
    # Imported here, so that --help answers at once.
    from cxrseg.benchmarks.cases import read_cases
    from cxrseg.benchmarks.record import check_output, command_line, environment, now, write_record
    from cxrseg.runtime.segmenter import Segmenter
    from cxrseg.runtime.session import default_threads

    cases = read_cases(data, split, columns_and_values(where), protocol, limit)
    if by is None and "source" in cases[0].row:
        by = "source"
    if by is not None and by not in cases[0].row:
        raise CxrsegError(data, f"has no column {by!r}", "name another with --by")
    if output is not None:
        check_output(output)
    segmenter = Segmenter(model, device, threads, protocol)

    date = now()
    scores = list(_with_progress(score(segmenter, cases, by), len(cases)))
    figures = summaries(scores, by, seed)
    loaded = segmenter.model
    title = f"{segmenter.path.name} on {data.name}, split {split}"
    tables = [figures_table(figures), worst_table(scores)]
    for line in "\n\n".join([title, *tables]).split("\n"):
        echo(line)
    if output is None:
        return

    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment(),
        "model": {
            "file": segmenter.path.name,
            "name": loaded.card.name,
            "version": loaded.card.version,
            "sha256": loaded.sha256,
        },
        "settings": {
            "provider": loaded.provider,
            "threads": threads or default_threads(),
            "protocol": protocol,
        },
        "data": {
            "csv": data.name,
            "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
            "split": split,
            "where": list(where),
            "limit": limit,
            "images": len(scores),
        },
        "seed": seed,
        "summary": {name: asdict(each) for name, each in figures.items()},
        "worst": [each.image for each in worst(scores)],
        "images": [_plain(each, by) for each in scores],
    }
    write_record(output, "accuracy", record, _markdown(title, record, tables))
    echo(f"written: {output}, {output.with_suffix('.md')}")


def _plain(each: Score, by: str | None) -> dict[str, Any]:
    group = {by: each.group} if by else {}
    return {
        "image": each.image,
        **group,
        "dice": round(each.dice, _DIGITS),
        "iou": round(each.iou, _DIGITS),
        "flags": list(each.flags),
    }


def _markdown(title: str, record: Mapping[str, Any], tables: Sequence[str]) -> str:
    machine, versions = record["machine"], record["versions"]
    facts = [
        f"# Accuracy: {title}",
        f"`{record['command']}`",
        f"{record['date']}, {machine['cpu']}, {machine['cores']} cores, {machine['system']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; model SHA-256 `{record['model']['sha256']}`; bootstrap seed {record['seed']}.",
        "Dice and IoU of both lungs together, at the size of each image. CI: bootstrap over "
        "patients.",
    ]
    return "\n\n".join([*facts, *tables])
