"""A table whose place is that of another file of the run is refused before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.runs import names

tables = pytest.mark.parametrize("option", ["--csv", "--jsonl"])


@tables
@pytest.mark.parametrize(
    "name", ["x.json", "x_lungs.png", "x_overlay.png", "./sub/../x.json", "X.JSON", "x_Lungs.png"]
)
def test_no_table_takes_the_place_of_a_result(
    run_tiny, chest_png, tmp_path, option: str, name: str
) -> None:
    home = tmp_path / "q"
    (home / "sub").mkdir(parents=True)
    for inputs in ([chest_png], [chest_png, "--skip-existing"]):
        result = run_tiny(*inputs, "-o", home, option, f"{home}/{name}")
        assert result.code == 1 and result.out == "" and len(result.errors) == 1
        assert "is where the result" in result.err or "taken for an image" in result.err
    assert names(home) == ["sub"]


@tables
def test_beside_the_image_and_as_a_folder_of_results(run_tiny, save_chest, xrays, option) -> None:
    image = save_chest(xrays / "sub" / "x.png")
    result = run_tiny(image, option, image.with_suffix(".json"))
    assert result.code == 1 and "is where the result" in result.err
    home = xrays.with_name("q")
    result = run_tiny(xrays, "-o", home, option, home / "sub")
    assert result.code == 1 and f"is where the folder {home / 'sub'} goes" in result.err
    assert names(image.parent) == ["x.png"] and not home.exists()


def test_only_the_formats_that_are_written_count(run_tiny, chest_png, tmp_path) -> None:
    home = tmp_path / "q"
    result = run_tiny(
        chest_png, "-o", home, "--format", "png", "--csv", tmp_path / "q" / ".." / "t"
    )
    assert result.code == 0
    result = run_tiny(chest_png, "-o", home, "--format", "png", "--jsonl", home / "x.json")
    assert result.code == 0 and names(home) == ["x.json", "x_lungs.png", "x_overlay.png"]


@tables
@pytest.mark.parametrize("content", ["an image", "nothing", "an earlier table", None])
def test_no_table_takes_the_place_of_an_input(
    run_tiny, save_chest, tmp_path, option: str, content: str | None
) -> None:
    other, table = save_chest(tmp_path / "in" / "other.png"), tmp_path / "table.txt"
    if content == "an image":
        save_chest(table.with_suffix(".png")).rename(table)
    elif content == "nothing":
        table.touch()
    elif content is not None:
        assert run_tiny(other, "-o", tmp_path / "q", option, table).code == 0
    before = table.read_bytes() if content else None
    result = run_tiny(other, table, "-o", tmp_path / "q", option, f"{tmp_path}/in/../table.txt")
    assert result.code == 1 and f"would replace an input, {table}" in result.err
    assert (table.read_bytes() if content else None) == before and table.exists() == bool(content)


@tables
def test_no_table_would_be_taken_for_an_image_of_its_folder(
    run_tiny, chest_png, tmp_path, option: str
) -> None:
    for name in ("table.png", "sub/table.DCM"):
        (chest_png.parent / "sub").mkdir(exist_ok=True)
        result = run_tiny(chest_png.parent, "-o", tmp_path / "q", option, chest_png.parent / name)
        assert result.code == 1 and "would be taken for an image of" in result.err
    result = run_tiny(chest_png.parent, "-o", tmp_path / "q", option, chest_png.parent / "all.txt")
    assert result.code == 0 and (chest_png.parent / "all.txt").stat().st_size


@tables
def test_the_model_is_no_table(run_cxrseg, model, chest_png, option: str) -> None:
    result = run_cxrseg(*model, chest_png, option, model[1])
    assert result.code == 1 and "would replace an input" in result.err


@tables
@pytest.mark.skipif(os.name != "posix", reason="makes links")
@pytest.mark.parametrize("linked", ["table", "result", "folder"])
def test_links_lead_to_the_same_place(run_tiny, chest_png, tmp_path, option, linked: str) -> None:
    home, table = tmp_path / "q", tmp_path / "table"
    home.mkdir()
    if linked == "table":
        assert run_tiny(chest_png, "-o", home).code == 0
        table.symlink_to(home / "x.json")
    elif linked == "result":
        table.touch()
        (home / "x.json").symlink_to(table)
    else:
        (tmp_path / "same").symlink_to(home)
        table = tmp_path / "same" / "x.json"
    before = names(home)
    result = run_tiny(chest_png, "-o", home, option, table)
    assert result.code == 1 and "is where the result" in result.err and names(home) == before


def test_no_lines_of_a_watched_folder_take_the_place_of_what_may_come(
    run_tiny, xrays, tmp_path
) -> None:
    pytest.importorskip("watchdog", reason="needs the extra watch")
    home = tmp_path / "q"
    for name in ("any.json", "sub/any_lungs.png", "any_OVERLAY.png"):
        for folder, more in ((home, ["-o", home]), (xrays, [])):
            result = run_tiny("--watch", xrays, *more, "--jsonl", Path(folder, name))
            assert result.code == 1 and len(result.errors) == 1
            assert "could be where a result in" in result.err or "taken for an im" in result.err
    assert not home.exists() and names(xrays) == []
