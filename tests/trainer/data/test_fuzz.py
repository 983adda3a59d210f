"""Masks and tables of any contents are read as a person reads them, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cxrseg.trainer.check.pairs import look_at
from cxrseg.trainer.data.pairs import read_pair
from cxrseg.trainer.data.samples import Sample, read_samples
from helpers.fuzz.masks import PHANTOM, damaged_masks, drawn_masks
from helpers.fuzz.tables import PAIRS, image_name, mask_name, tables
from helpers.trials.answers import asked, check_refusal
from helpers.trials.trial import fuzzed


def pair_of(case: bytes, home: Path) -> Sample:
    image, mask = home / "x.png", home / "m.png"
    Image.fromarray(PHANTOM.image).save(image)
    mask.write_bytes(case)
    return Sample(image, mask, "train", "fields", "g")


@fuzzed(drawn_masks())
def test_drawn_masks(case: bytes, home: Path) -> bool:
    """A mask is read as it was meant, named as odd, or refused: never taken for another."""
    sample = pair_of(case, home)
    finding = look_at(sample)
    if finding.error is not None:
        check_refusal(finding.error)
        return False
    pair = read_pair(sample)
    labels, sided = pair.labels, pair.sided
    assert labels.dtype == np.uint8 and labels.shape == PHANTOM.mask.shape
    if not finding.reasons:
        lungs = PHANTOM.mask > 0
        # JPEG moves edges by a pixel.
        lossy = case.startswith(b"\xff\xd8")
        assert np.mean((labels > 0) != lungs) <= 0.02 * lossy
        if sided:
            assert np.mean(labels[lungs] != PHANTOM.mask[lungs]) <= 0.02 * lossy
    return True


@fuzzed(damaged_masks())
def test_damaged_masks(case: bytes, home: Path) -> bool:
    sample = pair_of(case, home)
    finding = look_at(sample)
    if finding.error is not None:
        check_refusal(finding.error)
        return False
    found = asked(lambda: read_pair(sample))
    assert found is not None and set(np.unique(found.labels)) <= {0, 1, 2}
    return True


@fuzzed(tables())
def test_tables(case: bytes, home: Path) -> bool:
    """A table gives pairs that are there, and none of files that it does not name."""
    names = {home / name(number) for number in range(PAIRS) for name in (image_name, mask_name)}
    for path in names:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    table = home / "pairs.csv"
    table.write_bytes(case)
    samples = asked(lambda: read_samples(table))
    assert {path for path in home.rglob("*.png")} == names and table.read_bytes() == case
    if samples is None:
        return False
    assert samples
    for sample in samples:
        # An absolute path may name anything.
        assert sample.image.is_file() and sample.mask.is_file()
    return True
