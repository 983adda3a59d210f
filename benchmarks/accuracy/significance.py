"""``cxrseg-bench significance``: does INT8 change Dice, and if not, is it shown to be equal?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from cxrseg.benchmarks.accuracy.accuracy import ScoringOptions, accuracy, score_model
from cxrseg.benchmarks.accuracy.intervals import Values
from cxrseg.benchmarks.accuracy.paired import Comparison, compare, holm
from cxrseg.benchmarks.accuracy.summary import grouped
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.plots import BLUE, GREEN, blank, plot, styled
from cxrseg.benchmarks.harness.record import images_file, read_bytes, read_record
from cxrseg.benchmarks.harness.result import Plot, Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.harness.samples import Sample, csv_facts, grouping, read_samples
from cxrseg.runtime.core.errors import CxrsegError

DIFFERENCES = "differences"
"""Name of the plot."""

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

_HEADER = [
    *("images of", "n", "patients", "first", "second", "difference", "95 % CI"),
    *("better", "worse", "Wilcoxon p", "Holm p", "r", "TOST p", "verdict"),
]


@dataclass(frozen=True)
class Options(ScoringOptions):
    """Options of ``cxrseg-bench significance``."""

    first: Path = argument(type=PATH)
    second: Path = argument(type=PATH)
    margin: float = option(
        "--margin",
        default=0.005,
        type=click.FloatRange(0, 1, min_open=True),
        help="Mean difference of Dice below which two models count as equivalent.",
    )


@benchmark("significance", Options, plots=(DIFFERENCES,))
def significance(options: Options) -> Result:
    """Test whether two models score differently, and whether they are equivalent.

    FIRST and SECOND are files written by cxrseg-export, the INT8 and the FP32 one of a checkpoint,
    or results of cxrseg-bench accuracy (.json) on the same images. Dice is compared image by image:
    Wilcoxon's signed-rank test as in the paper, per source with Holm's correction, with its effect
    size; and, since a difference that is not significant is no proof of equality, two one-sided
    tests against a margin with the bootstrap interval of the mean difference over patients.

    \b
    Examples
      cxrseg-bench significance int8.onnx fp32.onnx --data pairs.csv -o significance.json
      cxrseg-bench significance accuracy-int8.json accuracy-fp32.json --data pairs.csv
    """
    samples = read_samples(options.data, options)
    by = grouping(samples, options)
    models, (first, second) = zip(
        *(dice_of(path, samples, options) for path in (options.first, options.second)), strict=True
    )
    groups = grouped(range(len(samples)), [sample.row[by] if by else "" for sample in samples], by)
    found = compare_groups(groups, first, second, [sample.patient for sample in samples], options)
    names = (options.first.name, options.second.name)
    differences = {name: first[members] - second[members] for name, members in groups.items()}
    return Result(
        title=f"{names[0]} against {names[1]}, {len(samples)} images, margin {options.margin:g}",
        data={
            "models": models,
            "settings": {
                "protocol": options.protocol,
                "split": options.split,
                "margin": options.margin,
            },
            "dataset": csv_facts(options.data, options, len(samples)),
            "groups": {
                name: {**asdict(comparison), "verdict": comparison.verdict}
                for name, comparison in found.items()
            },
        },
        tables=[Table(_HEADER, [_cells(name, found[name]) for name in found])],
        plots=[draw(differences, found, names)],
        definitions=DEFINITIONS,
    )


def dice_of(
    path: Path, samples: Sequence[Sample], options: Options
) -> tuple[dict[str, Any], Values]:
    """Return what the record tells of a model, and its Dice of both lungs on each image.

    Args:
        path: The model, which is run, or a result of ``cxrseg-bench accuracy``, which is read.
        samples: The images.
        options: How to run a model; a result must be of the same split and protocol.

    Raises:
        CxrsegError: The model or the result cannot be read, or the result does not fit.
    """
    if path.suffix != ".json":
        scored = score_model(path, options)
        return scored.facts, np.array([score.union.dice for score in scored.scores])
    model, known = read_dice(path, options)
    for sample in samples:
        if sample.name not in known:
            cause = f"lacks the image {sample.name}"
            raise CxrsegError(path, cause, "take both results on the same images")
    return model, np.array([known[sample.name] for sample in samples])


def read_dice(path: Path, options: Options) -> tuple[dict[str, Any], dict[str, float]]:
    """Read a result of ``cxrseg-bench accuracy`` with the figures of its images beside it.

    Returns:
        What it tells of the model; image -> Dice.

    Raises:
        CxrsegError: There is no such result, or it is of another split or protocol.
    """
    remedy = "give a file that cxrseg-bench accuracy -o of this version wrote"
    record = read_record(path)
    if record is None or record["benchmark"] != accuracy.name:
        raise CxrsegError(path, "is no accuracy result", remedy)
    try:
        data = record["data"]
        model = {"result": path.name, **data["model"]}
        told = {"protocol": data["settings"]["protocol"], "split": data["dataset"]["split"]}
        single = json.loads(read_bytes(images_file(path)))
        if any(single.get(key) != record[key] for key in ("command", "date")):
            raise ValueError(f"{images_file(path).name} is of another run")
        images = single["images"]
        dice = {str(image["image"]): float(image["dice"]) for image in images}
        if not all(0 <= value <= 1 for value in dice.values()):
            raise ValueError("a Dice beyond 0 and 1")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CxrsegError(path, f"is no accuracy result ({error})", remedy) from error
    for name, value in told.items():
        if value != getattr(options, name):
            cause = f"was measured with --{name} {value}, not {getattr(options, name)}"
            raise CxrsegError(path, cause, f"give --{name} {value}")
    return model, dice


def compare_groups(
    groups: Mapping[str, Sequence[int]],
    first: Values,
    second: Values,
    patients: Sequence[str],
    options: Options,
) -> dict[str, Comparison]:
    """Compare paired scores per group, with Holm's correction, and last over all images.

    Args:
        groups: Name -> where its images stand; the last holds all.
        first: Scores of the first model, float64 [images].
        second: The same of the second.
        patients: The patient of each image.
        options: Margin of equivalence and seed of the bootstrap.
    """
    found = [
        compare(
            first[members],
            second[members],
            [patients[i] for i in members],
            options.margin,
            options.seed,
        )
        for members in groups.values()
    ]
    corrected = holm([comparison.wilcoxon_p for comparison in found[:-1]])
    return {
        name: replace(comparison, holm_p=p)
        for name, comparison, p in zip(groups, found, [*corrected, None], strict=True)
    }


def _cells(name: str, found: Comparison) -> list[str]:
    return [
        name,
        str(found.images),
        str(found.patients),
        f"{found.first:.4f}",
        f"{found.second:.4f}",
        f"{found.difference:+.5f}",
        "-" if found.ci95 is None else f"{found.ci95[0]:+.5f} to {found.ci95[1]:+.5f}",
        str(found.better),
        str(found.worse),
        _p(found.wilcoxon_p),
        _p(found.holm_p),
        f"{found.rank_biserial:+.2f}",
        _p(found.tost_p),
        found.verdict,
    ]


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


@styled
def draw(
    differences: Mapping[str, Values], found: Mapping[str, Comparison], names: tuple[str, str]
) -> Plot:
    """Draw the difference of each image, per group, with mean, interval and margin.

    Args:
        differences: Group -> Dice of the first model minus Dice of the second, [images].
        found: The comparisons, of the same groups.
        names: Names of the two models.
    """
    figure, axes = blank(7, 1.2 + 0.6 * len(found))
    axis, rng = axes[0, 0], np.random.default_rng(0)
    margin = next(iter(found.values())).margin
    axis.axvspan(-margin, margin, color=GREEN, alpha=0.15, lw=0)
    axis.axvline(0, color="black", lw=0.6)
    for row, (name, comparison) in enumerate(found.items()):
        place = row + rng.uniform(-0.28, 0.28, len(differences[name]))
        axis.scatter(differences[name], place, s=5, color=BLUE, alpha=0.35, lw=0)
        interval = comparison.ci95 or (comparison.difference,) * 2
        axis.plot(interval, (row, row), color="black", lw=2.5, solid_capstyle="butt")
        axis.plot(comparison.difference, row, "o", color="black", ms=4)
    axis.set_yticks(range(len(found)), [f"{n}\n{found[n].verdict}" for n in found])
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set_xscale("symlog", linthresh=margin)
    ticks = margin * 10.0 ** np.arange(3)
    axis.set_xticks([*-ticks[::-1], 0, *ticks])
    axis.xaxis.set_major_formatter("{x:+g}")
    largest = max(2 * margin, *(float(np.abs(values).max()) for values in differences.values()))
    axis.set_xlim(-1.2 * largest, 1.2 * largest)
    axis.set_xlabel(f"Dice, {names[0]} minus {names[1]}")
    return plot(
        DIFFERENCES,
        figure,
        f"Dice of {names[0]} minus Dice of {names[1]}: one dot per image, the mean with its 95 % "
        "interval in black, the margin of equivalence shaded. The scale is linear within the "
        "margin and logarithmic beyond.",
    )
