"""The label list: what each output channel and each mask value means.

Sides are the patient's, so the right lung stands on the left of a frontal image. Values follow
lungmask's convention: 1 = right lung, 2 = left lung.

Two protocols draw lungs differently and never share a channel: ``fields`` are the visible lung
fields, heart and mediastinum excluded (the JSRT/SCR convention, what the product reports);
``whole`` includes the lung hidden behind the heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Protocol = Literal["fields", "whole"]
Side = Literal["right", "left"]

BACKGROUND = 0
"""Mask value of everything that is no lung."""


@dataclass(frozen=True)
class Label:
    """One output channel of the network.

    Attributes:
        name: Channel name, as stored in checkpoints and model files.
        value: Value in the label mask (uint8).
        protocol: Drawing convention of the masks that the channel was trained on.
        side: The patient's side.
        title: Name for people.
        color: Display color, RGB in 0..255.
    """

    name: str
    value: int
    protocol: Protocol
    side: Side
    title: str
    color: tuple[int, int, int]


LABELS: tuple[Label, ...] = (
    Label("right_lung", 1, "fields", "right", "right lung", (66, 135, 245)),
    Label("left_lung", 2, "fields", "left", "left lung", (245, 158, 66)),
    Label(
        "right_lung_whole", 1, "whole", "right", "right lung, heart shadow included", (66, 135, 245)
    ),
    Label(
        "left_lung_whole", 2, "whole", "left", "left lung, heart shadow included", (245, 158, 66)
    ),
)

PROTOCOLS: tuple[Protocol, ...] = ("fields", "whole")

_BY_NAME = {label.name: label for label in LABELS}


def label_named(name: str) -> Label:
    """Return the label called `name`.

    Raises:
        KeyError: No such label; the message lists the known ones.
    """
    if name not in _BY_NAME:
        raise KeyError(f"unknown label {name!r}; known: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def labels_of(protocol: Protocol) -> tuple[Label, ...]:
    """Return the labels of one protocol, right before left."""
    return tuple(label for label in LABELS if label.protocol == protocol)
