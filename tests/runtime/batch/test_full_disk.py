"""A full disk costs what it cannot hold, and that only while it is full."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cxrseg.runtime.batch.transient import may_pass
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.writers import table_files
from helpers.runs import MAIN, lines_of, names, outputs_of, save_chests

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_at(monkeypatch) -> Callable[..., None]:
    """Let the disk of the JSON Lines be full when these lines are written."""

    def refuse(*numbers: int) -> None:
        calls: list[bytes] = []
        original = table_files._append

        def append(file, data: bytes) -> None:
            calls.append(data)
            if len(calls) in numbers:
                raise FULL
            original(file, data)

        monkeypatch.setattr(table_files, "_append", append)

    return refuse


@pytest.mark.parametrize("jobs", [1, 2])
def test_lines_that_do_not_fit_are_written_later(
    run_tiny, xrays, tmp_path, full_at, jobs: int
) -> None:
    save_chests(xrays, 4)
    full_at(2, 3)
    told = tmp_path / "all.jsonl"
    result = run_tiny(xrays, "-o", tmp_path / "out", "--jsonl", told, "--jobs", jobs)
    assert result.code == 1 and len(result.out.splitlines()) == 4
    (error,) = result.errors
    assert error.startswith(f"error: {told}: cannot be written (No space left on device)")
    assert [Path(line["source"]).stem for line in lines_of(told)] == [f"{i:04}" for i in range(4)]
    assert names(tmp_path / "out") == outputs_of(*(f"{i:04}" for i in range(4)))


def test_a_disk_that_stays_full_costs_lines_and_no_image(
    run_cxrseg, model, xrays, tmp_path, full_at
) -> None:
    save_chests(xrays, 4)
    full_at(*range(2, 100))
    told, table = tmp_path / "all.jsonl", tmp_path / "all.csv"
    run = [xrays, "-o", tmp_path / "out", "--jsonl", told, "--csv", table, *model]
    result = run_cxrseg(*run)
    assert (result.code, len(result.out.splitlines()), len(result.errors)) == (1, 4, 1)
    assert len(lines_of(told)) == 1 and len(table.read_text().splitlines()) == 5
    assert names(tmp_path / "out") == outputs_of(*(f"{i:04}" for i in range(4)))


@pytest.mark.skipif(os.name != "posix", reason="sends SIGTERM")
def test_a_watcher_goes_on_and_does_what_failed_again(model, xrays, tmp_path) -> None:
    """Both the disk of the results and that of the lines are full for a while."""
    save_chests(xrays, 2)
    out, told = tmp_path / "out", tmp_path / "all.jsonl"
    code = (
        "import errno\n"
        "from cxrseg.runtime.batch import watcher\n"
        "from pathlib import Path\n"
        "from cxrseg.runtime.writers import table_files\n"
        "watcher.RETRY_S = 0.2\n"
        "def full_for(function, times):\n"
        "    def instead(*args, **kwargs):\n"
        "        nonlocal times\n"
        "        times -= 1\n"
        "        if times >= 0: raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "        return function(*args, **kwargs)\n"
        "    return instead\n"
        "Path.replace = full_for(Path.replace, 3)\n"
        "table_files._append = full_for(table_files._append, 2)\n"
    )
    line = [sys.executable, "-c", code + MAIN, "--watch", str(xrays), "-o", str(out), *model]
    process = subprocess.Popen(
        [*line, "--jsonl", str(told)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while len(list(out.glob("*.json"))) < 2:
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    done, failed = process.communicate(timeout=60)
    assert process.returncode == 0 and len(done.splitlines()) == 2
    _, *errors = failed.splitlines()
    assert len(errors) == 4
    assert sum("(No space left on device), so it is tried again; " in x for x in errors) == 3
    assert sum(x.startswith(f"error: {told}: cannot be written (No space") for x in errors) == 1
    assert sorted(line["status"] for line in lines_of(told)) == [*3 * ["error"], "ok", "ok"]
    assert names(out) == outputs_of("0000", "0001")


def chained(cause: BaseException) -> CxrsegError:
    """Return an error of ours that has been passed on twice."""
    try:
        try:
            raise CxrsegError("x", "cannot be written") from cause
        except CxrsegError as error:
            raise CxrsegError("y", "failed") from error
    except CxrsegError as error:
        return error


@pytest.mark.parametrize(
    ("cause", "passes"),
    [
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EBUSY, "busy"), True),
        (OSError(errno.EMFILE, "too many open files"), True),
        (OSError(errno.EIO, "the drive is gone"), True),
        (PermissionError(errno.EACCES, "in use, as Windows says"), True),
        (MemoryError(), True),
        (OSError("cannot identify image file"), False),
        (OSError(errno.ENAMETOOLONG, "name too long"), False),
        (OSError(errno.EINVAL, "it is a device, not a file"), False),
        (ValueError("no image"), False),
    ],
)
def test_what_may_pass(cause: BaseException, passes: bool) -> None:
    assert may_pass(chained(cause)) is passes
