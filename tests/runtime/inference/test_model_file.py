"""A model file is looked through before ONNX Runtime sees it."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import helper

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.core.model_card import METADATA_KEY
from cxrseg.runtime.inference import model_file as files
from cxrseg.runtime.inference.loading import load_model
from cxrseg.runtime.models import default_model, shipped
from helpers.models.hostile import NOT_WRITTEN, changed


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where ONNX Runtime gets to see a file."""

    def see(*args: object, **options: object) -> None:
        raise AssertionError("ONNX Runtime saw the file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", see)


@pytest.mark.parametrize("name", list(NOT_WRITTEN))
def test_what_is_never_written_is_refused(model_file, no_session, name: str) -> None:
    change, reason = NOT_WRITTEN[name]
    path = model_file()
    path.write_bytes(changed(path.read_bytes(), change))
    with pytest.raises(CxrsegError, match="is not a model of cxrseg-export: it has") as refused:
        load_model(path, "cpu")
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_the_sound_file_reaches_it(model_file, no_session) -> None:
    with pytest.raises(CxrsegError, match="ONNX Runtime saw the file"):
        load_model(model_file(), "cpu")


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.8, 0.99])
def test_cut_file_is_refused(model_file, no_session, share: float) -> None:
    path = model_file()
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CxrsegError, match="is not a model of cxrseg-export"):
        load_model(path, "cpu")


def test_graph_twice_is_refused(model_file, no_session) -> None:
    """Readers of protobuf join two graphs into one."""
    path = model_file()
    more = onnx.ModelProto()
    more.graph.node.append(helper.make_node("Relu", ["image"], ["n"]))
    path.write_bytes(path.read_bytes() + more.SerializeToString())
    with pytest.raises(CxrsegError, match="two values for one"):
        load_model(path, "cpu")


@pytest.mark.parametrize("part", ["key", "card", "another entry"])
def test_metadata_that_is_no_text_is_refused(model_file, no_session, part: str) -> None:
    path = model_file()
    data = path.read_bytes()
    if part == "another entry":
        data = changed(data, lambda m: m.metadata_props.add(key="note", value="tiny\x7f"))
    old = {"key": b"cxrseg", "card": b'"tiny"', "another entry": b"tiny\x7f"}[part]
    path.write_bytes(data.replace(old, b"\xff" * len(old)))
    with pytest.raises(CxrsegError, match="it has text that is not UTF-8"):
        load_model(path, "cpu")


def test_card_twice_is_refused(model_file, no_session) -> None:
    path = model_file()
    path.write_bytes(
        changed(path.read_bytes(), lambda m: m.metadata_props.add(key=METADATA_KEY, value="{}"))
    )
    with pytest.raises(CxrsegError, match="metadata 'cxrseg' twice"):
        load_model(path, "cpu")


def test_large_file_is_refused_unread(model_file, no_session, monkeypatch) -> None:
    path = model_file()
    monkeypatch.setattr(files, "MAX_MODEL_BYTES", 100)
    monkeypatch.setattr(Path, "read_bytes", None)
    with pytest.raises(CxrsegError, match="too large for a model"):
        load_model(path, "cpu")


def test_shipped_file_is_known_by_its_hash() -> None:
    assert load_model(default_model(), "cpu").sha256 == shipped.SHIPPED_SHA256


@pytest.mark.parametrize("place", [0.5, 0.99])
def test_damaged_shipped_file_is_refused(tmp_path, no_session, monkeypatch, place: float) -> None:
    data = bytearray(default_model().read_bytes())
    data[int(place * len(data))] ^= 1
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "shipped.py"))
    default = tmp_path / shipped.DEFAULT_MODEL
    default.write_bytes(data)
    assert default_model() == default
    with pytest.raises(CxrsegError, match=r"not the file that ships with cxrseg.*reinstall"):
        load_model(default_model(), "cpu")


def test_shipped_file_is_as_it_is_written() -> None:
    """Its hash spares it the look, which it would stand."""
    data = default_model().read_bytes()
    card, _ = files.read_card(default_model(), data)
    files.check_model(default_model(), data, card)
