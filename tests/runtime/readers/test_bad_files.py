"""Five hundred bad files: each is read or refused, none ends or holds up the work on the others."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from cxrseg.runtime.writers.paths import Format, Outputs
from helpers.bad import bad_files

MEMORY = 4 << 30
"""Address space of the process, bytes: several times what the largest image here needs."""

CPU_SECONDS = 10.0
"""What one file may cost. Not time on the clock, in which other processes have their share."""

SILENCE = 120.0
"""Seconds without a line after which a process counts as hung, however busy the machine."""

_LIMITED = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
from cxrseg.runtime.cli import program
program()
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    return bad_files.write_corpus(tmp_path_factory.mktemp("corpus") / "files")


def test_corpus_is_the_same_each_time(corpus, tmp_path: Path) -> None:
    again = bad_files.write_corpus(tmp_path / "again")
    assert len(corpus) == bad_files.COUNT == 500
    assert [path.name for path in corpus] == [path.name for path in again]
    assert list(corpus.values()) == list(again.values())
    other = bad_files.write_corpus(tmp_path / "other", seed=1)
    assert list(other.values()) != list(again.values())


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watch(arguments: list[str]) -> tuple[int, list[str], list[float]]:
    """Run ``cxrseg-run`` with limits; return its exit code, and each line with what it cost."""
    process = subprocess.Popen(
        [sys.executable, "-c", _LIMITED, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    text, used, costs = b"", 0.0, []
    try:
        while True:
            ready, _, _ = select.select([process.stdout], [], [], SILENCE)
            if not ready:
                pytest.fail(f"hangs after: {text[-200:].decode(errors='replace')}")
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                break
            text += part
            # It is alive, or not yet waited for: either way it has an entry.
            now = cpu_seconds(process.pid)
            costs += [now - used] + [0.0] * (part.count(b"\n") - 1)
            used = now
        return process.wait(60), text.decode().splitlines(), costs
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and sets limits")
@pytest.mark.parametrize(
    ("kind", "formats"), [("raster", ("png", "json")), ("dicom", ("png", "json", "seg", "sc"))]
)
def test_bad_files_are_done_or_refused(
    corpus, model_file, tmp_path: Path, kind: str, formats: tuple[Format, ...]
) -> None:
    if find_spec("highdicom") is None:
        formats = ("png", "json")
    files = [path for path in corpus if path.parent.name == kind]
    out = tmp_path / "out"
    options = ["--device", "cpu", "--threads", "1", "--format", ",".join(formats)]
    folder = str(files[0].parent)
    code, lines, costs = watch(["--model", str(model_file()), *options, "-o", str(out), folder])

    assert code == 1, lines[-1:]
    assert len(lines) == len(files) == len(costs)
    expected = set()
    done = 0
    for path, line, cost in zip(files, lines, costs, strict=True):
        assert cost < CPU_SECONDS, f"{cost:.1f} s: {line}"
        if line.startswith(f"error: {path}: "):
            assert "memory" not in line, line
            assert "unexpected" not in line, line
            continue
        assert line.startswith(f"{path}: "), line
        outputs = Outputs.of(path, out, formats)
        expected |= set(outputs)
        done += 1
        with Image.open(outputs.lungs) as file:
            assert set(np.unique(np.asarray(file))) <= {0, 1, 2}
            height, width = file.height, file.width
        assert json.loads(outputs.report.read_text())["input"] == path.name
        if "seg" in formats:
            for each in (outputs.seg, outputs.sc):
                dataset = pydicom.dcmread(each, stop_before_pixels=True)
                assert (dataset.Rows, dataset.Columns) == (height, width)
    # Nothing else: no half file, no temporary one.
    assert set(out.iterdir()) == expected
    assert 0 < done < len(files) / 2
    assert {path: path.read_bytes() for path in files} == {path: corpus[path] for path in files}
