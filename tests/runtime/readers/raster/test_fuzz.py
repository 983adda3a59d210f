"""PNG, JPEG and TIFF files of any structure are read, segmented and written, or refused."""

from __future__ import annotations

from pathlib import Path

from cxrseg.runtime import read
from cxrseg.runtime.readers.raster import read_picture
from helpers.fuzz.jpegs import jpeg_files
from helpers.fuzz.pngs import lacks_pixels, png_files
from helpers.fuzz.tiffs import tiff_files
from helpers.trials.answers import asked, check_outputs, check_radiograph
from helpers.trials.trial import fuzzed


def check_raster(case: bytes, path: Path) -> bool:
    """Read a file as an X-ray, and then as a picture, which has the same size."""
    path.write_bytes(case)
    radiograph = asked(lambda: read(path))
    if radiograph is None:
        return False
    check_radiograph(radiograph)
    picture = asked(lambda: read_picture(path))
    assert picture is None or picture.size == radiograph.size
    check_outputs(radiograph, path, case, ("png", "json"))
    return True


@fuzzed(png_files())
def test_png_files(case: bytes, home: Path) -> bool:
    taken = check_raster(case, home / "x.png")
    assert not (taken and lacks_pixels(case)), "pixels are made up"
    return taken


@fuzzed(jpeg_files())
def test_jpeg_files(case: bytes, home: Path) -> bool:
    return check_raster(case, home / "x.jpg")


@fuzzed(tiff_files())
def test_tiff_files(case: bytes, home: Path) -> bool:
    return check_raster(case, home / "x.tif")
