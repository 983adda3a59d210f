"""Tables of training data."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.pairs import Row, Table, save, two_lungs, xray


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Write a CSV of `rows`, and a valid pair for each that names ``x0.png`` and ``m0.png``."""

    def write(rows: Sequence[Row], columns: Sequence[str] = ()) -> Path:
        for row in rows:
            for kind, pixels in (("image", xray()), ("mask", two_lungs(1, 2))):
                if row.get(kind, "").endswith(".png"):
                    save(tmp_path / row[kind], pixels)
        path = tmp_path / "pairs.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns or list(rows[0]), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write
