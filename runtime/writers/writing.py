"""Writing all outputs of one segmentation, or none."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.errors import CxrsegError, require_extra
from cxrseg.runtime.core.radiograph import Radiograph
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.files.atomic import write_together
from cxrseg.runtime.files.own_files import is_ours
from cxrseg.runtime.writers.images import lungs_png, overlay, rgb_png
from cxrseg.runtime.writers.paths import DEFAULT_FORMATS, Format, Outputs, dicom_among
from cxrseg.runtime.writers.report import Report, make_report, report_json


class WriteDetails(TypedDict, total=False):
    """What the files of single formats hold; further keyword arguments of `write`.

    Attributes:
        deidentify: Leave the patient's identity, dates and the original UIDs out of DICOM; False
            by default. The other formats never hold them.
        report: What the JSON report shall hold; None, the default, = made here, by `make_report`.
            It gets ``files``: name -> SHA-256 of each file that it vouches for.
        durable: Wait until the files are on the disk, so that not even a power failure takes them
            back; False by default.
    """

    deidentify: bool
    report: Report | None
    durable: bool


def write(
    segmentation: Segmentation,
    radiograph: Radiograph,
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    formats: Collection[Format] = DEFAULT_FORMATS,
    **details: Unpack[WriteDetails],
) -> Outputs:
    """Write the outputs of one segmentation: all of them or none, the report last.

    A process that is killed leaves whole files, and no report unless everything is there. The
    report holds the hashes of the others, so that whatever came later can be told from them.

    Args:
        segmentation: The result.
        radiograph: The image that it was made from.
        source: The image file, whose name the outputs take: ``x.png`` gives ``x_lungs.png``,
            ``x_overlay.png`` and ``x.json``. It need not exist, unless DICOM is to be written.
        folder: Existing folder for the outputs; None = beside the source.
        formats: What to write. ``seg`` and ``sc`` need highdicom and a DICOM source.
        **details: ``deidentify``, ``report`` and ``durable``, see `WriteDetails`.

    Returns:
        The paths written.

    Raises:
        CxrsegError: A file cannot be written, or exists and is not an earlier output of cxrseg;
            the source cannot have DICOM outputs; or highdicom is not installed.
        TypeError: A keyword argument is unknown.
    """
    unknown = sorted(details.keys() - WriteDetails.__annotations__.keys())
    if unknown:
        raise TypeError(f"write() got an unexpected keyword argument {unknown[0]!r}")
    deidentify, report = details.get("deidentify", False), details.get("report")
    source = Path(source)
    outputs = Outputs.of(source, folder, formats)
    for path in outputs:
        if _is_foreign(path):
            cause = "exists and was not written by cxrseg, so it is kept"
            raise CxrsegError(path, cause, "rename it, or choose another folder with -o")
    contents: dict[Path, bytes] = {}
    picture = overlay(segmentation, radiograph) if {"png", "sc"} & {*formats} else None
    if "png" in formats and picture is not None:
        contents[outputs.lungs] = lungs_png(segmentation)
        contents[outputs.overlay] = rgb_png(picture)
    if dicom_among(formats):
        contents |= _dicom(segmentation, picture, source, outputs, deidentify)
    if "json" in formats:
        if report is None:
            report = make_report(segmentation, radiograph, source, formats, deidentify)
        report["files"] = {
            path.name: hashlib.sha256(data).hexdigest() for path, data in contents.items()
        }
        contents[outputs.report] = report_json(report).encode("ascii")
    write_together(contents, details.get("durable", False))
    return outputs


def check_formats(
    formats: Collection[Format], radiograph: Radiograph, source: str | os.PathLike[str]
) -> None:
    """Check, before anything is computed, that an image can have these outputs.

    Raises:
        CxrsegError: DICOM is asked for, and the image is none.
    """
    wanted = dicom_among(formats)
    if wanted and radiograph.provenance.get("format") != "DICOM":
        cause = f"is no DICOM file, so {' and '.join(wanted)} would belong to no study"
        raise CxrsegError(source, cause, "give the X-ray as DICOM, or --format png,json")


def _dicom(
    segmentation: Segmentation,
    picture: NDArray[np.uint8] | None,
    source: Path,
    outputs: Outputs,
    deidentify: bool,
) -> dict[Path, bytes]:
    formats = outputs.formats
    require_extra(", ".join(dicom_among(formats)), "dicom", ["highdicom"])
    # Imported here: an image that is no DICOM needs none of it.
    from cxrseg.runtime.writers.dicom_sc import overlay_dcm
    from cxrseg.runtime.writers.dicom_seg import lungs_dcm
    from cxrseg.runtime.writers.dicom_source import deidentified, read_origin

    contents: dict[Path, bytes] = {}
    # pydicom and highdicom warn of whatever is not quite standard in the X-ray, quoting its UIDs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        origin = read_origin(source)
        if deidentify:
            if "sc" in formats and origin.pixels.get("BurnedInAnnotation") == "YES":
                cause = "does not say NO to burned-in words, which --deidentify leaves"
                raise CxrsegError(source, cause, "leave sc out of --format")
            origin = deidentified(origin)
        if "seg" in formats:
            contents[outputs.seg] = lungs_dcm(segmentation, origin)
        if "sc" in formats and picture is not None:
            contents[outputs.sc] = overlay_dcm(segmentation, picture, origin)
    return contents


def _is_foreign(path: Path) -> bool:
    try:
        # An empty file, which a power failure may leave, is nobody's loss.
        return path.is_file() and path.stat().st_size > 0 and not is_ours(path)
    # A name too long, a folder that may not be entered: writing will fail with the reason.
    except OSError:
        return False
