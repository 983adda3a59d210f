"""What the tests of DICOM outputs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset

from helpers.dicom.patient import STUDY

WORDS = (
    *("Doe", "Jane", "4711", "19700102", "20210304", "101112", "ST-77", "ACC-123", "House"),
    *(STUDY, "Clinic", "Lane 5", "051Y", "Smith", "ANOTHER", "lives", "ROOM", "SN-55", "Bob"),
)

Write = Callable[..., tuple[Dataset, Dataset]]


def mask_png(folder: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(folder / "x_lungs.png"))


def uids(dataset: Dataset) -> set[str]:
    found: set[str] = set()

    def collect(_: Dataset, element: pydicom.DataElement) -> None:
        if element.VR == "UI" and not uid.UID(str(element.value)).name[0].isalpha():
            found.add(str(element.value))

    dataset.walk(collect)
    return found
