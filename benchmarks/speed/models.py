"""Model files, of cxrseg or not, opened to be timed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol, labels_of
from cxrseg.runtime.core.model_card import METADATA_KEY, ModelCard
from cxrseg.runtime.inference.devices import PROVIDERS
from cxrseg.runtime.inference.loading import Loading
from cxrseg.runtime.inference.session import open_session
from cxrseg.runtime.segmenter import Segmenter

MAX_INPUT = 2**28
"""Largest number of values accepted for a model's input; a foreign model may ask for any."""


@dataclass(frozen=True, eq=False)
class TimedModel:
    """A model that is ready to be timed.

    Attributes:
        title: Its file name, numbered where another model has the same.
        path: The file.
        size: Size of the file in bytes.
        sha256: SHA-256 of the file, lower-case hex.
        device: Name of the device that runs it.
        threads: CPU threads of one inference.
        session: The `onnxruntime.InferenceSession`.
        input_name: Name of the input, float32.
        shape: Shape of the input for one image, [1, C, H, W].
        segmenter: The runtime's segmenter on the same session; None without a model card.
    """

    title: str
    path: Path
    size: int
    sha256: str
    device: str
    threads: int
    session: Any
    input_name: str
    shape: tuple[int, ...]
    segmenter: Segmenter | None

    @property
    def provider(self) -> str:
        """The execution provider that runs it."""
        return PROVIDERS[self.device]

    @property
    def protocol(self) -> Protocol | None:
        """What the segmenter segments; None without one."""
        return None if self.segmenter is None else self.segmenter.labels[0].protocol

    def load(self) -> object:
        """Read the file and create a session like the one at hand."""
        return open_session(self.path, self.device, self.threads)[1]

    def infer(self, image: NDArray[np.float32]) -> object:
        """Run the network alone on float32 of `shape`.

        Raises:
            CxrsegError: The model fails.
        """
        try:
            return self.session.run(None, {self.input_name: image})
        # ONNX Runtime's exceptions share no base class below Exception.
        except Exception as error:
            cause = f"the model failed on random input {list(self.shape)} ({error})"
            raise CxrsegError(self.path, cause, "leave it out") from error


def open_models(paths: Sequence[Path], device: str, threads: int) -> list[TimedModel]:
    """Open models, all on one device.

    Args:
        paths: ONNX files, with or without a model card.
        device: One of `devices.DEVICES`; ``auto`` takes what works for the first model, and
            the others must run there too.
        threads: CPU threads of one inference.

    Raises:
        CxrsegError: A file is missing, corrupt or has no fixed image input, or the device is not
            available.
    """
    models = []
    for path, title in zip(paths, _titles(paths), strict=True):
        data, session, provider = open_session(path, device, threads)
        device = next(name for name, each in PROVIDERS.items() if each == provider)
        segmenter = None
        if METADATA_KEY in session.get_modelmeta().custom_metadata_map:
            loading = Loading(path, device, threads)
            segmenter = Segmenter(loading, protocol=_protocol(loading.model().card))
            session = segmenter.model.session
        name, shape = _image_input(session, path)
        sha256 = hashlib.sha256(data).hexdigest()
        models.append(
            TimedModel(
                title, path, len(data), sha256, device, threads, session, name, shape, segmenter
            )
        )
    return models


def random_input(shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Return values in [0, 1), float32 of `shape`, the same for the same shape and seed."""
    return np.random.default_rng((seed, *shape)).random(tuple(shape), dtype=np.float32)


def _protocol(card: ModelCard) -> Protocol:
    """Return the one of the protocols that a model offers: ``fields`` if it is among them."""
    return next(x for x in PROTOCOLS if {label.name for label in labels_of(x)} & {*card.labels})


def _titles(paths: Sequence[Path]) -> list[str]:
    """Return the file names; of equal ones, the later are numbered."""
    titles: list[str] = []
    for path in paths:
        title, number = path.name, 1
        while title in titles:
            number += 1
            title = f"{path.name} ({number})"
        titles.append(title)
    return titles


def _image_input(session: Any, path: Path) -> tuple[str, tuple[int, ...]]:
    """Return name and shape, for one image, of the only input, float32 [N or 1, C, H, W]."""
    ports = session.get_inputs()
    shape = list(ports[0].shape) if len(ports) == 1 else []
    if len(shape) == 4 and not isinstance(shape[0], int):
        shape[0] = 1
    fits = (
        len(shape) == 4
        and ports[0].type == "tensor(float)"
        and all(isinstance(length, int) and length > 0 for length in shape)
        and shape[0] == 1
        and math.prod(shape) <= MAX_INPUT
    )
    if not fits:
        found = ", ".join(f"{port.name} {port.type} {port.shape}" for port in ports) or "none"
        cause = f"its input is not one image of fixed size: {found} instead of float32 [1, C, S, S]"
        raise CxrsegError(path, cause, "export it for one size")
    return ports[0].name, tuple(shape)
