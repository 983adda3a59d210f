from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cxrseg.benchmarks.accuracy.scoring import (
    Agreement,
    Reference,
    Score,
    agreement,
    compare,
    pixel_pitch,
    read_reference,
)
from cxrseg.benchmarks.accuracy.summary import MEASURES, summaries, summarize, worst
from cxrseg.benchmarks.accuracy.tables import (
    image_row,
    lungs_table,
    sides_table,
    union_table,
    worst_table,
)
from cxrseg.benchmarks.harness.samples import Sample
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Side, labels_of
from cxrseg.runtime.core.radiograph import Radiograph, Spacing
from cxrseg.runtime.core.segmentation import Segmentation

SHAPE = (64, 64)
XRAY = Radiograph(np.zeros(SHAPE, np.float32))
SAMPLE = Sample("x.png", Path("x.png"), Path("m.png"), "p", {})


def lungs(right: int = 1, left: int = 2) -> NDArray[np.uint8]:
    """Return two blocks of these values, the first further left in the image."""
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[10:50, 8:26] = right
    drawn[10:50, 38:56] = left
    return drawn


def segmentation(mask: NDArray[np.uint8], spacing: Spacing | None = None) -> Segmentation:
    labels = labels_of("fields")
    return Segmentation(
        mask=mask,
        labels=labels,
        probability={label.name: None for label in labels},
        area_px={label.name: 0 for label in labels},
        area_mm2=None,
        flags=(),
        model="m",
        model_version="1",
        model_sha256="0",
        provider="CPU",
        spacing=spacing,
    )


def reference(mask: NDArray[np.uint8]) -> Reference:
    return Reference(mask != 0, {"right": mask == 1, "left": mask == 2})


def write(path: Path, mask: NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask.astype(np.uint8))
    return path


def test_sides_of_a_label_map(tmp_path: Path) -> None:
    # Sides that contradict the places: what the file says counts.
    path = write(tmp_path / "masks/a.png", lungs(2, 1))
    read = read_reference(path, XRAY)
    assert (read.lungs["right"] == (lungs(2, 1) == 1)).all()
    assert (read.union == (lungs() != 0)).all()


def test_sides_of_two_parts(tmp_path: Path) -> None:
    read = read_reference(write(tmp_path / "masks/a.png", lungs(255, 255)), XRAY)
    for value, side in ((1, "right"), (2, "left")):
        assert (read.lungs[side] == (lungs() == value)).all()  # type: ignore[index]


def joined() -> NDArray[np.uint8]:
    mask = lungs(255, 255)
    mask[20:24, 26:38] = 255
    return mask


def test_sides_of_files_in_sibling_folders(tmp_path: Path) -> None:
    path = write(tmp_path / "masks/a.png", joined())
    assert not read_reference(path, XRAY).lungs
    write(tmp_path / "masks_right/a.png", lungs(255, 0))
    assert not read_reference(path, XRAY).lungs, "one side alone is none"
    write(tmp_path / "masks_left/a.png", lungs(0, 255))
    read = read_reference(path, XRAY)
    assert (read.lungs["right"] == (lungs() == 1)).all()
    assert (read.lungs["left"] == (lungs() == 2)).all()
    assert (read.union == (joined() != 0)).all()


def test_sided_file_of_another_size(tmp_path: Path) -> None:
    path = write(tmp_path / "masks/a.png", joined())
    write(tmp_path / "masks_right/a.png", lungs(255, 0)[:32])
    write(tmp_path / "masks_left/a.png", lungs(0, 255))
    with pytest.raises(CxrsegError, match=r"masks_right.a\.png"):
        read_reference(path, XRAY)


def test_perfect() -> None:
    score = compare(segmentation(lungs()), reference(lungs()), SAMPLE, "g")
    perfect = Agreement(1, 1, 1, 0, 0)
    assert score == Score(
        "x.png", "p", "g", perfect, {"right": perfect, "left": perfect}, False, (), ()
    )


def test_swapped_lungs() -> None:
    score = compare(segmentation(lungs(2, 1)), reference(lungs()), SAMPLE)
    assert score.swapped
    assert score.missing == (), "they were found, on the wrong side"
    assert score.union.dice == 1
    assert score.lungs["right"].dice == 0


