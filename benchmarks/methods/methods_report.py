"""The result of ``cxrseg-bench methods`` as tables and as a figure, from its plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxrseg.benchmarks.accuracy.summary import ALL
from cxrseg.benchmarks.harness.legacy_figures import (
    BLUE,
    GRAY,
    ORANGE,
    Drawing,
    blank,
    drawing,
    styled,
)
from cxrseg.benchmarks.harness.legacy_record import circumstances, table

FIGURE = "dice-latency"
"""Name of the figure."""

DEFINITIONS = (
    "Every row draws from the same training images, with the same losses and the same optimizer "
    "and schedule, by the command's recipe, or by its own where the command names one (both in "
    "the JSON file); the rows of the SAM start from one checkpoint. Images: those seen in "
    "the run, repetitions included, of all stages, so that AdaLoRA-QAT, which trains on from "
    "AdaLoRA, has seen more; in brackets those that the start had seen before. "
    "Minutes: wall time of the training on this machine. Trained: "
    "parameters trained in stage 1. Of several seeds, size and latency are those of the first. "
    "LoRA is AdaLoRA's P Lambda Q at the final rank from the "
    "start, so that nothing is pruned. PTQ: calibrated on training images as AdaLoRA-QAT is "
    "before it trains, layers that the sensitivity pass keeps in floating point included. "
    "U-Net: MONAI's UNet of residual units with batch normalization; its output is at full "
    "resolution, and its logits are averaged over 4 x 4 pixels. Its INT8 is "
    "onnxruntime.quantization.quantize_static: QDQ, per channel, ranges (MinMax) from "
    "training images, 8 bits of weights, which CPUs without VNNI may saturate (SAM: 7 bits). "
    '"Same latency" means channels whose INT8 file takes about as long as '
    "that of vit_t at 320 px on one thread; what it takes here is in the table. Latency: one "
    "inference of the network alone on the CPU, median, all files in turn; rel.: divided by "
    "that of {reference}. 1 MB = 10^6 bytes.\n\n"
    "Accuracy is of the exported file, run by cxrseg's runtime without a prompt, at the size "
    "of each image, both lungs together, mean over images, and over seeds where there are "
    "several. NSD (normalized surface Dice): share of both outlines that lies within 2 px, on "
    "a grid of 256 px for the longer side, of the other outline. HD95: 95th percentile of the "
    "Hausdorff distance, the larger of both directions. ASSD: average symmetric surface "
    "distance. CI: bootstrap over patients. Box: the same network in PyTorch, since the files "
    "take no box, prompted as in the paper: with the box around the reference mask, each edge "
    "moved outwards by 0 to 20 px of 512 (our reading: the paper names no grid). The networks "
    "were trained without a prompt, so that such a box is new to them."
)
"""What the columns mean."""

_MARKERS = {
    "full": "s",
    "decoder": "D",
    "lora": "v",
    "adalora": "^",
    "adalora-ptq": "P",
    "adalora-qat": "o",
    "unet-size": "s",
    "unet-latency": "o",
}
_AREA, _MIN_AREA = 600.0, 25.0
"""Area of the marker of the largest file, and least area of any, points^2."""


def label(line: Mapping[str, Any]) -> str:
    """Return what the tables call a line."""
    return f"{line['title']}, {line['precision'].upper()}"


def budget_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return start, budget, size and latency as an aligned Markdown table."""
    header = ["method", "from", "images", "minutes", "trained", "MB", "latency ms", "5th pct."]
    header += ["95th pct.", "rel."]
    rows = []
    for line in lines:
        latency, before = line["latency_ms"], line["images_before"]
        seen = f"{sum(line['images']):,}"
        if line["start"]:
            seen += f" ({'unknown' if before is None else f'{before:,}'})"
        rows.append(
            [
                label(line),
                line["start"] or "random weights",
                seen,
                f"{line['seconds'] / 60:.1f}",
                f"{line['trainable']:,}",
                f"{line['size_bytes'] / 1e6:.2f}",
                *(f"{latency[name]:.2f}" for name in ("median", "p5", "p95")),
                f"{line['relative_latency']:.3f}",
            ]
        )
    return table(header, rows)


