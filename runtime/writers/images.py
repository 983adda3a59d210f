"""Turning a segmentation into files."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrseg.runtime.core.atomic import write_together
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import BACKGROUND, Label
from cxrseg.runtime.core.model_card import INTENDED_USE
from cxrseg.runtime.core.own_files import (
    DEFAULT_FORMATS,
    DICOM_FORMATS,
    FORMATS,
    MARK,
    Format,
    Outputs,
    Report,
    is_ours,
)
from cxrseg.runtime.core.radiograph import Radiograph
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.measures.lungs import measure

_LINE = 400
"""The overlay's contours are as wide as the image's longer side divided by this. Of a strip twice
the shorter side counts: thicker than the image is wide, lines take minutes to draw."""

_SAMPLES = 1_000_000


def write(
    segmentation: Segmentation,
    radiograph: Radiograph,
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    formats: Collection[Format] = DEFAULT_FORMATS,
    deidentify: bool = False,
    report: Report | None = None,
) -> Outputs:
    """Write the outputs of one segmentation: all of them or none, the report last.

    A process that is killed leaves whole files, and no report unless everything is there.

    Args:
        segmentation: The result.
        radiograph: The image that it was made from.
        source: The image file, whose name the outputs take: ``x.png`` gives ``x_lungs.png``,
            ``x_overlay.png`` and ``x.json``. It need not exist, unless DICOM is to be written.
        folder: Existing folder for the outputs; None = beside the source.
        formats: What to write. ``seg`` and ``sc`` need highdicom and a DICOM source.
        deidentify: Leave the patient's identity, dates and the original UIDs out of DICOM; the
            other formats never hold them.
        report: What the JSON report shall hold; None = made here, by `make_report`.

    Returns:
        The paths written.

    Raises:
        CxrsegError: A file cannot be written, or exists and is not an earlier output of cxrseg;
            the source cannot have DICOM outputs; or highdicom is not installed.
    """
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
        contents[outputs.overlay] = _rgb_png(picture)
    if {*DICOM_FORMATS} & {*formats}:
        contents |= _dicom(segmentation, picture, source, outputs, formats, deidentify)
    if "json" in formats:
        if report is None:
            report = make_report(segmentation, radiograph, source, formats, deidentify)
        contents[outputs.report] = report_json(report).encode("ascii")
    write_together(contents)
    return outputs


def check_formats(
    formats: Collection[Format], radiograph: Radiograph, source: str | os.PathLike[str]
) -> None:
    """Check, before anything is computed, that an image can have these outputs.

    Raises:
        CxrsegError: DICOM is asked for, and the image is none.
    """
    wanted = [name for name in DICOM_FORMATS if name in formats]
    if wanted and radiograph.provenance.get("format") != "DICOM":
        cause = f"is no DICOM file, so {' and '.join(wanted)} would belong to no study"
        raise CxrsegError(source, cause, "give the X-ray as DICOM, or --format png,json")


def make_report(
    segmentation: Segmentation,
    radiograph: Radiograph,
    source: str | os.PathLike[str],
    formats: Collection[Format] = DEFAULT_FORMATS,
    deidentify: bool = False,
) -> Report:
    """Return what is to be told of one result beside its mask, the lungs' sizes among it.

    Args:
        segmentation: The result.
        radiograph: The image that it was made from, which tells what is upright.
        source: The image file.
        formats: What is written of it.
        deidentify: As `write` takes it.
    """
    measured = measure(
        segmentation.mask, segmentation.labels, segmentation.spacing, radiograph.orientation
    )
    written: Report = {"formats": [name for name in FORMATS if name in formats]}
    if {*DICOM_FORMATS} & {*formats}:
        written["deidentified"] = deidentify
    return {
        "program": f"{MARK} {package_version()}",
        "intended_use": INTENDED_USE,
        "input": Path(source).name,
        **written,
        **segmentation.to_dict(),
        "measurements": measured.to_dict(),
    }


def _dicom(
    segmentation: Segmentation,
    picture: NDArray[np.uint8] | None,
    source: Path,
    outputs: Outputs,
    formats: Collection[Format],
    deidentify: bool,
) -> dict[Path, bytes]:
    # Imported here: an image that is no DICOM needs none of it.
    from cxrseg.runtime.terminal.console import require_extra

    require_extra(", ".join(x for x in DICOM_FORMATS if x in formats), "dicom", ["highdicom"])
    from cxrseg.runtime.writers.dicom_seg import lungs_dcm, overlay_dcm
    from cxrseg.runtime.writers.dicom_source import deidentified, read_origin

    origin = read_origin(source)
    if deidentify:
        if "sc" in formats and origin.pixels.get("BurnedInAnnotation") == "YES":
            cause = "says that words are burned into its picture, which --deidentify leaves there"
            raise CxrsegError(source, cause, "leave sc out of --format")
        origin = deidentified(origin)
    contents: dict[Path, bytes] = {}
    if "seg" in formats:
        contents[outputs.seg] = lungs_dcm(segmentation, origin)
    if "sc" in formats and picture is not None:
        contents[outputs.sc] = overlay_dcm(segmentation, picture, origin)
    return contents


def _is_foreign(path: Path) -> bool:
    try:
        # An empty file, which a power failure may leave, is nobody's loss.
        return path.is_file() and path.stat().st_size > 0 and not is_ours(path)
    # A name too long, a folder that may not be entered: writing will tell.
    except OSError:
        return False


def palette(labels: tuple[Label, ...]) -> list[int]:
    """Return the flat RGB palette of a label mask, 256 entries: its values' colors, else black."""
    colors = {BACKGROUND: (0, 0, 0)} | {label.value: label.color for label in labels}
    return [part for value in range(256) for part in colors.get(value, (0, 0, 0))]


