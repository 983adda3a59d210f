"""The export: compile, write aside, verify; then, and only then, a file in its place."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cxrseg.export.graph.compile import Precision, Profile, compile_model
from cxrseg.export.graph.files import atomic_outputs, digest, require_place, save
from cxrseg.export.reference.attach import attach
from cxrseg.export.reference.fit import LIMIT, fit_to_images
from cxrseg.export.reference.images import SourceImage, read_images
from cxrseg.export.report import Report
from cxrseg.export.verify.backends import saturates
from cxrseg.export.verify.images import verification_images
from cxrseg.export.verify.proof import prove, require_proof
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference.session import load_model
from cxrseg.runtime.quality.reference import Reference
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import make_float, set_weight_bits
from cxrseg.trainer.fit.checkpoint import Loaded, load


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported.

    Attributes:
        profile: ``cpu`` stores layers that are not integer in FP16; ``gpu`` also computes them so.
        precision: ``int8``, or ``fp32`` for comparison.
        verify_images: Folder of X-rays to verify on; None for synthetic ones.
        keep_fp16: Patterns, as in the shell, of layers to take out of INT8.
        weight_bits: 7 or 8; None for what the model was trained with.
        license_note: Terms of the weights, for the model card.
        quality_data: CSV or folder of good X-rays that the reference of the quality flags is fitted
            to; None for a model without one.
    """

    profile: Profile = "cpu"
    precision: Precision = "int8"
    verify_images: Path | None = None
    keep_fp16: tuple[str, ...] = ()
    weight_bits: int | None = None
    license_note: str = ""
    quality_data: Path | None = None


DEFAULTS = ExportOptions()


def export(
    checkpoint: Path,
    output: Path,
    options: ExportOptions = DEFAULTS,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Export a checkpoint to a verified ONNX file.

    Of a model too large for one file, which in INT8 none is, the weights go to a second file,
    called like the first with ``.data`` appended.

    Args:
        checkpoint: A ``model.ckpt``; of stage 2 for ``int8``.
        output: The file to write.
        options: Precision, verification, and what goes into the model card.
        say: Called with a line for each step.

    Raises:
        CxrsegError: The checkpoint is unusable, or the verification failed; no file is written.
    """
    require_place(output, checkpoint)
    radiographs, verified_on = verification_images(options.verify_images)
    good = None if options.quality_data is None else read_images(options.quality_data, limit=LIMIT)
    loaded = load(checkpoint)
    trained = prepare(loaded, checkpoint, options) if options.precision == "int8" else None
    say("tracing the FP32 network")
    compiled = compile_model(loaded, "fp32", options.profile, options.license_note)
    fp32_size = compiled.size
    if options.precision == "int8":
        say("tracing the INT8 network")
        compiled = compile_model(loaded, "int8", options.profile, options.license_note)

    with atomic_outputs(output) as path:
        files = save(compiled.graph, path)
        say("verifying")
        proof = prove(path, compiled, trained, radiographs)
        require_proof(output, proof, options.profile)
        if options.precision == "int8" or len(files) == 1:  # the runtime takes no two files
            load_model(path, "cpu")
        reference = None
        if good is not None:
            say(f"fitting the quality reference to {len(good)} images")
            reference = add_reference(path, good, files)
        size, sha256 = sum(file.stat().st_size for file in files), digest(files)
    return Report(
        files=tuple(output.with_name(file.name) for file in files),
        precision=compiled.card.precision,
        sensitivity=loaded.description.sensitivity,
        size=size,
        fp32_size=size if options.precision == "fp32" else fp32_size,
        proof=proof,
        verified_on=verified_on,
        sha256=sha256,
        reference=reference,
    )


def add_reference(path: Path, images: Sequence[SourceImage], files: Sequence[Path]) -> Reference:
    """Fit the quality reference of a written model, and write it into the file.

    Args:
        path: The ONNX file; is replaced.
        images: Good X-rays.
        files: What the model consists of.

    Raises:
        CxrsegError: The model is in two files, which the runtime does not take, or the reference
            cannot be fitted.
    """
    if len(files) > 1:
        cause = "the model is too large for one file, so cxrseg-run cannot judge it"
        raise CxrsegError("--quality-data", cause, "leave it out")
    reference = fit_to_images(load_model(path, "cpu"), images)
    attach(reference, path, path)
    return reference


def prepare(loaded: Loaded, source: Path, options: ExportOptions) -> torch.nn.Module:
    """Make a network INT8 in the layers and with the bits that were asked for.

    Args:
        loaded: The network; is changed.
        source: Where it comes from, for messages.
        options: Layers to keep in float, and bits.

    Returns:
        The network as it was trained.

    Raises:
        CxrsegError: It knows no INT8, a pattern matches no layer, or 8 bits cannot be verified.
    """
    require_quantized(loaded, source)
    require_exact(loaded, options.weight_bits)
    trained = copy.deepcopy(loaded.model)
    table = [row for row in layer_table(loaded.sam) if row.quantized]
    kept = matching(options.keep_fp16, [row.name for row in table])
    make_float(loaded.sam, [row for row in table if row.name in kept])
    if options.weight_bits is not None:
        set_weight_bits(loaded.model, options.weight_bits)
    return trained


def require_quantized(loaded: Loaded, source: Path) -> None:
    """Refuse a checkpoint that knows no INT8.

    Raises:
        CxrsegError: It is of stage 1.
    """
    if loaded.description.quantization is None:
        raise CxrsegError(
            source,
            "was not trained for INT8 (stage 1 only)",
            "train it with cxrseg-train --stage 2 --checkpoint, or export --precision fp32",
        )


def require_exact(loaded: Loaded, weight_bits: int | None) -> None:
    """Refuse 8-bit weights where they cannot be verified.

    Raises:
        CxrsegError: This CPU's integer kernels saturate with them.
    """
    config = loaded.description.quantization
    if (weight_bits or (config and config.weight_bits)) == 8 and saturates():
        raise CxrsegError(
            "--weight-bits 8",
            "this computer's integer kernels saturate with 8-bit weights, so the file cannot be "
            "verified here",
            "export with --weight-bits 7, or on a computer with VNNI",
        )


def matching(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the names that match any of the patterns.

    Raises:
        CxrsegError: A pattern matches nothing.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise CxrsegError(
                f"--keep-fp16 {pattern}",
                "matches no INT8 layer",
                f"layers are called like {names[0]}" if names else "the model has none",
            )
    return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
