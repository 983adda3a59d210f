"""``cxrseg-bench compression``: the paper's arithmetic beside the bytes of exported files."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.options import output_option
from cxrseg.export.cli import EXTRA
from cxrseg.runtime.console import FAILED, OK, echo, require_extra

if TYPE_CHECKING:
    from cxrseg.export.compiling import Precision
    from cxrseg.trainer.checkpoint import Loaded

PAPER_RATIO = 2.24
"""Compression that the paper claims for SAM ViT-B (arXiv 2604.01167)."""

PAPER_RANK = 48
"""Initial rank of the paper's adapters, on q, k and v of each encoder block."""


@dataclass(frozen=True)
class Accounting:
    """The paper's count for SAM ViT-B: Linear weights in one byte, qkv and adapters in four.

    Attributes:
        linear: Weights of all Linear layers but qkv.
        qkv: Weights and biases of the qkv projections.
        adapters: Parameters of the adapters.
        float_bytes: All of them in FP32.
        quantized_bytes: Linear in INT8, the others in FP32.
        ratio: float_bytes / quantized_bytes.
    """

    linear: int
    qkv: int
    adapters: int
    float_bytes: int
    quantized_bytes: int
    ratio: float


def paper_accounting() -> Accounting:
    """Count the real tensors of SAM ViT-B in the way of the paper."""
    import torch
    from torch import nn

    from cxrseg.runtime.labels import labels_of
    from cxrseg.trainer.lungsam import LungSAM
    from cxrseg.trainer.sam import ARCHITECTURES

    architecture = ARCHITECTURES["vit_b"]
    with torch.device("meta"):
        model = LungSAM(architecture, 1024, [label.name for label in labels_of("fields")])
    linear = qkv = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if name.endswith(".qkv"):
                qkv += sum(p.numel() for p in module.parameters())
            else:
                linear += module.weight.numel()
    per_adapter = PAPER_RANK * (2 * architecture.embed_dim + 1)
    adapters = 3 * architecture.depth * per_adapter
    float_bytes = 4 * (linear + qkv + adapters)
    quantized_bytes = linear + 4 * (qkv + adapters)
    return Accounting(
        linear, qkv, adapters, float_bytes, quantized_bytes, float_bytes / quantized_bytes
    )


@dataclass(frozen=True)
class Measured:
    """Bytes of two exports of the same checkpoint.

    Attributes:
        model: Name of the network.
        image_size: Side of the input in pixels.
        fp32_bytes: The FP32 file.
        int8_bytes: The INT8 file.
        ratio: fp32_bytes / int8_bytes.
        peak_memory_bytes: Largest resident memory of this process, both exports included; None
            where the system does not tell.
    """

    model: str
    image_size: int
    fp32_bytes: int
    int8_bytes: int
    ratio: float
    peak_memory_bytes: int | None


def untrained(name: str, image_size: int, global_attention: bool = False) -> Loaded:
    """Return a quantized network with random weights, whose files are as large as trained ones.

    Position tables that begin at zero are filled as well, so that none is stored once for all.
    """
    import torch

    from cxrseg.runtime.labels import labels_of
    from cxrseg.runtime.preprocess import Preprocessing
    from cxrseg.trainer.checkpoint import Description, Loaded, build
    from cxrseg.trainer.quantization import QuantizationConfig, calibrate
    from cxrseg.trainer.sam import ARCHITECTURES

    torch.manual_seed(0)
    architecture = ARCHITECTURES[name]
    if global_attention:
        architecture = architecture.with_global_attention()
    description = Description(
        architecture=architecture,
        labels=tuple(label.name for label in labels_of("fields")),
        preprocessing=Preprocessing(image_size),
        stage=2,
        quantization=QuantizationConfig(),
    )
    model = build(description).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    calibrate(model, [torch.rand(1, 1, image_size, image_size)])
    return Loaded(model, description, "")


def measure(loaded: Loaded, keep: Path | None = None, stock: bool = False) -> Measured:
    """Compile a network in both precisions and count the bytes of the files.

    Args:
        loaded: The network; loses its quantizers where `stock` is set.
        keep: Folder for the files, ``fp32.onnx`` and ``int8.onnx``; None to count only.
        stock: Also write ``stock.onnx``, torch's export of segment_anything's own modules.

    Raises:
        CxrsegError: It cannot be exported, or a file not be written.
    """
    from cxrseg.benchmarks.latency import peak_bytes
    from cxrseg.export.compiling import compile_model
    from cxrseg.export.writing import save, staged

    def store(precision: Precision) -> int:
        compiled = compile_model(loaded, precision)
        if keep is not None:
            with staged(keep / f"{precision}.onnx") as path:
                save(compiled.graph, path)
        return compiled.size

    fp32, int8 = store("fp32"), store("int8")
    peak = None if sys.platform == "win32" else peak_bytes()
    if stock and keep is not None:
        from cxrseg.benchmarks.stock import export_stock
        from cxrseg.runtime.files import atomic_write

        with atomic_write(keep / "stock.onnx") as beside:
            beside.write_bytes(export_stock(loaded))
    description = loaded.description
    name, size = description.architecture.name, description.preprocessing.size
    return Measured(name, size, fp32, int8, fp32 / int8, peak)


