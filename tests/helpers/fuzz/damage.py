"""Damage that any file may come to, and numbers that programs trip over."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

SMALL = st.integers(0, 300)


def lengths(true: int, bits: int = 32) -> SearchStrategy[int]:
    """Return strategies of what may be told for a length, an offset or a count that is `true`."""
    top = 1 << bits
    near = [max(0, true + step) for step in (-8, -2, -1, 0, 1, 2, 8)]
    odd = [0, 1, 2 * true, true // 2, top - 1, top - 2, top // 2, top // 2 - 1, 1 << 20]
    return st.one_of(st.sampled_from([*near, *odd]), SMALL, st.integers(0, top - 1)).map(
        lambda value: value % top
    )


@st.composite
def damaged(draw: DrawFn, content: bytes, start: int = 0) -> bytes:
    """Draw a content with bytes changed, lost, added or cut off behind `start`."""
    changed = bytearray(content)
    place = st.integers(min(start, len(content)), max(start, len(content) - 1))
    at = draw(place)
    how = draw(st.sampled_from(["bytes", "cut", "hole", "loss", "gain", "repeat"]))
    if how == "bytes":
        for each in draw(st.lists(place, min_size=1, max_size=6)):
            if each < len(changed):
                changed[each] = draw(st.one_of(st.sampled_from([0, 1, 127, 128, 255]), BYTE))
    elif how == "cut":
        del changed[at:]
    elif how == "hole":
        count = draw(SMALL)
        changed[at : at + count] = bytes(min(count, len(content) - at))
    elif how == "loss":
        del changed[at : at + draw(st.integers(1, 16))]
    elif how == "gain":
        changed[at:at] = draw(st.binary(min_size=1, max_size=16))
    else:
        changed[at:at] = changed[at : at + draw(SMALL)]
    return bytes(changed)


BYTE = st.integers(0, 255)


@st.composite
def seldom_damaged(draw: DrawFn, content: bytes, start: int = 0) -> bytes:
    """Draw the content itself, or of one in four a damaged one."""
    return draw(damaged(content, start)) if draw(st.integers(0, 3)) == 3 else content
