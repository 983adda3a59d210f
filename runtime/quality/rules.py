"""The table of the quality flags: what is measured, and from where on it is a reason to doubt.

Flags of what a DICOM file says of itself are those of `cxrseg.runtime.readers`. A limit that
depends on the model stands in the quality reference of its file; the one here is the least that may
be fitted. The others were chosen on validation images. No limit was chosen on test images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.readers.polarity import INVERTED

Need = Literal["nothing", "statistics", "limit"]
"""What a rule takes from the model's quality reference: its statistics, or its fitted limit too."""


@dataclass(frozen=True)
class Rule:
    """When a flag is raised.

    Attributes:
        code: Code of the flag.
        reason: The same for people; words in braces are filled in.
        limit: What raises no flag yet.
        measured: What is compared with the limit.
        below: Whether values below the limit raise the flag, not those above it.
        needs: What the rule takes from the quality reference. A fitted ``limit`` is that of each
            protocol; `limit` is then the least that may be fitted.
    """

    code: str
    reason: str
    limit: float
    measured: str
    below: bool = False
    needs: Need = "nothing"


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
        needs="statistics",
    ),
    "upside_down": Rule(
        "upside_down", "the image seems to be upside down", 0.7, _TURNED, needs="statistics"
    ),
    "rotated": Rule(
        "rotated", "the image seems to be turned by a quarter", 0.7, _TURNED, needs="statistics"
    ),
    # Bedside X-rays reach 14, noise has 16.
    "thumbnail": Rule(
        "not_chest",
        _NO_CHEST,
        15.0,
        "distance of the thumbnail to chest X-rays",
        needs="statistics",
    ),
    "out_of_distribution": Rule(
        "not_chest",
        "image and outlines are unlike a frontal chest X-ray",
        11.5,
        "`Deviation.out_of_distribution`: distance of thumbnail and outlines, more where the model"
        " is uncertain",
        needs="limit",
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
        needs="limit",
    ),
    # The upper side often cuts the tips of a child's lungs, harmlessly.
    "cropped_upper": Rule("cropped", _CUT, 0.5, _ALONG, needs="limit"),
    "cropped_lower": Rule("cropped", _CUT, 0.2, _ALONG, needs="limit"),
    "cropped_side": Rule("cropped", _CUT, 0.2, _ALONG, needs="limit"),
    "shape": Rule(
        "implausible_shape",
        "the outlines are unlike those of two lungs, most of all the {lung}'s {part}",
        8.5,
        "`Deviation.shape`: distance of the outlines to those of chest X-rays",
        needs="limit",
    ),
    "fragmented": Rule(
        "fragmented",
        "the {lung} falls into several pieces",
        0.15,
        "share of the lung outside its largest piece",
    ),
    "uncertain": Rule(
        "low_confidence",
        "the model is unsure of the outlines",
        3.5,
        "uncertain band along the outlines, as a multiple of the usual one",
        needs="limit",
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


FITTED = tuple(name for name, rule in RULES.items() if rule.needs == "limit")
"""Names of the rules whose limits are fitted to a model, in order."""


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
