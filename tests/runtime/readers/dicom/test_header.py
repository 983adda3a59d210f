from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cxrseg.runtime import Segmenter
from cxrseg.runtime.core.orientation import Orientation
from helpers.dicom.dicom_images import codes

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")

SPACINGS = [
    ({}, None, ""),
    ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1), "ImagerPixelSpacing (detector plane)"),
    (
        {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.2, 0.2]},
        (0.2, 0.2),
        "ImagerPixelSpacing (detector plane)",
    ),
    (
        {
            "ImagerPixelSpacing": [0.2, 0.2],
            "PixelSpacing": [0.18, 0.18],
            "PixelSpacingCalibrationType": "FIDUCIAL",
        },
        (0.18, 0.18),
        "PixelSpacing (calibrated, FIDUCIAL)",
    ),
    (
        {"ImagerPixelSpacing": [0.2, 0.2], "EstimatedRadiographicMagnificationFactor": 1.25},
        (0.16, 0.16),
        "ImagerPixelSpacing / EstimatedRadiographicMagnificationFactor (patient)",
    ),
    (
        {"ImagerPixelSpacing": [0.2, 0.2], "EstimatedRadiographicMagnificationFactor": 0.5},
        (0.2, 0.2),
        "ImagerPixelSpacing (detector plane)",
    ),
    ({"PixelSpacing": [0.3, 0.3]}, (0.3, 0.3), "PixelSpacing (plane not told)"),
    (
        {"NominalScannedPixelSpacing": [0.175, 0.175]},
        (0.175, 0.175),
        "NominalScannedPixelSpacing (film)",
    ),
    ({"PixelSpacing": [0, 0]}, None, ""),
    ({"PixelSpacing": [-0.1, 0.1]}, None, ""),
    ({"PixelSpacing": [11, 11]}, None, ""),
    ({"PixelSpacing": ["nan", "nan"]}, None, ""),
    ({"PixelSpacing": 0.2}, None, ""),
]


@pytest.mark.parametrize(("attributes", "expected", "source"), SPACINGS)
def test_spacing_and_its_source(
    read_made, attributes: dict[str, object], expected: tuple[float, float] | None, source: str
) -> None:
    spacing = read_made(**attributes).spacing
    if expected is None:
        assert spacing is None
    else:
        assert spacing is not None and spacing.source == source
        assert (spacing.row, spacing.column) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"BodyPartExamined": "CHEST", "ViewPosition": "PA"}, []),
        ({"BodyPartExamined": "HAND"}, ["other_body_part"]),
        ({"BodyPartExamined": "Jane's"}, []),
        ({"ViewPosition": "LL"}, ["not_frontal_view"]),
        ({"ViewPosition": "LATERAL"}, ["not_frontal_view"]),
        ({"ViewPosition": "LAO"}, ["not_frontal_view"]),
        ({"PatientOrientation": ["A", "F"]}, ["not_frontal_view"]),
        ({"PatientOrientation": ["L", "F"]}, []),
        ({"PatientOrientation": ["R", "F"]}, ["turned"]),
        ({"PatientOrientation": ["L"]}, []),
        ({"PatientOrientation": ["L", "R"]}, []),
        ({"PresentationIntentType": "FOR PROCESSING"}, ["for_processing"]),
    ],
)
def test_doubts_about_the_header(
    read_made, attributes: dict[str, Any], expected: list[str]
) -> None:
    radiograph = read_made(**attributes)
    found = codes(radiograph)
    # Turned by its header alone, the phantom's own polarity is still seen.
    assert found == expected
    assert "Jane" not in str(radiograph.flags) + str(radiograph.provenance)


def test_oblique_orientation_counts_by_its_main_direction(read_made) -> None:
    radiograph = read_made(PatientOrientation=["LF", "FR"])
    assert radiograph.orientation == Orientation("L", "F")


@pytest.mark.parametrize("row", "LRFH")
@pytest.mark.parametrize("column", "LRFH")
def test_orientation_turns_and_turns_back(row: str, column: str) -> None:
    if (row in "LR") == (column in "LR"):
        with pytest.raises(ValueError):
            Orientation(row, column)  # type: ignore[arg-type]
        return
    lies = Orientation(row, column)  # type: ignore[arg-type]
    upright = np.array([["head right", "head left"], ["feet right", "feet left"], ["", ""]])
    stored = lies.stored(upright)
    np.testing.assert_array_equal(lies.upright(stored), upright)
    name = {"L": "left", "R": "right", "H": "head", "F": "feet"}
    last_of_row = stored[0, -1] or stored[-1, -1]
    if row in "LR":
        assert name[row] in (stored[0, -1] or stored[-1, -1])
    elif row == "H":
        assert "head" in last_of_row


def test_sides_are_the_patients_whatever_the_orientation(read_made, model_file, chest) -> None:
    segmenter = Segmenter(model_file(), "cpu", threads=1)
    pixels = chest(240, 160, left_lung=False).astype("<u2") * 16
    truth = segmenter.segment(read_made(pixels)).mask
    assert (truth == 1).any() and not (truth == 2).any()
    for lies in (Orientation(a, b) for a in "LR" for b in "FH"):
        for turned in (lies, Orientation(lies.column, lies.row)):
            stored = np.ascontiguousarray(turned.stored(pixels))
            radiograph = read_made(stored, PatientOrientation=[turned.row, turned.column])
            result = segmenter.segment(radiograph)
            assert result.mask.shape == stored.shape
            np.testing.assert_array_equal(turned.upright(result.mask), truth)
            np.testing.assert_array_equal(radiograph.pixels, read_made(stored).pixels)
            assert ("turned" in {flag.code for flag in result.flags}) is not turned.is_upright
    # The same pixels without the header's word are taken for upright: the sides change.
    mirrored = segmenter.segment(read_made(np.ascontiguousarray(pixels[:, ::-1])))
    assert (mirrored.mask == 2).any() and not (mirrored.mask == 1).any()
