"""The export: compile, write aside, verify; then, and only then, a file in its place."""

from __future__ import annotations

import copy
import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from cxrseg.export.graph.compile import Compiled, Precision, Profile, compile_model
from cxrseg.export.graph.files import atomic_outputs, digest, require_place, save
from cxrseg.export.verify.agreement import (
    SAME_NETWORK,
    SAME_WEIGHTS,
    Agreement,
    compare,
    synthetic_radiographs,
)
from cxrseg.export.verify.backends import onnx_backend, saturates, torch_backend
from cxrseg.export.verify.operators import Coverage, operator_coverage
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference.session import load_model
from cxrseg.runtime.readers import find_images, read
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import make_float, set_weight_bits
from cxrseg.trainer.adapt.sensitivity import Sensitivity
from cxrseg.trainer.fit.checkpoint import Loaded, load

TRAINED = "ONNX Runtime, optimized : PyTorch as trained, fake-quantized"

SYNTHETIC_IMAGES = 8


@dataclass(frozen=True)
class Report:
    """What was exported, and the evidence that it is right.

    Attributes:
        files: The file; where the model is too large for one, also the file with its weights.
        precision: Layer -> ``int8``, ``fp16``, ``fp32`` or ``constant``.
        sensitivity: Layer -> what its quantization alone does, where training measured it.
        size: Bytes of the files together.
        fp32_size: Bytes of the FP32 export of the same checkpoint.
        coverage: Operators of ONNX Runtime's optimized graph.
        agreements: What was compared -> agreement of masks.
        verified_on: Which images.
        sha256: Hash of the files, one after the other.
    """

    files: tuple[Path, ...]
    precision: dict[str, str]
    sensitivity: dict[str, Sensitivity]
    size: int
    fp32_size: int
    coverage: Coverage
    agreements: dict[str, Agreement]
    verified_on: str
    sha256: str

    @property
    def path(self) -> Path:
        """The ONNX file."""
        return self.files[0]

    @property
    def ratio(self) -> float:
        """How many times smaller than FP32."""
        return self.fp32_size / self.size


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