def lungs_png(segmentation: Segmentation) -> bytes:
    """Return the label mask as an 8-bit palette PNG whose pixel values are the labels' values."""
    image = Image.fromarray(segmentation.mask)
    # All 256 entries: with fewer Pillow packs several pixels in a byte, and readers differ there.
    image.putpalette(palette(segmentation.labels))
    file = _PngFile()
    image.save(file, pnginfo=_mark())
    return file.getvalue()


def overlay(segmentation: Segmentation, radiograph: Radiograph) -> NDArray[np.uint8]:
    """Return the X-ray with each lung's contour in its color: uint8 [H, W, 3], RGB."""
    gray = _display(radiograph.pixels)
    canvas = np.repeat(gray[:, :, None], 3, axis=2)
    thickness = max(1, round(min(max(gray.shape), 2 * min(gray.shape)) / _LINE))
    for label in segmentation.labels:
        lung = (segmentation.mask == label.value).astype(np.uint8)
        contours, _ = cv2.findContours(lung, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, label.color, thickness)
    return canvas


def overlay_png(segmentation: Segmentation, radiograph: Radiograph) -> bytes:
    """Return the `overlay` as an 8-bit RGB PNG."""
    return _rgb_png(overlay(segmentation, radiograph))


def _rgb_png(picture: NDArray[np.uint8]) -> bytes:
    file = _PngFile()
    # A large X-ray takes seconds at the default level and is hardly smaller.
    Image.fromarray(picture).save(file, compress_level=1, pnginfo=_mark())
    return file.getvalue()


def report_json(report: Report) -> str:
    """Return a report as ASCII JSON text."""
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


class _PngFile(io.BytesIO):
    """A PNG in memory. Told by a name, Pillow loads this format alone; told by "PNG", six."""

    name = "x.png"


def _mark() -> PngInfo:
    info = PngInfo()
    info.add_text("Software", f"{MARK} {package_version()}")
    return info


def _display(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Window float32 [H, W] for the eye: uint8 [H, W] between the 0.5th and 99.5th percentile.

    Files of 16 bits often use a fraction of their range and would show black.
    """
    step = max(1, int((pixels.size / _SAMPLES) ** 0.5))
    low, high = (float(x) for x in np.percentile(pixels[::step, ::step], (0.5, 99.5)))
    if high - low < np.finfo(np.float32).eps:
        low, high = 0.0, 1.0
    scaled = (pixels - np.float32(low)) * np.float32(255 / (high - low))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), dtype=np.uint8)
