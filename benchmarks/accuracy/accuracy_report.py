"""The figures of ``cxrseg-bench accuracy`` as tables for people and as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cxrseg.benchmarks.accuracy.scoring import MIN_FOUND, Agreement, Score
from cxrseg.benchmarks.accuracy.summary import DIGITS, Figures, Spread, Summary, worst
from cxrseg.benchmarks.harness.legacy_record import circumstances, table

DEFINITIONS = (
    "At the size of each image. NSD (normalized surface Dice): share of both outlines that lies"
    " within 2 px, on a grid of 256 px for the longer side, of the other outline. HD95: 95th"
    " percentile of the Hausdorff distance, the larger of both directions. ASSD: average symmetric"
    " surface distance. Where one mask alone is empty, both distances are the image's diagonal."
    " CI: bootstrap over patients."
)
"""What the columns of the tables mean."""

_HEADER = ["Dice", "95 % CI", "median", "5th pct.", "IoU", "NSD", "HD95 px", "95th pct.", "ASSD px"]
_MILLIMETERS = ["HD95 mm", "ASSD mm"]


def union_table(figures: Mapping[str, Summary]) -> str:
    """Return the figures of both lungs together as an aligned Markdown table, a row per group."""
    metric = _knows_millimeters(figures)
    rows = [
        [
            name,
            *(str(count) for count in (each.images, each.patients, each.flagged)),
            *_cells(each.union, metric),
        ]
        for name, each in figures.items()
    ]
    return table(["images of", "n", "patients", "flagged", *_titles(metric)], rows)


def lungs_table(figures: Mapping[str, Summary]) -> str | None:
    """Return the figures of each lung as an aligned Markdown table; None if no sides are known."""
    metric = _knows_millimeters(figures)
    rows = [
        [f"{name}, {side}", str(each.sided), *_cells(lung, metric)]
        for name, each in figures.items()
        for side, lung in each.lungs.items()
    ]
    return table(["lung of", "n", *_titles(metric)], rows) if rows else None


def _knows_millimeters(figures: Mapping[str, Summary]) -> bool:
    return any(each.union["hd95_mm"] is not None for each in figures.values())


def _titles(metric: bool) -> list[str]:
    return [*_HEADER, *(_MILLIMETERS if metric else ())]


def _cells(figures: Figures, metric: bool) -> list[str]:
    overlap, hd95 = figures["dice"], figures["hd95_px"]
    cells = [
        _mean(overlap),
        _interval(overlap),
        "-" if overlap is None else f"{overlap.median:.4f}",
        "-" if overlap is None else f"{overlap.p5:.4f}",
        _mean(figures["iou"]),
        _mean(figures["nsd"]),
        _mean(hd95, 2),
        "-" if hd95 is None else f"{hd95.p95:.2f}",
        _mean(figures["assd_px"], 2),
    ]
    return [*cells, *(_mean(figures[name], 2) for name in ("hd95_mm", "assd_mm") if metric)]


def _mean(spread: Spread | None, digits: int = 4) -> str:
    return "-" if spread is None else f"{spread.mean:.{digits}f}"


def _interval(spread: Spread | None) -> str:
    if spread is None or spread.ci95 is None:
        return "-"
    return f"{spread.ci95[0]:.4f} to {spread.ci95[1]:.4f}"


def worst_table(scores: Sequence[Score]) -> str:
    """Return the images of the lowest Dice as an aligned Markdown table."""
    rows = [
        [
            each.image,
            f"{each.union.dice:.4f}",
            f"{each.union.iou:.4f}",
            f"{each.union.nsd:.4f}",
            f"{each.union.hd95_px:.2f}",
            f"{each.union.assd_px:.2f}",
            ", ".join(each.flags),
        ]
        for each in (scores[i] for i in worst(scores))
    ]
    return table(["lowest Dice", "Dice", "IoU", "NSD", "HD95 px", "ASSD px", "flags"], rows)


def sides_text(scores: Sequence[Score]) -> str:
    """Return what is wrong with the sides, image by image, as Markdown."""
    sided = [each for each in scores if each.lungs]
    if not sided:
        return "No reference tells right from left: swapped and missing lungs are not known."
    rows = [[each.image, problem(each)] for each in sided if problem(each)]
    counts = (
        f"Of {len(sided)} images whose reference tells right from left,"
        f" {sum(each.swapped for each in sided)} have them swapped and"
        f" {sum(bool(each.missing) for each in sided)} lack a lung (Dice below {MIN_FOUND:g})."
    )
    return f"{counts}\n\n{table(['swapped or missing', 'what'], rows)}" if rows else counts


def problem(score: Score) -> str:
    """Return what is wrong with the sides of one image in words, or nothing."""
    if score.swapped:
        return "right and left swapped"
    return " and ".join(f"{side} lung not found" for side in score.missing)


def plain_image(score: Score, by: str | None) -> dict[str, Any]:
    """Return the figures of one image for JSON.

    Args:
        score: The image's score.
        by: Name of the grouping column, if any.

    Returns:
        The measures of the union beside ``lungs``: side -> measures, or None where the reference
        does not tell sides; ``swapped`` is then None too. Distances in mm are None where the
        spacing is not known.
    """
    return {
        "image": score.image,
        **({by: score.group} if by else {}),
        **_plain(score.union),
        "lungs": {side: _plain(each) for side, each in score.lungs.items()} or None,
        "swapped": score.swapped if score.lungs else None,
        "missing": list(score.missing),
        "flags": list(score.flags),
    }


def _plain(each: Agreement) -> dict[str, float | None]:
    return {
        name: None if value is None else round(value, DIGITS)
        for name, value in asdict(each).items()
    }


def plain_scores(
    scores: Sequence[Score], figures: Mapping[str, Summary], by: str | None
) -> dict[str, Any]:
    """Return every figure for JSON.

    Args:
        scores: The images.
        figures: Name of the group -> its figures.
        by: Name of the grouping column, if any.

    Returns:
        ``summary``: group -> figures; ``worst`` and ``swapped``: names of images; ``missing``:
        images with the lungs that were not found; ``images``: as `plain_image`.
    """
    return {
        "summary": {name: each.to_dict() for name, each in figures.items()},
        "worst": [scores[i].image for i in worst(scores)],
        "swapped": [each.image for each in scores if each.swapped],
        "missing": [
            {"image": each.image, "lungs": list(each.missing)} for each in scores if each.missing
        ],
        "images": [plain_image(each, by) for each in scores],
    }


def markdown(title: str, record: Mapping[str, Any], parts: Sequence[str]) -> str:
    """Return the page of a result.

    Args:
        title: What was measured on what.
        record: The result's data, with command, date, machine, versions, model and seed.
        parts: Tables and paragraphs.
    """
    facts = [
        f"# Accuracy: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; model SHA-256 `{record['model']['sha256']}`; "
        f"bootstrap seed {record['seed']}.",
        DEFINITIONS,
    ]
    return "\n\n".join([*facts, *parts])
