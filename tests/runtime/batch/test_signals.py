"""What ends a run from outside leaves whole files, and tables of what was done."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.runs import MAIN, lines_of, save_chests

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals of Unix")

INTERRUPTED = "error: interrupted; files already written are complete"


def signalled_at(number: int, where: str, *signals: str) -> str:
    """Return code with which a process signals itself when its n-th image is read or segmented."""
    return (
        "import os, signal\n"
        "from cxrseg.runtime import segmenter\nfrom cxrseg.runtime.batch import process as batch\n"
        f"owner = batch if {where!r} == 'read' else segmenter.Segmenter\n"
        f"original, calls = getattr(owner, {where!r}), []\n"
        "def instead(*args, **kwargs):\n"
        "    calls.append(args)\n"
        f"    for each in {signals} if len(calls) == {number} else ():\n"
        "        os.kill(os.getpid(), getattr(signal, each))\n"
        "    return original(*args, **kwargs)\n"
        f"setattr(owner, {where!r}, instead)\n"
    )


@pytest.mark.parametrize(
    ("jobs", "where", "signals"),
    [
        (3, "read", ["SIGINT"]),
        (3, "segment", ["SIGINT"]),
        (1, "read", ["SIGTERM"]),
        (3, "segment", ["SIGTERM"]),
        (3, "read", ["SIGHUP"]),
        # As from a terminal that is closed, or a service manager.
        (1, "segment", ["SIGHUP", "SIGTERM", "SIGHUP"]),
    ],
)
def test_whole_files_and_tables_are_left(model, tmp_path, jobs, where, signals) -> None:
    xrays = tmp_path / "xrays"
    save_chests(xrays, 30)
    out, told, table = tmp_path / "out", tmp_path / "all.jsonl", tmp_path / "all.csv"
    options = ["-o", str(out), "--jsonl", str(told), "--csv", str(table), "--jobs", str(jobs)]
    code = signalled_at(9, where, *signals) + MAIN
    done = subprocess.run(
        [sys.executable, "-c", code, str(xrays), *options, *model],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 130
    assert [line for line in done.stderr.splitlines() if line] == [INTERRUPTED]
    reports = {path.stem for path in out.glob("*.json")}
    assert 0 < len(reports) < 30
    # Neither a part of an image's files nor a temporary one.
    assert len(list(out.iterdir())) == 3 * len(reports)
    lines = [Path(line["source"]).stem for line in lines_of(told)]
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = [(Path(row["input"]).stem, row["status"]) for row in csv.DictReader(file)]
    assert rows == [(stem, "ok") for stem in lines] and lines
    assert {*lines} <= reports


def test_what_nohup_ignores_stays_ignored(model, xrays, tmp_path) -> None:
    save_chests(xrays, 3)
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += signalled_at(2, "read", "SIGHUP") + MAIN
    line = [sys.executable, "-c", code, str(xrays), "-o", str(tmp_path / "out"), *model]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out").iterdir())) == 9


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_during_the_imports_is_told_in_one_line(model, xrays, number: str) -> None:
    """numpy, imported by compiled code, would print a traceback and fail in its own way."""
    save_chests(xrays, 1)
    code = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy._core.numerictypes':\n"
        f"            os.kill(os.getpid(), signal.{number})\n"
        "sys.meta_path.insert(0, Finder())\n" + MAIN
    )
    line = [sys.executable, "-c", code, str(xrays / "0000.png"), *model]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.split("\n")) == (130, ["", INTERRUPTED, ""])


@pytest.mark.parametrize("number", ["SIGINT", "SIGHUP"])
def test_a_signal_while_the_table_is_written_waits_for_it(
    model, xrays, tmp_path, number: str
) -> None:
    save_chests(xrays, 3)
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "original = Path.write_bytes\n"
        "def write_bytes(self, data):\n"
        f"    os.kill(os.getpid(), signal.{number})\n"
        "    return original(self, data)\n"
        "Path.write_bytes = write_bytes\n" + MAIN
    )
    table = tmp_path / "all.csv"
    line = [sys.executable, "-c", code, str(xrays), "--csv", str(table), *model]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 130 and done.stderr.split("\n") == ["", INTERRUPTED, ""]
    assert len(table.read_text().splitlines()) == 4


def test_what_swallows_an_interruption_does_not_stop_it(model, xrays, tmp_path) -> None:
    save_chests(xrays, 5)
    code = (
        "import os, signal\n"
        "from cxrseg.runtime.batch import process as batch\n"
        "original = batch.read\n"
        "def read(path):\n"
        "    if path.name == '0002.png':\n"
        "        try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "        except KeyboardInterrupt: raise ImportError('a library failed')\n"
        "    return original(path)\n"
        "batch.read = read\n" + MAIN
    )
    out = tmp_path / "out"
    line = [sys.executable, "-c", code, str(xrays), "-o", str(out), "--jobs", "1", *model]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 130 and done.stderr.splitlines()[-1] == INTERRUPTED
    assert sorted(path.stem for path in out.glob("*.json")) == ["0000", "0001"]
