"""The table of the quality flags: what is measured, and from where on it is a reason to doubt.

Flags of what a DICOM file says of itself are those of `cxrseg.runtime.readers`. Limits that
``cxrseg-bench quality-fit`` fits to a model stand in `quality_norms`; those here are the least that
it may set. The others do not depend on the model and were chosen on validation images. No limit was
chosen on test images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.quality import reference as quality_norms
from cxrseg.runtime.readers.polarity import INVERTED


@dataclass(frozen=True)
class Rule:
    """When a flag is raised.

    Attributes:
        code: Code of the flag.
        reason: The same for people; words in braces are filled in.
        limit: What raises no flag yet.
        measured: What is compared with the limit.
        below: Whether values below the limit raise the flag, not those above it.
        fitted: Whether the limit is fitted to the model, for each protocol; `limit` is the least.
    """

    code: str
    reason: str
    limit: float
    measured: str
    below: bool = False
    fitted: bool = False


_NO_CHEST = "the image does not look like a frontal chest X-ray"
_TURNED = "how much nearer the thumbnail comes to chest X-rays when laid another way"
_CUT = "a lung is cut off at the {side} side of the image"
_ALONG = "share of that side along which lungs touch it"

RULES: Mapping[str, Rule] = {
    "inverted": Rule(
        "inverted",
        "the gray scale seems to be inverted: dense tissue is dark",
        INVERTED,
        "`polarity`, where the negative is nearer to chest X-rays as well",
        below=True,
    ),
    "upside_down": Rule("upside_down", "the image seems to be upside down", 0.7, _TURNED),
    "rotated": Rule("rotated", "the image seems to be turned by a quarter", 0.7, _TURNED),
    # Bedside X-rays reach 14, noise has 16.
    "look": Rule("not_chest", _NO_CHEST, 15.0, "distance of the thumbnail to chest X-rays"),
    "strange": Rule(
        "not_chest",
        "image and outlines are unlike a frontal chest X-ray",
        11.5,
        "`Oddity.strange`: distance of thumbnail and outlines, more where the model is unsure",
        fitted=True,
    ),
    "no_lung": Rule("no_lung", "no lung was found", 0.01, "share of the image", below=True),
    "lung_missing": Rule(
        "lung_missing",
        "the {lung} was not found or is too small",
        0.01,
        "share of the image",
        below=True,
    ),
    "mirror": Rule(
        "mirrored",
        "the image seems to be mirrored, or the heart lies on the right: check the sides",
        0.4,
        "asymmetry of thumbnail and outlines: about -1 as usual, 1 mirrored",
        fitted=True,
    ),
    # The upper side often cuts the tips of a child's lungs, harmlessly.
    "cropped_upper": Rule("cropped", _CUT, 0.5, _ALONG, fitted=True),
    "cropped_lower": Rule("cropped", _CUT, 0.2, _ALONG, fitted=True),
    "cropped_side": Rule("cropped", _CUT, 0.2, _ALONG, fitted=True),
    "shape": Rule(
        "implausible_shape",
        "the outlines are unlike those of two lungs, most of all the {lung}'s {part}",
        8.5,
        "`Oddity.shape`: distance of the outlines to those of chest X-rays",
        fitted=True,
    ),
    "fragmented": Rule(
        "fragmented",
        "the {lung} falls into several pieces",
        0.15,
        "share of the lung outside its largest piece",
    ),
    "unsure": Rule(
        "low_confidence",
        "the model is unsure of the outlines",
        3.5,
        "uncertain band along the outlines, as a multiple of the usual one",
        fitted=True,
    ),
    "low_contrast": Rule(
        "low_contrast",
        "the image holds too few gray values: it is too dark, too bright or too flat",
        24 / 255,
        "range of the middle 98 % of gray values, of 1, where there are few levels",
        below=True,
    ),
    "saturated": Rule(
        "saturated",
        "gray values are cut off: much of the {what}",
        0.25,
        "share of the lungs that is fully black, or of the box around them that is fully white",
    ),
    # Below, outlines are coarser than a rib.
    "tiny": Rule(
        "tiny", "the image is too small for exact outlines", 96, "shorter side, pixels", below=True
    ),
}
"""Name -> rule, the gravest first."""


def limits(protocol: str) -> dict[str, float]:
    """Return name as in `RULES` -> limit that holds for the outlines of a protocol."""
    fitted = quality_norms.LIMITS.get(protocol, {})
    return {name: fitted.get(name, rule.limit) for name, rule in RULES.items()}


def judge(name: str, value: float, limit: float | None = None, **words: str) -> list[Flag]:
    """Return the flag of a rule, or none where the value is within the limit.

    Args:
        name: Name in `RULES`.
        value: What was measured.
        limit: The limit that holds; None = that of the rule.
        words: What fills in the reason.
    """
    rule = RULES[name]
    limit = rule.limit if limit is None else limit
    if value >= limit if rule.below else value <= limit:
        return []
    return [Flag(rule.code, rule.reason.format(**words), value, limit)]
