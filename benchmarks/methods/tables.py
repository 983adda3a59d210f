"""The table and the plot of methods, from its lines of plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxrseg.benchmarks.harness.plots import BLUE, GRAY, ORANGE, blank, plot, styled
from cxrseg.benchmarks.harness.result import Plot, Table
from cxrseg.benchmarks.methods.rows import ROWS

PLOT = "dice-latency"
"""Name of the plot."""

DEFINITIONS = (
    "Every row draws from the same training images, by the command's recipe or by its own where"
    " the command names one (all are in the JSON file). Images: those seen in the run, repetitions"
    " included, of all stages, so that AdaLoRA-QAT, which trains on from AdaLoRA, has seen more."
    " Minutes: wall time of the training on this machine. Trained: parameters trained in stage 1."
    " Of several seeds, size, latency, intervals and distances are those of the first; Dice is the"
    " mean over seeds. LoRA is AdaLoRA's P Lambda Q at the final rank from the start, so that"
    " nothing is pruned. PTQ: calibrated on training images as AdaLoRA-QAT is before it trains,"
    " layers that the sensitivity pass keeps in floating point included. U-Net: MONAI's UNet of"
    " residual units with batch normalization; its logits are averaged over 4 x 4 pixels. Latency:"
    " one inference of the network alone on the CPU, median, all files in turn; rel.: divided by"
    " that of AdaLoRA-QAT in INT8, where it is there, else by the first. 1 MB = 10^6 bytes.\n\n"
    "Accuracy is of the exported file, run by cxrseg's runtime without a prompt, at the size of"
    " each image, both lungs together. NSD (normalized surface Dice): share of both outlines that"
    " lies within 2 px, on a grid of 256 px for the longer side, of the other outline. HD95: 95th"
    " percentile of the Hausdorff distance, the larger of both directions. ASSD: average symmetric"
    " surface distance. CI: bootstrap over patients. Box: prompted as in the paper; the networks"
    " were trained without a prompt, so that such a box is new to them."
)
"""What the columns mean."""

_AREA, _MIN_AREA = 600.0, 25.0
"""Area of the marker of the largest file, and least area of any, points^2."""

Line = Mapping[str, Any]


def tables(lines: Sequence[Line]) -> list[Table]:
    """Return budget, size and latency, and the accuracy on each test, as tables."""
    if not lines:
        return []
    tests = list(lines[0]["accuracy"])
    accuracy = [
        table for test in tests for table in (_accuracy(lines, test), _sources(lines, test))
    ]
    return [_budget(lines), *(table for table in accuracy if table.rows)]


def label(line: Line) -> str:
    """Return what the tables call a line."""
    return f"{line['title']}, {line['precision'].upper()}"


def _budget(lines: Sequence[Line]) -> Table:
    header = ["method", "from", "images", "minutes", "trained", "MB", "latency ms", "rel."]
    rows = []
    for line in lines:
        latency = line["latency_ms"]
        rows.append(
            [
                label(line),
                line["start"] or "random weights",
                f"{sum(line['images']):,}",
                f"{line['seconds'] / 60:.1f}",
                f"{line['trainable']:,}",
                f"{line['size_bytes'] / 1e6:.2f}",
                f"{latency['median']:.2f}" if latency else "-",
                f"{line['relative_latency']:.3f}" if latency else "-",
            ]
        )
    return Table(header, rows, title="Budget, size, latency")


def _accuracy(lines: Sequence[Line], test: str) -> Table:
    header = ["method", "n", "Dice", "95 % CI", "seeds", "IoU", "NSD", "HD95 px", "ASSD px"]
    header += ["Dice, box", "HD95 px, box"]
    rows = []
    for line in lines:
        own = line["accuracy"][test]["all"]
        box = (line["box"] or {}).get(test, {}).get("all")
        interval = own["dice"]["ci95"]
        rows.append(
            [
                label(line),
                str(own["images"]),
                f"{line['dice'][test]:.4f}",
                "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}",
                _range(line["dice_per_seed"][test]),
                f"{own['iou']['mean']:.4f}",
                f"{own['nsd']['mean']:.4f}",
                f"{own['hd95_px']['mean']:.2f}",
                f"{own['assd_px']['mean']:.2f}",
                f"{box['dice']['mean']:.4f}" if box else "-",
                f"{box['hd95_px']['mean']:.2f}" if box else "-",
            ]
        )
    return Table(header, rows, title=f"Accuracy: {test}")


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.4f} to {max(values):.4f}" if len(values) > 1 else "-"


def _sources(lines: Sequence[Line], test: str) -> Table:
    """Return Dice and HD95 per source of a test; without rows where there is one source."""
    groups = [name for name in lines[0]["accuracy"][test] if name != "all"]
    titles = [name.partition(" ")[2] for name in groups]
    header = [*(f"Dice, {name}" for name in titles), *(f"HD95 px, {name}" for name in titles)]
    rows = [
        [
            label(line),
            *(f"{line['accuracy'][test][group]['dice']['mean']:.4f}" for group in groups),
            *(f"{line['accuracy'][test][group]['hd95_px']['mean']:.2f}" for group in groups),
        ]
        for line in lines
    ]
    return Table(["method", *header], rows if len(groups) > 1 else [])


@styled
def draw(lines: Sequence[Line]) -> Plot:
    """Draw Dice on the first test against latency, the size of the file as area."""
    test = next(iter(lines[0]["accuracy"]))
    figure, axes = blank(8, 4.2)
    axis = axes[0, 0]
    largest = max(line["size_bytes"] for line in lines)
    for line in lines:
        x, y = line["latency_ms"]["median"], line["dice"][test]
        color = ORANGE if ROWS[line["row"]].is_unet else BLUE
        low, high = line["accuracy"][test]["all"]["dice"]["ci95"] or (y, y)
        axis.plot([x, x], [low, high], color=GRAY, lw=0.7, zorder=1)
        axis.scatter(
            x,
            y,
            s=max(_MIN_AREA, _AREA * line["size_bytes"] / largest),
            marker=ROWS[line["row"]].marker,
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
    return plot(
        PLOT,
        figure,
        "Dice without a prompt against latency; areas are sizes of the files. Filled: INT8, hollow:"
        " FP32; blue: SAM, orange: U-Net; lines: 95 % interval over patients.",
    )
