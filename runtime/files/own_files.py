"""How to recognize the files that cxrseg writes, by name and by content."""

from __future__ import annotations

import re
from pathlib import Path

from cxrseg.runtime.files.opening import open_file

MARK = "cxrseg"
"""Stands near the beginning of every file that cxrseg writes; the Manufacturer of its DICOM."""

LUNGS = "_lungs.png"
"""End of the label mask's name."""

OVERLAY = "_overlay.png"
"""End of the overlay's name."""

LUNGS_DICOM = "_lungs.dcm"
"""End of the DICOM segmentation's name."""

OVERLAY_DICOM = "_overlay.dcm"
"""End of the name of the overlay as DICOM secondary capture."""

_IMAGE_ENDS = (LUNGS, OVERLAY, LUNGS_DICOM, OVERLAY_DICOM)

_HEAD = 4096

_VERSION = rb" [0-9][0-9A-Za-z.+!-]*"
_OUR_SOFTWARE = re.compile(rb"Software\0" + MARK.encode() + _VERSION)
_OUR_PROGRAM = re.compile(rb'"program": "' + MARK.encode() + _VERSION + rb'"')
_TEXT = b"tEXt"

# Manufacturer (0008,0070) with and without its VR; nobody's compressed header is unpacked for it.
_OUR_MANUFACTURER = re.compile(rb"\x08\0\x70\0(LO\x06\0|\x06\0\0\0)" + MARK.encode())


def is_our_image_name(name: str) -> bool:
    """Tell by its end whether a file name is that of an image that cxrseg writes."""
    return name.endswith(_IMAGE_ENDS)


def is_our_image(path: Path) -> bool:
    """Tell by its content whether an image file is an output of cxrseg.

    A DICOM file is looked into if its name is one that cxrseg gives: readers refuse cxrseg's
    segmentations and colored pictures anyway, and to look takes long.
    """
    return (path.suffix.lower() == ".png" or is_our_image_name(path.name)) and is_ours(path)


def is_ours(path: Path) -> bool:
    """Tell whether an existing file was written by cxrseg.

    PNG and JSON name it near their beginning, DICOM as its Manufacturer. A file that cannot be
    read is taken for somebody else's.
    """
    try:
        with open_file(path) as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    if head[128:132] == b"DICM":
        return _OUR_MANUFACTURER.search(head) is not None
    return _is_our_png(head) or _OUR_PROGRAM.search(head) is not None


def _is_our_png(head: bytes) -> bool:
    """Tell whether the whole value of a text is our mark: another program's name may begin so."""
    at = head.find(_TEXT)
    while at >= 0:
        start = at + len(_TEXT)
        length = int.from_bytes(head[max(0, at - 4) : at])
        if _OUR_SOFTWARE.fullmatch(head, start, start + length):
            return True
        at = head.find(_TEXT, start)
    return False
