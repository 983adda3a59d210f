"""``cxrseg-bench roofline``: the most that this machine multiplies, and what models use of it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from cxrseg.benchmarks.harness.legacy_figures import (
    BLUE,
    GRAY,
    ORANGE,
    Drawing,
    blank,
    drawing,
    styled,
)
from cxrseg.benchmarks.harness.legacy_options import output_option, require_bench, threads_option
from cxrseg.runtime.terminal.console import echo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cxrseg.benchmarks.speed.macs import Macs

Kind = Literal["FP32", "INT8"]

SHAPES = ((512, 512, 512), (1024, 768, 3072), (1024, 1024, 1024), (4096, 768, 768))
"""Rows, depth and columns of the single products; the best one of a kind is its ceiling."""

LIMIT = 63
"""Largest weight of the integer products, as in our files: exact on every CPU."""

FIGURE = "ceilings"

DEFINITIONS = (
    "GOP/s: billions of multiplications and additions a second, counted as two. Ceiling: a single"
    " product of constant weights in ONNX Runtime, the fastest run of the best shape. Models: MACs"
    " are counted from the graph, time is the median of the network alone. Ideal: the time that the"
    " model's integer products take at the INT8 ceiling and all others at the FP32 ceiling; share:"
    " ideal time over measured time. The rest is softmax, normalizations, moved data, rounding to"
    " integers, and products too small to reach the ceiling."
)

_PATH = click.Path(path_type=Path)
_MS = 4
_INPUT, _OUTPUT, _PRODUCT = "x", "y", "product"


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
    shape: tuple[int, int, int]
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


def gemm(kind: Kind, shape: tuple[int, int, int], seed: int = 0) -> bytes:
    """Return an ONNX file of one product by constant weights, with a bias.

    Args:
        kind: ``INT8`` takes and gives uint8, its weights int8 per column.
        shape: Rows, depth and columns.
        seed: Seed of the weights.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rows, depth, columns = shape
    rng = np.random.default_rng(seed)
    node = helper.make_node
    constants: dict[str, Any]
    if kind == "FP32":
        constants = {
            "weight": rng.standard_normal((columns, depth), np.float32),
            "bias": np.zeros(columns, np.float32),
        }
        nodes = [node("Gemm", [_INPUT, "weight", "bias"], [_OUTPUT], name=_PRODUCT, transB=1)]
        port = TensorProto.FLOAT
    else:
        scale = np.float32(1 / 255)
        constants = {
            "scale": scale,
            "zero": np.uint8(128),
            "weight": rng.integers(-LIMIT, LIMIT + 1, (columns, depth), np.int8),
            "weight_scale": np.full(columns, 1 / LIMIT, np.float32),
            "weight_zero": np.zeros(columns, np.int8),
            "bias": np.zeros(columns, np.int32),
            "bias_scale": np.full(columns, scale / LIMIT, np.float32),
            "output_scale": np.float32(depth**0.5 / 255),
        }
        nodes = [
            node("DequantizeLinear", [_INPUT, "scale", "zero"], ["real"]),
            node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w"], axis=0),
            node("DequantizeLinear", ["bias", "bias_scale"], ["b"], axis=0),
            node("Gemm", ["real", "w", "b"], ["product"], name=_PRODUCT, transB=1),
            node("QuantizeLinear", ["product", "output_scale", "zero"], [_OUTPUT]),
        ]
        port = TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        _PRODUCT,
        [helper.make_tensor_value_info(_INPUT, port, [rows, depth])],
        [helper.make_tensor_value_info(_OUTPUT, port, [rows, columns])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def gemm_input(kind: Kind, shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.generic]:
    """Return random values for the input of `gemm`: [rows, depth]."""
    import numpy as np

    rng = np.random.default_rng(seed)
    if kind == "FP32":
        return rng.standard_normal(shape[:2], np.float32)
    return rng.integers(0, 256, shape[:2], np.uint8)


def rate_of(macs: int, milliseconds: float) -> float:
    """Return GOP/s: two operations for each multiplication with its addition."""
    return 2 * macs / (1e6 * milliseconds)


@dataclass(frozen=True, eq=False)
class Product:
    """A single product that is ready to be timed.

    Attributes:
        kind: Type of its operands.
        shape: Rows, depth and columns.
        operator: What ONNX Runtime runs it as.
        session: The `onnxruntime.InferenceSession`.
        input: Its input.
    """

    kind: Kind
    shape: tuple[int, int, int]
    operator: str
    session: Any
    input: NDArray[np.generic]

    def run(self) -> object:
        """Multiply once."""
        return self.session.run(None, {_INPUT: self.input})


def products(threads: int, seed: int) -> list[Product]:
    """Prepare the products of `SHAPES` in both kinds, with the options of the runtime.

    Args:
        threads: CPU threads.
        seed: Seed of weights and inputs.
    """
    from cxrseg.export.verify.operators import optimized_graph
    from cxrseg.runtime.inference.session import open_session

    kinds: tuple[Kind, ...] = ("FP32", "INT8")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            for shape in SHAPES:
                path = Path(folder, f"{kind}-{'x'.join(map(str, shape))}.onnx")
                path.write_bytes(gemm(kind, shape, seed))
                session = open_session(path, "cpu", threads)[1]
                operators = {node.name: node.op_type for node in optimized_graph(path).node}
                operator = operators.get(_PRODUCT) or ", ".join(sorted(set(operators.values())))
                x = gemm_input(kind, shape, seed)
                found.append(Product(kind, shape, operator, session, x))
    return found


def ceiling_of(product: Product, samples: Sequence[float]) -> Ceiling:
    """Return what the times of a product, in ms, say of the machine."""
    import numpy as np

    best = max(min(samples), 10**-_MS)
    rate = rate_of(math.prod(product.shape), best)
    median = round(float(np.median(samples)), _MS)
    return Ceiling(product.kind, product.shape, product.operator, best, median, round(rate, 3))


def peak(ceilings: Sequence[Ceiling], kind: Kind) -> float:
    """Return GOP/s of the best product of a kind."""
    return max(each.rate for each in ceilings if each.kind == kind)


def use_of(title: str, macs: Macs, samples: Sequence[float], ceilings: Sequence[Ceiling]) -> Use:
    """Return what a model makes of the machine.

    Args:
        title: The model's file name.
        macs: Its multiplications.
        samples: Its times, ms.
        ceilings: The products.
    """
    import numpy as np

    median = max(float(np.median(samples)), 10**-_MS)
    ideal = 2e-6 * (macs.integer / peak(ceilings, "INT8") + macs.floating / peak(ceilings, "FP32"))
    return Use(
        title=title,
        integer_macs=macs.integer,
        float_macs=macs.floating,
        median=round(median, _MS),
        rate=round(rate_of(macs.total, median), 3),
        ideal=round(ideal, _MS),
        share=round(ideal / median, _MS),
    )


def ceilings_table(ceilings: Sequence[Ceiling]) -> str:
    """Return the single products as an aligned Markdown table."""
    from cxrseg.benchmarks.harness.legacy_record import table

    rows = [
        [
            f"{each.kind}, {' x '.join(map(str, each.shape))}",
            each.operator,
            f"{each.best:.2f}",
            f"{each.median:.2f}",
            f"{each.rate:.1f}",
        ]
        for each in ceilings
    ]
    header = ["product, rows x depth x columns", "operator", "best ms", "median ms", "GOP/s"]
    return table(header, rows)


def uses_table(uses: Sequence[Use]) -> str:
    """Return the models as an aligned Markdown table."""
    from cxrseg.benchmarks.harness.legacy_record import table

    rows = [
        [
            each.title,
            f"{(each.integer_macs + each.float_macs) / 1e9:.3f}",
            f"{each.integer_macs / (each.integer_macs + each.float_macs):.1%}",
            f"{each.median:.2f}",
            f"{each.rate:.1f}",
            f"{each.ideal:.2f}",
            f"{each.share:.1%}",
        ]
        for each in uses
    ]
    header = ["model", "GMAC", "integer", "median ms", "GOP/s", "ideal ms", "share of ceiling"]
    return table(header, rows)


@styled
def draw(ceilings: Sequence[Ceiling], uses: Sequence[Use]) -> Drawing:
    """Draw the rate of each model beside the ceilings.

    Args:
        ceilings: The single products.
        uses: The models, at least one.
    """
    figure, axes = blank(7, 1.2 + 0.5 * len(uses))
    axis = axes[0, 0]
    for row, each in enumerate(uses):
        axis.barh(row, each.rate, color=BLUE if each.integer_macs else GRAY, height=0.6)
        label = axis.text(each.rate, row, f" {each.share:.0%} of its ceiling", va="center")
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    kinds: tuple[tuple[Kind, str], ...] = (("FP32", GRAY), ("INT8", ORANGE))
    for kind, color in kinds:
        rate = peak(ceilings, kind)
        axis.axvline(rate, color=color, ls="--", label=f"{kind} ceiling, {rate:.0f} GOP/s")
    axis.set_yticks(range(len(uses)), [each.title for each in uses])
    axis.set_ylim(len(uses) - 0.5, -0.5)
    axis.set_xlabel("GOP/s")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25 - 0.3 / len(uses)), ncols=2)
    return drawing(
        figure,
        "Operations a second that models reach, beside what single products reach on this machine."
        " A model's own ceiling weighs both, by its integer and its other products.",
    )


