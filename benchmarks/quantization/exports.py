"""Both exports of a checkpoint: made or given, of random weights if need be, and their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from cxrseg.benchmarks.quantization.stock import export_stock
from cxrseg.export.graph.compile import Precision, compile_model
from cxrseg.export.graph.files import atomic_outputs, save
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import labels_of
from cxrseg.runtime.core.model_card import ModelCard
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.files.atomic import atomic_write
from cxrseg.runtime.inference.loading import load_model
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import calibrate
from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.fit.checkpoint import Description, Loaded, build
from cxrseg.trainer.networks.sam import ARCHITECTURES


@dataclass(frozen=True)
class Measured:
    """Bytes of two exports of the same checkpoint.

    Attributes:
        model: Name of the network.
        image_size: Side of the input in pixels.
        fp32_bytes: The FP32 file.
        int8_bytes: The INT8 file.
        ratio: fp32_bytes / int8_bytes.
    """

    model: str
    image_size: int
    fp32_bytes: int
    int8_bytes: int
    ratio: float


def untrained(name: str, image_size: int, global_attention: bool = False) -> Loaded:
    """Return a quantized network with random weights, whose files are as large as trained ones.

    Position tables that begin at zero are filled as well, so that none is stored once for all.
    """
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
    precisions: tuple[Precision, Precision] = ("fp32", "int8")
    fp32, int8 = (_compiled_bytes(loaded, precision, keep) for precision in precisions)
    if stock and keep is not None:
        with atomic_write(keep / "stock.onnx") as temporary:
            temporary.write_bytes(export_stock(loaded))
    description = loaded.description
    return Measured(description.model, description.preprocessing.size, fp32, int8, fp32 / int8)


def _compiled_bytes(loaded: Loaded, precision: Precision, keep: Path | None) -> int:
    compiled = compile_model(loaded, precision, layer_table(loaded.model))
    if keep is not None:
        with atomic_outputs(keep / f"{precision}.onnx") as path:
            save(compiled.graph, path)
    return compiled.size


def card_of_export(path: Path, checkpoint: str) -> ModelCard:
    """Return the card of a model file that must be of a checkpoint.

    Args:
        path: The model file.
        checkpoint: SHA-256 of the checkpoint.

    Raises:
        CxrsegError: It is no model file, or of another checkpoint.
    """
    card = load_model(path, "cpu").card
    if card.checkpoint_sha256 != checkpoint:
        cause = "was not exported from the checkpoint"
        raise CxrsegError(path, cause, "export it again with cxrseg-export")
    return card


def measure_files(int8: Path, fp32: Path, checkpoint: str) -> Measured:
    """Count the bytes of existing files.

    Args:
        int8: The INT8 export.
        fp32: The FP32 export.
        checkpoint: SHA-256 of the checkpoint that both must be of.

    Raises:
        CxrsegError: One is no model file, or of another checkpoint.
    """
    card, _ = (card_of_export(path, checkpoint) for path in (int8, fp32))
    whole, small = (path.stat().st_size for path in (fp32, int8))
    name = card.name.removeprefix("cxrseg-")
    return Measured(name, card.preprocessing.size, whole, small, whole / small)
