"""cxrseg's files are told by the whole mark: another program's name may begin like ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrseg.runtime.files.own_files import MARK, is_our_image, is_ours
from helpers.dicom.dicom_images import make, save
from helpers.own import own_image

OTHERS = ["cxrseg", "cxrseg-viewer 1.0", "cxrseg viewer", "cxrseg 3D viewer", "cxrsegx 1.0", "x"]


def png(path: Path, software: str) -> Path:
    info = PngInfo()
    info.add_text("Title", "tEXtSoftware")
    info.add_text("Software", software)
    Image.new("L", (40, 40)).save(path, pnginfo=info)
    return path


@pytest.mark.parametrize("version", ["0.0.0", "1.2.0rc1", "1.2.dev3+g1234", "12"])
def test_our_files(version: str, tmp_path: Path) -> None:
    assert is_our_image(png(tmp_path / "a_lungs.png", f"{MARK} {version}"))
    report = tmp_path / "a.json"
    report.write_text(json.dumps({"program": f"{MARK} {version}", "flags": []}, indent=2))
    assert is_ours(report)
    assert is_our_image(own_image(tmp_path / "a_lungs.dcm"))


@pytest.mark.parametrize("program", OTHERS)
def test_files_of_programs_with_a_similar_name(program: str, tmp_path: Path) -> None:
    assert not is_ours(png(tmp_path / "a_lungs.png", program))
    report = tmp_path / "a.json"
    report.write_text(json.dumps({"program": program}))
    assert not is_ours(report)


@pytest.mark.parametrize("maker", ["cxrseg-viewer", "cxrsegx", "x"])
def test_dicom_of_a_maker_with_a_similar_name(maker: str, tmp_path: Path) -> None:
    assert not is_ours(save(make(Manufacturer=maker), tmp_path / "a_lungs.dcm"))
