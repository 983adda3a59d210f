"""``cxrseg-bench quantization-error``: what INT8 does to weights and to each layer's output.

It makes figure 3 of the paper, of the exported file itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.legacy_options import (
    images_and_facts,
    output_option,
    protocol_option,
    require_bench,
    seed_option,
    split_option,
    threads_option,
    where_option,
)
from cxrseg.runtime.core.labels import Protocol
from cxrseg.runtime.terminal.console import echo, watched

if TYPE_CHECKING:
    import onnx_ir as ir

    from cxrseg.benchmarks.quantization.layers import Noise
    from cxrseg.benchmarks.quantization.rounding import Rounding
    from cxrseg.runtime.core.model_card import ModelCard

WEIGHTS, OUTPUTS = "weights", "outputs"
"""Names of the figures."""

DEFINITIONS = (
    "Error: weight of the INT8 file times its channel's step, minus the weight of the FP32 export"
    " of the same checkpoint, adapters merged in both. Step: scale of an output channel. SQNR: 10"
    " log10 of the FP32 signal's energy over the difference's, dB. Outputs are those of both files'"
    " graphs as they are written, each layer after INT8 layers: noise adds up along the network."
)

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Reference:
    """The network in floating point.

    Attributes:
        model: Its FP32 graph.
        sha256: SHA-256 of the checkpoint that it comes from; empty where it is not known.
    """

    model: ir.Model
    sha256: str


def read_reference(path: Path) -> Reference:
    """Read an FP32 file, or export a checkpoint in FP32, in memory.

    Raises:
        CxrsegError: It is neither.
    """
    import onnx_ir as ir

    from cxrseg.runtime.inference.session import load_model

    if path.suffix == ".onnx":
        card = load_model(path, "cpu").card
        return Reference(ir.load(path), card.checkpoint_sha256)
    from cxrseg.export.graph.compile import compile_model
    from cxrseg.trainer.fit.checkpoint import load

    loaded = load(path)
    echo("cxrseg-bench: exporting in FP32 ...", err=True)
    return Reference(compile_model(loaded, "fp32").graph, loaded.sha256)


def weights_table(rounding: Rounding) -> str:
    """Return the rounding of each layer's weights as an aligned Markdown table."""
    from cxrseg.benchmarks.harness.legacy_record import table

    rows = [
        [
            each.name,
            f"{each.weights:,}",
            f"{each.step:.2e}",
            f"{each.rms:.2e}",
            f"{each.largest:.3f}",
            "-" if each.sqnr is None else f"{each.sqnr:.1f}",
        ]
        for each in rounding.layers
    ]
    header = ["weights of", "n", "mean step", "RMS error", "largest, steps", "SQNR dB"]
    return table(header, rows)


def deciles_table(rounding: Rounding) -> str:
    """Return the errors by amplitude of the weights as an aligned Markdown table."""
    from cxrseg.benchmarks.harness.legacy_record import table

    rows = [
        [str(number), f"{each.largest:.5f}", f"{each.mean:+.2e}", f"{each.rms:.2e}"]
        for number, each in enumerate(rounding.deciles, start=1)
    ]
    return table(["tenth of the weights by amplitude", "up to", "mean error", "RMS error"], rows)


def outputs_table(noise: Sequence[Noise]) -> str:
    """Return the noise of each layer's output as an aligned Markdown table."""
    from cxrseg.benchmarks.harness.legacy_record import table

    rows = [
        [each.name, f"{each.signal:.4g}", f"{each.noise:.2e}", f"{each.sqnr:.1f}"] for each in noise
    ]
    return table(["output of", "RMS in FP32", "RMS difference", "SQNR dB"], rows)


def plain_rounding(rounding: Rounding) -> dict[str, Any]:
    """Return the figures of the weights for JSON; the sample is left out."""
    plain = asdict(rounding)
    del plain["sample"]
    return {**plain, "rounding_alone": rounding.largest <= 0.501, "exact": rounding.exact}


def same_checkpoint(reference: Reference, card: ModelCard) -> bool | None:
    """Tell whether both models come from one checkpoint; None where that is not known."""
    if not reference.sha256 or not card.checkpoint_sha256:
        return None
    return reference.sha256 == card.checkpoint_sha256


