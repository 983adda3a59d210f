"""DICOM files: one projection X-ray each.

Only the attributes that the image needs are parsed: names and dates of the patient never are.
"""

from __future__ import annotations

import io
import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import FileDataset
from pydicom.pixels import pixel_array

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.orientation import Orientation
from cxrseg.runtime.core.radiograph import Radiograph, check_size, to_unit
from cxrseg.runtime.readers.dicom.codecs import UndecodableError, check_coded_size, plugin_for
from cxrseg.runtime.readers.dicom.header import (
    FRONTAL_VIEWS,
    NOT_PROJECTION,
    OTHER_VIEWS,
    PROJECTION,
    header_flags,
    read_orientation,
    read_spacing,
    text,
)
from cxrseg.runtime.readers.dicom.pixels import ColorError, gray_values
from cxrseg.runtime.readers.polarity import INVERTED, polarity

MAX_INFLATED = 1 << 30
"""Largest size of a deflated data set, in bytes."""

_LONG = 1 << 20
"""Lengths above this are compared with the file's, in bytes."""

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
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
    *_PALETTE,
]


def read_dicom(path: Path) -> Radiograph:
    """Read a DICOM file that holds one projection X-ray.

    Modality LUT, the first VOI LUT or window and MONOCHROME1 are applied in the order of PS3.4
    N.2, and what is left is stretched between its extremes. Pixel padding becomes 0. An image
    whose pixels contradict its photometric interpretation is turned around, and flagged.

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
        except UndecodableError as error:
            raise CxrsegError(path, f"the DICOM image: {error}", _AS_PNG) from error
        except MemoryError as error:
            cause = "not enough memory to read the image"
            raise CxrsegError(path, cause, "close other programs") from error
        # On damaged files pydicom raises nearly any type.
        except Exception as error:
            # pydicom appends a whole traceback to some messages.
            detail = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            cause = f"the DICOM file is damaged or of a kind that cannot be read ({detail})"
            raise CxrsegError(path, cause, _AGAIN) from error


def _read(path: Path) -> Radiograph:
    # As text: pydicom builds its messages from the file's name.
    with _Source(io.FileIO(os.fspath(path))) as file:
        dataset = pydicom.dcmread(file, force=True, specific_tags=_KEYWORDS)
    _refuse_others(dataset, path)
    bits, shift = _complete(dataset)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    # Before anything is decoded: the size is in the header.
    check_size(rows, columns, path)

    syntax = _syntax(dataset)
    plugin = plugin_for(syntax)
    if plugin and syntax != uid.RLELossless:
        check_coded_size(dataset.PixelData, rows, columns)
    stored = pixel_array(dataset, decoding_plugin=plugin)
    if stored.shape[:2] != (rows, columns):
        raise ValueError(f"decoded to {list(stored.shape)}")
    gray = gray_values(dataset, np.right_shift(stored, shift) if shift else stored)

    flags, orientation = header_flags(dataset), read_orientation(dataset)
    pixels, polarity_flags = _dense_bright(
        gray, dataset.PhotometricInterpretation, flags, orientation
    )
    view = text(dataset, "ViewPosition")
    modality = text(dataset, "Modality")
    provenance: dict[str, str | int | float] = {
        "format": "DICOM",
        "transfer_syntax": syntax.name,
        "bits": bits,
        "photometric": dataset.PhotometricInterpretation,
    }
    # Words that the standard defines: what else stands there may be a name.
    if modality in PROJECTION:
        provenance["modality"] = modality
    if view in FRONTAL_VIEWS or view in OTHER_VIEWS:
        provenance["view"] = view
    return Radiograph(
        pixels,
        spacing=read_spacing(dataset),
        provenance=provenance,
        orientation=orientation,
        flags=flags + polarity_flags,
    )


class _Source(io.BufferedReader):
    """A file that gives no more than it holds, and is refused if it inflates without end.

    Python allocates the length that an element states, up to 4 GiB. pydicom reads a deflated data
    set in one piece and inflates it whatever its size.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LONG:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        data = super().read(size)
        if size is None or size < 0:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            total, rest = 0, data
            try:
                while rest and not inflate.eof:
                    total += len(inflate.decompress(rest, 1 << 24))
                    rest = inflate.unconsumed_tail
                    if total > MAX_INFLATED:
                        limit = f"{MAX_INFLATED >> 20} MiB"
                        raise UndecodableError(f"it inflates to more than {limit}")
            # Not deflated, or damaged: pydicom will fail with the reason.
            except zlib.error:
                pass
        return data


