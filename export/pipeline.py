"""The export: compile, write aside, verify; then, and only then, a file in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cxrseg.export.graph.compile import compile_model
from cxrseg.export.graph.files import atomic_outputs, digest, require_place, save
from cxrseg.export.integer import in_integers
from cxrseg.export.options import DEFAULTS, ExportOptions
from cxrseg.export.reference.attach import attach
from cxrseg.export.reference.fit import FOLDS, LIMIT, fit_to_images
from cxrseg.export.reference.images import SourceImage, read_images
from cxrseg.export.reference.statistics import FEWEST
from cxrseg.export.report import Report
from cxrseg.export.verify.images import verification_images
from cxrseg.export.verify.proof import prove, require_proof
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference.loading import load_model
from cxrseg.runtime.quality.reference import Reference
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.fit.checkpoint import load


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
        checkpoint: A ``model.ckpt``; of stage 2 for a SAM in ``int8``.
        output: The file to write.
        options: Precision, verification, and what goes into the model card.
        say: Called with a line for each step.

    Raises:
        CxrsegError: The checkpoint is unusable, or the verification failed; no file is written.
    """
    data = (options.verify_images, options.quality_data, options.calibration_images)
    output = require_place(output, checkpoint, *data)
    radiographs, verified_on = verification_images(options.verify_images)
    good = None if options.quality_data is None else _quality_images(options.quality_data)
    loaded = load(checkpoint)
    layers = layer_table(loaded.model)
    integer = None
    if options.precision == "int8":
        say("preparing the INT8 network")
        integer = in_integers(loaded, layers, checkpoint, options)
    say("tracing the FP32 network")
    compiled = compile_model(loaded, "fp32", layers, options.profile, options.license_note)
    fp32_size = compiled.size
    if integer is not None:
        say("tracing the INT8 network")
        compiled = compile_model(
            integer.loaded, "int8", integer.layers, options.profile, options.license_note
        )

    with atomic_outputs(output) as path:
        files = save(compiled.graph, path)
        say("verifying")
        proof = prove(path, compiled, {} if integer is None else integer.trained, radiographs)
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


def _quality_images(data: Path) -> list[SourceImage]:
    """List the X-rays that the quality reference is fitted to, before the minutes of an export.

    Raises:
        CxrsegError: There are too few.
    """
    images = read_images(data, limit=LIMIT)
    # Limits are judged on the patients of one fold, with statistics of the others.
    if len(images) * (FOLDS - 1) < FEWEST * FOLDS:
        cause = f"has {len(images)} images of its splits train and val, too few to fit flags to"
        raise CxrsegError(data, cause, "give 70 good X-rays or more, or leave it out")
    return images


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
