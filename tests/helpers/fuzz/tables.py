"""CSV tables of pairs, as programs save them and as nobody should."""

from __future__ import annotations

import csv
import io

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from helpers.fuzz.damage import seldom_damaged

PAIRS = 3
"""Images and masks that are there, called as `image_name` and `mask_name` say."""

_ENCODINGS = ["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "cp437"]
_HEADS = ["", "", "", "sep=;\r\n", "\n\n", "# pairs\n", "\ufeff", '"sep=,"\r\n', "\0"]
_COLUMNS = ["image", "mask", "split", "protocol", "source", "", "Image", "age", "image"]
_CELLS = [
    *("train", "val", "test", "Train", "fields", "whole", "", " ", "\t", "=1+1", "\\", '"', "'"),
    *("../../etc/passwd", "/etc/passwd", "/dev/zero", "C:\\x\\0.png", "x" * 300, "x" * 70_000),
    *("\x1b[2J", "\0", "\u202e", "\ud7ff", "9" * 5000, "1e999", "nan", "a\nb", "a\r\nb", "é", "。"),
]


def image_name(number: int) -> str:
    return f"xrays/Röntgen {number}.png"


def mask_name(number: int) -> str:
    return f"masks/m{number}.png"


_LETTERS = st.text(st.characters(codec="utf-8"), max_size=8)


@st.composite
def _rows(draw: DrawFn) -> list[list[str]]:
    """Draw the columns' names and a few rows, most of which name pairs that are there."""
    columns = draw(
        st.one_of(
            st.just(["image", "mask", "split"]),
            st.permutations(["image", "mask", "split", "protocol", "source"]),
            st.lists(st.one_of(st.sampled_from(_COLUMNS), _LETTERS), max_size=6),
        )
    )
    rows = [columns]
    backslashes = draw(st.booleans())
    for _ in range(draw(st.integers(0, 4))):
        number = draw(st.integers(0, PAIRS - 1))
        known = {"image": image_name(number), "mask": mask_name(number), "split": "train"}
        cells = [known.get(name, "") for name in columns]
        rows.append([cell.replace("/", "\\") for cell in cells] if backslashes else cells)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        row = draw(st.sampled_from(rows))
        how = draw(st.sampled_from(["cell", "loss", "more", "blanks"]))
        at = draw(st.integers(0, max(0, len(row) - 1)))
        if how == "cell" and row:
            row[at] = draw(st.one_of(st.sampled_from(_CELLS), _LETTERS))
        elif how == "loss":
            del row[at:]
        elif how == "more":
            row.insert(at, draw(st.sampled_from(_CELLS)))
        else:
            row[:] = [f" {cell} " for cell in row]
    return rows


@st.composite
def tables(draw: DrawFn) -> bytes:
    """Draw a CSV file of any dialect and encoding, with odd cells at times."""
    rows = draw(_rows())
    text = io.StringIO()
    text.write(draw(st.sampled_from(_HEADS)))
    if draw(st.integers(0, 4)):
        writer = csv.writer(
            text,
            delimiter=draw(st.sampled_from(",;\t|")),
            quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
            lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])),
        )
        writer.writerows(rows)
    else:
        joint = draw(st.sampled_from([",", ";", ", ", "\t", " "]))
        text.write("\n".join(joint.join(row) for row in rows))
    content = text.getvalue().encode(draw(st.sampled_from(_ENCODINGS)), "replace")
    return draw(seldom_damaged(content))
