"""``cxrseg-bench compression``: the paper's arithmetic, and the bytes of exported files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.result import Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.quantization.accounting import (
    PAPER_COUNTS,
    PAPER_RANK,
    PAPER_RATIO,
    Accounting,
    Trained,
    our_trained,
    paper_accounting,
    paper_trained,
)
from cxrseg.benchmarks.quantization.exports import Measured, measure, measure_files, untrained
from cxrseg.export.integer import require_quantized
from cxrseg.runtime.files.atomic import prepare_folder
from cxrseg.runtime.terminal.console import echo
from cxrseg.trainer.fit.checkpoint import load

FILES_NOTE = (
    "The paper counts Linear weights only: no convolutions, embeddings or norms, and of the biases"
    " those of qkv alone. The files that it writes stay FP32. Ours are whole files, adapters"
    " merged: qkv, patch embedding, neck and transposed convolutions are INT8 too, and the rest is"
    " stored in FP16."
)

TRAINED_NOTE = (
    "The paper does not say how it counted. Its own figures, about 5.4 million trained of 89.7"
    " million (the image encoder alone), give 16.6. Our AdaLoRA also adapts proj, lin1 and lin2, at"
    " a lower rank, and leaves out the parts of SAM that no mask depends on."
)


@dataclass(frozen=True)
class Options:
    """What is exported and counted."""

    checkpoint: Path | None = argument(default=None, type=PATH)
    files: tuple[Path, Path] | None = option(
        "--files",
        default=None,
        nargs=2,
        metavar="INT8.onnx FP32.onnx",
        type=PATH,
        help="Exports of CHECKPOINT to count, instead of exporting it again.",
    )
    model: str = option(
        "--model",
        default="vit_b",
        type=click.Choice(["vit_n", "vit_t", "vit_b"]),
        help="Network to export with random weights where no CHECKPOINT is given.",
    )
    image_size: int = option(
        "--image-size",
        default=256,
        metavar="N",
        type=click.IntRange(32, 1024),
        help="Input side for --model, a multiple of 16.",
    )
    global_attention: bool = option(
        "--global-attention",
        default=False,
        is_flag=True,
        help="For --model: without attention windows.",
    )
    keep: Path | None = option(
        "--keep",
        default=None,
        metavar="DIR",
        type=PATH,
        help="Leave the files in this folder as fp32.onnx and int8.onnx, for cxrseg-bench latency.",
    )
    stock: bool = option(
        "--stock",
        default=False,
        is_flag=True,
        help="With --keep: also stock.onnx, torch's plain export of segment_anything's own"
        " modules.",
    )


@benchmark("compression", Options)
def compression(options: Options) -> Result:
    """Count parameters and bytes, the paper's too.

    Real tensors are counted: the bytes of SAM ViT-B by the paper's arithmetic, and the parameters
    that full, decoder-only and AdaLoRA fine-tuning train. CHECKPOINT is a model.ckpt of stage 2; it
    is exported in FP32 and in INT8, and the bytes of both files are compared. The exit code is 1
    where FP32 : INT8 is below the paper's 2.24.

    \b
    Examples
      cxrseg-bench compression --model vit_b
      cxrseg-bench compression model.ckpt --files int8.onnx fp32.onnx -o compression.json
    """
    _check(options)
    if options.checkpoint is None:
        loaded = untrained(options.model, options.image_size, options.global_attention)
    else:
        loaded = load(options.checkpoint)
        require_quantized(loaded, options.checkpoint)
    accounting = paper_accounting()
    trained = {"paper": paper_trained(), "ours": our_trained(loaded.description)}
    if options.files is not None:
        measured = measure_files(*options.files, loaded.sha256)
    else:
        echo("cxrseg-bench: exporting twice ...", err=True)
        measured = measure(loaded, options.keep, options.stock)
    passed = measured.ratio >= PAPER_RATIO
    return Result(
        title=f"Compression of {measured.model}, {measured.image_size} px",
        data={
            "paper": {**asdict(accounting), "says": PAPER_COUNTS},
            "measured": asdict(measured),
            "trained": {
                whose: [{**asdict(method), "fewer": method.fewer} for method in methods]
                for whose, methods in trained.items()
            },
        },
        tables=[
            paper_table(accounting),
            files_table(measured),
            trained_table("Parameters that the paper trains", trained["paper"]),
            trained_table("Parameters that cxrseg-train trains", trained["ours"], TRAINED_NOTE),
        ],
        passed=passed,
    )


def _check(options: Options) -> None:
    if options.image_size % 16:
        raise click.BadParameter("not a multiple of 16", param_hint="--image-size")
    if options.stock and options.keep is None:
        raise click.UsageError("--stock needs --keep")
    if options.files and (options.keep is not None or options.checkpoint is None):
        raise click.UsageError("--files are exports of a CHECKPOINT, and --keep writes others")
    if options.keep is not None:
        prepare_folder(options.keep)


def paper_table(accounting: Accounting) -> Table:
    """Return the paper's count, with what the paper says and how far that is off."""
    said = PAPER_COUNTS

    def row(title: str, count: int, name: str, quantized: int) -> list[str]:
        difference = f"{count / said[name] - 1:+.1%}"
        sizes = [_millions(x) for x in (count, 4 * count, quantized, said[name])]
        return [title, *sizes, difference]

    linear, qkv, adapters = accounting.linear, accounting.qkv, accounting.adapters
    left_out = accounting.left_out
    says = (
        f"{said['float_bytes'] / 1e6:.0f} : {said['quantized_bytes'] / 1e6:.0f} MB,"
        f" {said['ratio']:.2f}"
    )
    total = [
        f"together: {accounting.ratio:.2f} times",
        _millions(linear + qkv + adapters),
        _millions(accounting.float_bytes),
        _millions(accounting.quantized_bytes),
        says,
        f"{accounting.ratio / said['ratio'] - 1:+.1%}",
    ]
    header = ["SAM ViT-B by the paper's accounting", "million", "FP32 MB", "quantized MB"]
    return Table(
        [*header, "paper says", "difference"],
        [
            row("Linear weights, INT8", linear, "linear", linear),
            row("qkv, FP32", qkv, "qkv", 4 * qkv),
            row(f"adapters of rank {PAPER_RANK}, FP32", adapters, "adapters", 4 * adapters),
            total,
            ["not counted", _millions(left_out), _millions(4 * left_out), "-", "-", "-"],
        ],
    )


def files_table(measured: Measured) -> Table:
    """Return the sizes of the exported files."""
    note = FILES_NOTE
    if measured.ratio < PAPER_RATIO:
        note += f" The measured {measured.ratio:.2f} is below the paper's {PAPER_RATIO}."
    cells = [
        f"{measured.model}, {measured.image_size} px",
        _millions(measured.fp32_bytes),
        _millions(measured.int8_bytes),
        f"{measured.ratio:.2f}",
    ]
    return Table(["exported files", "FP32 MB", "INT8 MB", "ratio"], [cells], note=note)


def trained_table(title: str, methods: Sequence[Trained], note: str = "") -> Table:
    """Return what methods of fine-tuning train."""
    rows = [
        [
            method.what,
            f"{method.trained / 1e6:.3f}",
            f"{method.full / 1e6:.3f}",
            f"{method.fewer:.1f}",
            "-" if method.paper is None else f"{method.paper:.1f}",
            "-" if method.paper is None else f"{method.fewer / method.paper - 1:+.1%}",
        ]
        for method in methods
    ]
    header = ["method", "million", "of", "times fewer", "paper says", "difference"]
    return Table(header, rows, title, note)


def _millions(count: float) -> str:
    return f"{count / 1e6:.1f}"
