"""Images that carry cxrseg's mark, as its outputs do."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrseg.runtime.files.own_files import MARK
from helpers.dicom.dicom_images import make, save
from helpers.drawing.phantoms import blocks


def own_image(path: Path) -> Path:
    """Write a PNG, or a DICOM file if the path ends so, and return its path."""
    if path.suffix == ".dcm":
        return save(make(Manufacturer=MARK), path)
    info = PngInfo()
    info.add_text("Software", f"{MARK} 0.0.0")
    Image.fromarray(blocks()).save(path, pnginfo=info)
    return path
