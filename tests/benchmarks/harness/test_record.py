from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cxrseg.benchmarks.harness.record import (
    check_output,
    circumstances,
    environment,
    images_file,
    now,
    plot_file,
    read_record,
    write_record,
)
from cxrseg.benchmarks.harness.result import Plot, Result, Table
from cxrseg.runtime.core.errors import CxrsegError

FACTS = {"benchmark": "accuracy", "command": "cxrseg-bench accuracy", "date": now()}
PNG = b"\x89PNG\r\n\x1a\n tEXtSoftware\0cxrseg 9"


def result(value: float = 1, plots: int = 1, images: int = 1) -> Result:
    return Result(
        "Title",
        {"value": value},
        [Table(["n"], [[str(value)]])],
        [Plot(f"plot-{n}", PNG, "Caption.") for n in range(plots)],
        "Definition.",
        [{"image": n} for n in range(images)],
    )


def test_environment_is_plain_data() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert {"cxrseg", "onnxruntime", "numpy", "opencv", "python"} <= set(found["versions"])
    assert all(found["versions"].values())
    assert 1 <= found["machine"]["cores"] <= found["machine"]["logical_cpus"]
    assert found["machine"]["cpu"] != ""
    assert set(found["machine"]["integer_units"]) <= {
        *("amx_int8", "avx512_vnni", "avx_vnni", "asimddp")
    }
    line = circumstances({"date": "2026", **found})
    assert line.startswith(f"2026, {found['machine']['cpu']} (") and not line.endswith(".")


def test_time_is_utc() -> None:
    assert now().endswith("+00:00")


def test_all_files_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for value in (1, 2):
        files = write_record(path, FACTS, result(value))
        record = json.loads(path.read_text())
        assert record["program"].startswith("cxrseg ")
        assert record["benchmark"] == "accuracy" and record["data"] == {"value": value}
        assert record["tables"][0]["rows"] == [[str(value)]]
        assert record["plots"][0]["name"] == "plot-0" and record["definitions"] == "Definition."
        assert read_record(path) == record
    assert set(files) == set(tmp_path.iterdir())
    assert plot_file(path, "plot-0").read_bytes() == PNG
    images = json.loads(images_file(path).read_text())
    assert images["images"] == [{"image": 0}] and images["command"] == FACTS["command"]
    assert "images" not in record, "figures of each image have a file of their own"


def test_what_is_no_record_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_record(path, FACTS, result())
    assert read_record(images_file(path)) is None
    for text in ("[]", '{"program": "other", "benchmark": "x", "tables": []}', "3"):
        path.write_text(text)
        assert read_record(path) is None
    for data in (b"{", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(CxrsegError, match="is no JSON"):
            read_record(path)
    with pytest.raises(CxrsegError, match="cannot be read"):
        read_record(tmp_path / "none.json")


def test_infinite_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path / "result.json", FACTS, result(float("nan")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["result.json", "result-images.json", "result-plot-0.png"])
def test_foreign_files_are_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(CxrsegError, match="kept"):
        write_record(tmp_path / "result.json", FACTS, result())
    assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CxrsegError, match=r"end in \.json"):
        check_output(tmp_path / "result.txt")
    with pytest.raises(CxrsegError, match="no such folder"):
        check_output(tmp_path / "none" / "result.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(CxrsegError, match="kept"):
        check_output(tmp_path / "folder.json")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder kept from us")
def test_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CxrsegError, match="written"):
        check_output(tmp_path / "result.json")
