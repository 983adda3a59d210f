from __future__ import annotations

import json
import os
import stat

import pytest

from cxrseg.runtime import Segmenter, read, write
from helpers.runs import names, outputs_of


@pytest.mark.parametrize("below", ["", "sub"])
def test_output_that_cannot_be_a_folder(run_tiny, save_chest, xrays, tmp_path, below: str) -> None:
    (tmp_path / "file").write_text("x")
    result = run_tiny(save_chest(xrays / "x.png"), "-o", tmp_path / "file" / below)
    assert (result.code, result.out, len(result.errors)) == (1, "", 1)
    assert names(xrays) == ["x.png"]


def test_output_file_that_cannot_be_written_leaves_nothing(
    run_tiny, save_chest, xrays, tmp_path
) -> None:
    out = tmp_path / "out"
    (out / "x.json").mkdir(parents=True)
    result = run_tiny(save_chest(xrays / "x.png"), save_chest(xrays / "y.png"), "-o", out)
    assert result.code == 1 and len(result.errors) == 1 and "x.json" in result.err
    assert names(out) == sorted(["x.json", *outputs_of("y")])


def test_full_disk_leaves_nothing(run_tiny, save_chest, xrays, tmp_path, monkeypatch):
    written = []
    original = os.open

    def open_(path, flags: int, *args, **kwargs):
        if flags & os.O_EXCL:
            written.append(path)
            if len(written) == 3:
                raise OSError(28, "No space left on device")
        return original(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_)
    result = run_tiny(save_chest(xrays / "x.png"))
    assert result.code == 1 and "No space left on device" in result.err
    assert names(xrays) == ["x.png"]


def test_equal_stems_do_not_overwrite_each_other(run_tiny, save_chest, tmp_path) -> None:
    first = save_chest(tmp_path / "a" / "x.png")
    second = save_chest(tmp_path / "b" / "x.png", left_lung=False)
    out = tmp_path / "out"
    result = run_tiny(first, second, "-o", out)
    assert result.code == 1 and len(result.out.splitlines()) == 1
    assert result.err.startswith(f"error: {second}: its outputs would overwrite those of {first}")
    assert json.loads((out / "x.json").read_text())["labels"][1]["area_px"] > 0
    beside = run_tiny(first, save_chest(tmp_path / "a" / "x.jpg"))
    assert beside.code == 1 and "would overwrite" in beside.err


def test_files_of_others_are_kept(run_tiny, save_chest, xrays) -> None:
    path = save_chest(xrays / "x.png")
    theirs = xrays / "x.json"
    theirs.write_text('{"shapes": []}')
    result = run_tiny(path)
    assert result.code == 1 and "not written by cxrseg" in result.err
    assert theirs.read_text() == '{"shapes": []}' and names(xrays) == ["x.json", "x.png"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_files_that_are_replaced_keep_their_permissions(
    run_tiny, save_chest, xrays, tmp_path
) -> None:
    path = save_chest(xrays / "x.png")
    tables = ["--csv", tmp_path / "all.csv", "--jsonl", tmp_path / "all.jsonl"]
    assert run_tiny(path, *tables).code == 0
    written = [*(xrays / name for name in outputs_of("x")), *tables[1::2]]
    for file in written:
        file.chmod(0o600)
    before = {file: file.stat().st_mtime_ns for file in written}
    assert run_tiny(path, *tables).code == 0
    for file in written:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.stat().st_mtime_ns > before[file]


def test_input_is_never_overwritten(run_tiny, save_chest, tmp_path) -> None:
    one = save_chest(tmp_path / "a" / "x.png")
    other = save_chest(tmp_path / "b" / "x_lungs.png")
    before = other.read_bytes()
    result = run_tiny(one, other, "-o", tmp_path / "b")
    assert result.code == 1 and "would overwrite an input file" in result.err
    assert other.read_bytes() == before
    assert (tmp_path / "b" / "x_lungs_lungs.png").exists()


def test_details_are_keywords_that_must_be_known(model_file, chest_png, tmp_path) -> None:
    radiograph = read(chest_png)
    result = Segmenter(model_file(), "cpu").segment(radiograph)
    with pytest.raises(TypeError, match="unexpected keyword argument 'deidentified'"):
        write(result, radiograph, chest_png, deidentified=True)  # type: ignore[call-arg]
    assert names(chest_png.parent) == ["x.png"]
    out = tmp_path / "out"
    out.mkdir()
    told = {"program": "cxrseg 0", "own": [1]}
    outputs = write(
        result, radiograph, chest_png, folder=out, formats=("json",), deidentify=True, report=told
    )
    assert names(out) == ["x.json"] and json.loads(outputs.report.read_text()) == told
