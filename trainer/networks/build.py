"""Any network, built by its architecture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import nn

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.networks import unet
from cxrseg.trainer.networks.edge import EDGE, EdgeArchitecture, EdgeSAM
from cxrseg.trainer.networks.lungsam import LungSAM
from cxrseg.trainer.networks.sam import Architecture
from cxrseg.trainer.networks.unet import UNet, UNetArchitecture

AnySAM = LungSAM | EdgeSAM
"""A network with an image encoder, a prompt encoder and a mask decoder."""

Network = AnySAM | UNet
"""A module with `architecture`, `image_size` and `labels`: float32 images [B, 1, S, S] in [0, 1] ->
logits [B, C, S / 4, S / 4]."""

AnyArchitecture = Architecture | EdgeArchitecture | UNetArchitecture


def build_network(architecture: AnyArchitecture, image_size: int, labels: Sequence[str]) -> Network:
    """Build a network, freshly initialized.

    Args:
        architecture: Which network, and its size.
        image_size: Side S of the input in pixels, a multiple of 16.
        labels: Channel names.

    Raises:
        ValueError: Too many labels, none, or one that is not known.
        CxrsegError: The network's library is not installed.
    """
    if isinstance(architecture, UNetArchitecture):
        return UNet(architecture, image_size, labels)
    if isinstance(architecture, EdgeArchitecture):
        return EdgeSAM(architecture, image_size, labels)
    return LungSAM(architecture, image_size, labels)


def architecture_from(data: dict[str, Any]) -> AnyArchitecture:
    """Rebuild an architecture from its `to_dict`."""
    if data["name"] == unet.NAME:
        return UNetArchitecture.from_dict(data)
    if data["name"] in tuple(EDGE):  # a name of a strange type is no key
        return EdgeArchitecture.from_dict(data)
    return Architecture.from_dict(data)


def require_sam(network: nn.Module, subject: str | os.PathLike[str]) -> LungSAM:
    """Return a network that must be a SAM with a ViT.

    Args:
        network: The network.
        subject: Where it comes from, for the message.

    Raises:
        CxrsegError: It is of another kind.
    """
    if not isinstance(network, LungSAM):
        cause = "is no SAM with a ViT, which this needs"
        raise CxrsegError(subject, cause, "give the checkpoint of a vit_t, vit_b, ...")
    return network