def verification_images(folder: Path | None) -> tuple[list[NDArray[np.float32]], str]:
    """Return radiographs to verify on, at most 32, and what they are.

    Raises:
        CxrsegError: The folder holds no readable image.
    """
    if folder is None:
        return synthetic_radiographs(SYNTHETIC_IMAGES), f"{SYNTHETIC_IMAGES} synthetic images"
    paths = find_images([folder])
    paths = [paths[i * len(paths) // 32] for i in range(32)] if len(paths) > 32 else paths
    return [read(path).pixels for path in paths], f"{len(paths)} images of {folder.name}"


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


def export(
    checkpoint: Path,
    output: Path,
    profile: Profile = "cpu",
    precision: Precision = "int8",
    verify_images: Path | None = None,
    keep_fp16: Sequence[str] = (),
    weight_bits: int | None = None,
    license_note: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Export a checkpoint to a verified ONNX file.

    Of a model too large for one file, which in INT8 none is, the weights go to a second file,
    called like the first with ``.data`` appended.

    Args:
        checkpoint: A ``model.ckpt``; of stage 2 for ``int8``.
        output: The file to write.
        profile: ``cpu`` stores layers that are not integer in FP16; ``gpu`` also computes them so.
        precision: ``int8``, or ``fp32`` for comparison.
        verify_images: Folder of X-rays to verify on; None for synthetic ones.
        keep_fp16: Patterns, as in the shell, of layers to take out of INT8.
        weight_bits: 7 or 8; None for what the model was trained with.
        license_note: Terms of the weights, for the model card.
        say: Called with a line for each step.

    Raises:
        CxrsegError: The checkpoint is unusable, or the verification failed; no file is written.
    """
    require_place(output, checkpoint)
    radiographs, verified_on = verification_images(verify_images)
    loaded = load(checkpoint)
    if precision == "int8":
        require_quantized(loaded, checkpoint)
        require_exact(loaded, weight_bits)
    trained = copy.deepcopy(loaded.model) if precision == "int8" else None
    table = [row for row in layer_table(loaded.model) if row.quantized]
    kept = matching(keep_fp16, [row.name for row in table])
    make_float(loaded.model, [row for row in table if row.name in kept])
    if weight_bits is not None:
        set_weight_bits(loaded.model, weight_bits)
    say("tracing the FP32 network")
    compiled = compile_model(loaded, "fp32", profile, license_note)
    fp32_size = compiled.size
    if precision == "int8":
        say("tracing the INT8 network")
        compiled = compile_model(loaded, "int8", profile, license_note)

    with atomic_outputs(output) as path:
        files = save(compiled.graph, path)
        say("verifying")
        onnx.checker.check_model(path, full_check=True)
        coverage = operator_coverage(path, compiled.products)
        agreements = agreements_of(path, compiled, trained, radiographs)
        check(output, coverage, agreements, profile)
        if precision == "int8" or len(files) == 1:  # the runtime takes no model of two files
            load_model(path, "cpu")
        size, sha256 = sum(file.stat().st_size for file in files), digest(files)
    return Report(
        tuple(output.with_name(file.name) for file in files),
        compiled.card.precision,
        loaded.description.sensitivity,
        size,
        size if precision == "fp32" else fp32_size,
        coverage,
        agreements,
        verified_on,
        sha256,
    )


def agreements_of(
    path: Path,
    compiled: Compiled,
    trained: torch.nn.Module | None,
    radiographs: Sequence[NDArray[np.float32]],
) -> dict[str, Agreement]:
    """Compare the masks of a written model with those of PyTorch, one pair after the other.

    Args:
        path: The ONNX file.
        compiled: What was written there.
        trained: The network as it was trained; None where it is the same as the compiled one.
        radiographs: float32 [H, W] images.

    Returns:
        What was compared -> agreement.
    """
    card = compiled.card

    def agreement(optimized: bool, network: torch.nn.Module) -> Agreement:
        backends = onnx_backend(path, optimized), torch_backend(network)
        return compare(*backends, radiographs, card.preprocessing, card.labels)

    found = {
        "ONNX Runtime, optimized : the same network in PyTorch": agreement(True, compiled.network),
        "ONNX Runtime, unoptimized : the same": agreement(False, compiled.network),
    }
    if trained is not None:
        found[TRAINED] = agreement(True, trained)
    return found


def check(
    output: Path, coverage: Coverage, agreements: dict[str, Agreement], profile: Profile
) -> None:
    """Refuse an export that is not what it promises.

    Computing in FP16 (profile ``gpu``) is held to the looser limit.

    Raises:
        CxrsegError: A layer meant for integers runs in float, or masks differ.
    """
    if coverage.fallen_back:
        names = ", ".join(coverage.fallen_back[:3])
        raise CxrsegError(
            output,
            f"not written: {len(coverage.fallen_back)} layers would run in float ({names})",
            "install the onnxruntime of cxrseg's requirements",
        )
    for name, agreement in agreements.items():
        loose = name == TRAINED or profile == "gpu"
        limits = SAME_WEIGHTS if loose else SAME_NETWORK
        if 2 * agreement.with_lungs < agreement.images:
            raise CxrsegError(
                output,
                f"not written: the model finds lungs on {agreement.with_lungs} of "
                f"{agreement.images} images, too few to compare masks ({name})",
                "give X-rays of the kind it was trained on with --verify-images",
            )
        if agreement.mean < limits.mean or agreement.worst < limits.worst:
            raise CxrsegError(
                output,
                f"not written: masks agree on {agreement.mean:.5f} of the pixels, "
                f"{agreement.worst:.5f} in the worst image ({name}); needed are {limits.mean} and "
                f"{limits.worst}",
                "train longer, or verify on images of the kind it was trained on (--verify-images)",
            )


def table(report: Report) -> str:
    """Return the report as text."""
    counts = Counter(report.precision.values())
    lines = [f"{'layer':64} {'':5} {'SQNR dB':>8} {'Dice loss':>10}"]
    for name, precision in report.precision.items():
        each = report.sensitivity.get(name)
        figures = "" if each is None else f" {each.sqnr:8.1f} {each.dice_loss:10.5f}"
        lines.append(f"{name:64} {precision:5}{figures}")
    lines += [
        "layers      " + ", ".join(f"{n} {p}" for p, n in sorted(counts.items())),
        f"size        {report.size / 1e6:.2f} MB, {report.ratio:.2f} times smaller than FP32 "
        f"({report.fp32_size / 1e6:.2f} MB)",
        "operators   "
        + ", ".join(f"{n} {op}" for op, n in list(report.coverage.operators.items())),
        f"integer     {_by_operator(report.coverage.executed.values())}",
    ]
    for name, agreement in report.agreements.items():
        lines.append(
            f"agreement   {agreement.mean:.6f} of pixels, "
            f"worst image {agreement.worst:.6f} ({name})"
        )
    of = " of " + " followed by ".join(path.name for path in report.files)
    sha256 = report.sha256 + (of if len(report.files) > 1 else "")
    lines += [f"verified    on {report.verified_on}", f"sha256      {sha256}"]
    return "\n".join(lines)


def _by_operator(operators: Iterable[str]) -> str:
    counts = Counter(operators)
    return ", ".join(f"{n} layers as {op}" for op, n in counts.most_common()) or "none"
