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
class Structure:
    """What one output channel of the network outlines.

    Attributes:
        name: Channel name, as stored in checkpoints and model files.
        value: Value in a label mask (uint8).
        title: Name for people.
        color: Display color, RGB in 0..255.
    """

    name: str
    value: int
    title: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Label(Structure):
    """A lung.

    Attributes:
        protocol: Drawing convention of the masks that the channel was trained on.
        side: The patient's side.
    """

    protocol: Protocol
    side: Side


_BLUE, _ORANGE = (66, 135, 245), (245, 158, 66)

LABELS: tuple[Label, ...] = (
    Label("right_lung", 1, "right lung", _BLUE, "fields", "right"),
    Label("left_lung", 2, "left lung", _ORANGE, "fields", "left"),
    Label("right_lung_whole", 1, "right lung, heart shadow included", _BLUE, "whole", "right"),
    Label("left_lung_whole", 2, "left lung, heart shadow included", _ORANGE, "whole", "left"),
)

HEART = Structure("heart", 3, "heart", (226, 74, 103))
"""The heart's shadow. It overlaps the lungs of ``whole``, so no mask holds both."""

PROTOCOLS: tuple[Protocol, ...] = ("fields", "whole")

_BY_NAME = {label.name: label for label in LABELS}


def structure_named(name: str) -> Structure:
    """Return the lung or the heart called `name`.

    Raises:
        KeyError: No such structure; the message lists the known ones.
    """
    return HEART if name == HEART.name else label_named(name)


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
