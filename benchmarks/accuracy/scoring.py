"""How well the mask of one image agrees with its reference: both lungs together, and each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrseg.benchmarks.accuracy.metrics import Mask, compare_surfaces, dice, iou
from cxrseg.benchmarks.harness.samples import Sample
from cxrseg.runtime.core.labels import LABELS, Side
from cxrseg.runtime.core.orientation import UPRIGHT
from cxrseg.runtime.core.radiograph import Radiograph, Spacing
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.readers import read
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.trainer.data.masks import open_mask, tell_sides_apart

SIDES: tuple[Side, ...] = ("right", "left")
"""The patient's sides, in the order of every table."""

TOLERANCE = 2 / 256
"""Tolerance of NSD as a share of the image's longer side: 2 px on a grid of 256 px."""

MIN_FOUND = 0.1
"""A lung of the reference counts as not found below this Dice coefficient.

Half a lung reaches 0.67; below 0.1 there is nothing, or a few pixels somewhere else.
"""

_SQUARE = 1e-3
_VALUES = {label.side: label.value for label in LABELS}


@dataclass(frozen=True)
class Agreement:
    """Agreement of two masks of one image, at its native size.

    Attributes:
        dice: Dice coefficient in [0, 1].
        iou: Intersection over union in [0, 1].
        nsd: Normalized surface Dice in [0, 1], at `TOLERANCE`.
        hd95_px: 95th percentile of the Hausdorff distance, pixels of the image.
        assd_px: Average symmetric surface distance, pixels of the image.
        hd95_mm: The same in mm; None where the spacing is not known or pixels are not square.
        assd_mm: The same in mm, or None likewise.
    """

    dice: float
    iou: float
    nsd: float
    hd95_px: float
    assd_px: float
    hd95_mm: float | None = None
    assd_mm: float | None = None


@dataclass(frozen=True)
class Score:
    """Agreement on one image.

    Attributes:
        image: Name of the image in the CSV.
        patient: Its patient, or the name of the image.
        group: Its value in the grouping column; empty without one.
        union: Agreement of both lungs together.
        lungs: Side -> agreement of that lung; empty where the reference does not tell sides.
        swapped: Whether each predicted lung overlaps the reference's other lung more than its
            own.
        missing: Sides of the reference's lungs that were not found: no such lung in the
            prediction, or a Dice below `MIN_FOUND`. Empty where they are swapped.
        flags: Codes of the runtime's quality flags.
        dice_other: Dice coefficient of the reference with both lungs that the model finds under
            the other label protocol; None where that was not looked at.
    """

    image: str
    patient: str
    group: str
    union: Agreement
    lungs: Mapping[Side, Agreement]
    swapped: bool
    missing: tuple[Side, ...]
    flags: tuple[str, ...]
    dice_other: float | None = None

    @property
    def mislabeled(self) -> bool:
        """Whether the reference agrees better with the model under the other protocol."""
        return self.dice_other is not None and self.dice_other > self.union.dice


@dataclass(frozen=True)
class Reference:
    """The reference of one image.

    Attributes:
        union: bool [H, W], both lungs together.
        lungs: Side -> bool [H, W]; both sides, or none where the reference does not tell them.
    """

    union: Mask
    lungs: Mapping[Side, Mask]


def read_reference(path: Path, radiograph: Radiograph) -> Reference:
    """Read a reference mask, and its sides where they are known.

    Sides are those of a label map; else of the files of the same name in sibling folders whose
    names end in ``_right`` and ``_left`` (``masks_right/`` beside ``masks/``), the patient's
    sides, if both are there; else of the parts, where the mask falls into two.

    Args:
        path: The mask: binary, or a label map 0, 1 = right, 2 = left.
        radiograph: Its X-ray; the mask lies as this is stored.

    Returns:
        The union as `path` holds it; the sides.

    Raises:
        CxrsegError: As `cxrseg.trainer.data.masks.open_mask`, for each of the files.
    """

    def labels(file: Path) -> NDArray[np.uint8]:
        return open_mask(file, radiograph.size).labels

    mask = labels(path)
    union = mask != 0
    sided = mask if mask.max() == 2 else None
    if sided is None:
        files = {side: _sibling(path, side) for side in SIDES}
        if all(file.is_file() for file in files.values()):
            return Reference(union, {side: labels(file) != 0 for side, file in files.items()})
        lies = radiograph.orientation or UPRIGHT
        apart = tell_sides_apart(np.ascontiguousarray(lies.upright(mask)))
        sided = None if apart is None else lies.stored(apart)
    if sided is None:
        return Reference(union, {})
    return Reference(union, {side: sided == _VALUES[side] for side in SIDES})