@click.command("roofline")
@click.argument("models", metavar="[MODEL]...", nargs=-1, type=_PATH)
@threads_option
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    help="Runs of each product and model that count; one more is dropped.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of weights, inputs and orders.",
)
@output_option
@click.pass_context
def command(
    context: click.Context,
    models: tuple[Path, ...],
    threads: int | None,
    runs: int,
    seed: int,
    output: Path | None,
) -> None:
    """Measure the most that this CPU multiplies, and the share of it that models reach.

    MODEL is an ONNX file; by default the one that ships with cxrseg. Single products of matrices,
    in FP32 and in INT8, give the ceilings; they and the models take turns. A low share says that
    time goes to other things than multiplying. cxrseg-bench latency compares whole models.

    
    Examples
      cxrseg-bench roofline
      cxrseg-bench roofline int8.onnx fp32.onnx --threads 2 -o roofline.json
    """
    require_bench("roofline")
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        circumstances,
        command_line,
        environment,
        now,
        write_record,
        written,
    )
    from cxrseg.benchmarks.speed.latency import bar, interleaved, open_subjects, random_input
    from cxrseg.benchmarks.speed.macs import count_macs
    from cxrseg.runtime.inference.session import default_threads
    from cxrseg.runtime.models import default_model

    if output is not None:
        check_output(output, [FIGURE])
    threads = threads or default_threads()
    subjects = open_subjects(models or [default_model()], "cpu", threads)
    counts = [count_macs(each.path) for each in subjects]
    tried = products(threads, seed)

    date = now()
    images = [random_input(each.shape, seed) for each in subjects]
    actions: list[Callable[[], object]] = [each.run for each in tried]
    actions += [partial(each.infer, image) for each, image in zip(subjects, images, strict=True)]
    with bar(len(actions) * (runs + 1)) as step:
        samples = interleaved(actions, runs, 1, seed, step).samples
    own = samples[len(tried) :]
    ceilings = [ceiling_of(*each) for each in zip(tried, samples[: len(tried)], strict=True)]
    uses = [
        use_of(each.title, macs, times, ceilings)
        for each, macs, times in zip(subjects, counts, own, strict=True)
    ]
    title = f"CPU, threads {threads}, runs {runs}"
    ratio = peak(ceilings, "INT8") / peak(ceilings, "FP32")
    text = f"INT8 multiplies {ratio:.2f} times as fast as FP32 here, one product by itself."
    pages = [ceilings_table(ceilings), text, uses_table(uses)]
    for line in "\n\n".join([title, *pages]).split("\n"):
        echo(line)
    if output is None:
        return
    figures = {FIGURE: draw(ceilings, uses)}
    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment("onnx"),
        "settings": {"threads": threads, "runs": runs},
        "seed": seed,
        "definitions": DEFINITIONS,
        "ceilings": [asdict(each) for each in ceilings],
        "models": [
            {**asdict(use), "file": each.path.name, "sha256": each.sha256, "samples": times}
            for use, each, times in zip(uses, subjects, own, strict=True)
        ],
    }
    facts = [
        f"# Roofline: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; seed {seed}.",
        DEFINITIONS,
        *pages,
    ]
    write_record(output, "roofline", record, "\n\n".join(facts), figures)
    echo(written(output, figures))
