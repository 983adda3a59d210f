from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.terminal.console import progress, run_command
from helpers.runs import MAIN, names, outputs_of, run_python


def test_broken_pipe_is_quiet(model, save_chest, xrays) -> None:
    paths = [str(save_chest(xrays / f"{i}.png")) for i in range(3)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *paths, *model],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_wrong_usage_quotes_nothing_that_a_terminal_obeys(run_cxrseg) -> None:
    for args in (["--\x1b[2Jfile.png"], ["x.png", "--device", "\x1b]0;title\x07"], ["\x9b2J"]):
        result = run_cxrseg(*args)
        assert result.code in (1, 2) and result.err
        assert all(c.isprintable() or c == "\n" for c in result.out + result.err)


def test_narrow_terminal_encoding(model, save_chest, xrays) -> None:
    path = save_chest(xrays / "胸.png")
    done = run_python(MAIN, str(path), *model, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_is_exit_130_and_leaves_whole_files(model, save_chest, xrays) -> None:
    paths = [save_chest(xrays / f"{i}.png") for i in range(3)]
    # The interruption comes while the second image is being written.
    code = (
        "import os, signal\n"
        "from cxrseg.runtime.files import atomic as files\n"
        "calls, place = [], files._temporary\n"
        "def temporary(path):\n"
        "    calls.append(path)\n"
        "    if len(calls) == 6: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return place(path)\n"
        "files._temporary = temporary\n" + MAIN
    )
    done = run_python(code, *map(str, paths), *model)
    assert done.returncode == 130
    assert [line for line in done.stderr.splitlines() if line] == [
        "error: interrupted; files already written are complete"
    ]
    assert names(xrays) == sorted(["0.png", "1.png", "2.png", *outputs_of("0")])


def test_progress_bar_does_not_garble_the_lines(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress(2) as lines:
        lines.done("first line")
        lines.done("second line")
    out, err = capsys.readouterr()
    assert out.splitlines() == ["first line", "second line"]
    assert "2/2" in err


def test_run_command_maps_outcomes_to_exit_codes(capsys) -> None:
    def code_of(outcome: object) -> int:
        @click.command("tool")
        def tool() -> object:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        with pytest.raises(SystemExit) as info:
            run_command(tool, [])
        return int(info.value.code or 0)

    assert code_of(None) == 0
    assert code_of(1) == 1
    assert code_of(CxrsegError("x", "is bad", "mend it")) == 1
    assert capsys.readouterr().err == "error: x: is bad; mend it\n"
    assert code_of(click.UsageError("no")) == 2
    assert code_of(click.Abort()) == 130
    assert code_of(KeyboardInterrupt()) == 130
    capsys.readouterr()
    assert code_of(RuntimeError("odd")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: tool: unexpected failure (RuntimeError: odd)")
