"""DICOM files: one projection X-ray each.

Only the attributes that the image needs are parsed: names and dates of the patient never are.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from cxrseg.runtime.core.errors import CxrsegError, unreadable
from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.orientation import Orientation
from cxrseg.runtime.core.radiograph import Radiograph, check_size
from cxrseg.runtime.readers.dicom.elements import TooManyError
from cxrseg.runtime.readers.dicom.frame import FrameError, syntax_name
from cxrseg.runtime.readers.dicom.header import (
    FRONTAL_VIEWS,
    NOT_PROJECTION,
    OTHER_VIEWS,
    PHOTOMETRIC,
    PROJECTION,
    header_flags,
    read_orientation,
    read_spacing,
    text,
)
from cxrseg.runtime.readers.dicom.pixels import ColorError, Grays, gray_values
from cxrseg.runtime.readers.dicom.source import DicomFile, InflatedError, read_file
from cxrseg.runtime.readers.dicom.stored import photometric_of, read_stored
from cxrseg.runtime.readers.dicom.tables import HeaderError, whole_number
from cxrseg.runtime.readers.polarity import INVERTED, polarity

_AGAIN = "export or copy it again"
_AS_PNG = "export the X-ray uncompressed, or as PNG"

_PALETTE = [
    f"{color}PaletteColorLookupTable{part}"
    for color in ("Red", "Green", "Blue")
    for part in ("Descriptor", "Data")
]

_KEYWORDS = [
    *("SOPClassUID", "Modality", "NumberOfFrames", "PresentationIntentType"),
    *("BodyPartExamined", "ViewPosition", "PatientOrientation"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("PixelSpacing", "PixelSpacingCalibrationType", "ImagerPixelSpacing"),
    *("EstimatedRadiographicMagnificationFactor", "NominalScannedPixelSpacing"),
    *_PALETTE,
]


def read_dicom(path: Path) -> Radiograph:
    """Read a DICOM file that holds one projection X-ray.

    Modality LUT, the first VOI LUT or window that shows the image, and MONOCHROME1 are applied in
    the order of PS3.4 N.2, and what is left is stretched between its extremes. Pixel padding
    becomes 0. An image whose pixels contradict its photometric interpretation is turned around,
    and flagged. A file that is damaged where it does not matter is read, and flagged.

    Args:
        path: The file; preamble and file meta information may be missing.

    Returns:
        The radiograph, with the spacing and orientation of its header.

    Raises:
        CxrsegError: The file is damaged, holds no image or several, color, another modality, or
            too many or too few pixels; or its compression is not supported.
    """
    # pydicom warns of whatever is not quite standard.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _read(path)
        except CxrsegError:
            raise
        except ColorError as error:
            cause = "the DICOM image is in color, not gray"
            raise CxrsegError(path, cause, "give the X-ray itself") from error
        except (FrameError, InflatedError) as error:
            raise CxrsegError(path, f"the DICOM image: {error}", _AS_PNG) from error
        except (HeaderError, TooManyError) as error:
            raise CxrsegError(path, f"the DICOM file is damaged ({error})", _AGAIN) from error
        except OSError as error:
            raise unreadable(path, error) from error
        except MemoryError as error:
            cause = "not enough memory to read the image"
            raise CxrsegError(path, cause, "close other programs") from error
        # On damaged values pydicom raises nearly any type, with a text that may quote a name.
        except Exception as error:
            detail = type(error).__name__
            cause = f"the DICOM file is damaged or of a kind that cannot be read ({detail})"
            raise CxrsegError(path, cause, _AGAIN) from error


def dicom_size(path: Path) -> tuple[int, int]:
    """Return (height, width) by the header.

    Raises:
        Exception: The file is damaged or holds no image.
    """
    dataset = read_file(path, ["Rows", "Columns"]).dataset
    return whole_number(dataset, "Rows"), whole_number(dataset, "Columns")


def _read(path: Path) -> Radiograph:
    file = read_file(path, _KEYWORDS, pixels=True)
    _refuse_others(file, path)
    dataset = file.dataset
    # Before anything is decoded: the size is in the header.
    check_size(whole_number(dataset, "Rows"), whole_number(dataset, "Columns"), path)
    stored = read_stored(file)
    grays = gray_values(dataset, stored)

    flags, orientation = header_flags(dataset), read_orientation(dataset)
    pixels, polarity_flags = _dense_bright(grays, photometric_of(dataset), flags, orientation)
    repairs = tuple(dict.fromkeys((*file.repairs, *stored.repairs)))
    if repairs:
        reason = f"the file is damaged and was read nevertheless: {'; '.join(repairs)}"
        flags = (*flags, Flag("damaged_but_read", reason))
    view, modality = text(dataset, "ViewPosition"), text(dataset, "Modality")
    provenance: dict[str, str | int | float] = {
        "format": "DICOM",
        "transfer_syntax": _syntax_name(file),
        "bits": stored.bits,
        **grays.notes,
    }
    # Words that the standard defines: what else stands there may be a name.
    for name, word, words in (
        ("photometric", photometric_of(dataset), PHOTOMETRIC),
        ("modality", modality, PROJECTION),
        ("view", view, (*FRONTAL_VIEWS, *OTHER_VIEWS)),
    ):
        if word in words:
            provenance[name] = word
    compression = stored.codec or "uncompressed"
    if compression != _told_compression(str(provenance["transfer_syntax"])):
        provenance["decoded_as"] = compression
    return Radiograph(
        pixels,
        spacing=read_spacing(dataset),
        provenance=provenance,
        orientation=orientation,
        flags=flags + polarity_flags,
    )


def _refuse_others(file: DicomFile, path: Path) -> None:
    dataset = file.dataset
    if uid.MediaStorageDirectoryStorage in (file.media_class, text(dataset, "SOPClassUID")):
        raise CxrsegError(
            path, "is a DICOMDIR, a list of images", "name it DICOMDIR, or give the images"
        )
    modality = text(dataset, "Modality")
    if modality in NOT_PROJECTION:
        cause = f"is {NOT_PROJECTION[modality]} ({modality}), not a projection X-ray"
        raise CxrsegError(path, cause, "give a frontal chest X-ray")
    if not file.pixels and file.other_pixels:
        cause = f"the DICOM image is of floating-point numbers ({file.other_pixels}), not integers"
        raise CxrsegError(path, cause, "export the X-ray with 16-bit values, or as PNG")
    if not file.pixels:
        cause = "the DICOM file holds no image"
        raise CxrsegError(path, cause, "give the file of the X-ray itself")
    frames = whole_number(dataset, "NumberOfFrames", 1)
    if frames > 1:
        cause = f"the DICOM file holds {frames} frames"
        raise CxrsegError(path, cause, "export the frame to use as a file of its own")


def _told_compression(name: str) -> str:
    codecs = ("JPEG 2000", "JPEG-LS", "JPEG XL", "RLE", "JPEG")
    return next((codec for codec in codecs if codec in name), "uncompressed")


def _syntax_name(file: DicomFile) -> str:
    """Return the name of the transfer syntax; where the file has none, the one it is written in."""
    if file.syntax:
        return syntax_name(file.syntax) or "unknown"
    little = uid.ImplicitVRLittleEndian if file.encoding.implicit else uid.ExplicitVRLittleEndian
    return (little if file.encoding.little else uid.ExplicitVRBigEndian).name


def _dense_bright(
    grays: Grays,
    photometric: str,
    flags: tuple[Flag, ...],
    orientation: Orientation | None,
) -> tuple[NDArray[np.float32], tuple[Flag, ...]]:
    """Return gray values in [0, 1], inverted with a flag if they are a chest's negative."""
    pixels = grays.pixels()
    # Of a knee or of a chest from the side the score says nothing.
    if {flag.code for flag in flags} & {"other_body_part", "not_frontal_view"}:
        return pixels, ()
    upright = pixels if orientation is None else orientation.upright(pixels)
    score = polarity(np.ascontiguousarray(upright))
    if score >= INVERTED:
        return pixels, ()
    if photometric not in PHOTOMETRIC:
        photometric = "something else"
    reason = f"the file says {photometric}, its pixels say the opposite: gray values were inverted"
    del pixels, upright
    return grays.pixels(negative=True), (Flag("photometric_lies", reason, score, INVERTED),)