@click.command("quantization-error")
@click.argument("model", type=_PATH)
@click.argument("reference", type=_PATH)
@click.option(
    "--images",
    metavar="FOLDER|CSV",
    type=_PATH,
    help="X-rays to compare the outputs of layers on: a folder, or a CSV with the columns image,"
    " mask, split and others.  [default: 8 synthetic images]",
)
@split_option
@where_option
@protocol_option
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Take N images only, spread evenly over all.",
)
@threads_option
@seed_option
@output_option
@click.pass_context
def command(
    context: click.Context,
    model: Path,
    reference: Path,
    images: Path | None,
    split: str,
    where: tuple[str, ...],
    protocol: Protocol,
    limit: int,
    threads: int | None,
    seed: int,
    output: Path | None,
) -> None:
    """Analyze the error that INT8 brings to a model.

    MODEL is an INT8 file written by cxrseg-export. REFERENCE is what it was made from: the
    model.ckpt, or its export with --precision fp32. Weights are read from the files themselves and
    matched by the names of layers: how large rounding errors are, how they are distributed (tested
    against a normal and a uniform one, with distances from both), how they depend on the size of a
    weight. Then both files run on some images, and the outputs of each layer are compared.

    With -o figures are drawn beside it, FILE-weights and FILE-outputs, as .png and .svg.

    \b
    Examples
      cxrseg-bench quantization-error int8.onnx model.ckpt
      cxrseg-bench quantization-error int8.onnx fp32.onnx --images pairs.csv -o error.json
    """
    require_bench("quantization-error")
    import onnx_ir as ir

    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        circumstances,
        command_line,
        environment,
        model_facts,
        now,
        write_record,
        written,
    )
    from cxrseg.benchmarks.quantization.layers import output_noise, pair_layers
    from cxrseg.benchmarks.quantization.quantization_figures import draw_outputs, draw_weights
    from cxrseg.benchmarks.quantization.rounding import findings, rounding_of
    from cxrseg.export.verify.images import verification_images
    from cxrseg.runtime.core.preprocess import preprocess
    from cxrseg.runtime.inference.session import default_threads, load_model
    from cxrseg.runtime.readers import read

    if output is not None:
        check_output(output, [WEIGHTS, OUTPUTS])
    loaded = load_model(model, "cpu")
    if images is None:
        pixels, of = verification_images(None)
        data: dict[str, Any] = {"synthetic": len(pixels)}
    else:
        chosen, data = images_and_facts(context, images, split, where, protocol, limit)
        pixels, of = (
            [read(path).pixels for _, path in chosen],
            f"{len(chosen)} images of {images.name}",
        )
    exact = read_reference(reference)
    same = same_checkpoint(exact, loaded.card)
    if same is False:
        echo(f"warning: {model} was not exported from the checkpoint of {reference}", err=True)

    date = now()
    integer = ir.load(model)
    layers = pair_layers(exact.model, integer, model)
    rounding = rounding_of(layers, seed)
    text = findings(rounding)
    batches = (preprocess(each, loaded.card.preprocessing)[None, None] for each in pixels)
    echo(f"cxrseg-bench: comparing outputs of {len(layers)} layers on {of} ...", err=True)
    shown = watched(batches, len(pixels))
    noise = output_noise(exact.model, integer, layers, shown, threads or default_threads())

    title = f"{model.name} against {reference.name}"
    pages = [text, weights_table(rounding), deciles_table(rounding), outputs_table(noise)]
    for line in "\n\n".join([title, *pages]).split("\n"):
        echo(line)
    if output is None:
        return
    figures = {OUTPUTS: draw_outputs(noise, len(pixels))}
    if not rounding.exact:
        figures = {WEIGHTS: draw_weights(rounding), **figures}
    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment("scipy", "torch"),
        "model": model_facts(model, loaded),
        "reference": {
            "file": reference.name,
            "checkpoint_sha256": exact.sha256,
            "same_checkpoint": same,
        },
        "data": data,
        "seed": seed,
        "definitions": DEFINITIONS,
        "findings": text,
        "weights": plain_rounding(rounding),
        "outputs": [asdict(each) for each in noise],
    }
    facts = [
        f"# Quantization error: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; model SHA-256 `{loaded.sha256}`.",
        DEFINITIONS,
    ]
    if same is not True:
        known = "comes from another checkpoint" if same is False else "does not tell its checkpoint"
        facts.append(f"The reference {known}: the errors may hold training beside rounding.")
    write_record(output, "quantization-error", record, "\n\n".join([*facts, *pages]), figures)
    echo(written(output, figures))
