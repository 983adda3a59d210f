"""Checkpoints that ask for more than they hold: refused in one line, in little memory and time."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.fit.checkpoint import load, save
from cxrseg.trainer.fit.start import start_from
from cxrseg.trainer.networks import torch_file
from cxrseg.trainer.networks.lungsam import LungSAM
from cxrseg.trainer.networks.sizes import AtMost
from cxrseg.trainer.networks.torch_file import read_torch_file
from helpers.models.checkpoints import describe

Change = Callable[[dict[str, Any]], object]


def rewritten(path: Path, change: Change) -> Path:
    data = torch.load(path, weights_only=True)
    change(data)
    torch.save(data, path)
    return path


def sized(**sizes: object) -> Change:
    """Ask for a network of other sizes."""
    return lambda data: data["hyper_parameters"]["architecture"].update(sizes)


def laughing(levels: int) -> list[Any]:
    """Return ten times the same list in a list, and so on: 10 ** levels texts in a few bytes."""
    inner: list[Any] = ["lol"]
    for _ in range(levels):
        inner = [inner] * 10
    return inner


def nested(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


def described(**entries: Any) -> Change:
    return lambda data: data["hyper_parameters"].update(entries)


def repeated(data: dict[str, Any]) -> None:
    data["state_dict"]["model.image_encoder.pos_embed"] = torch.zeros(1).expand(1, 10**5, 10**5, 32)


def shared(data: dict[str, Any]) -> None:
    once = torch.zeros(10**5)
    data["state_dict"].update({f"model.extra{number}": once for number in range(1000)})


def complex_numbers(data: dict[str, Any]) -> None:
    name = "model.image_encoder.pos_embed"
    data["state_dict"][name] = data["state_dict"][name].to(torch.complex64)


def sparse(data: dict[str, Any]) -> None:
    table = torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (10**12,))
    data["state_dict"]["model.extra"] = table


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (sized(depth=10**7, embed_dim=2, heads=1), "depth is not in 1 to 64"),
        (sized(depth=0), "depth is not in"),
        (sized(depth=2.0), "depth is no whole number"),
        (sized(depth=True), "depth is no whole number"),
        (sized(depth=10**18), "depth is not in"),
        (sized(depth=10**400), "a whole number of more than 64 bits"),
        (sized(embed_dim=10**9), "embed_dim is not in"),
        (sized(embed_dim="32"), "embed_dim is no whole number"),
        (sized(embed_dim=16_384, depth=64, heads=1), "far more weights than it holds"),
        (sized(heads=0), "heads is not in"),
        (sized(heads=3), "multiples of its heads"),
        (sized(decoder_dim=0), "decoder_dim is not in"),
        (sized(decoder_dim=24), "multiples of its heads"),
        (sized(decoder_mlp=10**12), "decoder_mlp is not in"),
        (sized(window=-5), "window is not in"),
        (sized(window=10**6), "window is not in"),
        (sized(global_blocks=[7]), "global attention is not in"),
        (sized(global_blocks=[None]), "global attention is no whole number"),
        (sized(activation=["gelu"]), "its activation is not known"),
        (sized(name=laughing(3)), "not a checkpoint of cxrseg-train"),
        (described(ranks=nested(200)), "lists in more than"),
        (described(labels=laughing(20)), "more than 200000 objects"),
        (described(version=laughing(20)), "more than 200000 objects"),
        (described(metrics={str(n): 1.0 for n in range(200_000)}), "more than 200000 objects"),
        (described(preprocessing={"size": 10**6, "low": 0, "high": 1}), "size 1000000"),
        (described(adapters={"init_rank": 10**9, "target_rank": 1}), "AdapterConfig"),
        (complex_numbers, "weights are missing, unknown or of another"),
        (repeated, "larger than what is stored"),
        (shared, "its weights are larger than the file"),
        (sparse, "asks for torch._utils._rebuild_sparse_tensor"),
        (lambda data: data.update(state_dict=[1]), "not a checkpoint"),
        (lambda data: data["state_dict"].update({1: torch.zeros(1)}), "not a checkpoint"),
        (lambda data: data["state_dict"].update({"model.x": 1}), "not a checkpoint"),
    ],
)
def test_more_than_the_file_holds_is_refused(
    change: Change, reason: str, finished: tuple[Path, LungSAM]
) -> None:
    path, model = finished
    rewritten(path, change)
    for read in (load, lambda path: start_from(path, describe(model))):
        with pytest.raises(CxrsegError) as refused:
            read(path)
        assert reason in str(refused.value) and len(str(refused.value)) < 600


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(
    value: float, finished: tuple[Path, LungSAM]
) -> None:
    path, model = finished

    def spoil(data: dict[str, Any]) -> None:
        data["state_dict"]["model.image_encoder.pos_embed"][0, 0, 0, 0] = value

    rewritten(path, spoil)
    for read in (load, lambda path: start_from(path, describe(model))):
        with pytest.raises(CxrsegError, match=r"not all numbers \(image_encoder\.pos_embed\)"):
            read(path)


def test_official_weights_that_are_no_numbers_are_refused(
    nano: Callable[..., LungSAM], tmp_path: Path
) -> None:
    model = nano()
    state = model.state_dict()
    state["image_encoder.pos_embed"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(CxrsegError, match="not all numbers"):
        start_from(tmp_path / "sam.pth", describe(model))


def test_compressed_records_are_refused_unread(tmp_path: Path, monkeypatch) -> None:
    torch.save({"state_dict": {"x": torch.zeros(10**6)}}, tmp_path / "plain.ckpt")
    path = tmp_path / "model.ckpt"
    with (
        zipfile.ZipFile(tmp_path / "plain.ckpt") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in plain.infolist():
            packed.writestr(record.filename, plain.read(record))
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(CxrsegError, match="its records are compressed"):
        read_torch_file(path)


def test_records_that_lie_on_each_other_are_refused_unread(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(5000))
        for number in range(1000):
            again = copy(archive.filelist[0])
            again.filename = f"archive/data/{number}"
            archive.filelist.append(again)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(CxrsegError, match="its records are larger than the file"):
        read_torch_file(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.ckpt")
    with pytest.raises(CxrsegError, match="it is a pipe, not a regular file"):
        read_torch_file(tmp_path / "model.ckpt")


def test_all_that_a_run_saves_is_far_from_the_limits(
    finished: tuple[Path, LungSAM], monkeypatch
) -> None:
    monkeypatch.setattr(torch_file, "MAX_OBJECTS", torch_file.MAX_OBJECTS // 100)
    monkeypatch.setattr(torch_file, "MAX_DEPTH", torch_file.MAX_DEPTH // 4)
    monkeypatch.setattr(torch_file, "MOST_SHARED", 1)
    read_torch_file(finished[0])


def test_memory_stays_small(finished: tuple[Path, LungSAM]) -> None:
    """In a process of its own, whose memory is bounded."""
    resource = pytest.importorskip("resource")
    rewritten(finished[0], sized(embed_dim=16_384, depth=64, heads=1))
    code = (
        "import sys, pathlib, resource, torch\n"
        "from cxrseg.trainer.fit.checkpoint import load\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: load(pathlib.Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    assert resource
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished[0])], capture_output=True, text=True, check=True
    )
    name, grown = done.stdout.split()
    assert name == "CxrsegError" and int(grown) < 500_000


def test_nothing_slow_is_imported(nano: Callable[..., LungSAM], tmp_path: Path) -> None:
    """What torch's device "meta" needs takes longer than all else of a load."""
    model = nano()
    save(model, describe(model), tmp_path / "model.ckpt")
    code = (
        "import sys, pathlib\n"
        "from cxrseg.trainer.fit.checkpoint import load\n"
        "load(pathlib.Path(sys.argv[1]))\n"
        "assert 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.ckpt")], check=True)


def test_only_so_many_numbers_are_made() -> None:
    with AtMost(1100):
        layer = nn.Linear(99, 10)
        with pytest.raises(ValueError, match="far more weights"):
            torch.zeros(101)
    assert layer.weight.shape == (10, 99) and len(torch.zeros(2000)) == 2000