def _refuse_others(dataset: FileDataset, path: Path) -> None:
    meta = dataset.file_meta
    if uid.MediaStorageDirectoryStorage in (
        meta.get("MediaStorageSOPClassUID"),
        dataset.get("SOPClassUID"),
    ):
        raise CxrsegError(
            path, "is a DICOMDIR, a list of images", "name it DICOMDIR, or give the images"
        )
    modality = text(dataset, "Modality")
    if modality in NOT_PROJECTION:
        cause = f"is {NOT_PROJECTION[modality]} ({modality}), not a projection X-ray"
        raise CxrsegError(path, cause, "give a frontal chest X-ray")
    if "PixelData" not in dataset or not dataset.PixelData:
        cause = "the DICOM file holds no image"
        raise CxrsegError(path, cause, "give the file of the X-ray itself")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        cause = f"the DICOM file holds {frames} frames"
        raise CxrsegError(path, cause, "export the frame to use as a file of its own")


def _complete(dataset: FileDataset) -> tuple[int, int]:
    """Fill in what old files leave out; return bits stored, and how far values lie too high."""
    for keyword, value in (("SamplesPerPixel", 1), ("PixelRepresentation", 0)):
        if dataset.get(keyword) is None:
            setattr(dataset, keyword, value)
    photometric = text(dataset, "PhotometricInterpretation") or "MONOCHROME2"
    dataset.PhotometricInterpretation = photometric
    allocated = int(dataset.BitsAllocated)
    if allocated not in (8, 16, 32):
        raise UndecodableError(f"{allocated} bits per value are not supported")
    stored = int(dataset.get("BitsStored") or allocated)
    high = dataset.get("HighBit")
    shift = 0 if high is None else int(high) + 1 - stored
    # pydicom takes values for right-aligned.
    if not 0 <= shift <= allocated - stored:
        shift = 0
    dataset.BitsStored = stored + shift
    return stored, shift


def _syntax(dataset: FileDataset) -> uid.UID:
    """Return the transfer syntax; where the file has none, the one that pydicom read it by."""
    stated = dataset.file_meta.get("TransferSyntaxUID")
    if stated:
        return uid.UID(stated)
    implicit, little = dataset.original_encoding
    syntax = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    if implicit:
        syntax = uid.ImplicitVRLittleEndian
    if dataset["PixelData"].is_undefined_length:
        raise UndecodableError("the file does not tell its compression")
    dataset.file_meta.TransferSyntaxUID = syntax
    return syntax


def _dense_bright(
    gray: NDArray[np.float64],
    photometric: str,
    flags: tuple[Flag, ...],
    orientation: Orientation | None,
) -> tuple[NDArray[np.float32], tuple[Flag, ...]]:
    """Return gray values in [0, 1], inverted with a flag if they are a chest's negative."""
    pixels = to_unit(gray)
    # Of a knee or of a chest from the side the score says nothing.
    if {flag.code for flag in flags} & {"other_body_part", "not_frontal_view"}:
        return pixels, ()
    upright = pixels if orientation is None else orientation.upright(pixels)
    score = polarity(np.ascontiguousarray(upright))
    if score >= INVERTED:
        return pixels, ()
    reason = f"the file says {photometric}, its pixels say the opposite: gray values were inverted"
    return to_unit(np.negative(gray)), (Flag("photometric_lies", reason, score, INVERTED),)
