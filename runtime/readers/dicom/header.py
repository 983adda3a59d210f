"""What a DICOM header says of the image: pixel spacing, orientation, and flags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from pydicom.dataset import Dataset

from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.orientation import Direction, Orientation
from cxrseg.runtime.core.radiograph import Spacing
from cxrseg.runtime.readers.dicom.tables import numbers

MAX_SPACING = 10.0
"""Largest pixel spacing believed, mm."""

NOT_PROJECTION = {
    "BMD": "a bone densitometry image",
    "CT": "a CT image",
    "ES": "an endoscopy image",
    "GM": "a microscopy image",
    "IO": "a dental X-ray",
    "IVUS": "an ultrasound image",
    "MG": "a mammogram",
    "MR": "an MR image",
    "NM": "a nuclear medicine image",
    "OCT": "an optical tomography image",
    "OP": "a photograph of the eye",
    "PT": "a PET image",
    "PX": "a dental X-ray",
    "SEG": "a segmentation",
    "SM": "a microscopy image",
    "US": "an ultrasound image",
    "XC": "a photograph",
}
"""Modality (PS3.3 C.7.3.1.1.1) -> what it is; none of them can be a chest X-ray."""

PROJECTION = ("CR", "DX", "RG", "RF", "XA", "OT", "SC")
"""Modalities that a result names."""

PHOTOMETRIC = (
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422"),
    *("YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB"),
)
"""Photometric interpretations (PS3.3 C.7.6.3.1.2)."""

FRONTAL_VIEWS = ("PA", "AP", "LLD", "RLD")
"""View positions (PS3.3 C.8.11.5.1.1) of a frontal chest; a decubitus is frontal as well."""

OTHER_VIEWS = {
    **dict.fromkeys(("LL", "RL", "LAT", "LATERAL"), "a lateral view"),
    **dict.fromkeys(("LLO", "RLO", "LAO", "RAO", "LPO", "RPO"), "an oblique view"),
}
"""View positions that are not frontal -> what they are."""

OTHER_PARTS = frozenset(
    {
        *("HEAD", "SKULL", "EYE", "ORBIT", "NOSE", "SINUS", "JAW", "MAXILLA", "TMJ", "TEETH"),
        *("NECK", "CSPINE", "LSPINE", "SSPINE", "SACRUM", "COCCYX", "ABDOMEN", "PELVIS", "HIP"),
        *("SHOULDER", "ARM", "UPPERARM", "HUMERUS", "ELBOW", "FOREARM", "WRIST", "HAND"),
        *("FINGER", "THUMB", "LEG", "THIGH", "FEMUR", "KNEE", "PATELLA", "TIBIA", "CALF"),
        *("ANKLE", "CALCANEUS", "FOOT", "TOE", "EXTREMITY", "BREAST"),
    }
)
"""Body Part Examined (PS3.16 annex L) where no chest is to be seen."""


def text(dataset: Dataset, keyword: str, index: int = 0) -> str:
    """Return a code string in upper case, empty where there is none or it cannot be read."""
    value = None
    # On damaged values pydicom raises nearly any type.
    with suppress(Exception):
        value = dataset.get(keyword)
    if value is None:
        return ""
    values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
    return str(values[index]).strip().upper() if index < len(values) else ""


def read_spacing(dataset: Dataset) -> Spacing | None:
    """Return the pixel spacing (PS3.3 10.7.1.3), None where the file has none that can be.

    In this order: Pixel Spacing that was calibrated in the patient; Imager Pixel Spacing, at the
    detector or divided by the estimated magnification; Pixel Spacing that stands alone, whose
    plane is unknown; the scanner's spacing of a film.
    """
    kind = text(dataset, "PixelSpacingCalibrationType")
    calibrated = f"PixelSpacing (calibrated, {kind})" if kind in ("GEOMETRY", "FIDUCIAL") else ""
    pixel = _pair(dataset, "PixelSpacing")
    imager = _pair(dataset, "ImagerPixelSpacing")
    if calibrated and pixel:
        return Spacing(*pixel, calibrated)
    if imager:
        factor = numbers(dataset, "EstimatedRadiographicMagnificationFactor")[:1]
        if factor and 1 < factor[0] < 3:
            row, column = (x / factor[0] for x in imager)
            source = "ImagerPixelSpacing / EstimatedRadiographicMagnificationFactor (patient)"
            return Spacing(row, column, source)
        return Spacing(*imager, "ImagerPixelSpacing (detector plane)")
    if pixel:
        return Spacing(*pixel, "PixelSpacing (plane not told)")
    film = _pair(dataset, "NominalScannedPixelSpacing")
    return Spacing(*film, "NominalScannedPixelSpacing (film)") if film else None


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    values = numbers(dataset, keyword)
    if len(values) != 2 or not all(math.isfinite(x) and 0 < x <= MAX_SPACING for x in values):
        return None
    return values[0], values[1]


def read_orientation(dataset: Dataset) -> Orientation | None:
    """Return the orientation of a frontal image, None where Patient Orientation has none.

    Of an oblique direction like ``LF`` the first, the main one, counts.
    """
    row, column = (text(dataset, "PatientOrientation", i)[:1] for i in (0, 1))
    if not row or not column or not {row, column} <= set("LRFH"):
        return None
    if (row in "LR") == (column in "LR"):
        return None
    return Orientation(cast(Direction, row), cast(Direction, column))


def header_flags(dataset: Dataset) -> tuple[Flag, ...]:
    """Return what in the header speaks against a frontal chest X-ray for display."""
    flags = []
    part = text(dataset, "BodyPartExamined")
    if part in OTHER_PARTS:
        flags.append(Flag("other_body_part", f"the file says that it shows another part: {part}"))
    view = OTHER_VIEWS.get(text(dataset, "ViewPosition"))
    # Rows or columns that run between front and back are seen from the side.
    seen = {text(dataset, "PatientOrientation", i)[:1] for i in (0, 1)}
    if view is None and seen & {"A", "P"}:
        view = "a lateral view"
    if view is not None:
        flags.append(Flag("not_frontal_view", f"the file says that it is {view}"))
    if text(dataset, "PresentationIntentType") == "FOR PROCESSING":
        reason = "the file holds raw detector values, whose contrast is not that of an X-ray"
        flags.append(Flag("for_processing", reason))
    orientation = read_orientation(dataset)
    if orientation is not None and not orientation.is_upright:
        row, column = (_TOWARDS[x] for x in (orientation.row, orientation.column))
        reason = f"the file says that its rows run to the patient's {row} and its columns to"
        flags.append(Flag("turned", f"{reason} the {column}: the lungs' sides follow that"))
    return tuple(flags)


_TOWARDS = {"L": "left", "R": "right", "F": "feet", "H": "head"}
