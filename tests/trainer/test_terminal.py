"""What a terminal shows of texts in a user's files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from helpers.outcomes import Call

EVIL = "evil\x1b[2J\x1b]0;title\x07\n\u202eend"


def test_sources_of_a_table_give_the_terminal_no_commands(
    call: Call, recipe: Callable[[str], Path], small_data: Path, tmp_path: Path
) -> None:
    table = tmp_path / "data.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "mask", "split", "source"))
        for split in ("train", "val"):
            for image in sorted((small_data / split / "images").iterdir()):
                mask = small_data / split / "masks" / image.name
                writer.writerow((image, mask, split, EVIL))
    settings = recipe("stage1: {epochs: 1, images_per_epoch: 2, batch_size: 2}\n")
    run = ("--recipe", settings, "-o", tmp_path / "run", "--stage", "1")
    done = call("train", table, *run)
    assert done.code == 0, done.err
    assert "evil?[2J?]0;title???end" in done.out
    # Progress bars move the cursor; nothing else may reach it.
    told = done.out.replace("\x1b[A", "") + done.err.replace("\x1b[A", "")
    assert {c for c in told if not c.isprintable()} <= {"\n", "\r"}
