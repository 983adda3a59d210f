"""Loading a model file, and refusing any that does not keep the contract."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from cxrseg.runtime.inference.devices import AUTO
from cxrseg.runtime.inference.model_file import INPUT, OUTPUT, check_model, read_bytes, read_card
from cxrseg.runtime.inference.session import candidates, create_session
from cxrseg.runtime.models.shipped import SHIPPED_SHA256, require_unshipped

if TYPE_CHECKING:
    from cxrseg.runtime.core.model_card import ModelCard


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run.

    Attributes:
        session: The `onnxruntime.InferenceSession`.
        card: The model's card.
        sha256: SHA-256 of the file, lower-case hex.
        provider: The execution provider that runs it.
        input_name: Name of the input, float32 [N, 1, S, S] in [0, 1].
        output_name: Name of the output, float32 [N, C, S/4, S/4], C = number of labels.
        reference: The quality reference as JSON, not checked yet; None where the file has none.
    """

    session: Any
    card: ModelCard
    sha256: str
    provider: str
    input_name: str = INPUT
    output_name: str = OUTPUT
    reference: str | None = None


def load_model(
    path: str | os.PathLike[str], device: str = AUTO, threads: int | None = None
) -> LoadedModel:
    """Load a model file.

    Args:
        path: The ONNX file, with a model card inside.
        device: One of `devices.DEVICES`. A named device is used or refused, also
            if it started but would compute nothing of this model; ``auto`` takes the first that
            works of CUDA, DirectML, CoreML and the CPU.
        threads: Threads of one inference on the CPU; None = the physical cores available.

    Returns:
        The model, checked against the contract.

    Raises:
        CxrsegError: The file is missing, corrupt, foreign, newer, not as its card says, or no
            model that `cxrseg-export` writes; or the device is not available.
    """
    return Loading(path, device, threads).model()


class Loading:
    """A model that is loaded in the background, from the creation of this object on.

    Loading it needs no Python lock most of the time, so that other things can be imported and read
    meanwhile. ONNX Runtime is better imported before those: all at once take longer.

    Args:
        path: As `load_model` takes it.
        device: As `load_model` takes it.
        threads: As `load_model` takes it.
        once: The model will run a single time. Its threads then sleep while they wait: to spin
            pays over many inferences, and costs the first one up to 40 ms where the system has
            put a spinning thread on the core of another that has work to do.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = AUTO,
        threads: int | None = None,
        once: bool = False,
    ) -> None:
        self.path, self.device, self.threads, self.once = Path(path), device, threads, once
        self._outcome: LoadedModel | BaseException | None = None
        # No daemon: a program that ends while a library is at work may crash.
        self._thread = Thread(target=self._load, name="load-model")
        self._thread.start()

    def model(self) -> LoadedModel:
        """Wait for the model.

        Raises:
            CxrsegError: As `load_model`.
        """
        self._thread.join()
        if not isinstance(self._outcome, LoadedModel):
            raise self._outcome or RuntimeError("loading was cut short")
        return self._outcome

    def _load(self) -> None:
        try:
            self._outcome = self._loaded()
        # Told to whoever waits for the model.
        except BaseException as error:
            self._outcome = error

    def _loaded(self) -> LoadedModel:
        # Imported here, while the command imports what it needs.
        import hashlib

        data = read_bytes(self.path)
        sha256 = hashlib.sha256(data).hexdigest()
        # It brings numpy, which two threads must not import at once: one would find it half made.
        # The command, too, imports ONNX Runtime first, so whoever is second waits for all of it.
        import_module("onnxruntime")
        card, reference = read_card(self.path, data)
        # The file that ships is known to the last byte; any other is looked through.
        if sha256 != SHIPPED_SHA256:
            require_unshipped(self.path)
            check_model(self.path, data, card)
        names = candidates(self.device)
        session, provider = create_session(self.path, data, names, self.threads, self.once)
        return LoadedModel(session, card, sha256, provider, reference=reference)
