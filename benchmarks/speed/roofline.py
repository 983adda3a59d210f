"""``cxrseg-bench roofline``: the most that this machine multiplies, and what models use of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from cxrseg.benchmarks.harness.options import SeedOptions, ThreadOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.plots import BLUE, GRAY, ORANGE, blank, plot, styled
from cxrseg.benchmarks.harness.result import Plot, Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.speed.macs import Macs, count_macs
from cxrseg.benchmarks.speed.models import open_models, random_input
from cxrseg.benchmarks.speed.products import KINDS, Kind, Product, Shape, open_product
from cxrseg.benchmarks.speed.timing import Run, Schedule, interleaved
from cxrseg.runtime.inference.session import default_threads
from cxrseg.runtime.models import default_model

SHAPES: tuple[Shape, ...] = (
    (512, 512, 512),
    (1024, 768, 3072),
    (1024, 1024, 1024),
    (4096, 768, 768),
)
"""Rows, depth and columns of the single products; the best one of a kind is its ceiling."""

PLOT = "ceilings"

DEFINITIONS = (
    "GOP/s: billions of multiplications and additions a second, counted as two. Ceiling: a single"
    " product of constant weights in ONNX Runtime, the fastest run of the best shape. Models: MACs"
    " are counted from the graph, time is the median of the network alone. Ideal: the time that the"
    " model's integer products take at the INT8 ceiling and all others at the FP32 ceiling; share:"
    " ideal time over measured time. The rest is softmax, normalizations, moved data, rounding to"
    " integers, and products too small to reach the ceiling."
)

_DIGITS = 4
_LEAST_MS = 1e-4


@dataclass(frozen=True)
class Options(ThreadOptions, SeedOptions):
    """Options of ``cxrseg-bench roofline``."""

    models: tuple[Path, ...] = argument(default=(), nargs=-1, metavar="[MODEL]...", type=PATH)
    runs: int = option(
        "--runs",
        default=20,
        metavar="N",
        type=click.IntRange(1, 100_000),
        help="Runs of each product and model that count; one more is dropped.",
    )


@dataclass(frozen=True)
class Ceiling:
    """A single product on this machine.

    Attributes:
        kind: Type of its operands.
        shape: Rows, depth and columns.
        operator: What ONNX Runtime runs it as.
        best: Fastest run, ms.
        median: Median run, ms.
        rate: GOP/s of the fastest run.
    """

    kind: Kind
    shape: Shape
    operator: str
    best: float
    median: float
    rate: float


@dataclass(frozen=True)
class Use:
    """What a model makes of the machine.

    Attributes:
        title: Its file name.
        integer_macs: MACs of its integer products.
        float_macs: MACs of all others.
        median: Median latency, ms.
        rate: GOP/s, of both together.
        ideal: Time at the ceilings, ms.
        share: ideal / median.
    """

    title: str
    integer_macs: int
    float_macs: int
    median: float
    rate: float
    ideal: float
    share: float


@benchmark("roofline", Options, plots=(PLOT,))
def roofline(options: Options) -> Result:
    """Measure the most that this CPU multiplies, and the share of it that models reach.

    MODEL is an ONNX file; by default the one that ships with cxrseg. Single products of matrices,
    in FP32 and in INT8, give the ceilings; products and models take turns. A low share says that
    time goes to other things than multiplying. cxrseg-bench latency compares whole models.

    \b
    Examples
      cxrseg-bench roofline
      cxrseg-bench roofline int8.onnx fp32.onnx --threads 2 -o roofline.json
    """
    threads = options.threads or default_threads()
    models = open_models(options.models or [default_model()], "cpu", threads)
    counts = [count_macs(model.path) for model in models]
    products = [open_product(kind, x, threads, options.seed) for kind in KINDS for x in SHAPES]
    runs: list[Run] = [product.run for product in products]
    runs += [partial(model.infer, random_input(model.shape, options.seed)) for model in models]
    times = interleaved(runs, Schedule(options.runs, 1, options.seed))
    ceilings = [ceiling_of(product, own) for product, own in zip(products, times, strict=False)]
    uses = [
        use_of(model.title, macs, own, ceilings)
        for model, macs, own in zip(models, counts, times[len(products) :], strict=True)
    ]
    ratio = peak(ceilings, "INT8") / peak(ceilings, "FP32")
    return Result(
        title=f"CPU, threads {threads}, runs {options.runs}",
        data={
            "settings": {"threads": threads, "runs": options.runs},
            "ceilings": [asdict(ceiling) for ceiling in ceilings],
            "models": [
                {**asdict(use), "file": model.path.name, "sha256": model.sha256}
                for use, model in zip(uses, models, strict=True)
            ],
        },
        tables=[ceilings_table(ceilings, ratio), uses_table(uses)],
        plots=[draw(ceilings, uses)],
        definitions=DEFINITIONS,
    )


def rate_of(macs: int, milliseconds: float) -> float:
    """Return GOP/s: two operations for each multiplication with its addition."""
    return 2 * macs / (1e6 * milliseconds)


def ceiling_of(product: Product, times: Sequence[float]) -> Ceiling:
    """Return what the times of a product, in ms, say of the machine."""
    best = max(min(times), _LEAST_MS)
    return Ceiling(
        kind=product.kind,
        shape=product.shape,
        operator=product.operator,
        best=round(best, _DIGITS),
        median=round(float(np.median(times)), _DIGITS),
        rate=round(rate_of(math.prod(product.shape), best), 3),
    )


def peak(ceilings: Sequence[Ceiling], kind: Kind) -> float:
    """Return GOP/s of the best product of a kind."""
    return max(ceiling.rate for ceiling in ceilings if ceiling.kind == kind)


def use_of(title: str, macs: Macs, times: Sequence[float], ceilings: Sequence[Ceiling]) -> Use:
    """Return what a model makes of the machine.

    Args:
        title: The model's file name.
        macs: Its multiplications.
        times: Its times, ms.
        ceilings: The products.
    """
    median = max(float(np.median(times)), _LEAST_MS)
    ideal = 2e-6 * (macs.integer / peak(ceilings, "INT8") + macs.floating / peak(ceilings, "FP32"))
    return Use(
        title=title,
        integer_macs=macs.integer,
        float_macs=macs.floating,
        median=round(median, _DIGITS),
        rate=round(rate_of(macs.total, median), 3),
        ideal=round(ideal, _DIGITS),
        share=round(ideal / median, _DIGITS),
    )


def ceilings_table(ceilings: Sequence[Ceiling], ratio: float) -> Table:
    """Return the single products as a table, below it how much faster INT8 is."""
    rows = [
        [
            f"{ceiling.kind}, {' x '.join(map(str, ceiling.shape))}",
            ceiling.operator,
            f"{ceiling.best:.2f}",
            f"{ceiling.median:.2f}",
            f"{ceiling.rate:.1f}",
        ]
        for ceiling in ceilings
    ]
    header = ["product, rows x depth x columns", "operator", "best ms", "median ms", "GOP/s"]
    note = f"INT8 multiplies {ratio:.2f} times as fast as FP32 here, one product by itself."
    return Table(header, rows, note=note)


def uses_table(uses: Sequence[Use]) -> Table:
    """Return the models as a table."""
    rows = [
        [
            use.title,
            f"{(use.integer_macs + use.float_macs) / 1e9:.3f}",
            f"{use.integer_macs / (use.integer_macs + use.float_macs):.1%}",
            f"{use.median:.2f}",
            f"{use.rate:.1f}",
            f"{use.ideal:.2f}",
            f"{use.share:.1%}",
        ]
        for use in uses
    ]
    header = ["model", "GMAC", "integer", "median ms", "GOP/s", "ideal ms", "share of ceiling"]
    return Table(header, rows)


@styled
def draw(ceilings: Sequence[Ceiling], uses: Sequence[Use]) -> Plot:
    """Draw the rate of each model beside the ceilings.

    Args:
        ceilings: The single products.
        uses: The models, at least one.
    """
    figure, axes = blank(7, 1.2 + 0.5 * len(uses))
    axis = axes[0, 0]
    colors = [BLUE if use.integer_macs else GRAY for use in uses]
    bars = axis.barh([use.title for use in uses], [use.rate for use in uses], 0.6, color=colors)
    labels = [f"{use.share:.0%} of its ceiling" for use in uses]
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axis.bar_label(bars, labels, padding=4, bbox=white)
    for kind, color in zip(KINDS, (GRAY, ORANGE), strict=True):
        rate = peak(ceilings, kind)
        axis.axvline(rate, color=color, ls="--", label=f"{kind} ceiling, {rate:.0f} GOP/s")
    axis.invert_yaxis()
    axis.set_xlabel("GOP/s")
    figure.legend(loc="outside lower center", ncols=2)
    return plot(
        PLOT,
        figure,
        "Operations a second that models reach, beside what single products reach on this machine."
        " A model's own ceiling weighs both, by its integer and its other products.",
    )
