"""A folder that fills: ``cxrseg-run --watch``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cxrseg.runtime.core import errors

watcher = pytest.importorskip("cxrseg.runtime.batch.watcher", reason="needs the extra watch")

PATIENCE_S = 20.0
MAIN = "from cxrseg.runtime.cli import program; program()"


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 3 * PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_watching_a_folder(model, save_chest, xrays, tmp_path) -> None:
    out, told = xrays / "out", tmp_path / "all.jsonl"
    line = [sys.executable, "-c", MAIN, "--watch", str(xrays), "-o", str(out), *model]
    line += ["--jsonl", str(told)]

    def begin() -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(line, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    def records() -> list[tuple[str, str]]:
        lines = [json.loads(x) for x in told.read_text().splitlines()] if told.exists() else []
        return [(Path(x["source"]).relative_to(xrays).as_posix(), x["status"]) for x in lines]

    save_chest(xrays / "a.png")
    (xrays / "bad.png").write_bytes(b"no image")
    process = begin()
    until(lambda: len(records()) == 2)
    save_chest(xrays / "sub" / "b.png")
    save_chest(xrays / "a.jpg")
    until(lambda: len(records()) == 4)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert {x for x in stdout.splitlines() if " on CPUExecutionProvider -> " in x} == {
        *stdout.splitlines()
    }
    notice, *errors = stderr.splitlines()
    assert notice == f"watching {xrays}; Ctrl-C ends it"
    assert len(errors) == 2
    assert errors[0].startswith(f"error: {xrays / 'bad.png'}: is not an image")
    assert errors[1].startswith(f"error: {xrays / 'a.jpg'}: its outputs would overwrite those of")
    before = [("a.png", "ok"), ("bad.png", "error")]
    assert records()[:2] == before
    assert set(records()[2:]) == {("sub/b.png", "ok"), ("a.jpg", "error")}
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    names = [f"{x}{end}" for x in ("a", "sub/b") for end in (".json", "_lungs.png", "_overlay.png")]
    assert written == sorted(names)

    # Again: what is done is known, what failed is tried once more.
    process = begin()
    until(lambda: len(records()) == 6)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stdout.count(": skipped, done before -> ") == len(stdout.splitlines()) == 2
    assert set(records()[4:]) == {("a.jpg", "error"), ("bad.png", "error")}


@pytest.mark.skipif(os.name != "posix", reason="makes links, sends SIGTERM")
@pytest.mark.parametrize("output", ["beside", "folder"])
def test_nothing_is_written_through_links(model, save_chest, xrays, tmp_path, output: str) -> None:
    outside, told = tmp_path / "outside", tmp_path / "all.jsonl"
    outside.mkdir()
    image = save_chest(xrays / "sub" / "x.png")
    line = [sys.executable, "-c", MAIN, "--watch", str(xrays), *model, "--jsonl", str(told)]
    if output == "beside":
        # What cxrseg made it would replace.
        once = [sys.executable, "-c", MAIN, str(image), "-o", str(outside), *model]
        subprocess.run(once, check=True, timeout=120, capture_output=True)
        (xrays / "sub" / "x_lungs.png").symlink_to(outside / "x_lungs.png")
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "sub").symlink_to(outside)
        line += ["-o", str(tmp_path / "out")]
    before = {path: path.stat().st_mtime_ns for path in outside.iterdir()}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: told.exists() and told.read_text().endswith("\n"))
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, "")
    assert "is a link, which --watch does not write through" in stderr
    assert {path: path.stat().st_mtime_ns for path in outside.iterdir()} == before


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_lines_lost_by_an_interruption_are_added(run_cxrseg, model, save_chest, xrays, tmp_path):
    told = tmp_path / "all.jsonl"
    save_chest(xrays / "a.png")
    assert run_cxrseg(xrays, *model).code == 0  # done, and no line of it
    code = (
        "import os, signal\n"
        "from cxrseg.runtime.batch import record as module\n"
        "original = module.record_of\n"
        "def record(*args):\n"
        "    os.kill(os.getpid(), signal.SIGINT) if told else told.append(args)\n"
        "    return original(*args)\n"
        "told, module.record_of = [], record\n"
    )
    save_chest(xrays / "b.png")
    line = [sys.executable, "-c", code + MAIN, "--watch", str(xrays), *model, "--jsonl", str(told)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (only,) = [json.loads(text) for text in told.read_text().splitlines()]
    assert (only["input"], only["status"]) == ("a.png", "ok")


@pytest.mark.parametrize("moved", ["in at once", "in for a while", "around for a while"])
@pytest.mark.parametrize("poll", [False, True])
def test_a_new_folder_in_the_place_of_a_watched_one_is_watched(
    save_chest, tmp_path, monkeypatch, poll: bool, moved: str
) -> None:
    seconds = 3 if "while" in moved else 0
    clock, replaced = [0.0], [0.0]
    folder = tmp_path / "around" / "in"

    def nap(length: float) -> None:
        clock[0] += length
        if replaced[0] and clock[0] >= replaced[0] and not folder.exists():
            save_chest(folder / "new.png")

    monkeypatch.setattr(watcher, "sleep", nap)
    monkeypatch.setattr(watcher, "monotonic", lambda: clock[0])
    old = save_chest(folder / "old.png")
    batches = watcher.Watcher([folder], poll).batches()
    assert [found.path for found in next(batches)] == [old]
    (folder if moved.startswith("in") else folder.parent).rename(tmp_path / "gone")
    replaced[0] = clock[0] + seconds
    nap(0)
    assert [found.path for found in next(batches)] == [folder / "new.png"]
    assert clock[0] <= replaced[0] + watcher.SETTLE_S + 1
    batches.close()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--watch", "--csv", "t.csv"], "take --jsonl with --watch"),
        (["--poll"], "--poll is about --watch"),
    ],
)
def test_wrong_usage(run_cxrseg, xrays, args: list[str], message: str) -> None:
    result = run_cxrseg(xrays, *args)
    assert result.code == 2 and message in result.err


def test_only_folders_are_watched(run_cxrseg, save_chest, xrays) -> None:
    path = save_chest(xrays / "x.png")
    for wrong, cause in ((path, "is not a folder"), (xrays / "none", "no such folder")):
        result = run_cxrseg(xrays, wrong, "--watch")
        assert (result.code, result.out, len(result.errors)) == (1, "", 1)
        assert result.err.startswith(f"error: {wrong}: {cause}")


def test_extra_that_is_missing_is_named(run_cxrseg, xrays, monkeypatch) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    result = run_cxrseg(xrays, "--watch")
    assert result.code == 1 and 'pip install "cxrseg[watch]"' in result.err
