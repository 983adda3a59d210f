from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest

from cxrseg.benchmarks.harness.legacy_record import (
    check_output,
    command_line,
    cpu_model,
    environment,
    now,
    table,
    write_record,
)
from cxrseg.runtime.core.errors import CxrsegError


def test_environment_is_plain_data() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert set(found["versions"]) == {"cxrseg", "onnxruntime", "numpy", "opencv", "python"}
    assert all(found["versions"].values())
    assert 1 <= found["machine"]["cores"] <= found["machine"]["logical_cpus"]
    assert found["machine"]["cpu"] == cpu_model() != ""


def test_time_is_utc() -> None:
    assert now().endswith("+00:00")


def test_table_is_aligned_markdown() -> None:
    lines = table(["name", "n"], [["a|b", "1"], ["long name", "1000"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| --------- | ---: |"
    assert lines[2] == "| a\\|b      |    1 |"


def test_command_line_names_files_only() -> None:
    seen = []

    @click.command("accuracy")
    @click.argument("model", type=click.Path(path_type=Path))
    @click.option("--data", type=click.Path(path_type=Path))
    @click.option("--where", multiple=True)
    @click.option("-o", "--output", type=click.Path(path_type=Path))
    @click.option("--seed", default=0)
    @click.option("--stock", is_flag=True)
    @click.option("--files", nargs=2, type=click.Path(path_type=Path))
    @click.pass_context
    def command(context: click.Context, /, **_: object) -> None:
        seen.append(command_line(context))

    group = click.Group("python -m something", {"accuracy": command})
    args = ["/a/m.onnx", "--data", "/b/x.csv", "--where", "s=one", "--where", "s=a b"]
    args += ["--stock", "-o", "/c/r.json", "--files", "/d/a", "/d/b"]
    group.main(["accuracy", *args], standalone_mode=False)
    assert seen == [
        "cxrseg-bench accuracy m.onnx --data x.csv --where s=one --where 's=a b' --output r.json"
        " --stock --files a b"
    ]


def test_both_files_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for value in (1, 2):
        write_record(path, "accuracy", {"value": value}, f"# {value}")
        data = json.loads(path.read_text())
        assert data["benchmark"] == "accuracy"
        assert data["value"] == value
        assert path.with_suffix(".md").read_text().endswith(f"# {value}\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["result.json", "result.md"]


def test_infinite_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path / "result.json", "accuracy", {"value": float("nan")}, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["result.json", "result.md"])
def test_foreign_files_are_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(CxrsegError, match="kept"):
        write_record(tmp_path / "result.json", "accuracy", {}, "")
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
