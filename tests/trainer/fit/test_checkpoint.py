"""The checkpoint format: the same network comes back, and nothing in a file is ever run."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.fit.checkpoint import FORMAT_VERSION, Description, contents, load, save
from cxrseg.trainer.networks.lungsam import LungSAM
from helpers.models.checkpoints import ADAPTERS, FIELDS, QUANTIZATION, WHOLE, describe

Make = Callable[..., LungSAM]


def damaged(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write `path` anew with its contents changed in place."""
    data = torch.load(path, weights_only=True)
    change(data)
    torch.save(data, path)
    return path


@torch.no_grad()
def test_round_trip(finished: tuple[Path, LungSAM], images: Tensor) -> None:
    path, model = finished
    loaded = load(path)
    assert not loaded.model.training
    torch.testing.assert_close(loaded.model(images), model(images), rtol=0, atol=0)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    description = loaded.description
    assert description.architecture == model.architecture
    assert (description.adapters, description.quantization) == (ADAPTERS, QUANTIZATION)
    assert description.preprocessing == Preprocessing(64)
    assert (description.stage, description.method, description.version) == (2, "adalora", "1.2")
    assert description.ranks == {"a": 3}
    assert description.data == {"clinic/fields/train": 7}
    assert description.metrics == {"val_dice": 0.5}
    assert (description.model, description.images) == ("vit_n", 70)


@torch.no_grad()
@pytest.mark.parametrize("window", [0, 3])
def test_round_trip_of_stage_1(window: int, nano: Make, images: Tensor, tmp_path: Path) -> None:
    model = nano(window=window, global_blocks=(1,), labels=FIELDS + WHOLE)
    save(model, describe(model), tmp_path / "model.ckpt")
    loaded = load(tmp_path / "model.ckpt")
    assert loaded.model.architecture.window == window
    torch.testing.assert_close(loaded.model(images), model(images), rtol=0, atol=0)


def test_file_is_plain_data(finished: tuple[Path, LungSAM]) -> None:
    data = torch.load(finished[0], weights_only=True)
    assert set(data) == {"state_dict", "hyper_parameters", "pytorch-lightning_version"}
    names = list(data["state_dict"])
    assert all(name.startswith("model.") for name in names)
    for part in ("lora_A", "lora_B", "lora_E", "weight_scale", "input.low", "quantizers.query"):
        assert any(part in name for name in names), part


def test_description_survives_plain_data(finished: tuple[Path, LungSAM]) -> None:
    description = load(finished[0]).description
    assert Description.from_dict(description.to_dict()) == description


def test_saving_fails_whole(nano: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nano()
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"before")

    def fail(data: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise RuntimeError("disk")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="disk"):
        save(model, describe(model), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.victim}'",)


@pytest.mark.parametrize("writer", ["pickle", "torch", "torch without zip"])
def test_code_in_a_file_is_never_run(writer: str, tmp_path: Path) -> None:
    path, victim = tmp_path / "model.ckpt", tmp_path / "was_here"
    hostile = {"hyper_parameters": Hostile(victim), "state_dict": {}}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(hostile))
    else:
        torch.save(hostile, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(CxrsegError, match="not a checkpoint that can be read safely") as refused:
        load(path)
    assert "\n" not in str(refused.value)
    assert not victim.exists()
    pickle.loads(pickle.dumps(Hostile(victim)))
    assert victim.exists(), "the test must be able to fail"


@pytest.mark.parametrize(
    "content", [b"", b"weights, perhaps\n", b"\x80\x02", b"PK\x03\x04" + bytes(200)]
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(CxrsegError, match=r"model\.ckpt: not a checkpoint") as refused:
        load(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_file_is_refused(share: float, finished: tuple[Path, LungSAM]) -> None:
    path = finished[0]
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CxrsegError, match="not a checkpoint"):
        load(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CxrsegError, match="no such file"):
        load(tmp_path / "none.ckpt")
    with pytest.raises(CxrsegError, match="it is a folder"):
        load(tmp_path)


def parts(data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return data["hyper_parameters"], data["state_dict"]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: parts(d)[0].update(format_version=FORMAT_VERSION + 1),
        lambda d: parts(d)[0].update(format="other"),
        lambda d: parts(d)[0].pop("labels"),
        lambda d: parts(d)[0].update(labels=["spleen"]),
        lambda d: parts(d)[0].update(adapters={"init_rank": 0}),
        lambda d: parts(d)[0]["architecture"].update(colour="red"),
        lambda d: parts(d)[0]["preprocessing"].update(size=17),
        lambda d: parts(d)[1].popitem(),
        lambda d: parts(d)[1].update({"model.extra": torch.zeros(1)}),
        lambda d: parts(d)[1].update({"model.image_encoder.pos_embed": torch.zeros(1)}),
        lambda d: d.pop("state_dict"),
        lambda d: d.update(hyper_parameters=[1]),
    ],
    ids=[
        "newer format",
        "another program",
        "no labels",
        "unknown label",
        "bad adapters",
        "unknown setting",
        "bad size",
        "missing weight",
        "unknown weight",
        "weight of another shape",
        "no weights",
        "no description",
    ],
)
def test_damaged_contents_are_refused(
    change: Callable[[dict[str, Any]], object], finished: tuple[Path, LungSAM]
) -> None:
    path = damaged(finished[0], change)
    with pytest.raises(CxrsegError, match=r"not a checkpoint of cxrseg-train \(.+\)") as refused:
        load(path)
    assert "\n" not in str(refused.value)


def test_newer_format_says_so(finished: tuple[Path, LungSAM]) -> None:
    path = damaged(finished[0], lambda d: parts(d)[0].update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(CxrsegError, match="of a newer version of this program"):
        load(path)


def test_older_quantization_says_so(finished: tuple[Path, LungSAM]) -> None:
    path = damaged(finished[0], lambda d: parts(d)[0].update(format_version=1))
    with pytest.raises(CxrsegError, match="repeat stage 2"):
        load(path)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        7,
        {"model": 1},
        torch.zeros(3),
    ],
)
def test_other_torch_files_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(CxrsegError, match="not a checkpoint of cxrseg-train"):
        load(tmp_path / "model.ckpt")


def test_contents_name_every_weight(nano: Make) -> None:
    model = nano()
    state = contents(model, describe(model))["state_dict"]
    assert list(state) == [f"model.{name}" for name in model.state_dict()]
