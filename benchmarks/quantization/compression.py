"""``cxrseg-bench compression``: the paper's arithmetic beside the bytes of exported files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.legacy_options import output_option
from cxrseg.export.extra import require_export
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.terminal.console import FAILED, OK, echo

if TYPE_CHECKING:
    from cxrseg.benchmarks.quantization.accounting import Accounting, Trained
    from cxrseg.export.graph.compile import Precision
    from cxrseg.runtime.core.model_card import ModelCard
    from cxrseg.trainer.fit.checkpoint import Loaded

_PATH = click.Path(path_type=Path)


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

    from cxrseg.runtime.core.labels import labels_of
    from cxrseg.runtime.core.preprocess import Preprocessing
    from cxrseg.trainer.adapt.quantization import calibrate
    from cxrseg.trainer.adapt.quantizers import QuantizationConfig
    from cxrseg.trainer.fit.checkpoint import Description, Loaded, build
    from cxrseg.trainer.networks.sam import ARCHITECTURES

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
    loaded = Loaded(build(description).eval(), description, "")
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    calibrate(loaded.sam, [torch.rand(1, 1, image_size, image_size)])
    return loaded


def measure(loaded: Loaded, keep: Path | None = None, stock: bool = False) -> Measured:
    """Compile a network in both precisions and count the bytes of the files.

    Args:
        loaded: The network; loses its quantizers where `stock` is set.
        keep: Folder for the files, ``fp32.onnx`` and ``int8.onnx``; None to count only.
        stock: Also write ``stock.onnx``, torch's export of segment_anything's own modules.

    Raises:
        CxrsegError: It cannot be exported, or a file not be written.
    """
    from cxrseg.benchmarks.speed.latency import peak_bytes
    from cxrseg.export.graph.compile import compile_model
    from cxrseg.export.graph.files import atomic_outputs, save

    def store(precision: Precision) -> int:
        compiled = compile_model(loaded, precision)
        if keep is not None:
            with atomic_outputs(keep / f"{precision}.onnx") as path:
                save(compiled.graph, path)
        return compiled.size

    fp32, int8 = store("fp32"), store("int8")
    peak = None if sys.platform == "win32" else peak_bytes()
    if stock and keep is not None:
        from cxrseg.benchmarks.methods.stock import export_stock
        from cxrseg.runtime.core.atomic import atomic_write

        with atomic_write(keep / "stock.onnx") as beside:
            beside.write_bytes(export_stock(loaded))
    description = loaded.description
    name, size = description.architecture.name, description.preprocessing.size
    return Measured(name, size, fp32, int8, fp32 / int8, peak)


def card_of_export(path: Path, checkpoint: str) -> ModelCard:
    """Return the card of a model file that must be of a checkpoint.

    Args:
        path: The model file.
        checkpoint: SHA-256 of the checkpoint.

    Raises:
        CxrsegError: It is no model file, or of another checkpoint.
    """
    from cxrseg.runtime.inference.session import load_model

    card = load_model(path, "cpu").card
    if card.checkpoint_sha256 != checkpoint:
        cause = "was not exported from the checkpoint"
        raise CxrsegError(path, cause, "export it again with cxrseg-export")
    return card


def measure_files(int8: Path, fp32: Path, checkpoint: str) -> Measured:
    """Count the bytes of files that are there.

    Args:
        int8: The INT8 export.
        fp32: The FP32 export.
        checkpoint: SHA-256 of the checkpoint that both must be of.

    Raises:
        CxrsegError: One is no model file, or of another checkpoint.
    """
    cards = [card_of_export(path, checkpoint) for path in (int8, fp32)]
    name, size = cards[0].name.removeprefix("cxrseg-"), cards[0].preprocessing.size
    sizes = fp32.stat().st_size, int8.stat().st_size
    return Measured(name, size, *sizes, sizes[0] / sizes[1], None)


def paper_table(accounting: Accounting) -> str:
    """Return the paper's count as an aligned Markdown table, beside what the paper says."""
    from cxrseg.benchmarks.harness.legacy_record import table
    from cxrseg.benchmarks.quantization.accounting import PAPER_COUNTS, PAPER_RANK

    def row(title: str, count: int, name: str, quantized: int) -> list[str]:
        said = PAPER_COUNTS[name]
        return [
            title,
            _millions(count),
            _millions(4 * count),
            _millions(quantized),
            _millions(said),
            f"{count / said - 1:+.1%}",
        ]

    linear, qkv, adapters = accounting.linear, accounting.qkv, accounting.adapters
    said = PAPER_COUNTS
    header = ["SAM ViT-B by the paper's accounting", "million", "FP32 MB", "quantized MB"]
    return table(
        [*header, "paper says", "difference"],
        [
            row("Linear weights, INT8", linear, "linear", linear),
            row("qkv, FP32", qkv, "qkv", 4 * qkv),
            row(f"adapters of rank {PAPER_RANK}, FP32", adapters, "adapters", 4 * adapters),
            [
                f"together: {accounting.ratio:.2f} times",
                _millions(linear + qkv + adapters),
                _millions(accounting.float_bytes),
                _millions(accounting.quantized_bytes),
                f"{said['float_bytes'] / 1e6:.0f} : {said['quantized_bytes'] / 1e6:.0f} MB, "
                f"{said['ratio']:.2f}",
                f"{accounting.ratio / said['ratio'] - 1:+.1%}",
            ],
            [
                "not counted",
                _millions(accounting.left_out),
                _millions(4 * accounting.left_out),
                "-",
                "-",
                "-",
            ],
        ],
    )


