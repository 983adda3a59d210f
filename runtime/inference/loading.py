"""Loading a model file, and refusing any that does not keep the contract."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference.devices import AUTO
from cxrseg.runtime.inference.model_file import EXPORT_AGAIN, read_bytes
from cxrseg.runtime.inference.session import candidates, create_session

if TYPE_CHECKING:
    from cxrseg.runtime.core.model_card import ModelCard

INPUT = "image"
OUTPUT = "logits"


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
        CxrsegError: The file is missing, corrupt, foreign, newer or not as its card says, or the
            device is not available.
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
        self._data = b""
        self._is_read = Event()
        self._outcome: tuple[Any, ModelCard, str] | BaseException | None = None
        # No daemon: a program that ends while a library is at work may crash.
        self._thread = Thread(target=self._load, name="load-model")
        self._thread.start()

    def model(self) -> LoadedModel:
        """Wait for the model.

        Raises:
            CxrsegError: As `load_model`.
        """
        # Imported here: the model is loaded meanwhile.
        import hashlib

        from cxrseg.runtime.core.model_card import REFERENCE_KEY

        self._is_read.wait()
        sha256 = hashlib.sha256(self._data).hexdigest()
        self._thread.join()
        if not isinstance(self._outcome, tuple):
            raise self._outcome or RuntimeError("loading was cut short")
        session, card, provider = self._outcome
        reference = session.get_modelmeta().custom_metadata_map.get(REFERENCE_KEY)
        return LoadedModel(session, card, sha256, provider, reference=reference)

    def _load(self) -> None:
        try:
            self._data = read_bytes(self.path)
            self._is_read.set()
            names = candidates(self.device)
            session, provider = create_session(
                self.path, self._data, names, self.threads, self.once
            )
            card = _card_of(session, self.path)
            _check_contract(session, card, self.path)
            self._outcome = session, card, provider
        # Told to whoever waits for the model.
        except BaseException as error:
            self._outcome = error
        finally:
            self._is_read.set()


def _card_of(session: Any, path: Path) -> ModelCard:
    # Imported here: a command imports it while the model loads.
    from cxrseg.runtime.core.model_card import METADATA_KEY, ModelCard

    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        card = None if text is None else ModelCard.from_json(text)
    # UnicodeDecodeError is a ValueError; RecursionError and OverflowError: a hostile card's nesting
    # and numbers.
    except (ValueError, RecursionError, OverflowError) as error:
        raise CxrsegError(
            path,
            f"has a model card that cannot be used ({str(error)[:200]})",
            "update cxrseg, or " + EXPORT_AGAIN,
        ) from error
    if card is None:
        raise CxrsegError(path, "is an ONNX model but not one of cxrseg's", EXPORT_AGAIN)
    if len(set(card.labels)) != len(card.labels):
        raise CxrsegError(path, "has a model card that names a label twice", EXPORT_AGAIN)
    return card


def _check_contract(session: Any, card: ModelCard, path: Path) -> None:
    size = card.preprocessing.size
    inputs, outputs = session.get_inputs(), session.get_outputs()
    _check_port("input", inputs, INPUT, [1, size, size], path)
    _check_port("output", outputs, OUTPUT, [len(card.labels), size // 4, size // 4], path)


def _check_port(kind: str, ports: list[Any], name: str, shape: list[int], path: Path) -> None:
    """Refuse anything but one port called `name`, float32 [N or 1, *shape]."""
    wanted = f"{name} float32 {['N', *shape]}".replace("'", "")
    actual = ", ".join(f"{port.name} {port.type} {port.shape}" for port in ports)
    fits = (
        len(ports) == 1
        and ports[0].name == name
        and ports[0].type == "tensor(float)"
        and len(ports[0].shape) == 4
        and (ports[0].shape[0] == 1 or not isinstance(ports[0].shape[0], int))
        and list(ports[0].shape[1:]) == shape
    )
    if not fits:
        cause = f"its {kind} is not as its model card says: {actual} instead of {wanted}"
        raise CxrsegError(path, cause, EXPORT_AGAIN)
