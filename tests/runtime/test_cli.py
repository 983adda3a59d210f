from __future__ import annotations

import os
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cxrseg.runtime.batch import process as batch
from cxrseg.runtime.cli import command
from helpers.runs import names, outputs_of


def test_one_image(run_cxrseg, model, save_chest, xrays: Path) -> None:
    path = save_chest(xrays / "x.png")
    result = run_cxrseg(path, *model)
    assert (result.code, result.err) == (0, "")
    (line,) = result.out.splitlines()
    assert line.startswith(f"{path}: right lung ")
    assert "% of the image" in line and line.endswith(f"-> {xrays / 'x_lungs.png'}")
    assert names(xrays) == sorted(["x.png", *outputs_of("x")])


def test_flag_is_in_the_line(run_cxrseg, model, save_chest, xrays: Path) -> None:
    result = run_cxrseg(save_chest(xrays / "x.png", left_lung=False), *model)
    assert result.code == 0
    assert "[flag: the left lung was not found or is too small]" in result.out


def test_folder_into_new_output_folder(run_cxrseg, model, save_chest, xrays, tmp_path) -> None:
    for name in ("b.png", "a.jpg", "c.tif"):
        save_chest(xrays / name)
    out = tmp_path / "deep" / "out"
    result = run_cxrseg(xrays, "-o", out, *model)
    assert (result.code, result.err) == (0, "")
    assert [Path(line.split(":")[0]).name for line in result.out.splitlines()] == [
        "a.jpg",
        "b.png",
        "c.tif",
    ]
    assert names(out) == outputs_of("a", "b", "c")
    assert names(xrays) == ["a.jpg", "b.png", "c.tif"]


def test_second_run_replaces_the_first_ones_outputs(run_cxrseg, model, save_chest, xrays) -> None:
    save_chest(xrays / "x.png")
    assert run_cxrseg(xrays, *model).code == 0
    before = names(xrays)
    assert run_cxrseg(xrays, *model).code == 0
    # As a shell expands *.png: the outputs are among the inputs.
    result = run_cxrseg(*sorted(xrays.glob("*.png")), *model)
    assert result.code == 0 and len(result.out.splitlines()) == 1
    assert names(xrays) == before


def test_same_image_twice_is_done_once(run_cxrseg, model, save_chest, xrays) -> None:
    path = save_chest(xrays / "x.png")
    result = run_cxrseg(path, xrays, xrays / ".." / "xrays" / "x.png", *model)
    assert (result.code, len(result.out.splitlines())) == (0, 1)


def test_bad_inputs_fail_and_the_others_are_done(
    run_cxrseg, model, save_chest, xrays, tmp_path
) -> None:
    good = [save_chest(xrays / "a.png"), save_chest(xrays / "z.png")]
    bad = {
        "text.png": b"no image" * 100,
        "empty.png": b"",
        "cut.png": good[0].read_bytes()[: good[0].stat().st_size // 2],
        "scan.dcm": bytes(128) + b"DICM" + bytes(50),
    }
    for name, content in bad.items():
        (xrays / name).write_bytes(content)
    (tmp_path / "nothing").mkdir()
    inputs = [good[0], *(xrays / name for name in bad), xrays / "missing.png", tmp_path / "nothing"]
    result = run_cxrseg(*inputs, good[1], "-o", tmp_path / "out", *model)
    assert result.code == 1
    assert len(result.out.splitlines()) == 2
    assert len(result.errors) == len(bad) + 2
    assert all(line.startswith("error: ") and "; " in line for line in result.errors)
    for path, line in zip(inputs[1:], result.errors, strict=True):
        assert line.startswith(f"error: {path}: ")
    assert names(tmp_path / "out") == outputs_of("a", "z")


def test_unexpected_failure_costs_one_image_only(
    run_cxrseg, model, save_chest, xrays, monkeypatch
) -> None:
    paths = [save_chest(xrays / name) for name in ("a.png", "b.png", "c.png")]
    original = batch.read

    def read(path: Path):
        if path.name == "b.png":
            raise ZeroDivisionError("oh\nno")
        return original(path)

    monkeypatch.setattr(batch, "read", read)
    result = run_cxrseg(*paths, *model)
    assert result.code == 1 and len(result.out.splitlines()) == 2
    assert result.errors == [
        f"error: {paths[1]}: unexpected failure (ZeroDivisionError: oh no); please report it"
    ]


@pytest.mark.skipif(os.name != "posix", reason="makes links and names of Unix")
def test_paths_that_the_system_rejects(run_cxrseg, model, save_chest, xrays, tmp_path) -> None:
    (xrays / "loop.png").symlink_to(xrays / "loop.png")
    too_long = xrays / ("n" * 300 + ".png")
    outputs_too_long = save_chest(xrays / ("n" * 247 + ".png"))
    good = save_chest(xrays / "x.png")
    result = run_cxrseg(xrays / "loop.png", too_long, outputs_too_long, good, *model)
    assert result.code == 1 and len(result.out.splitlines()) == 1
    assert len(result.errors) == 3 and "unexpected" not in result.err
    assert names(xrays) == sorted(["loop.png", outputs_too_long.name, "x.png", *outputs_of("x")])


def test_odd_file_names(run_cxrseg, model, save_chest, xrays, tmp_path) -> None:
    odd = ["sp ace.png", "line\nbreak.png", "\x1b[31mred.png", "-o.png", "胸.png"]
    if os.name == "posix":
        odd.append(os.fsdecode(b"latin\xe9.png"))
    for name in odd:
        save_chest(tmp_path / "seed.png").rename(xrays / name)
    result = run_cxrseg(xrays, *model)
    assert (result.code, result.err) == (0, "")
    assert len(result.out.splitlines()) == len(odd) and "\x1b" not in result.out
    assert len(names(xrays)) == 4 * len(odd)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["x.png", "--device", "abacus"],
        ["x.png", "--protocol", "heart"],
        ["x.png", "--threads", "0"],
        ["x.png", "--nonsense"],
        ["--model", "m.onnx"],
    ],
)
def test_wrong_usage_is_exit_2(run_cxrseg, args: list[str]) -> None:
    result = run_cxrseg(*args)
    assert result.code == 2 and "Usage: cxrseg-run" in result.err and result.out == ""


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_teaches(flag: str) -> None:
    result = CliRunner().invoke(command, [flag])
    assert result.exit_code == 0
    for part in ("_lungs.png", "Exit codes", "Examples", "[default: fields]", "diagnostic"):
        assert part in result.output
    # Every option stands under a heading.
    for heading in ("What is written:", "How it is computed:", "Many images:", "Other options:"):
        assert heading in result.output
    for option in command.params:
        if isinstance(option, click.Option):
            assert re.search(rf"^  .*{option.opts[-1]}\b", result.output, re.M)
