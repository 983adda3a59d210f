"""Loading a model file into ONNX Runtime, and refusing any that does not keep the contract."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference.devices import AUTO, AUTO_ORDER, PROVIDERS

if TYPE_CHECKING:
    from cxrseg.runtime.core.model_card import ModelCard

MAX_MODEL_BYTES = 2_000_000_000
"""Largest model file accepted; ONNX itself ends at 2 GiB."""

IDLE_OPTIMIZERS = (
    "CommonSubexpressionElimination",
    "NhwcTransformer",
    "QDQS8ToU8Transformer",
    "WeightBiasQuantization",
)
"""Passes of ONNX Runtime that cost a quarter of the loading time and change nothing, or nothing
that pays, in a file of cxrseg-export: its constants are stored once, every INT8 layer has a bias,
one layer is a convolution. The one from S8 to U8 would even undo that keys and values are int8,
for which there are faster kernels (VNNI, AMX)."""

INPUT = "image"
OUTPUT = "logits"

_EXPORT_AGAIN = "use a model written by cxrseg-export"


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


def available_devices() -> tuple[str, ...]:
    """Return the names of the devices that the installed ONNX Runtime offers."""
    import onnxruntime

    offered = set(onnxruntime.get_available_providers())
    return tuple(name for name, provider in PROVIDERS.items() if provider in offered)


def default_threads() -> int:
    """Return the number of physical cores that this process may use, as far as is known."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(topology.read_text())
        except OSError:
            # No topology in this container or system: a logical CPU counts as a core.
            cores.add(str(cpu))
    return len(cores)


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
            self._data = _read_bytes(self.path)
            self._is_read.set()
            names = _candidates(self.device)
            session, provider = _create_session(
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


def open_session(
    path: Path, device: str = AUTO, threads: int | None = None
) -> tuple[bytes, Any, str]:
    """Open any ONNX file, of cxrseg or not.

    Args:
        path: The file; self-contained.
        device: As in `load_model`.
        threads: As in `load_model`.

    Returns:
        The file's bytes, the `onnxruntime.InferenceSession` and its execution provider.

    Raises:
        CxrsegError: The file is missing or corrupt, or the device is not available.
    """
    names = _candidates(device)
    data = _read_bytes(path)
    return data, *_create_session(path, data, names, threads)


def _candidates(device: str) -> list[str]:
    available = available_devices()
    if device == AUTO:
        return [name for name in AUTO_ORDER if name in available]
    if device not in PROVIDERS:
        remedy = f"choose from {', '.join((AUTO, *PROVIDERS))}"
        raise CxrsegError(f"--device {device}", "no such device", remedy)
    if device not in available:
        cause = "not available in the installed ONNX Runtime"
        remedy = f"available here: {', '.join((AUTO, *available))}"
        raise CxrsegError(f"--device {device}", cause, remedy)
    return [device]


def _read_bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            cause = "is not a file" if path.exists() else "no such model file"
            raise CxrsegError(path, cause, "check the path of the model")
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            cause = f"is too large for a model ({size / 1e9:.1f} GB)"
            raise CxrsegError(path, cause, _EXPORT_AGAIN)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise CxrsegError(path, f"cannot be read ({cause})", "check the permissions") from error


def _create_session(
    path: Path, data: bytes, names: list[str], threads: int | None, once: bool = False
) -> tuple[Any, str]:
    """Return a session on the first device of `names` that works, and its provider."""
    threads = threads or default_threads()
    failure: Exception | None = None
    for name in names:
        try:
            session = _session_on(name, path, data, threads, once)
        # ONNX Runtime's exceptions share no base class below Exception.
        except Exception as error:
            failure = error
            continue
        if _computes(session, PROVIDERS[name]):
            return session, PROVIDERS[name]
        failure = None
    if failure is None or ("cpu" not in names and _loads_on_cpu(path, data, threads)):
        cause = "ONNX Runtime offers the device but could not start it for this model"
        if failure is not None:
            cause += f" ({_detail(failure)})"
        others = ", ".join((AUTO, *(name for name in available_devices() if name not in names)))
        remedy = f"install its driver and libraries; available here: {others}"
        raise CxrsegError(f"--device {names[0]}", cause, remedy) from failure
    cause = f"is not a model that ONNX Runtime can load ({_detail(failure)})"
    raise CxrsegError(path, cause, _EXPORT_AGAIN) from failure


def _session_on(name: str, path: Path, data: bytes, threads: int, once: bool = False) -> Any:
    """Create a session on one device; ONNX Runtime adds the CPU for what the device lacks."""
    import onnxruntime

    # On Windows the variable that `cxrseg.runtime` sets does not count.
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    # Only fatal messages: a failure is reported once, by us.
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # DirectML requires it; the others plan memory ahead.
    options.enable_mem_pattern = name != "directml"
    # A model file must be self-contained. Weights that it claims to keep in other files are
    # looked for below a path that cannot be a folder, so that it can read no file of ours.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path",
        str(path.absolute() / "external-data-is-refused"),
    )
    # Threads spin for a second while they wait, and take the cores from what is done meanwhile. A
    # millisecond outlasts the gaps within an inference. Older releases pass over it.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if once else "1")
    if name != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = list(dict.fromkeys((PROVIDERS[name], PROVIDERS["cpu"])))
    idle = list(IDLE_OPTIMIZERS) if name == "cpu" else None
    return onnxruntime.InferenceSession(
        data, options, providers=providers, enable_fallback=0, disabled_optimizers=idle
    )


def _computes(session: Any, provider: str) -> bool:
    """Tell whether the provider was started and computes at least a part of the model."""
    if session.get_providers()[0] != provider:
        return False
    # Releases of ONNX Runtime before 1.24 do not say which provider computes what.
    if provider == PROVIDERS["cpu"] or not hasattr(session, "get_provider_graph_assignment_info"):
        return True
    parts = session.get_provider_graph_assignment_info()
    return any(part.ep_name == provider for part in parts)


def _loads_on_cpu(path: Path, data: bytes, threads: int) -> bool:
    """Tell whether the file is a model that the CPU accepts."""
    try:
        _session_on("cpu", path, data, threads)
    except Exception:
        return False
    return True


def _detail(failure: Exception) -> str:
    text = str(failure).strip()
    return text.splitlines()[0][:200] if text else "no detail"


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
            "update cxrseg, or " + _EXPORT_AGAIN,
        ) from error
    if card is None:
        raise CxrsegError(path, "is an ONNX model but not one of cxrseg's", _EXPORT_AGAIN)
    if len(set(card.labels)) != len(card.labels):
        raise CxrsegError(path, "has a model card that names a label twice", _EXPORT_AGAIN)
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
        raise CxrsegError(path, cause, _EXPORT_AGAIN)
