"""Pickles that would keep torch's reader busy, or make it take memory: refused before it runs."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.networks import torch_file
from cxrseg.trainer.networks.torch_file import read_torch_file


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def named(name: str) -> bytes:
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode()


def doubled(levels: int, seed: bytes, pair: bytes) -> bytes:
    """Return a value in two places of another, and so on: 2 ** levels values in a few bytes."""
    again = b"".join(
        b"q" + bytes([n]) + pair.replace(b"?", b"h" + bytes([n])) for n in range(levels)
    )
    return seed + again


TUPLES = doubled(40, text("x"), b"?\x86")
LISTS = doubled(40, b"]", b"]?a?a").replace(b"]q", b"]q", 1)
COLLIDING = b"}(" + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(1, 5000)) + b"u"


def saved(path: Path, content: bytes, *, archive: bool = True) -> Path:
    """Write what ``torch.save`` would, with another pickle in it."""
    pickled = b"\x80\x02" + content + b"."
    if not archive:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        empty = b"\x80\x02}q\x00."
        assert empty in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(empty, pickled))
        return path
    torch.save({}, path.with_suffix(".plain"))
    with zipfile.ZipFile(path.with_suffix(".plain")) as plain, zipfile.ZipFile(path, "w") as other:
        for record in plain.infolist():
            of_data = record.filename.endswith("data.pkl")
            other.writestr(record.filename, pickled if of_data else plain.read(record))
    return path


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"}" + TUPLES + b"Ns", "a tuple of more than 100 values"),
        (b"})" + b"\x85" * 100_000 + b"Ns", "a tuple of more than 100 values"),
        (b"}(" + b"K\x01" * 200 + b"tNs", "a tuple of more than 100 values"),
        (b"}K\x01\x85Ns", "a tuple as a key"),
        (b"}(K\x01NK\x01\x85Nu", "a tuple as a key"),
        (named("builtins.set") + b"](" + TUPLES + b"e\x85R", "it asks for builtins.set"),
        (named("builtins.frozenset") + b")R", "it asks for builtins.frozenset"),
        (named("collections.Counter") + b")R", "it asks for collections.Counter"),
        (named("builtins.bytearray") + number(2**40) + b"\x85R", "builtins.bytearray"),
        (named("torch.Tensor") + number(2**40) + b"\x85\x81", "asks for torch.Tensor"),
        (named("torch.storage.UntypedStorage") + number(2**40) + b"\x85R", "asks for torch"),
        (named("_codecs.encode") + text("x") + text("utf-8") + b"\x86R", "_codecs.encode"),
        (named("os.system") + text("true") + b"\x85R", "it asks for os.system"),
        (LISTS + b")R", "it calls what is no function"),
        (LISTS + b")\x81", "it calls what is no function"),
        (COLLIDING, "a whole number of more than 64 bits"),
        (b"\x8b" + (10**6).to_bytes(4, "little") + b"\x7f" * 10**6, "of more than 64 bits"),
        (b"](" + text("x" * 10**6) + b"q\x00" + b"h\x00" * 100 + b"e", "too much that is no"),
    ],
)
def test_busy_pickles_are_refused(
    content: bytes, reason: str, archive: bool, tmp_path: Path
) -> None:
    with pytest.raises(CxrsegError, match=reason) as refused:
        read_torch_file(saved(tmp_path / "model.ckpt", content, archive=archive))
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("limit", ["MAX_STEPS", "MAX_PICKLE"])
def test_long_pickles_are_refused(limit: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch_file, limit, 1000)
    monkeypatch.setattr(torch, "load", None)
    path = saved(tmp_path / "model.ckpt", b"](" + b"K\x01" * 1000 + b"e")
    with pytest.raises(CxrsegError, match="too much that is no weight"):
        read_torch_file(path)


def test_deep_lists_are_refused(tmp_path: Path) -> None:
    """Deeper than Python itself would write them: 100,000 lists in one another."""
    path = saved(tmp_path / "model.ckpt", b"]" * 100_000 + b"a" * 99_999)
    with pytest.raises(CxrsegError, match="it has lists in more than 32 others"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "content", [b"", b"0", b"t", b"h\x05", b"q\x05", b"K", b"(", b"\x86", b"s"]
)
def test_pickles_that_make_no_sense_are_refused(content: bytes, tmp_path: Path) -> None:
    for archive in (True, False):
        with pytest.raises(CxrsegError, match="not a checkpoint"):
            read_torch_file(saved(tmp_path / "model.ckpt", content, archive=archive))


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("change", [dict, OrderedDict, lambda state: {"model": state, "epoch": 3}])
def test_weights_of_any_kind_are_read(
    change: Callable[..., object], archive: bool, tmp_path: Path
) -> None:
    layer = nn.Conv2d(3, 4, 5).to(torch.bfloat16)
    state = {
        **layer.state_dict(),
        "step": torch.tensor(7),
        "parameter": nn.Parameter(torch.ones(2)),
        "size": torch.Size([2, 3]),
        "betas": (0.9, 0.999),
        "byte": torch.zeros(3, dtype=torch.uint8),
        "flag": torch.tensor(True),
    }
    wanted = change(state)
    path = tmp_path / "x.pth"
    torch.save(wanted, path, _use_new_zipfile_serialization=archive)
    found = read_torch_file(path)
    assert repr(found) == repr(wanted)
