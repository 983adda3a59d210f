"""What an export tells: layers, sizes, and the evidence that the file is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cxrseg.export.verify.proof import Proof
from cxrseg.runtime.quality.reference import Reference
from cxrseg.trainer.adapt.sensitivity import Sensitivity


@dataclass(frozen=True)
class Report:
    """What was exported, and the evidence that it is right.

    Attributes:
        files: The file; where the model is too large for one, also the file with its weights.
        precision: Layer -> ``int8``, ``fp16``, ``fp32`` or ``constant``.
        sensitivity: Layer -> what its quantization alone does, where training measured it.
        size: Bytes of the files together.
        fp32_size: Bytes of the FP32 export of the same checkpoint.
        proof: Operators of ONNX Runtime's optimized graph, and agreement of masks.
        verified_on: Which images.
        sha256: Hash of the files, one after the other.
        reference: The quality reference inside; None where there is none.
    """

    files: tuple[Path, ...]
    precision: dict[str, str]
    sensitivity: dict[str, Sensitivity]
    size: int
    fp32_size: int
    proof: Proof
    verified_on: str
    sha256: str
    reference: Reference | None = None

    @property
    def path(self) -> Path:
        """The ONNX file."""
        return self.files[0]

    @property
    def ratio(self) -> float:
        """How many times smaller than FP32."""
        return self.fp32_size / self.size


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
        + ", ".join(f"{n} {op}" for op, n in report.proof.coverage.operators.items()),
        f"integer     {_by_operator(report.proof.coverage.executed.values())}",
    ]
    for name, agreement in report.proof.agreements.items():
        lines.append(
            f"agreement   {agreement.mean:.6f} of pixels, "
            f"worst image {agreement.worst:.6f} ({name})"
        )
    of = " of " + " followed by ".join(path.name for path in report.files)
    sha256 = report.sha256 + (of if len(report.files) > 1 else "")
    lines += [
        f"verified    on {report.verified_on}",
        f"quality     {_quality(report.reference)}",
        f"sha256      {sha256}",
    ]
    return "\n".join(lines)


def _quality(reference: Reference | None) -> str:
    if reference is None:
        return (
            "no reference, so cxrseg-run raises only the flags that need none, and --strict"
            " refuses the file; give --quality-data"
        )
    return f"reference of {reference.images} images, protocols {', '.join(reference.protocols)}"


def _by_operator(operators: Iterable[str]) -> str:
    counts = Counter(operators)
    return ", ".join(f"{n} layers as {op}" for op, n in counts.most_common()) or "none"
