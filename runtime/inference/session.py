"""Sessions of ONNX Runtime: on which device, with which settings."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference.devices import AUTO, AUTO_ORDER, PROVIDERS
from cxrseg.runtime.inference.model_file import EXPORT_AGAIN, read_bytes

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


def open_session(
    path: Path, device: str = AUTO, threads: int | None = None
) -> tuple[bytes, Any, str]:
    """Open any ONNX file, of cxrseg or not.

    Args:
        path: The file; self-contained.
        device: As in `cxrseg.runtime.inference.loading.load_model`.
        threads: As there.

    Returns:
        The file's bytes, the `onnxruntime.InferenceSession` and its execution provider.

    Raises:
        CxrsegError: The file is missing or corrupt, or the device is not available.
    """
    names = candidates(device)
    data = read_bytes(path)
    return data, *create_session(path, data, names, threads)


def candidates(device: str) -> list[str]:
    """Return the devices to try for one of `devices.DEVICES`, the best first.

    Raises:
        CxrsegError: There is no such device here.
    """
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


def create_session(
    path: Path, data: bytes, names: list[str], threads: int | None, once: bool = False
) -> tuple[Any, str]:
    """Return a session on the first device of `names` that works, and its provider.

    Args:
        path: Where the model comes from, for messages.
        data: The model.
        names: What `candidates` gave.
        threads: As `cxrseg.runtime.inference.loading.load_model` takes it.
        once: As `cxrseg.runtime.inference.loading.Loading` takes it.

    Raises:
        CxrsegError: No device works, or this is no model.
    """
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
    raise CxrsegError(path, cause, EXPORT_AGAIN) from failure


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
    """Return what ONNX Runtime says of a failure: one line, without places in its source."""
    text = " ".join(str(failure).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.split(r"\S*/\S+\.(?:cc|cpp|cu|h|hpp|cuh)\b", text)[0]
    return text.strip(" :")[:200] or "no detail"
