"""The figures of ``cxrseg-bench accuracy`` as tables for people and as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cxrseg.benchmarks.accuracy.scoring import MIN_FOUND, Score
from cxrseg.benchmarks.accuracy.summary import Figures, Spread, Summary, rounded, worst
from cxrseg.benchmarks.harness.result import Table

_HEADER = ("Dice", "95 % CI", "median", "5th pct.", "IoU", "NSD", "HD95 px", "95th pct.", "ASSD px")
_MILLIMETERS = ("HD95 mm", "ASSD mm")


def union_table(figures: Mapping[str, Summary]) -> Table:
    """Return the figures of both lungs together, a row per group."""
    metric = _knows_millimeters(figures)
    rows = [
        [
            name,
            *(str(count) for count in (summary.images, summary.patients, summary.flagged)),
            *_cells(summary.union, metric),
        ]
        for name, summary in figures.items()
    ]
    return Table(["images of", "n", "patients", "flagged", *_titles(metric)], rows)


def lungs_table(figures: Mapping[str, Summary]) -> Table:
    """Return the figures of each lung, and what is wrong with the sides in words."""
    metric = _knows_millimeters(figures)
    rows = [
        [f"{name}, {side}", str(summary.sided), *_cells(lung, metric)]
        for name, summary in figures.items()
        for side, lung in summary.lungs.items()
    ]
    everything = list(figures.values())[-1]
    note = (
        f"Of {everything.sided} images whose reference tells right from left,"
        f" {everything.swapped} have them swapped and {everything.missing} lack a lung (Dice below"
        f" {MIN_FOUND:g})."
        if rows
        else "No reference tells right from left: swapped and missing lungs are not known."
    )
    return Table(["lung of", "n", *_titles(metric)], rows, note=note)


def sides_table(scores: Sequence[Score]) -> Table:
    """Return the images whose lungs are swapped or missing; it may have no rows."""
    rows = [[score.image, problem(score)] for score in scores if problem(score)]
    return Table(["swapped or missing", "what"], rows, per_image=True)


def problem(score: Score) -> str:
    """Return what is wrong with the sides of one image in words, or nothing."""
    if score.swapped:
        return "right and left swapped"
    return " and ".join(f"{side} lung not found" for side in score.missing)


def worst_table(scores: Sequence[Score]) -> Table:
    """Return the images of the lowest Dice."""
    rows = [
        [
            score.image,
            *(f"{value:.4f}" for value in (score.union.dice, score.union.iou, score.union.nsd)),
            *(f"{value:.2f}" for value in (score.union.hd95_px, score.union.assd_px)),
            ", ".join(score.flags),
        ]
        for score in (scores[i] for i in worst(scores))
    ]
    header = ["lowest Dice", "Dice", "IoU", "NSD", "HD95 px", "ASSD px", "flags"]
    return Table(header, rows, per_image=True)


def mislabeled_tables(figures: Mapping[str, Summary], scores: Sequence[Score]) -> list[Table]:
    """Return how many masks fit the other protocol, and which; nothing where none was checked."""
    counts = [
        [
            name,
            str(summary.images),
            str(summary.mislabeled.mislabeled),
            _number(summary.mislabeled.mean_dice_mislabeled),
            _number(summary.mislabeled.mean_dice_others),
        ]
        for name, summary in figures.items()
        if summary.mislabeled is not None
    ]
    images = [
        [score.image, f"{score.union.dice:.4f}", _number(score.dice_other)]
        for score in scores
        if score.mislabeled
    ]
    tables = [
        Table(["masks of", "n", "mislabeled", "Dice, mislabeled", "Dice, others"], counts),
        Table(["mislabeled", "Dice", "Dice, other protocol"], images, per_image=True),
    ]
    return [table for table in tables if table.rows]


def _knows_millimeters(figures: Mapping[str, Summary]) -> bool:
    return any(summary.union["hd95_mm"] is not None for summary in figures.values())


def _titles(metric: bool) -> Sequence[str]:
    return (*_HEADER, *_MILLIMETERS) if metric else _HEADER


def _cells(figures: Figures, metric: bool) -> list[str]:
    overlap, hd95 = figures["dice"], figures["hd95_px"]
    cells = [
        _figure(overlap),
        _interval(overlap),
        _figure(overlap, "median"),
        _figure(overlap, "p5"),
        _figure(figures["iou"]),
        _figure(figures["nsd"]),
        _figure(hd95, digits=2),
        _figure(hd95, "p95", 2),
        _figure(figures["assd_px"], digits=2),
    ]
    millimeters = ("hd95_mm", "assd_mm") if metric else ()
    return [*cells, *(_figure(figures[name], digits=2) for name in millimeters)]


def _figure(spread: Spread | None, name: str = "mean", digits: int = 4) -> str:
    return _number(None if spread is None else getattr(spread, name), digits)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(spread: Spread | None) -> str:
    if spread is None or spread.ci95 is None:
        return "-"
    return f"{spread.ci95[0]:.4f} to {spread.ci95[1]:.4f}"


def image_row(score: Score, by: str | None) -> dict[str, Any]:
    """Return the figures of one image for JSON.

    Args:
        score: The image's score.
        by: Name of the grouping column, if any.

    Returns:
        The measures of the union beside ``lungs``: side -> measures, or None where the reference
        does not tell sides; ``swapped`` is then None too. Distances in mm are None where the
        spacing is not known. ``dice_other`` is there where mislabeled masks were looked for.
    """
    checked = {} if score.dice_other is None else {"dice_other": score.dice_other}
    return rounded(
        {
            "image": score.image,
            **({by: score.group} if by else {}),
            **asdict(score.union),
            **checked,
            "lungs": {side: asdict(lung) for side, lung in score.lungs.items()} or None,
            "swapped": score.swapped if score.lungs else None,
            "missing": score.missing,
            "flags": score.flags,
        }
    )
