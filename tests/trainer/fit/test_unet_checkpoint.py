"""Checkpoints of U-Nets: round trip, older files, and starts that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.adapt.settings import AdapterConfig
from cxrseg.trainer.fit.checkpoint import Description, build, load, save
from cxrseg.trainer.fit.start import start_from
from cxrseg.trainer.networks.sam import ARCHITECTURES
from cxrseg.trainer.networks.unet import UNet, UNetArchitecture

LABELS = ("right_lung", "left_lung")


SMALL = UNetArchitecture((4, 8, 8))


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(3)
    return UNet(SMALL, 64, LABELS).eval()


SAID = Description(SMALL, LABELS, Preprocessing(64), images=480, metrics={"val_dice": 0.5})


@torch.no_grad()
def test_round_trip(unet: UNet, images: Tensor, tmp_path: Path) -> None:
    save(unet, SAID, tmp_path / "model.ckpt")
    loaded = load(tmp_path / "model.ckpt")
    assert (loaded.description, loaded.description.model) == (SAID, "unet")
    assert isinstance(loaded.model, UNet) and not loaded.model.training
    assert (loaded.model.architecture, loaded.model.labels) == (SMALL, LABELS)
    assert torch.equal(loaded.model(images), unet(images))


@torch.no_grad()
def test_files_of_the_benchmark_before_still_load(
    unet: UNet, images: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "model.ckpt"
    earlier = {
        "format": "cxrseg-unet-checkpoint",
        "features": [4, 8, 8],
        "labels": list(LABELS),
        "preprocessing": Preprocessing(64).to_dict(),
        "images": 480,
        "data": {"a/fields/train": 3},
        "metrics": {"val_dice": 0.5},
        "version": "0.1.0",
    }
    state = {f"model.{name}": value for name, value in unet.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": earlier}, path)
    loaded = load(path)
    wanted = replace(SAID, data={"a/fields/train": 3}, version="0.1.0")
    assert loaded.description == wanted
    assert torch.equal(loaded.model(images), unet(images))


@torch.no_grad()
def test_another_run_starts_from_it(unet: UNet, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    save(unet, SAID, path)
    started, seen = start_from(path, replace(SAID, preprocessing=Preprocessing(128)))
    assert seen == 480
    assert torch.equal(started.eval()(images), unet(images))


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": UNetArchitecture((4, 8))},
        {"labels": LABELS[:1]},
        {"architecture": ARCHITECTURES["vit_n"]},
    ],
)
def test_a_start_that_does_not_fit(changes: dict[str, object], unet: UNet, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    save(unet, SAID, path)
    with pytest.raises(CxrsegError, match=r"model\.ckpt: ") as refused:
        start_from(path, replace(SAID, **changes))  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_a_sams_checkpoint_is_no_start(tmp_path: Path) -> None:
    described = replace(SAID, architecture=ARCHITECTURES["vit_n"])
    save(build(described), described, tmp_path / "sam.ckpt")
    with pytest.raises(CxrsegError, match=r"another network \(name vit_n"):
        start_from(tmp_path / "sam.ckpt", SAID)


def test_official_weights_are_no_start(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1)}, path)
    with pytest.raises(CxrsegError, match="starts from no other; give"):
        start_from(path, SAID)


def test_it_has_no_adapters(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither adapters nor fake quantizers"):
        build(replace(SAID, adapters=AdapterConfig()))