def _sibling(path: Path, side: Side) -> Path:
    return path.parent.with_name(f"{path.parent.name}_{side}") / path.name


def agreement(prediction: Mask, truth: Mask, pitch: float | None = None) -> Agreement:
    """Compare two masks of one image.

    Args:
        prediction: bool [H, W].
        truth: bool [H, W].
        pitch: Side of a pixel in mm; None = unknown.

    Returns:
        Every measure, finite for empty masks too, see `compare_surfaces`.

    Raises:
        ValueError: The shapes differ, or a mask is not boolean.
    """
    surfaces = compare_surfaces(prediction, truth, TOLERANCE * max(truth.shape))
    return Agreement(
        dice=dice(prediction, truth),
        iou=iou(prediction, truth),
        nsd=surfaces.nsd,
        hd95_px=surfaces.hd95,
        assd_px=surfaces.assd,
        hd95_mm=None if pitch is None else surfaces.hd95 * pitch,
        assd_mm=None if pitch is None else surfaces.assd * pitch,
    )


def pixel_pitch(spacing: Spacing | None) -> float | None:
    """Return the side of a pixel in mm, or None where it is not known or pixels are not square."""
    if spacing is None or not math.isclose(spacing.row, spacing.column, rel_tol=_SQUARE):
        return None
    return (spacing.row + spacing.column) / 2


def is_swapped(prediction: Mapping[Side, Mask], truth: Mapping[Side, Mask]) -> bool:
    """Tell whether each predicted lung overlaps the reference's other lung more than its own.

    Args:
        prediction: Side -> bool [H, W], both sides.
        truth: The same of the reference.
    """
    return all(
        np.count_nonzero(prediction[side] & truth[other])
        > np.count_nonzero(prediction[side] & truth[side])
        for side, other in (SIDES, SIDES[::-1])
    )


def compare(result: Segmentation, reference: Reference, sample: Sample, group: str = "") -> Score:
    """Compare the segmentation of one image with its reference.

    Args:
        result: The segmentation, at the image's native size.
        reference: The reference, of the same size.
        sample: The image; its files are not read.
        group: Its value in the grouping column.
    """
    pitch = pixel_pitch(result.spacing)
    prediction: dict[Side, Mask] = {side: result.mask == _VALUES[side] for side in SIDES}
    lungs = {
        side: agreement(prediction[side], truth, pitch) for side, truth in reference.lungs.items()
    }
    swapped = bool(lungs) and is_swapped(prediction, reference.lungs)
    return Score(
        image=sample.name,
        patient=sample.patient,
        group=group,
        union=agreement(result.mask != 0, reference.union, pitch),
        lungs=lungs,
        swapped=swapped,
        missing=tuple(
            side
            for side, lung in lungs.items()
            if not swapped and lung.dice < MIN_FOUND and reference.lungs[side].any()
        ),
        flags=tuple(flag.code for flag in result.flags),
    )


def score(
    segmenter: Segmenter,
    samples: Iterable[Sample],
    by: str | None = None,
    other: Segmenter | None = None,
) -> Iterator[Score]:
    """Segment images and compare each with its reference mask at native size.

    Args:
        segmenter: The loaded model.
        samples: Images with masks.
        by: Column whose value becomes the group.
        other: The same model under the other label protocol, to look for mislabeled masks.

    Yields:
        One score per sample, in order.

    Raises:
        CxrsegError: An image or mask cannot be read, or their sizes differ.
    """
    for sample in samples:
        radiograph, name = read(sample.image), str(sample.image)
        reference = read_reference(sample.mask, radiograph)
        result = segmenter.segment(radiograph, name)
        found = compare(result, reference, sample, sample.row[by] if by else "")
        if other is not None:
            mask = other.segment(radiograph, name).mask
            found = replace(found, dice_other=dice(mask != 0, reference.union))
        yield found
