"""What a search of a folder takes, and that it tells what it leaves out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.readers.folders import (
    AROUND,
    DEAD_LINK,
    HIDDEN,
    LISTING,
    NO_FILE,
    NO_IMAGE,
    OURS,
    SEARCHED,
    Found,
    ImageFile,
    LeftOut,
    list_images,
    scan,
)
from helpers.drawing.phantoms import blocks
from helpers.own import own_image

posix = pytest.mark.skipif(os.name != "posix", reason="makes links and pipes")


def saved(path: Path, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks()).save(path, kind)
    return path


def images(found: list[Found]) -> list[Path]:
    return [each.path for each in found if isinstance(each, ImageFile)]


def left_out(found: list[Found]) -> dict[str, str]:
    return {each.path.name: each.reason for each in found if isinstance(each, LeftOut)}


@pytest.mark.parametrize(
    "name",
    [
        *("a.jpg", "a.JPEG", "a.jpe", "a.jfif", "a.jif", "a.jfi", "a.png", "a.tif", "a.TIFF"),
        *("a.btf", "a.bmp", "a.dib", "healthy_lungs.png", "ward7_overlay.png", "IM_lungs.dcm"),
    ],
)
def test_each_name_of_an_image_is_taken(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / name, "JPEG")
    assert scan(tmp_path) == [ImageFile(path)]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
@pytest.mark.parametrize("name", ["IM0001", "1.2.3"])
def test_an_image_without_a_suffix_is_told_by_its_content(
    kind: str, name: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / name, kind)
    (tmp_path / "NOTES").write_text("BMI: 23. The lungs are clear.")
    assert images(scan(tmp_path)) == [path]
    assert left_out(scan(tmp_path)) == {"NOTES": NO_IMAGE}


@pytest.mark.parametrize("name", ["x_lungs.png", "figure.png", "x_lungs.dcm", "x_overlay.dcm"])
def test_what_cxrseg_wrote_is_left_out_whatever_its_name(name: str, tmp_path: Path) -> None:
    own_image(tmp_path / name)
    path = saved(tmp_path / "x.png")
    found = scan(tmp_path)
    assert images(found) == [path] and left_out(found) == {name: OURS}


@posix
def test_everything_else_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "x.png")
    saved(tmp_path / ".hidden.png")
    saved(tmp_path / ".git" / "y.png")
    (tmp_path / "DICOMDIR").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.png")
    expected = {".hidden.png": HIDDEN, ".git": HIDDEN, "DICOMDIR": LISTING, "notes.txt": NO_IMAGE}
    found = scan(tmp_path)
    assert images(found) == [tmp_path / "x.png"]
    assert left_out(found) == {**expected, "gone.png": DEAD_LINK, "pipe.png": NO_FILE}


@posix
def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    own = saved(root / "b" / "x.png")
    far = saved(tmp_path / "elsewhere" / "deep" / "y.png")
    (root / "a").symlink_to(root / "b")
    (root / "b" / "loop").symlink_to(root)
    (root / "up").symlink_to("/")
    (root / "ward").symlink_to(far.parent.parent)
    (root / "ward2").symlink_to(far.parent)
    found = scan(root)
    assert images(found) == [own, root / "ward" / "deep" / "y.png"]
    assert ImageFile(root / "ward" / "deep" / "y.png", Path("ward/deep")) in found
    reasons = {"a": SEARCHED, "loop": SEARCHED, "up": AROUND, "ward2": SEARCHED}
    assert left_out(found) == reasons
    assert list_images(root) == [ImageFile(own, Path("b"))]


@posix
def test_a_watched_folder_is_not_left_by_a_link(tmp_path: Path) -> None:
    saved(tmp_path / "secret" / "x.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    assert list_images(tmp_path / "in") == []


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may look everywhere")
def test_what_may_not_be_looked_at_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = saved(tmp_path / "ok" / "x.png")
    shut = saved(tmp_path / "shut" / "y.png").parent
    closed = saved(tmp_path / "closed" / "z.png").parent
    shut.chmod(0o444)
    closed.chmod(0)
    try:
        found = scan(tmp_path)
    finally:
        shut.chmod(0o755)
        closed.chmod(0o755)
    assert images(found) == [path]
    errors = [str(each) for each in found if isinstance(each, CxrsegError)]
    assert len(errors) == 2 and all("ermission denied" in error for error in errors)


@posix
def test_folders_may_lie_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(1100):
        Path("d").mkdir()
        os.chdir("d")
    deepest = saved(Path("deep.png"))
    found = images(scan(tmp_path))
    deepest.unlink()
    # pytest cannot remove folders that lie so deep.
    for _ in range(1100):
        os.chdir("..")
        Path("d").rmdir()
    assert found[0] == path and found[1].name == "deep.png" and len(found[1].parts) > 1100


def test_the_command_tells_how_many_were_left_out(
    run_tiny, save_chest, xrays: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "old_lungs.png", "ward7_overlay.png"):
        save_chest(xrays / name)
    (xrays / "notes.txt").write_text("none")
    (xrays / "list.csv").write_text("none")
    first = run_tiny(xrays)
    assert first.code == 0 and len(first.out.splitlines()) == 3
    assert first.errors == ["2 files left out: no image (2); -v names them"]
    # Beside the images there are three results of each now.
    again = run_tiny(xrays, "-v")
    assert again.code == 0 and len(again.out.splitlines()) == 3
    assert again.errors[-1] == "11 files left out: written by cxrseg (9), no image (2)"
    assert f"{xrays / 'a_lungs.png'}: left out (written by cxrseg)" in again.errors
    named = run_tiny(*sorted(xrays.glob("*.png")), "-o", tmp_path / "out")
    assert len(named.out.splitlines()) == 3 and not named.err
    named = run_tiny("-v", *sorted(xrays.glob("*.png")), "-o", tmp_path / "out")
    assert named.errors[-1] == "6 files left out: written by cxrseg (6)"
    assert run_tiny("-v", xrays / "a.png").errors == ["no file left out"]


@posix
def test_the_command_names_an_image_with_two_names_once(run_tiny, save_chest, xrays: Path) -> None:
    save_chest(xrays / "a.png")
    (xrays / "b.png").symlink_to(xrays / "a.png")
    result = run_tiny(xrays, xrays / "a.png")
    assert result.code == 0 and len(result.out.splitlines()) == 1
    assert result.errors == ["1 file left out: another name of an image (1); -v names them"]
