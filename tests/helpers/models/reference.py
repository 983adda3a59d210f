"""The quality reference of the model that ships, for models that tests make."""

from __future__ import annotations

from functools import cache

import onnx

from cxrseg.runtime.core.model_card import REFERENCE_KEY
from cxrseg.runtime.models import default_model
from cxrseg.runtime.quality.reference import Reference


@cache
def shipped_json() -> str:
    """Return the JSON that the file holds."""
    properties = onnx.load(default_model()).metadata_props
    return next(entry.value for entry in properties if entry.key == REFERENCE_KEY)


@cache
def shipped() -> Reference:
    """Return the same, read."""
    return Reference.from_json(shipped_json())
