"""What ``cxrseg-run --about`` shows: program, libraries, model, terms of use."""

from __future__ import annotations

import platform
import textwrap
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cxrseg.runtime import models
from cxrseg.runtime.core.labels import LABELS, PROTOCOLS
from cxrseg.runtime.core.model_card import INTENDED_USE
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.inference.loading import LoadedModel, load_model
from cxrseg.runtime.inference.session import default_threads
from cxrseg.runtime.quality.reference import read_reference

CODE_LICENSE = "Apache-2.0"
"""License of cxrseg's code; the weights have their own terms, in the model card."""

# Name for people -> module. Asked for its version, a module answers whatever its package is
# called: OpenCV and ONNX Runtime come as several.
_MODULES = {
    "onnxruntime": "onnxruntime",
    "numpy": "numpy",
    "opencv": "cv2",
    "pydicom": "pydicom",
    "pillow": "PIL",
    "imagecodecs": "imagecodecs",
}

# What the extra "dicom" brings takes seconds to import; its package knows the version too.
_PACKAGES = ("highdicom",)

_WIDTH, _INDENT = 100, 16

Fact = tuple[str, str]
"""What a line is about, and what there is to say."""


def libraries() -> dict[str, str]:
    """Return library -> version, ``not installed`` where it cannot be loaded."""
    versions = {}
    for name, module in _MODULES.items():
        try:
            versions[name] = str(import_module(module).__version__)
        except ImportError:
            versions[name] = "not installed"
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def about(model: Path | None, device: str) -> list[str]:
    """Return lines of plain text that say what would run, on what, and on which terms.

    Args:
        model: Model file; None = the one that ships with the package.
        device: As in `cxrseg.runtime.inference.loading.load_model`.

    Raises:
        CxrsegError: The model cannot be loaded, or the device is not available.
    """
    path = models.default_model() if model is None else model
    loaded = load_model(path, device)
    lines = [f"cxrseg {package_version()}. Not a diagnostic device."]
    sections = {
        "Program": _program(loaded),
        "Model": _model(path, loaded),
        "Terms": _terms(path, loaded),
    }
    for title, facts in sections.items():
        lines += ["", title]
        for name, value in facts:
            lines += textwrap.wrap(
                # A card's own line breaks are none of ours.
                " ".join(value.split()) or "not told",
                _WIDTH,
                initial_indent=f"  {name}".ljust(_INDENT),
                subsequent_indent=" " * _INDENT,
                # A path or a hash stays whole, to be copied.
                break_long_words=False,
                break_on_hyphens=False,
            )
    return lines


def _program(loaded: LoadedModel) -> Iterator[Fact]:
    import onnxruntime

    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "system", f"{platform.platform()}, {platform.machine()}"
    yield "CPU cores", f"{default_threads()} used by default"
    yield from libraries().items()
    yield "providers", ", ".join(onnxruntime.get_available_providers())
    yield "runs on", loaded.provider
    yield "telemetry", "off"


def _model(path: Path, loaded: LoadedModel) -> Iterator[Fact]:
    card = loaded.card
    spec = card.preprocessing
    known = [label for label in LABELS if label.name in card.labels]
    yield "file", f"{path.absolute()} ({path.stat().st_size / 1e6:.1f} MB)"
    yield "SHA-256", loaded.sha256
    yield "name", f"{card.name}, exported by cxrseg {card.version}"
    yield "checkpoint", f"SHA-256 {card.checkpoint_sha256}" if card.checkpoint_sha256 else ""
    yield "labels", ", ".join(f"{label.name} = {label.value}" for label in known)
    offered = [name for name in PROTOCOLS if name in {label.protocol for label in known}]
    yield "protocols", ", ".join(offered)
    yield (
        "input",
        f"gray, resized to {spec.size} x {spec.size}, windowed from percentile {spec.low:g} to"
        f" {spec.high:g} of the content",
    )
    counts = Counter(card.precision.values())
    yield "precision", ", ".join(f"{name}: {n} layers" for name, n in sorted(counts.items()))
    reference = read_reference(loaded.reference, path)
    if reference is None:
        yield "quality", "no reference: only the flags that need none are raised"
    else:
        covered = ", ".join(reference.protocols)
        yield "quality", f"reference of {reference.images} images, protocols {covered}"


def _terms(path: Path, loaded: LoadedModel) -> Iterator[Fact]:
    yield "code", CODE_LICENSE
    yield "weights", loaded.card.license
    # It describes the model that ships, and no other.
    if models.is_shipped(path):
        yield "model card", str(Path(models.__file__).with_name("MODEL_CARD.md"))
    yield "intended use", loaded.card.intended_use or INTENDED_USE
