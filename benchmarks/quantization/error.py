"""``cxrseg-bench quantization-error``: what INT8 does to weights and to each layer's output.

It makes figure 3 of the paper, of the exported file itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import onnx_ir as ir
from tqdm import tqdm

from cxrseg.benchmarks.harness.options import ImageOptions, RowOptions, SeedOptions, ThreadOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.result import Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.harness.samples import list_images, model_facts
from cxrseg.benchmarks.quantization.error_plots import OUTPUTS, WEIGHTS, plot_outputs, plot_weights
from cxrseg.benchmarks.quantization.layers import Float, pair_layers
from cxrseg.benchmarks.quantization.noise import Noise, output_noise
from cxrseg.benchmarks.quantization.rounding import Rounding, findings, rounding_of
from cxrseg.export.graph.compile import compile_model
from cxrseg.export.verify.images import verification_images
from cxrseg.runtime.core.model_card import ModelCard
from cxrseg.runtime.core.preprocess import preprocess
from cxrseg.runtime.inference.loading import load_model
from cxrseg.runtime.inference.session import default_threads
from cxrseg.runtime.readers import read
from cxrseg.runtime.terminal.console import echo
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.fit.checkpoint import load

DEFINITIONS = (
    "Error: weight of the INT8 file times its channel's step, minus the weight of the FP32 export"
    " of the same checkpoint, adapters merged in both. Step: scale of an output channel. SQNR: 10"
    " log10 of the energy of the FP32 signal over that of the difference, dB. The outputs of layers"
    " come from both graphs as they are written; each layer follows INT8 layers, so noise adds up"
    " along the network."
)


@dataclass(frozen=True)
class Options(ThreadOptions, RowOptions, SeedOptions):
    """Two files of one network, and images to compare the outputs of their layers on."""

    model: Path = argument(type=PATH)
    reference: Path = argument(type=PATH)
    images: Path | None = option(
        "--images",
        default=None,
        metavar="FOLDER|CSV",
        type=PATH,
        help="X-rays to compare the outputs of layers on: a folder, or a CSV with the columns"
        " image, mask, split and others.  [default: 8 synthetic images]",
    )
    limit: int | None = option(
        "--limit",
        default=8,
        metavar="N",
        type=click.IntRange(min=1),
        help="Take N images only, spread evenly over all.",
    )


@dataclass(frozen=True)
class Reference:
    """The network in floating point.

    Attributes:
        model: Its FP32 graph.
        sha256: SHA-256 of the checkpoint that it comes from; empty where it is not known.
    """

    model: ir.Model
    sha256: str


@benchmark("quantization-error", Options, plots=(WEIGHTS, OUTPUTS))
def quantization_error(options: Options) -> Result:
    """Show what INT8 does to weights and layers.

    MODEL is an INT8 file written by cxrseg-export. REFERENCE is its source: the model.ckpt, or the
    export of that with --precision fp32. Weights are read from both files and matched by the names
    of layers: how large rounding errors are, how they are distributed (tested against a normal and
    a uniform distribution, with the distance from each), and how they depend on the size of a
    weight. Then both files run on some images, and the outputs of each layer are compared.

    With -o, FILE-weights.png shows the errors of weights and FILE-outputs.png the noise of each
    layer.

    \b
    Examples
      cxrseg-bench quantization-error int8.onnx model.ckpt
      cxrseg-bench quantization-error int8.onnx fp32.onnx --images pairs.csv -o error.json
    """
    loaded = load_model(options.model, "cpu")
    pixels, image_facts = read_images(options)
    reference, integer = read_reference(options.reference), ir.load(options.model)
    layers = pair_layers(reference.model, integer, options.model)
    weights = {layer.name: layer.weights for layer in layers if layer.weights is not None}
    rounding = rounding_of(weights, options.seed)
    batches = [preprocess(image, loaded.card.preprocessing)[None, None] for image in pixels]
    noise = output_noise(
        reference.model,
        integer,
        layers,
        tqdm(batches, unit="image", disable=None),
        options.threads or default_threads(),
    )
    text = findings(rounding)
    same = same_checkpoint(reference, loaded.card)
    plots = [] if rounding.exact else [plot_weights(rounding)]
    return Result(
        title=f"{options.model.name} against {options.reference.name}",
        data={
            "model": model_facts(options.model, loaded),
            "reference": {
                "file": options.reference.name,
                "checkpoint_sha256": reference.sha256,
                "same_checkpoint": same,
            },
            "dataset": image_facts,
            "findings": text,
            "weights": weight_figures(rounding),
            "outputs": [asdict(row) for row in noise],
        },
        tables=[
            Table([], [], note=text + _warning(same)),
            deciles_table(rounding),
            layers_table(rounding, noise),
        ],
        plots=[*plots, plot_outputs(noise, len(pixels))],
        definitions=DEFINITIONS,
    )


def read_images(options: Options) -> tuple[list[Float], dict[str, Any]]:
    """Read the images, or draw some where none are given; also return what the record tells."""
    if options.images is None:
        drawn, _ = verification_images(None)
        return drawn, {"synthetic": len(drawn)}
    chosen, facts = list_images(
        ImageOptions(
            images=options.images,
            split=options.split,
            where=options.where,
            protocol=options.protocol,
            limit=options.limit,
        )
    )
    return [read(path).pixels for _, path in chosen], facts


def read_reference(path: Path) -> Reference:
    """Read an FP32 file, or export a checkpoint in FP32, in memory.

    Raises:
        CxrsegError: It is neither.
    """
    if path.suffix == ".onnx":
        # Loaded first: the runtime refuses what is no model of ours.
        card = load_model(path, "cpu").card
        return Reference(ir.load(path), card.checkpoint_sha256)
    loaded = load(path)
    echo("cxrseg-bench: exporting in FP32 ...", err=True)
    return Reference(compile_model(loaded, "fp32", layer_table(loaded.model)).graph, loaded.sha256)


def same_checkpoint(reference: Reference, card: ModelCard) -> bool | None:
    """Tell whether both models come from one checkpoint; None where that is not known."""
    if not reference.sha256 or not card.checkpoint_sha256:
        return None
    return reference.sha256 == card.checkpoint_sha256


def _warning(same: bool | None) -> str:
    if same:
        return ""
    known = "comes from another checkpoint" if same is False else "does not tell its checkpoint"
    return f"\n\nThe reference {known}: the errors may hold training beside rounding."


def weight_figures(rounding: Rounding) -> dict[str, Any]:
    """Return the figures of the weights for JSON, without those of each layer and the sample."""
    figures = asdict(rounding)
    del figures["sample"], figures["layers"]
    return {**figures, "rounding_alone": rounding.alone, "exact": rounding.exact}


def layers_table(rounding: Rounding, noise: Sequence[Noise]) -> Table:
    """Return the rounding of each layer's weights and the noise of its output."""
    errors = {layer.name: layer for layer in rounding.layers}
    rows = []
    for output in noise:
        cells = ["-"] * 4
        if (error := errors.get(output.name)) is not None:
            ratio = "-" if error.sqnr is None else f"{error.sqnr:.1f}"
            cells = [f"{error.weights:,}", f"{error.step:.2e}", f"{error.largest:.3f}", ratio]
        rows.append([output.name, *cells, f"{output.signal:.4g}", f"{output.sqnr:.1f}"])
    weights = ["weights", "mean step", "largest error, steps", "weights' SQNR dB"]
    return Table(["layer", *weights, "output's RMS", "output's SQNR dB"], rows)


def deciles_table(rounding: Rounding) -> Table:
    """Return the errors by amplitude of the weights."""
    rows = [
        [str(number), f"{decile.largest:.5f}", f"{decile.mean:+.2e}", f"{decile.rms:.2e}"]
        for number, decile in enumerate(rounding.deciles, start=1)
    ]
    return Table(["tenth of the weights by amplitude", "up to", "mean error", "RMS error"], rows)
