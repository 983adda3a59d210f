from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrseg.runtime.batch.workers import MAX_JOBS
from helpers.drawing import phantoms
from helpers.runs import MAIN, contents, lines_of, save_chests


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1024  # type: ignore[index]


def start(*args: object, code: str = "") -> subprocess.Popen[str]:
    """Start the command as a process of its own, after some code."""
    line = [sys.executable, "-c", code + MAIN, *map(str, args)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def killed_at(number: int) -> str:
    """Return code with which a process kills itself when its n-th file is to get its name."""
    return (
        "import os, signal, threading\n"
        "from pathlib import Path\n"
        "lock, calls, original = threading.Lock(), [], Path.replace\n"
        "def replace(self, target):\n"
        "    with lock:\n"
        "        calls.append(target)\n"
        f"        if len(calls) == {number}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, target)\n"
        "Path.replace = replace\n"
    )


def check_kill_and_resume(xrays: Path, home: Path, count: int, model: list[str]) -> None:
    """Compare a run that is killed twice and resumed with one that is not."""
    run = [xrays, "-o", home / "out", "--jsonl", home / "all.jsonl", *model]
    for part in (1, 2):
        process = start(*run, "--skip-existing", code=killed_at(count + part))
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        reports = {path.stem for path in (home / "out").glob("*.json")}
        assert part * count // 3 - 10 <= len(reports) <= part * count // 3 + 10
        # Whole lines, but for the last at most, each with its report, and few are missing.
        lines = (home / "all.jsonl").read_text().split("\n")[:-1]
        assert {Path(json.loads(line)["source"]).stem for line in lines} <= reports
        assert len(lines) >= len(reports) - 2 * MAX_JOBS
    process = start(*run, "--skip-existing", "--csv", home / "all.csv")
    told, _ = process.communicate()
    assert process.returncode == 0
    assert len(told.splitlines()) == count
    assert told.count(": skipped, ") == len(reports)

    whole = [xrays, "-o", home / "whole", "--jsonl", home / "whole.jsonl", *model]
    process = start(*whole, "--csv", home / "whole.csv")
    process.communicate()
    assert process.returncode == 0
    kept = {n: x for n, x in contents(home / "out").items() if not n.startswith(".cxrseg-")}
    assert len(kept) == 3 * count
    assert kept == contents(home / "whole")
    assert (home / "all.csv").read_bytes() == (home / "whole.csv").read_bytes()
    one, other = lines_of(home / "all.jsonl"), lines_of(home / "whole.jsonl")
    for line in (*one, *other):
        del line["timings_ms"]
    assert one == other and len(one) == count


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_killed_and_resumed_equals_uninterrupted(model, xrays, tmp_path) -> None:
    save_chests(xrays, 60)
    check_kill_and_resume(xrays, tmp_path, 60, model)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_killed_among_the_files_of_an_image(
    model_file, save_chest, tmp_path: Path, number: int
) -> None:
    """No report is left beside files of another run, and the next run makes all anew."""
    image, out = save_chest(tmp_path / "a.png"), tmp_path / "out"
    run = [image, "-o", out, "--device", "cpu", "--model"]
    assert start(*run, model_file("old.onnx")).wait(60) == 0
    labels = ("right_lung", "left_lung", "right_lung_whole", "left_lung_whole")
    new = [*run, model_file("new.onnx", labels=labels), "--protocol", "whole"]
    assert start(*new, code=killed_at(number)).wait(60) == -signal.SIGKILL
    assert not (out / "a.json").exists()
    process = start(*new, "--skip-existing")
    assert "skipped" not in process.communicate()[0]
    report = json.loads((out / "a.json").read_text())
    files = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert report["labels"][0]["protocol"] == "whole" and len(files) == 2
    assert report["files"] == {n: hashlib.sha256(x).hexdigest() for n, x in files.items()}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_two_thousand_images(tmp_path: Path) -> None:
    """Memory stays flat, and a killed run is resumed, with the shipped model."""
    xrays, count = tmp_path / "xrays", 2000
    xrays.mkdir()
    drawn = [phantoms.draw(seed, (640, 560)).image for seed in range(10)]
    rng = np.random.default_rng(0)
    for i in range(count):
        height = int(rng.integers(300, 900))
        size = (int(height * rng.uniform(0.8, 1)), height)
        image = Image.fromarray(drawn[i % 10]).resize(size)
        image.save(xrays / f"{i:04}.png", compress_level=1)
    memory = {}
    tables = ["--jsonl", tmp_path / "first.jsonl", "--csv", tmp_path / "first.csv"]
    process = start(xrays, "-o", tmp_path / "first", *tables)
    assert process.stdout is not None
    with process.stdout:
        for done, _ in enumerate(process.stdout, start=1):
            if done in (20, 200, 1000, count - 10):
                memory[done] = memory_mib(process.pid)
    assert process.wait(60) == 0
    print({done: round(mib) for done, mib in memory.items()})
    assert memory[count - 10] < memory[200] + 40
    check_kill_and_resume(xrays, tmp_path, count, [])