def accuracy_table(lines: Sequence[Mapping[str, Any]], test: str) -> str:
    """Return the figures of all images of a test as an aligned Markdown table."""
    several = any(len(line["seeds"]) > 1 for line in lines)
    header = ["method", "n", "Dice", "95 % CI", *(["seeds"] if several else [])]
    header += ["IoU", "NSD", "HD95 px", "ASSD px", "Dice, box", "HD95 px, box"]
    rows = []
    for line in lines:
        own = line["accuracy"][test][ALL]
        box = line["box"] and line["box"][test][ALL]
        interval = own["dice"]["ci95"]
        rows.append(
            [
                label(line),
                str(own["images"]),
                f"{own['dice']['mean']:.4f}",
                "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}",
                *([_range(line["dice_per_seed"][test])] if several else []),
                f"{own['iou']['mean']:.4f}",
                f"{own['nsd']['mean']:.4f}",
                f"{own['hd95_px']['mean']:.2f}",
                f"{own['assd_px']['mean']:.2f}",
                f"{box['dice']['mean']:.4f}" if box else "-",
                f"{box['hd95_px']['mean']:.2f}" if box else "-",
            ]
        )
    return table(header, rows)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.4f} to {max(values):.4f}" if len(values) > 1 else "-"


def sources_table(lines: Sequence[Mapping[str, Any]], test: str) -> str | None:
    """Return Dice and HD95 per source of a test as a table; None where there is one source."""
    groups = [name for name in lines[0]["accuracy"][test] if name != ALL]
    if len(groups) < 2:
        return None
    rows = [
        [
            label(line),
            *(f"{line['accuracy'][test][g]['dice']['mean']:.4f}" for g in groups),
            *(f"{line['accuracy'][test][g]['hd95_px']['mean']:.2f}" for g in groups),
        ]
        for line in lines
    ]
    titles = [name.partition(" ")[2] for name in groups]
    header = [*(f"Dice, {name}" for name in titles), *(f"HD95 px, {name}" for name in titles)]
    return table(["method", *header], rows)


def parts(
    lines: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]], tests: Sequence[str]
) -> list[str]:
    """Return everything that people read: tables, each after its heading, and what failed."""
    found = []
    if lines:
        found += ["## Budget, size, latency", budget_table(lines)]
    for test in tests if lines else ():
        found += [f"## Accuracy: {test}", accuracy_table(lines, test)]
        found += [sources for sources in [sources_table(lines, test)] if sources]
    if failures:
        rows = [[each["row"], str(each["seed"]), each["cause"]] for each in failures]
        found += ["## Failed", table(["method", "seed", "cause"], rows)]
    return found


def markdown(title: str, record: Mapping[str, Any], body: Sequence[str]) -> str:
    """Return the page of a result.

    Args:
        title: What was compared on what.
        record: The result's data.
        body: Result of `parts`.
    """
    seeds = ", ".join(str(seed) for seed in record["settings"]["seeds"])
    facts = [
        f"# Methods: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; {record['settings']['threads']} threads; seeds of training "
        f"{seeds}; bootstrap seed {record['seed']}.",
        record["definitions"],
    ]
    return "\n\n".join([*facts, *body])


@styled
def draw_methods(lines: Sequence[Mapping[str, Any]], test: str) -> Drawing:
    """Draw Dice against latency, the size of the file as area.

    Args:
        lines: The result's lines.
        test: The test whose Dice is drawn.
    """
    figure, axes = blank(8, 4.2)
    axis = axes[0, 0]
    largest = max(line["size_bytes"] for line in lines)
    for line in lines:
        own = line["accuracy"][test][ALL]["dice"]
        x, y = line["latency_ms"]["median"], own["mean"]
        color = ORANGE if line["row"].startswith("unet") else BLUE
        low, high = own["ci95"] or (y, y)
        axis.plot([x, x], [low, high], color=GRAY, lw=0.7, zorder=1)
        axis.scatter(
            x,
            y,
            s=max(_MIN_AREA, _AREA * line["size_bytes"] / largest),
            marker=_MARKERS[line["row"]],
            facecolors=color if line["precision"] == "int8" else "none",
            edgecolors=color,
            linewidths=1.2,
            alpha=0.85,
            label=f"{label(line)}, {line['size_bytes'] / 1e6:.3g} MB",
            zorder=2,
        )
    slowest = max(line["latency_ms"]["median"] for line in lines)
    axis.margins(y=0.15)
    axis.set(xlabel="latency, ms", ylabel=f"Dice ({test})", xlim=(0, 1.15 * slowest))
    legend = axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for handle in legend.legend_handles:
        handle.set_sizes([_MIN_AREA])
    return drawing(
        figure,
        "Dice without a prompt against latency; areas are sizes of the files. Filled: INT8, hollow:"
        " FP32; blue: SAM, orange: U-Net; lines: 95 % interval over patients.",
    )
