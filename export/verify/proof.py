"""The evidence that a written model is what it promises, and the refusal of one that is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from cxrseg.export.graph.compile import Compiled, Profile
from cxrseg.export.verify.agreement import (
    ROUNDED_LATER,
    SAME_NETWORK,
    SAME_WEIGHTS,
    Agreement,
    Limits,
    compare,
)
from cxrseg.export.verify.backends import onnx_backend, torch_backend
from cxrseg.export.verify.operators import Coverage, operator_coverage
from cxrseg.runtime.core.errors import CxrsegError

TRAINED = "ONNX Runtime, optimized : PyTorch as trained, fake-quantized"
TRAINED_IN_FLOAT = "ONNX Runtime, optimized : PyTorch as trained, in float"


@dataclass(frozen=True)
class Proof:
    """What was found about a written model.

    Attributes:
        coverage: Operators of ONNX Runtime's optimized graph.
        agreements: What was compared -> agreement of masks.
    """

    coverage: Coverage
    agreements: dict[str, Agreement]


def prove(
    path: Path,
    compiled: Compiled,
    trained: Mapping[str, torch.nn.Module],
    radiographs: Sequence[NDArray[np.float32]],
) -> Proof:
    """Check a written model with ONNX's checker, and look at what it computes, and how.

    Args:
        path: The ONNX file.
        compiled: What was written there.
        trained: What is compared -> the network as it was trained, where it is another.
        radiographs: float32 [H, W] images.
    """
    onnx.checker.check_model(path, full_check=True)
    coverage = operator_coverage(path, compiled.products)
    return Proof(coverage, agreements_of(path, compiled, trained, radiographs))


def agreements_of(
    path: Path,
    compiled: Compiled,
    trained: Mapping[str, torch.nn.Module],
    radiographs: Sequence[NDArray[np.float32]],
) -> dict[str, Agreement]:
    """Compare the masks of a written model with those of PyTorch, one pair after the other.

    Args:
        path: The ONNX file.
        compiled: What was written there.
        trained: What is compared -> the network as it was trained, where it is another.
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
    return found | {name: agreement(True, network) for name, network in trained.items()}


def require_proof(output: Path, proof: Proof, profile: Profile) -> None:
    """Refuse an export that is not what it promises.

    Args:
        output: The file, for messages.
        proof: What was found.
        profile: ``gpu`` computes in FP16, which is held to the looser limits.

    Raises:
        CxrsegError: A layer meant for integers runs in float, or masks differ.
    """
    if fallen_back := proof.coverage.fallen_back:
        names = ", ".join(fallen_back[:3])
        raise CxrsegError(
            output,
            f"not written: {len(fallen_back)} layers would run in float ({names})",
            "install the onnxruntime of cxrseg's requirements",
        )
    for name, agreement in proof.agreements.items():
        require_agreement(output, name, agreement, limits_of(name, profile))


def limits_of(name: str, profile: Profile) -> Limits:
    """Return the limits of one comparison."""
    if name == TRAINED_IN_FLOAT:
        return ROUNDED_LATER
    return SAME_WEIGHTS if name == TRAINED or profile == "gpu" else SAME_NETWORK


def require_agreement(output: Path, name: str, agreement: Agreement, limits: Limits) -> None:
    """Refuse an export whose masks differ.

    Args:
        output: The file, for messages.
        name: What was compared.
        agreement: What was found.
        limits: What is needed.

    Raises:
        CxrsegError: Masks differ, or are too empty to tell.
    """
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
