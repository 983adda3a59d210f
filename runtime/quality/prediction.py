"""What a model says of one image, as the flags look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.labels import Label, Protocol


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        logits: float32 [n, h, w] at the model's resolution, the channels of `labels`.
        labels: The labels of the mask, right before left.
        shares: Label name -> share of the image, in [0, 1], at its native size.
        other_logits: Logits of both lungs under other protocols that the model knows. Where the
            heart lies shows best in the difference.
    """

    logits: NDArray[np.float32]
    labels: tuple[Label, ...]
    shares: Mapping[str, float]
    other_logits: Mapping[Protocol, NDArray[np.float32]] = field(default_factory=dict)
