"""The U-Net behind the contract of our networks."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.networks.build import architecture_from, build_network, require_sam
from cxrseg.trainer.networks.sam import ARCHITECTURES
from cxrseg.trainer.networks.unet import UNet, UNetArchitecture

LABELS = ("right_lung", "left_lung")


SMALL = UNetArchitecture((4, 8, 8))


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(3)
    return UNet(SMALL, 64, LABELS).eval()


@torch.no_grad()
def test_logits_are_the_mean_of_four_by_four_pixels(unet: UNet, images: Tensor) -> None:
    logits = unet(images)
    assert logits.shape == (2, 2, 16, 16)
    full = unet.network(images)
    assert full.shape == (2, 2, 64, 64)
    torch.testing.assert_close(logits[0, 1, 3, 5], full[0, 1, 12:16, 20:24].mean())


def test_channels_are_those_of_the_levels(unet: UNet) -> None:
    widths = {m.out_channels for m in unet.network.modules() if isinstance(m, nn.Conv2d)}
    assert {4, 8} <= widths
    assert not unet.unused_modules()


def test_architectures_survive_plain_data() -> None:
    for architecture in (SMALL, *ARCHITECTURES.values()):
        assert architecture_from(architecture.to_dict()) == architecture
    assert isinstance(build_network(SMALL, 64, LABELS), UNet)


@pytest.mark.parametrize("labels", [(), ("spleen",)])
def test_labels_are_checked(labels: tuple[str, ...]) -> None:
    with pytest.raises((ValueError, LookupError)):
        UNet(SMALL, 64, labels)


def test_what_needs_a_sam_says_so(unet: UNet) -> None:
    with pytest.raises(CxrsegError, match=r"a\.ckpt: is no SAM with a ViT"):
        require_sam(unet, "a.ckpt")


def test_without_monai_a_remedy_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks.nets.unet", None)
    with pytest.raises(CxrsegError, match=r"not installed; pip install 'cxrseg\[train\]'"):
        UNet(SMALL, 64, LABELS)


@pytest.mark.parametrize("channels", [(), (4,), (4,) * 13, (4, 0), (4, 16_385), (4, 8.0)])
def test_impossible_size_is_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="number of"):
        UNetArchitecture(channels)
