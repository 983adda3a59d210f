"""Standard streams that are closed, full, busy, or left by their reader cost no image."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.runs import MAIN, names, outputs_of, save_chests

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs sh and devices of Unix")

FULL = Path("/dev/full")


def shell(redirections: str, *args: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command with redirections as a shell writes them."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirections}', "sh", sys.executable, "-c", MAIN, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **variables},
    )


LOST = "error: standard output: could not be written (No space left on device), so lines are missi"

# Redirections -> exit code, lines on standard output, start of the line on standard error.
OUTCOMES = {
    ">&-": (0, 0, ""),
    "2>&-": (0, 2, ""),
    "<&- >&- 2>&-": (0, 0, ""),
    "2>/dev/full": (0, 2, ""),
    ">/dev/full": (1, 0, LOST),
    ">/dev/full 2>&1": (1, 0, ""),
}


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("redirections", OUTCOMES)
def test_every_image_is_done(model, xrays, tmp_path, redirections: str, jobs: int) -> None:
    code, out, err = OUTCOMES[redirections]
    if "full" in redirections and not FULL.exists():
        pytest.skip(f"this system has no {FULL}")
    save_chests(xrays, 2)
    home, table = tmp_path / "out", tmp_path / "all.csv"
    run = [xrays, "-o", home, "--csv", table, "--jobs", jobs, *model]
    # Without a buffer, as containers have it, a line fails by itself.
    for unbuffered in ("", "1"):
        done = shell(redirections, *run, PYTHONUNBUFFERED=unbuffered)
        assert (done.returncode, len(done.stdout.splitlines())) == (code, out)
        assert done.stderr.startswith(err) and len(done.stderr.splitlines()) == bool(err)
        assert names(home) == outputs_of("0000", "0001")
        assert len(table.read_text().splitlines()) == 3


def test_a_failure_with_no_standard_error_is_told_by_the_exit_code(model, xrays, tmp_path) -> None:
    save_chests(xrays, 1)
    (xrays / "bad.png").write_bytes(b"no image")
    done = shell("2>&-", xrays, "-o", tmp_path / "out", *model)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1)
    assert names(tmp_path / "out") == outputs_of("0000")


def test_no_file_takes_the_number_of_a_closed_stream(model, xrays) -> None:
    """What libraries write to standard error must not get into a file."""
    save_chests(xrays, 1)
    code = (
        "import os\n"
        "from cxrseg.runtime.batch import process as batch\n"
        "original = batch.read\n"
        "def read(path):\n"
        "    os.write(1, b'note'), os.write(2, b'note')\n"
        "    with path.open('rb') as file: assert file.fileno() > 2\n"
        "    return original(path)\n"
        "batch.read = read\n"
    )
    line = [sys.executable, "-c", code + MAIN, str(xrays / "0000.png"), *model]
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *line], timeout=120)
    assert done.returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_costs_no_image(model, xrays, tmp_path, unbuffered: str) -> None:
    save_chests(xrays, 3)
    run = [xrays, "-o", tmp_path / "out", *model]
    done = shell("| head -n 0", *run, PYTHONUNBUFFERED=unbuffered)
    assert (done.stdout, done.stderr) == ("", "")
    assert names(tmp_path / "out") == outputs_of("0000", "0001", "0002")


def test_a_reader_that_is_slow_gets_every_line(model, xrays, tmp_path) -> None:
    """A pipe may be non-blocking, as other programs leave it, and full."""
    save_chests(xrays, 2)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    filled = 0
    try:
        while True:
            filled += os.write(writer, b"x" * 4096)
    except BlockingIOError:
        pass
    line = [sys.executable, "-c", MAIN, str(xrays), "-o", str(tmp_path / "out"), *model]
    process = subprocess.Popen(line, stdout=writer)
    os.close(writer)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("out/*.json")):
        assert time.monotonic() < end
        time.sleep(0.05)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()[filled:].decode()
    assert process.wait(60) == 0
    assert len(text.splitlines()) == 2 and text.endswith("\n")


@pytest.mark.parametrize("option", ["--help", "--version", "--about"])
def test_output_that_is_lost_is_a_failure(option: str) -> None:
    if not FULL.exists():
        pytest.skip(f"this system has no {FULL}")
    done = shell(f">{FULL}", option)
    assert done.returncode == 1
    assert done.stderr.startswith(LOST)


@pytest.mark.parametrize("module", ["trainer", "export", "benchmarks"])
def test_other_commands_need_no_streams(module: str) -> None:
    line = [sys.executable, "-m", f"cxrseg.{module}.cli", "--help"]
    for redirections, code in (("<&- >&- 2>&-", 0), (">/dev/full", 1)):
        command = ["sh", "-c", f'"$@" {redirections}', "sh", *line]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120)
        assert done.returncode == code and "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--csv", "--jsonl"])
@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_a_table_on_a_closed_standard_output_is_an_error(
    model, xrays, tmp_path, option: str, name: str
) -> None:
    save_chests(xrays, 1)
    run = [xrays, "-o", tmp_path / "out", option, name, *model]
    done = shell(">&-", *run)
    assert (
        done.returncode == 1 and f"error: {name}: cannot be written (it is closed)" in done.stderr
    )
    assert names(tmp_path / "out") == []
    done = shell("", *run)
    assert done.returncode == 0 and done.stdout.lstrip("\ufeff")[:6] in ("input,", '{"prog')
    assert len(done.stdout.splitlines()) == 1 + (option == "--csv")
    # To write nowhere may be what is wanted.
    assert shell(">&-", *[os.devnull if x == name else x for x in run]).returncode == 0


def test_a_table_on_standard_output_does_not_take_the_place_of_a_result(
    model, xrays, tmp_path
) -> None:
    save_chests(xrays, 1)
    home = tmp_path / "out"
    home.mkdir()
    run = [xrays, "-o", home, "--csv", "-", *model]
    done = shell(f">{home / '0000.json'}", *run)
    assert done.returncode == 1 and "is where the result" in done.stderr
    assert names(home) == ["0000.json"]
    done = shell("", *run, "--jsonl", "/dev/stdout")
    assert done.returncode == 2 and "name the same file" in done.stderr
