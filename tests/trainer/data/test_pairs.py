"""An X-ray and its mask, laid as the network will see the X-ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrseg.runtime.core.borders import inside_borders
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.readers import read
from cxrseg.trainer.data.pairs import read_pair
from cxrseg.trainer.data.samples import Sample
from helpers.dicom.dicom_images import make
from helpers.drawing import phantoms
from helpers.pairs import sample_of, two_lungs

SIZE = (96, 90)
PHANTOM = phantoms.draw(2, SIZE)


def save(folder: Path, image: np.ndarray, mask: np.ndarray, **options: object) -> Sample:
    Image.fromarray(image).save(folder / "x.png", **options)
    Image.fromarray(mask).save(folder / "m.png", **options)
    return Sample(folder / "x.png", folder / "m.png", "train", "fields", "g")


@pytest.mark.parametrize(
    ("mask", "labels", "sided", "is_map"),
    [
        (two_lungs(1, 2), two_lungs(1, 2), True, True),
        (two_lungs(255, 255), two_lungs(1, 2), True, False),
        (two_lungs(255, 0), two_lungs(1, 0), False, False),
    ],
    ids=["label map", "two parts", "one part"],
)
def test_lungs_are_told_apart(
    mask: np.ndarray, labels: np.ndarray, sided: bool, is_map: bool, tmp_path: Path
) -> None:
    pair = read_pair(sample_of(tmp_path, mask))
    assert (pair.sided, pair.is_map, pair.between) == (sided, is_map, 0)
    np.testing.assert_array_equal(pair.labels, labels)


@pytest.mark.parametrize("turn", [2, 3, 6])
def test_both_are_turned_by_their_exif_orientation(turn: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = turn
    stored = {2: np.fliplr, 3: lambda x: np.rot90(x, 2), 6: np.rot90}[turn]
    image, mask = (np.ascontiguousarray(stored(x)) for x in (PHANTOM.image, PHANTOM.mask))
    pair = read_pair(save(tmp_path, image, mask, exif=exif))
    np.testing.assert_array_equal(pair.labels, PHANTOM.mask)
    np.testing.assert_allclose(pair.pixels, PHANTOM.image / 255, atol=1e-6)


@pytest.mark.parametrize("gray", [0, 255])
def test_borders_are_left_out_of_both(gray: int, tmp_path: Path) -> None:
    image = np.pad(PHANTOM.image, ((0, 0), (40, 60)), constant_values=gray)
    mask = np.pad(PHANTOM.mask, ((0, 0), (40, 60)))
    sample = save(tmp_path, image, mask)
    pair, radiograph = read_pair(sample), read(sample.image)
    np.testing.assert_array_equal(pair.pixels, radiograph.content)
    np.testing.assert_array_equal(pair.labels, mask[inside_borders(radiograph.upright)])
    assert pair.labels.shape[1] == SIZE[1]


def test_mask_in_the_border_is_refused(tmp_path: Path) -> None:
    image = np.pad(PHANTOM.image, ((0, 0), (0, 90)), constant_values=255)
    mask = np.pad(PHANTOM.mask, ((0, 0), (90, 0)))
    with pytest.raises(CxrsegError, match=r"m\.png: the mask lies in the uniform border"):
        read_pair(save(tmp_path, image, mask))


def test_dicom_that_lies_mirrored_is_laid_upright_with_its_mask(tmp_path: Path) -> None:
    """Both lie as stored; which lung is which is seen upright."""
    stored = np.ascontiguousarray(np.fliplr(PHANTOM.image))
    file = make(stored, 8, PatientOrientation=["R", "F"])
    file.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    Image.fromarray(np.fliplr(PHANTOM.mask > 0)).save(tmp_path / "m.png")
    sample = Sample(tmp_path / "x.dcm", tmp_path / "m.png", "train", "fields", "g")
    assert read(sample.image).orientation is not None
    pair = read_pair(sample)
    np.testing.assert_array_equal(pair.labels, PHANTOM.mask)
