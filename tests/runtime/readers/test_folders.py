from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from cxrseg.runtime import CxrsegError, find_images, read
from helpers.dicom.dicom_images import PHANTOM, make, save
from helpers.own import own_image

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")


def test_folder_of_studies_is_walked(tmp_path: Path) -> None:
    for name in [
        "b/IM0002",
        "b/1.2.840.7",
        "b/x.DCM",
        "a/deep/y.ima",
        "a/z.dicom",
        "a/z.v2",
        "DICOMDIR",
        ".cache/q.dcm",
        ".hidden",
    ]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save(make(), path)
    (tmp_path / "README").write_text("no image")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    own_image(tmp_path / "x_lungs.png")
    if os.name == "posix":
        (tmp_path / "b" / "loop").symlink_to(tmp_path)
        (tmp_path / "broken").symlink_to(tmp_path / "none")
        os.mkfifo(tmp_path / "pipe")
    expected = ["a/z.dicom", "a/z.v2", "a/deep/y.ima", "b/1.2.840.7", "b/IM0002", "b/x.DCM"]
    assert find_images([tmp_path]) == [tmp_path / name for name in expected]


def medium(folder: Path) -> Path:
    """Write a medium with two images and a DICOMDIR, as pydicom lays it out."""
    media = FileSet()
    for number in (1, 2):
        dataset = make(
            StudyInstanceUID=f"1.2.3.{number}",
            SeriesInstanceUID=f"1.2.3.{number}.1",
            SOPInstanceUID=f"1.2.3.{number}.1.1",
            StudyDate="20000101",
            StudyTime="120000",
            StudyID="1",
            SeriesNumber=1,
            InstanceNumber=1,
            AccessionNumber="",
        )
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        media.add(dataset)
    media.write(folder)
    return folder / "DICOMDIR"


def test_dicomdir_stands_for_its_images(tmp_path: Path) -> None:
    listing = medium(tmp_path / "cd")
    images = find_images([listing])
    assert len(images) == 2
    assert sorted(images) == sorted(find_images([tmp_path / "cd"]))
    assert all(read(path).size == PHANTOM.shape for path in images)
    renamed = tmp_path / "list.dcm"
    renamed.write_bytes(listing.read_bytes())
    with pytest.raises(CxrsegError, match="is a DICOMDIR"):
        read(renamed)
    assert find_images([tmp_path / "none" / "DICOMDIR"]) == [tmp_path / "none" / "DICOMDIR"]


@pytest.mark.parametrize("spell", [str.lower, str.title, "{}.".format, "{};1".format])
def test_dicomdir_finds_names_as_the_system_spells_them(
    tmp_path: Path, spell: Callable[[str], str]
) -> None:
    if os.name != "posix":
        pytest.skip("this system finds them itself")
    expected = find_images([medium(tmp_path / "cd")])
    # From the deepest up: a folder's new name must not move what is still to be renamed.
    for path in sorted((tmp_path / "cd").rglob("*"), reverse=True):
        path.rename(path.with_name(spell(path.name)))
    listing = tmp_path / "cd" / spell("DICOMDIR")
    images = find_images([listing])
    assert len(images) == len(expected) == 2 and not set(images) & set(expected)
    assert all(read(path).size == PHANTOM.shape for path in images)
    assert sorted(images) == sorted(
        Path(folder, name)
        for folder, _, names in os.walk(tmp_path / "cd")
        for name in names
        if Path(folder, name) != listing
    )


def test_dicomdir_takes_the_exact_name_first(tmp_path: Path) -> None:
    images = find_images([medium(tmp_path / "cd")])
    if os.name == "posix":
        for path in images:
            save(make(Modality="CT"), path.with_name(path.name.lower()))
    assert find_images([tmp_path / "cd" / "DICOMDIR"]) == images


@pytest.mark.parametrize(
    "target",
    [
        ["..", "X"],
        ["/ETC", "X"],
        ["../X"],
        ["C:\\X"],
        ["A", "..", "..", "X"],
        ["C:X"],
        [""],
        ["LINK"],
    ],
)
def test_dicomdir_never_leads_outside(tmp_path: Path, target: list[str]) -> None:
    save(make(), tmp_path / "X")
    folder = tmp_path / "cd"
    folder.mkdir()
    if target == ["LINK"]:
        if os.name != "posix":
            pytest.skip("makes a link")
        (folder / "LINK").symlink_to(tmp_path / "X")
    record = Dataset()
    record.DirectoryRecordType = "IMAGE"
    record.add_new("ReferencedFileID", "LO", target)
    dataset = make(PixelData=None)
    dataset.DirectoryRecordSequence = [record]
    with pytest.raises(CxrsegError, match=r"outside its folder|damaged|lists no images"):
        find_images([save(dataset, folder / "DICOMDIR")])


@pytest.mark.parametrize("content", [b"", b"text" * 100, bytes(128) + b"DICM" + bytes(50)])
def test_damaged_dicomdir_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "DICOMDIR").write_bytes(content)
    with pytest.raises(CxrsegError, match="DICOMDIR"):
        find_images([tmp_path / "DICOMDIR"])


def test_command_on_studies_keeps_their_folders(
    run_cxrseg, model_file, save_chest, xrays: Path, tmp_path: Path
) -> None:
    for name in ("p1/IM0001", "p2/IM0001", "p2/1.2.3", "p2/1.2.4"):
        (xrays / name).parent.mkdir(exist_ok=True)
        save(make(), xrays / name)
    save(make(Modality="CT"), xrays / "p2" / "ct.dcm")
    save_chest(xrays / "top.png")
    out = tmp_path / "out"
    result = run_cxrseg(xrays, "-o", out, "--model", model_file(), "--device", "cpu")
    assert result.code == 1 and len(result.out.splitlines()) == 5
    (error,) = result.errors
    assert error.startswith(f"error: {xrays / 'p2' / 'ct.dcm'}: is a CT image")
    reports = sorted(str(x.relative_to(out)) for x in out.rglob("*.json"))
    expected = ["p1/IM0001", "p2/1.2.3", "p2/1.2.4", "p2/IM0001", "top"]
    assert reports == [str(Path(f"{name}.json")) for name in expected]
    again = run_cxrseg(xrays, "-o", xrays, "--model", model_file(), "--device", "cpu")
    assert len(again.out.splitlines()) == 5
    assert (xrays / "p2" / "1.2.3_lungs.png").exists()


def test_command_on_a_dicomdir(run_cxrseg, model_file, tmp_path: Path) -> None:
    listing = medium(tmp_path / "cd")
    missing = find_images([listing])[0]
    missing.unlink()
    out = tmp_path / "out"
    result = run_cxrseg(listing, "-o", out, "--model", model_file(), "--device", "cpu")
    assert result.code == 1 and len(result.out.splitlines()) == 1
    assert result.errors == [f"error: {missing}: no such file; check the name"]
    assert len(list(out.rglob("*.json"))) == 1