@pytest.mark.parametrize(
    ("predicted", "missing"),
    [((0, 2), ("right",)), ((1, 0), ("left",)), ((0, 0), ("right", "left")), ((1, 1), ("left",))],
)
def test_missing_lungs(predicted: tuple[int, int], missing: tuple[Side, ...]) -> None:
    score = compare(segmentation(lungs(*predicted)), reference(lungs()), SAMPLE)
    assert score.missing == missing
    assert not score.swapped


def test_crumb_of_a_lung_is_missing_and_half_of_it_is_not() -> None:
    mask = lungs(1, 0)
    mask[10:11, 38:50] = 2
    assert compare(segmentation(mask), reference(lungs()), SAMPLE).missing == ("left",)
    mask[10:30, 38:56] = 2
    assert compare(segmentation(mask), reference(lungs()), SAMPLE).missing == ()


def test_lung_that_the_reference_lacks_is_not_missing() -> None:
    score = compare(segmentation(lungs(1, 0)), reference(lungs(1, 0)), SAMPLE)
    assert score.missing == ()
    assert score.lungs["left"] == Agreement(1, 1, 1, 0, 0)


def test_reference_without_sides() -> None:
    score = compare(segmentation(lungs(2, 1)), Reference(lungs() != 0, {}), SAMPLE)
    assert (score.lungs, score.swapped, score.missing) == ({}, False, ())


def test_tolerance_grows_with_the_image() -> None:
    for side in (256, 512):
        pixels = 2 * side // 256
        truth = np.zeros((side // 2, side), np.bool_)
        truth[20:60, 20:60] = True
        assert agreement(np.roll(truth, pixels, 1), truth).nsd == 1
        assert agreement(np.roll(truth, pixels + 1, 1), truth).nsd < 1


def test_millimeters() -> None:
    spacing = Spacing(0.2, 0.2, "test")
    truth = lungs()
    score = compare(segmentation(np.roll(truth, 5, 0), spacing), reference(truth), SAMPLE)
    assert score.union.hd95_px == 5
    assert score.union.hd95_mm == pytest.approx(1.0)
    assert score.lungs["left"].assd_mm == pytest.approx(score.lungs["left"].assd_px / 5)


def test_pixel_pitch() -> None:
    assert pixel_pitch(None) is None
    assert pixel_pitch(Spacing(0.2, 0.2, "test")) == 0.2
    assert pixel_pitch(Spacing(0.2, 0.3, "test")) is None, "a pixel has no one size"


def scores(*values: float, group: str = "g") -> list[Score]:
    return [
        Score(f"i{n}", f"p{n}", group, Agreement(v, v / 2, v, 9, 3), {}, False, (), ())
        for n, v in enumerate(values)
    ]


def test_one_image() -> None:
    (score,) = scores(0.8)
    summary = summarize([score])
    overlap = summary.union["dice"]
    assert overlap is not None
    assert overlap.mean == overlap.median == overlap.p5 == overlap.p95 == 0.8
    assert overlap.sd == 0
    assert overlap.ci95 is None
    assert tuple(summary.union) == MEASURES
    assert summary.union["hd95_mm"] is None
    assert summary.sided == 0
    assert summary.lungs == {}


def test_worst_come_first() -> None:
    assert worst(scores(0.9, 0.1, 0.5), 2) == [1, 2]
    assert len(worst(scores(*np.linspace(0, 1, 30)))) == 10


def test_groups_end_with_all() -> None:
    assert list(summaries(scores(0.5, 0.6), "source")) == ["source g", "all"]
    assert list(summaries(scores(0.5, 0.6), None)) == ["all"]


masks = st.builds(lungs, st.integers(0, 2), st.integers(0, 2))


@given(st.lists(st.tuples(masks, masks, st.booleans()), min_size=1, max_size=4))
def test_any_masks_give_finite_figures_and_tables(
    drawn: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8], bool]],
) -> None:
    all_scores = [
        compare(
            segmentation(found), reference(truth) if sided else Reference(truth != 0, {}), SAMPLE
        )
        for found, truth, sided in drawn
    ]
    figures = summaries(all_scores, None)
    json.dumps([image_row(score, None) for score in all_scores], allow_nan=False)
    json.dumps([summary.to_dict() for summary in figures.values()], allow_nan=False)
    for table in (
        union_table(figures),
        lungs_table(figures),
        worst_table(all_scores),
        sides_table(all_scores),
    ):
        assert "nan" not in table.to_text()
        assert "inf" not in table.to_text()
