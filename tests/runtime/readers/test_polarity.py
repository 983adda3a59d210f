from __future__ import annotations

import numpy as np
import pytest

from cxrseg.runtime.readers import polarity
from helpers.dicom.dicom_images import codes, levels
from helpers.drawing import phantoms

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")


@pytest.mark.parametrize("seed", range(20))
def test_polarity_of_phantoms(seed: int) -> None:
    image = phantoms.draw(seed, (300, 260)).image.astype(np.float32) / 255
    score = polarity.polarity(image)
    assert score > 0.3
    assert polarity.polarity(1 - image) == pytest.approx(-score, abs=1e-3)
    # A border is no content, whatever its gray.
    for border in (0, 1):
        bordered = np.pad(image, 40, constant_values=border)
        assert polarity.polarity(bordered) == pytest.approx(score, abs=0.4)


@pytest.mark.parametrize("image", [np.zeros((50, 50)), np.eye(40), np.ones((32, 4000))])
def test_polarity_of_nothing_is_no_doubt(image: np.ndarray) -> None:
    assert polarity.polarity(image.astype(np.float32)) >= polarity.INVERTED


def test_lie_is_turned_around_and_flagged(read_made) -> None:
    values = levels(12)
    values[-20:] = 0
    radiograph = read_made(values, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
    (flag,) = radiograph.flags
    assert flag.code == "photometric_lies" and "inverted" in flag.reason
    assert flag.value is not None and flag.value < polarity.INVERTED == flag.threshold
    inside = np.ones(values.shape, bool)
    inside[-20:] = False
    assert (radiograph.pixels[~inside] == 0).all()
    expected = (values - values[inside].min()) / np.ptp(values[inside].astype(float))
    np.testing.assert_allclose(radiograph.pixels[inside], expected[inside], atol=1e-6)
    # What is no frontal chest is not judged.
    other = read_made(values, PhotometricInterpretation="MONOCHROME1", BodyPartExamined="HAND")
    assert codes(other) == ["other_body_part"]