def trained_table(ways: Sequence[Trained]) -> str:
    """Return what ways of fine-tuning train as an aligned Markdown table."""
    from cxrseg.benchmarks.harness.legacy_record import table

    rows = [
        [
            each.what,
            f"{each.trained / 1e6:.3f}",
            f"{each.full / 1e6:.3f}",
            f"{each.fewer:.1f}",
            "-" if each.paper is None else f"{each.paper:.1f}",
            "-" if each.paper is None else f"{each.fewer / each.paper - 1:+.1%}",
        ]
        for each in ways
    ]
    header = ["trained by", "million", "of", "times fewer", "paper says", "difference"]
    return table(header, rows)


def files_table(measured: Measured) -> str:
    """Return the exported files as an aligned Markdown table."""
    from cxrseg.benchmarks.harness.legacy_record import table

    peak = measured.peak_memory_bytes
    return table(
        ["exported files", "FP32 MB", "INT8 MB", "ratio", "peak MB of export"],
        [
            [
                f"{measured.model}, {measured.image_size} px",
                _millions(measured.fp32_bytes),
                _millions(measured.int8_bytes),
                f"{measured.ratio:.2f}",
                "-" if peak is None else _millions(peak),
            ]
        ],
    )


def _millions(count: float) -> str:
    return f"{count / 1e6:.1f}"


NOTES = (
    "The paper counts Linear weights alone: no convolutions, embeddings, norms or biases other than"
    " qkv's, and its files stay FP32. Ours are whole files: adapters merged, qkv, patch embedding,"
    " neck and transposed convolutions in INT8 too, the rest stored in FP16."
)

TRAINED_NOTES = (
    "How the paper counted is not at hand. Its own figures, about 5.4 million trained of 89.7"
    " million (the image encoder alone), give 16.6. Ours adapts proj, lin1 and lin2 as well, at a"
    " lower rank, and does not train parts of SAM that no mask depends on."
)


@click.command("compression")
@click.argument("checkpoint", required=False, type=_PATH)
@click.option(
    "--files",
    nargs=2,
    metavar="INT8.onnx FP32.onnx",
    type=_PATH,
    help="Exports of CHECKPOINT to count, instead of exporting it again.",
)
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
    type=_PATH,
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
    files: tuple[Path, Path] | None,
    model: str,
    image_size: int,
    global_attention: bool,
    keep: Path | None,
    stock: bool,
    output: Path | None,
) -> int:
    """Print the paper's counts for SAM ViT-B beside our own, and the size of exported files.

    Counted are the real tensors: the bytes by the paper's way of counting, and the parameters that
    full, decoder-only and AdaLoRA fine-tuning train. CHECKPOINT is a model.ckpt of stage 2; it is
    exported in FP32 and in INT8 and the bytes are counted. Exit code 1 when the measured ratio is
    below the paper's 2.24.

    \b
    Examples
      cxrseg-bench compression --model vit_b
      cxrseg-bench compression model.ckpt --files int8.onnx fp32.onnx -o compression.json
    """
    require_export("cxrseg-bench compression")
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        circumstances,
        command_line,
        environment,
        now,
        write_record,
    )
    from cxrseg.benchmarks.quantization.accounting import (
        PAPER_COUNTS,
        PAPER_RATIO,
        our_trained,
        paper_accounting,
        paper_trained,
    )
    from cxrseg.export.pipeline import require_quantized
    from cxrseg.runtime.core.atomic import prepare_folder
    from cxrseg.trainer.fit.checkpoint import load

    if image_size % 16:
        raise click.BadParameter("not a multiple of 16", param_hint="--image-size")
    if output is not None:
        check_output(output)
    if stock and keep is None:
        raise click.UsageError("--stock needs --keep")
    if files and (keep is not None or checkpoint is None):
        raise click.UsageError("--files are exports of a CHECKPOINT, and --keep writes others")
    if keep is not None:
        prepare_folder(keep)
    date = now()
    if checkpoint is None:
        loaded = untrained(model, image_size, global_attention)
    else:
        loaded = load(checkpoint)
        require_quantized(loaded, checkpoint)
    accounting = paper_accounting()
    ways = {"paper": paper_trained(), "ours": list(our_trained(loaded.description))}
    if files:
        measured = measure_files(*files, loaded.sha256)
    else:
        echo("cxrseg-bench: exporting twice ...", err=True)
        measured = measure(loaded, keep, stock)
    pages = [
        paper_table(accounting),
        files_table(measured),
        NOTES,
        trained_table(ways["paper"]),
        trained_table(ways["ours"]),
        TRAINED_NOTES,
    ]
    text = "\n\n".join(pages)
    for line in text.split("\n"):
        echo(line)
    if output is not None:
        record: dict[str, Any] = {
            "command": command_line(context),
            "date": date,
            **environment("torch"),
            "paper": {**asdict(accounting), "says": PAPER_COUNTS},
            "measured": asdict(measured),
            "trained": {
                name: [{**asdict(each), "fewer": each.fewer} for each in found]
                for name, found in ways.items()
            },
        }
        facts = [
            "# Compression",
            f"`{record['command']}`",
            f"{circumstances(record)}.",
            text,
        ]
        write_record(output, "compression", record, "\n\n".join(facts))
        echo(f"written: {output}, {output.with_suffix('.md')}")
    if measured.ratio < PAPER_RATIO:
        echo(f"error: measured {measured.ratio:.2f} is below the paper's {PAPER_RATIO}", err=True)
        return FAILED
    return OK
