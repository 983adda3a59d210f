"""The record of a result: JSON with its circumstances, and the PNG files of its plots beside it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cxrseg.benchmarks.harness.result import Result
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.atomic import check_place, write_together
from cxrseg.runtime.files.opening import open_file, read_file
from cxrseg.runtime.files.own_files import MARK, is_our_image_name, is_ours

MAX_BYTES = 200_000_000
"""Largest file of a result that is read."""

_HEAD = 4096

_PACKAGES = ("onnxruntime", "numpy", "opencv-python-headless")
_INTEGER_UNITS = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp")


def environment() -> dict[str, Any]:
    """Return versions and machine as plain data, with nothing that names a person or a host.

    ``versions``: cxrseg, python, onnxruntime, numpy, opencv, and torch and openvino where they are
    installed. ``machine``: CPU model, its integer units (names of Linux's flags), physical cores
    that this process may use, logical CPUs of the machine, system.
    """
    from cxrseg.runtime.inference.session import default_threads

    names = [*_PACKAGES, *(name for name in ("torch", "openvino") if _installed(name))]
    return {
        "versions": {
            "cxrseg": package_version(),
            "python": platform.python_version(),
            **{name.removesuffix("-python-headless"): version(name) for name in names},
        },
        "machine": {
            "cpu": _cpu("model name") or platform.processor() or platform.machine() or "unknown",
            "integer_units": [x for x in _INTEGER_UNITS if x in _cpu("flags").split()],
            "cores": default_threads(),
            "logical_cpus": os.cpu_count() or 1,
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _cpu(fact: str) -> str:
    """Return a fact of the first CPU as Linux tells it; empty elsewhere."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() == fact and value.strip():
                return value.strip()
    except OSError:
        pass  # Not Linux.
    return ""


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def circumstances(record: Mapping[str, Any]) -> str:
    """Return when, on which machine and with which versions a record was made, without a period."""
    machine, versions = record["machine"], record["versions"]
    programs = ", ".join(f"{name} {version}" for name, version in versions.items())
    units = ", ".join(machine.get("integer_units") or ["no integer units told"])
    place = f"{machine['cpu']} ({units}), {machine['cores']} cores, {machine['system']}"
    return f"{record['date']}, {place}; {programs}"


def plot_file(path: Path, name: str) -> Path:
    """Return the PNG file of a plot of the result `path`."""
    return path.with_name(f"{path.stem}-{name}.png")


def images_file(path: Path) -> Path:
    """Return the file that holds the figures of each image of the result `path`."""
    return path.with_name(f"{path.stem}-images.json")


def result_files(path: Path, plots: Sequence[str]) -> list[Path]:
    """Return the files that the result `path` may have: JSON, one per image, and plots."""
    return [path, images_file(path), *(plot_file(path, name) for name in plots)]


def check_output(path: Path, plots: Sequence[str] = ()) -> None:
    """Refuse, before the work, an output that could not be written after it.

    Args:
        path: The JSON file asked for.
        plots: Names of the plots to come.

    Raises:
        CxrsegError: It does not end in ``.json``, its folder is missing or not writable, or a
            file stands there that is no earlier result.
    """
    if path.suffix != ".json":
        raise CxrsegError(path, "the output does not end in .json", "name it like accuracy.json")
    if not path.parent.is_dir():
        raise CxrsegError(path.parent, "no such folder", "make it, or choose another with -o")
    for file in result_files(path, plots):
        if os.path.lexists(file) and not _is_result(file):
            cause = "exists and is no earlier result of cxrseg-bench, so it is kept"
            raise CxrsegError(file, cause, "rename it, or choose another name with -o")
        check_place(file, "choose another folder with -o")


def _is_result(path: Path) -> bool:
    """Tell whether a file is of a benchmark, and not the mask or the report of an image."""
    if not is_ours(path):
        return False
    if path.suffix != ".json":
        return not is_our_image_name(path.name)
    with open_file(path) as file:
        return b'"benchmark": ' in file.read(_HEAD)


def write_record(path: Path, facts: Mapping[str, Any], result: Result) -> list[Path]:
    """Write a result: all of its files or none.

    Args:
        path: The JSON file.
        facts: How it was made: ``benchmark``, ``command``, ``date``, ``versions``, ``machine``.
        result: What was measured.

    Returns:
        The files.

    Raises:
        CxrsegError: A file cannot be written, or one is there that is no earlier result.
    """
    check_output(path, [plot.name for plot in result.plots])
    # The first key is how `is_ours` tells our files from others.
    head = {"program": f"{MARK} {package_version()}", **facts}
    record = {
        **head,
        "title": result.title,
        "definitions": result.definitions,
        "data": result.data,
        "tables": [table.to_dict() for table in result.tables if not table.per_image],
        "plots": [plot.to_dict() for plot in result.plots],
    }
    contents = {plot_file(path, plot.name): plot.png for plot in result.plots}
    if result.images:
        lists = [table.to_dict() for table in result.tables if table.per_image]
        single = {**head, "lists": lists, "images": list(result.images)}
        contents[images_file(path)] = _json(single)
    write_together({**contents, path: _json(record)})
    return [path, *contents]


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a result of `write_record`.

    Returns:
        What the JSON file holds; None where it holds something else than such a result.

    Raises:
        CxrsegError: It cannot be read, or is no JSON.
    """
    try:
        record = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise CxrsegError(path, f"is no JSON ({error})", "make it again") from error
    ours = isinstance(record, dict) and str(record.get("program")).startswith(f"{MARK} ")
    complete = ours and isinstance(record.get("benchmark"), str) and "tables" in record
    return record if complete else None


def read_bytes(path: Path) -> bytes:
    """Read a file of a result.

    Raises:
        CxrsegError: It cannot be read, or is larger than `MAX_BYTES`.
    """
    try:
        return read_file(path, MAX_BYTES)
    except OSError as error:
        cause = f"cannot be read ({error.strerror})"
        raise CxrsegError(path, cause, "make the result again") from error