def tables(accounting: Accounting, measured: Measured) -> str:
    """Return both counts as Markdown."""
    from cxrseg.benchmarks.record import table

    def mb(count: int) -> str:
        return f"{count / 1e6:.1f}"

    paper = table(
        ["SAM ViT-B by the paper's accounting", "million", "FP32 MB", "quantized MB"],
        [
            [
                "Linear weights, INT8",
                mb(accounting.linear),
                mb(4 * accounting.linear),
                mb(accounting.linear),
            ],
            ["qkv, FP32", mb(accounting.qkv), mb(4 * accounting.qkv), mb(4 * accounting.qkv)],
            [
                f"adapters of rank {PAPER_RANK}, FP32",
                mb(accounting.adapters),
                mb(4 * accounting.adapters),
                mb(4 * accounting.adapters),
            ],
            [
                f"together: {accounting.ratio:.2f} times",
                "",
                mb(accounting.float_bytes),
                mb(accounting.quantized_bytes),
            ],
        ],
    )
    ours = table(
        ["exported files", "FP32 MB", "INT8 MB", "ratio", "peak MB of export"],
        [
            [
                f"{measured.model}, {measured.image_size} px",
                mb(measured.fp32_bytes),
                mb(measured.int8_bytes),
                f"{measured.ratio:.2f}",
                "-" if measured.peak_memory_bytes is None else mb(measured.peak_memory_bytes),
            ]
        ],
    )
    notes = (
        "The paper counts Linear weights alone: no convolutions, embeddings, norms or biases other "
        "than qkv's, and its files stay FP32. Ours are whole files: adapters merged, qkv, patch "
        "embedding, neck and transposed convolutions in INT8 too, the rest stored in FP16."
    )
    return f"{paper}\n\n{ours}\n\n{notes}"


@click.command("compression")
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Choice(["vit_n", "vit_t", "vit_b"]),
    default="vit_b",
    show_default=True,
    help="Network to export with random weights where no CHECKPOINT is given.",
)
@click.option(
    "--image-size",
    type=click.IntRange(32, 1024),
    default=256,
    show_default=True,
    metavar="N",
    help="Input side for --model, a multiple of 16.",
)
@click.option(
    "--global-attention",
    is_flag=True,
    help="For --model: without attention windows.",
)
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Leave the files in this folder as fp32.onnx and int8.onnx, for cxrseg-bench latency.",
)
@click.option(
    "--stock",
    is_flag=True,
    help="With --keep: also stock.onnx, torch's plain export of segment_anything's own modules.",
)
@output_option
@click.pass_context
def command(
    context: click.Context,
    checkpoint: Path | None,
    model: str,
    image_size: int,
    global_attention: bool,
    keep: Path | None,
    stock: bool,
    output: Path | None,
) -> int:
    """Print the paper's compression of SAM ViT-B and the measured one of exported files.

    CHECKPOINT is a model.ckpt of stage 2; it is exported in FP32 and in INT8 and the bytes are
    counted. Exit code 1 when the measured ratio is below the paper's 2.24.
    """
    require_extra("cxrseg-bench compression", "export", EXTRA)
    from cxrseg.benchmarks.record import check_output, command_line, environment, now, write_record
    from cxrseg.export.exporting import require_quantized
    from cxrseg.runtime.batch import prepare_folder
    from cxrseg.trainer.checkpoint import load

    if image_size % 16:
        raise click.BadParameter("not a multiple of 16", param_hint="--image-size")
    if output is not None:
        check_output(output)
    if stock and keep is None:
        raise click.UsageError("--stock needs --keep")
    if keep is not None:
        prepare_folder(keep)
    date = now()
    if checkpoint is None:
        loaded = untrained(model, image_size, global_attention)
    else:
        loaded = load(checkpoint)
        require_quantized(loaded, checkpoint)
    echo("cxrseg-bench: exporting twice ...", err=True)
    accounting, measured = paper_accounting(), measure(loaded, keep, stock)
    text = tables(accounting, measured)
    for line in text.split("\n"):
        echo(line)
    if output is not None:
        record: dict[str, Any] = {
            "command": command_line(context),
            "date": date,
            **environment(),
            "paper": asdict(accounting),
            "measured": asdict(measured),
        }
        write_record(output, "compression", record, f"# Compression\n\n{text}")
        echo(f"written: {output}, {output.with_suffix('.md')}")
    if measured.ratio < PAPER_RATIO:
        echo(f"error: measured {measured.ratio:.2f} is below the paper's {PAPER_RATIO}", err=True)
        return FAILED
    return OK
