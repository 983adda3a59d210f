"""Reports and tables of an earlier run that were edited, damaged or forged."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from cxrseg.runtime.writers.tables import header
from helpers.fuzz.damage import damaged, seldom_damaged

_PLAIN = [
    *(None, True, False, 0, -1, 1, 10**12, 10**13, 10**400, 0.5, -0.0, 1e308, "", "x", "=1+1", "1"),
    *("x" * 11_000, "\x1b[2J", "\ud800", "../x.png", "right_lung", [], {}, [0], {"a": []}),
]


def _json() -> SearchStrategy[Any]:
    """Return a strategy of anything that JSON holds."""
    plain = st.one_of(
        st.sampled_from(_PLAIN).map(deepcopy), st.integers(), st.floats(), st.text(max_size=6)
    )
    return st.recursive(
        plain,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
        ),
        max_leaves=5,
    )


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return each list and object in a value with each of its keys."""
    if not isinstance(value, (dict, list)):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    found = [(value, key) for key in keys]
    return found + [place for key in keys for place in _places(value[key])]


_ODD = ["NaN", "Infinity", "1e999", "9" * 5000, "[" * 3000, "1 1", '"\\ud800"', "tru", "{]"]
_CODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"]


@st.composite
def changed_json(draw: DrawFn, content: bytes) -> bytes:
    """Draw an object of JSON with up to three of its parts changed, as text or as data."""
    data = json.loads(content)
    for _ in range(draw(st.integers(0, 3))):
        inside, key = draw(st.sampled_from(_places(data) or [({"": 0}, "")]))
        how = draw(st.sampled_from(["value", "value", "near", "loss", "more", "other"]))
        if how == "value":
            inside[key] = draw(_json())
        elif how == "near":
            value = inside[key]
            inside[key] = value + 1 if isinstance(value, (int, float)) else [value]
        elif how == "loss":
            del inside[key]
        elif how == "more" and isinstance(inside, dict):
            inside[draw(st.text(max_size=6))] = draw(_json())
        else:
            other, place = draw(st.sampled_from(_places(data)))
            inside[key] = json.loads(json.dumps(other[place]))
    text = json.dumps(data, indent=draw(st.sampled_from([None, 2])))
    if draw(st.integers(0, 3)) == 3:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(_ODD)) + text[at:]
    return draw(seldom_damaged(text.encode(draw(st.sampled_from(_CODINGS)), "surrogatepass")))


@st.composite
def changed_lines(draw: DrawFn, line: bytes) -> bytes:
    """Draw JSON Lines of an earlier run, the last of them incomplete at times."""
    lines = [
        draw(st.one_of(st.just(line), changed_json(line))) for _ in range(draw(st.integers(0, 4)))
    ]
    content = b"".join(each.strip() + b"\n" for each in lines)
    return draw(st.one_of(st.just(content), st.just(content[:-9]), damaged(content or b"{")))


@st.composite
def changed_rows(draw: DrawFn, row: bytes) -> bytes:
    """Draw a CSV table of an earlier run, or nearly one."""
    return draw(seldom_damaged(header() + row * draw(st.integers(0, 3))))
