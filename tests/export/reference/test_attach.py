from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from cxrseg.export.reference.attach import attach
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.model_card import METADATA_KEY, REFERENCE_KEY
from cxrseg.runtime.inference.loading import load_model
from cxrseg.runtime.models import default_model
from cxrseg.runtime.quality.reference import Reference
from helpers.models.reference import shipped, shipped_json


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return a copy of the model that ships, without its reference."""
    model = onnx.load(default_model())
    entry = next(x for x in model.metadata_props if x.key == REFERENCE_KEY)
    model.metadata_props.remove(entry)
    path = tmp_path / "bare.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_everything_else_stays_byte_for_byte(bare: Path, tmp_path: Path) -> None:
    before = bare.read_bytes()
    output = tmp_path / "new.onnx"
    attach(shipped(), bare, output)
    assert bare.read_bytes() == before
    after = output.read_bytes()
    assert after.startswith(before) and len(after) - len(before) < 10_000
    assert after == default_model().read_bytes()
    loaded = load_model(output, "cpu", 1)
    assert loaded.reference == shipped_json() and loaded.card == load_model(bare, "cpu", 1).card


def test_earlier_reference_is_replaced_in_the_same_file(bare: Path) -> None:
    attach(shipped(), bare, bare)
    another = Reference(shipped().statistics, shipped().limits, 7)
    attach(another, bare, bare)
    entries = {entry.key: entry.value for entry in onnx.load(bare).metadata_props}
    assert {*entries} == {METADATA_KEY, REFERENCE_KEY}
    assert Reference.from_json(entries[REFERENCE_KEY]).images == 7
    assert [path.name for path in bare.parent.iterdir()] == [bare.name]


def test_file_that_cannot_be_replaced_stays(bare: Path, tmp_path: Path) -> None:
    output = tmp_path / "folder"
    output.mkdir()
    with pytest.raises(CxrsegError, match="cannot be written"):
        attach(shipped(), bare, output)
    assert {path.name for path in tmp_path.iterdir()} == {"bare.onnx", "folder"}


@pytest.mark.parametrize("content", [None, b"no model", b"", onnx.ModelProto().SerializeToString()])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "foreign.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CxrsegError, match=r"foreign\.onnx") as failed:
        attach(shipped(), path, tmp_path / "new.onnx")
    assert failed.value.remedy
    assert not (tmp_path / "new.onnx").exists()


def test_metadata_that_is_no_text_is_refused(bare: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(bare.read_bytes().replace(b"format_version", b"format_\xffersion"))
    for use in (
        lambda: attach(shipped(), damaged, tmp_path / "x.onnx"),
        lambda: load_model(damaged),
    ):
        with pytest.raises(CxrsegError, match=r"damaged\.onnx"):
            use()
    assert not (tmp_path / "x.onnx").exists()
