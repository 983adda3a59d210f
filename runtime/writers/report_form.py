"""The form of a JSON report, by which one that was edited, damaged or forged is known."""

from __future__ import annotations

from types import UnionType
from typing import Any, get_args

from cxrseg.runtime.core.labels import LABELS

MAX_TEXT = 10_000
"""Most characters of a text, and most parts of a list or an object."""

MAX_NUMBER = 1e12
"""Largest number, without its sign: that of pixels is below 1e9."""

_NUMBER = int | float
_KNOWN_OR_NOT = int | float | None

# Key -> what stands there: a type; in brackets the parts of a list; the parts of an object by their
# names, or all of them by the key `str`; or several such forms.
_FORM = {
    "program": str,
    "intended_use": str,
    "input": str,
    "formats": [str],
    "files": {str: str},
    "size": {"height": int, "width": int},
    "spacing_mm": (None, {"row": _NUMBER, "column": _NUMBER, "source": str}),
    "provenance": {str: str | int | float | bool},
    "labels": [
        {
            "name": str,
            "value": int,
            "title": str,
            "protocol": str,
            "color": [int],
            "probability": _KNOWN_OR_NOT,
            "area_px": int,
            "area_mm2": _KNOWN_OR_NOT,
            "fraction": _NUMBER,
        }
    ],
    "flags": [{"code": str, "reason": str, "value": _KNOWN_OR_NOT, "threshold": _KNOWN_OR_NOT}],
    "not_assessed": [str],
    "model": {"name": str, "version": str, "sha256": str},
    "provider": str,
    "timings_ms": {str: _NUMBER},
    "measurements": {
        "lungs": {
            str: {
                "height_px": int,
                "width_px": int,
                "height_mm": _KNOWN_OR_NOT,
                "width_mm": _KNOWN_OR_NOT,
            }
        },
        "thoracic_width_px": int | None,
        "thoracic_width_mm": _KNOWN_OR_NOT,
        "area_ratio": _KNOWN_OR_NOT,
        "spacing_source": str | None,
    },
}
_WITH_DICOM = {**_FORM, "deidentified": bool}


def is_complete(report: dict[str, Any]) -> bool:
    """Tell whether a report holds exactly what cxrseg writes, so that all of it can be used again.

    Every key and every type is checked, texts and numbers within `MAX_TEXT` and `MAX_NUMBER`;
    whether the figures are true is not.
    """
    if not _fits(report, (_FORM, _WITH_DICOM)) or not report["labels"]:
        return False
    names = {label["name"] for label in report["labels"]}
    known = {label.name for label in LABELS}
    return names <= known and names <= report["measurements"]["lungs"].keys()


def _fits(value: Any, form: Any) -> bool:
    """Tell whether a part of a report is as `_FORM` says."""
    if isinstance(form, tuple):
        return any(_fits(value, each) for each in form)
    if isinstance(form, dict):
        if not isinstance(value, dict) or len(value) > MAX_TEXT:
            return False
        if str in form:
            return all(_fits(key, str) and _fits(x, form[str]) for key, x in value.items())
        return value.keys() == form.keys() and all(_fits(value[key], form[key]) for key in form)
    if isinstance(form, list):
        few = isinstance(value, list) and len(value) <= MAX_TEXT
        return few and all(_fits(part, form[0]) for part in value)
    return _is_plain(value, get_args(form) if isinstance(form, UnionType) else (form,))


def _is_plain(value: Any, types: tuple[Any, ...]) -> bool:
    """Tell whether a value is of exactly one of these types (None its own), and within limits."""
    # Not isinstance: to Python, True is a number.
    if type(value) not in [type(None) if each is None else each for each in types]:
        return False
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    return not isinstance(value, int | float) or -MAX_NUMBER <= value <= MAX_NUMBER
