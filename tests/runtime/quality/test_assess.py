from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cxrseg.runtime import Radiograph, Segmenter
from cxrseg.runtime.core.flags import Flag
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol, labels_of
from cxrseg.runtime.core.orientation import Orientation
from cxrseg.runtime.models import default_model
from cxrseg.runtime.quality import assess as quality
from cxrseg.runtime.quality import features as measures
from cxrseg.runtime.quality import reference as quality_norms
from cxrseg.runtime.quality.rules import RULES, Rule, judge, limits
from cxrseg.runtime.readers import read
from helpers import phantoms
from helpers.paths import DATA, REPO

FIELDS = labels_of("fields")
WELL = {"right_lung": 0.14, "left_lung": 0.13}
EXAMPLE = REPO / "examples/phantom.png"
REAL = DATA

real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")

Pixels = NDArray[np.float32]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(device="cpu", threads=1)


def drawn(seed: int) -> Pixels:
    return np.asarray(phantoms.draw(seed, 320).image / 255, np.float32)


def codes(flags: tuple[Flag, ...]) -> list[str]:
    return [flag.code for flag in flags]


def logits_of(mask: NDArray[np.uint8], height: float = 8) -> NDArray[np.float32]:
    """Return sharp logits [2, h, w] of a label mask."""
    return np.stack([np.where(mask == value, height, -height) for value in (1, 2)]).astype("f4")


def assessed(pixels: Pixels, mask: NDArray[np.uint8], **options: object) -> list[str]:
    shares = {x.name: float(np.mean(mask == x.value)) for x in FIELDS}
    return codes(quality.assess(pixels, logits_of(mask), FIELDS, shares, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(12))
def test_phantoms_are_not_flagged(segmenter: Segmenter, seed: int) -> None:
    assert codes(segmenter.segment(drawn(seed)).flags) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_example_is_not_flagged(protocol: str) -> None:
    result = Segmenter(device="cpu", threads=1, protocol=protocol).segment(EXAMPLE)  # type: ignore[arg-type]
    assert result.flags == ()


CHANGES: list[tuple[str, Callable[[Pixels], Pixels], list[str]]] = [
    ("inverted", lambda x: 1 - x, ["inverted"]),
    ("upside down", lambda x: x[::-1, ::-1], ["upside_down"]),
    ("left turn", np.rot90, ["rotated"]),
    ("right turn", lambda x: np.rot90(x, 3), ["rotated"]),
    (
        "cut",
        lambda x: x[:, int(0.35 * x.shape[1]) :],
        ["cropped", "lung_missing", "implausible_shape", "not_chest"],
    ),
    ("noise", lambda x: np.random.default_rng(1).random(x.shape, np.float32), ["not_chest"]),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("change", "expected"), [x[1:] for x in CHANGES], ids=[x[0] for x in CHANGES]
)
def test_what_should_be_flagged(
    segmenter: Segmenter, change: Callable[[Pixels], Pixels], expected: list[str], seed: int
) -> None:
    result = segmenter.segment(np.ascontiguousarray(change(drawn(seed))))
    found = codes(result.flags)
    assert found[0] in expected
    for flag in result.flags:
        assert flag.reason[0].islower() and not flag.reason.endswith(".")
    json.dumps(result.to_dict(), allow_nan=False)


def test_blank_image_is_flagged(segmenter: Segmenter) -> None:
    for gray in (0.0, 0.5, 1.0):
        result = segmenter.segment(Radiograph(np.full((300, 300), gray, np.float32)))
        assert codes(result.flags) in (["no_lung"], ["not_chest"])


def test_image_that_its_file_tells_to_be_turned_is_fine(segmenter: Segmenter) -> None:
    turned = Radiograph(np.ascontiguousarray(drawn(0).T), orientation=Orientation("F", "L"))
    assert segmenter.segment(turned).flags == ()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mirrored_chest_is_told(protocol: Protocol) -> None:
    segmenter = Segmenter(device="cpu", threads=1, protocol=protocol)
    found = [codes(segmenter.segment(drawn(seed)[:, ::-1]).flags) for seed in range(8)]
    assert sum("mirrored" in each for each in found) >= 2, found


@real_data
def test_real_lateral_views_are_flagged(segmenter: Segmenter) -> None:
    views = sorted((REAL / "not_frontal/lateral").iterdir())
    missed = [view.name for view in views if not segmenter.segment(view).flags]
    assert len(views) > 20 and len(missed) <= 0.05 * len(views), missed


@real_data
@pytest.mark.parametrize("source", ["shenzhen", "covidradio_viral"])
def test_real_chests_are_flagged_when_mirrored(segmenter: Segmenter, source: str) -> None:
    with (REAL / "pairs.csv").open(newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if (row["source"], row["split"]) == (source, "val")
        ]
    images = [read(REAL / row["image"]) for row in rows[:: len(rows) // 10]]
    flagged = [codes(segmenter.segment(image).flags) for image in images]
    assert sum(map(bool, flagged)) <= 1, flagged
    mirrored = [replace(x, pixels=np.ascontiguousarray(x.pixels[:, ::-1])) for x in images]
    found = [codes(segmenter.segment(image).flags) for image in mirrored]
    assert sum("mirrored" in each for each in found) >= 0.6 * len(images), found


def test_mirror_image_has_the_asymmetry_with_the_other_sign() -> None:
    phantom = phantoms.draw(4, 320)
    cells = measures.thumbnail(np.asarray(phantom.image / 255, np.float32))
    lungs = measures.shape(phantoms.draw(4, measures.GRID).mask)
    assert cells is not None and lungs is not None
    there = measures.asymmetry(cells, [lungs, lungs])
    back = measures.asymmetry(np.fliplr(cells), [measures.mirrored_shape(lungs)] * 2)
    np.testing.assert_allclose(back, -there, atol=1e-9)
    assert np.abs(there).max() > 0.01


def test_cause_is_told_once() -> None:
    phantom = phantoms.draw(0, 320)
    inverted = np.asarray(1 - phantom.image / 255, np.float32)
    assert assessed(inverted, phantom.mask) == ["inverted"]
    lies = Flag("photometric_lies", "said by the reader")
    assert assessed(inverted, phantom.mask, known=[lies]) == []
    noise = np.random.default_rng(0).random((320, 320), np.float32)
    assert assessed(noise, phantom.mask) == ["not_chest"]
    assert assessed(noise, phantom.mask, known=[Flag("not_frontal_view", "said")]) == []


def test_missing_lungs() -> None:
    phantom = phantoms.draw(0, 320)
    pixels = np.asarray(phantom.image / 255, np.float32)
    one = np.where(phantom.mask == 2, 0, phantom.mask).astype(np.uint8)
    assert assessed(pixels, one) == ["lung_missing"]
    assert assessed(pixels, np.zeros_like(one)) == ["no_lung"]


def test_strange_outlines() -> None:
    phantom = phantoms.draw(3, 320)
    pixels = np.asarray(phantom.image / 255, np.float32)
    rows = np.arange(320)[:, None]
    # The upper seventh of both lungs.
    tips = np.where(rows < 90, phantom.mask, 0).astype(np.uint8)
    assert assessed(pixels, tips)[0] in ("implausible_shape", "not_chest")
    squares = np.zeros_like(phantom.mask)
    squares[100:150, 60:110], squares[100:150, 230:260] = 1, 2
    squares[220:260, 60:110] = 1
    assert assessed(pixels, squares)


def test_pieces() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 10:20], mask[40:50, 10:20], mask[10:50, 40:50] = 1, 1, 2
    (flag,) = quality._fragmented(mask, FIELDS)
    assert flag.code == "fragmented" and "right lung" in flag.reason
    assert flag.value == pytest.approx(1 / 3) and flag.threshold == RULES["fragmented"].limit


def test_unsure_outlines() -> None:
    phantom = phantoms.draw(0, 320)
    pixels = np.asarray(phantom.image / 255, np.float32)
    shy = quality.assess(pixels, logits_of(phantom.mask, 1), FIELDS, WELL)
    assert codes(shy) == ["low_confidence"]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda x: np.round(x * 10) / 255, "low_contrast"),
        (lambda x: np.clip(3 * x - 1.8, 0, 1), "saturated"),
        (lambda x: np.clip(3 * x, 0, 1), "saturated"),
    ],
)
def test_spoiled_gray_values(spoil: Callable[[Pixels], Pixels], code: str) -> None:
    phantom = phantoms.draw(1, 320)
    pixels = np.asarray(spoil(phantom.image / 255), np.float32)
    assert code in assessed(pixels, phantom.mask)


def test_dark_file_of_many_gray_levels_is_fine() -> None:
    phantom = phantoms.draw(1, 320)
    twelve_bits = np.asarray(phantom.image / 255 * 4095 / 65535, np.float32)
    assert assessed(twelve_bits, phantom.mask) == []


def test_tiny_image() -> None:
    phantom = phantoms.draw(0, 320)
    small = np.asarray(phantoms.draw(0, (80, 90)).image / 255, np.float32)
    assert assessed(small, phantom.mask) == ["tiny"]


def test_mirrored_shape_is_the_shape_of_the_mirrored_mask() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:50, 8:24], mask[12:40, 38:58], mask[12:20, 38:45] = 1, 2, 0
    swapped = np.array([0, 2, 1], np.uint8)[mask][:, ::-1].copy()
    there = measures.shape(mask)
    assert there is not None
    np.testing.assert_allclose(measures.mirrored_shape(there), measures.shape(swapped), atol=1e-9)
    assert measures.shape(np.zeros((64, 64), np.uint8)) is None


def test_thumbnail_ignores_gray_scale_and_border() -> None:
    pixels = drawn(2)
    plain = measures.thumbnail(pixels)
    assert plain is not None and plain.shape == (measures.CELLS, measures.CELLS)
    assert plain.mean() == pytest.approx(0, abs=1e-6) and plain.std() == pytest.approx(1, abs=1e-6)
    framed = measures.thumbnail(np.pad(0.2 + 0.5 * pixels, 60))
    assert framed is not None and np.abs(framed - plain).max() < 0.6
    assert measures.thumbnail(np.zeros((50, 50), np.float32)) is None


def test_broad_outlines_make_an_image_stranger() -> None:
    phantom = phantoms.draw(0, 320)
    cells = measures.thumbnail(np.asarray(phantom.image / 255, np.float32))
    lungs = measures.shape(phantoms.draw(0, measures.GRID).mask)
    assert cells is not None and lungs is not None
    look, normal = quality.usual("look"), quality.usual("fields")
    sharp, plain, broad, broadest = (
        measures.oddity(cells, lungs, band, look, normal) for band in (0.5, 1.0, 2.0, 100.0)
    )
    distances = float(look.distance(cells.ravel())), float(normal.distance(lungs))
    assert sharp.strange == plain.strange == pytest.approx(np.hypot(*distances))
    assert broad.strange == pytest.approx(plain.strange * 2**0.5)
    assert broadest.strange == pytest.approx(plain.strange * measures.BROADEST**0.5)
    assert broad.shape == plain.shape == pytest.approx(distances[1])


def test_lungs_cut_off_by_the_border() -> None:
    mask = np.zeros((measures.GRID, measures.GRID), np.uint8)
    mask[30:, 10:26], mask[20:52, 60:] = 1, 2
    assert measures.cut_off(mask) == {"upper": 0, "lower": 16 / 64, "left": 0, "right": 0.5}
    assert [quality.cut_rule(side) for side in ("upper", "right")] == [
        "cropped_upper",
        "cropped_side",
    ]


def test_normal_survives_its_text() -> None:
    rng = np.random.default_rng(0)
    normal = measures.Normal(rng.normal(size=5), np.triu(rng.uniform(1, 2, (5, 5))))
    again = measures.Normal.from_text(normal.to_text())
    points = rng.normal(size=(7, 5))
    np.testing.assert_allclose(again.distance(points), normal.distance(points), rtol=1e-2)
    inverse = np.linalg.inv(normal.root.T @ normal.root)
    np.testing.assert_allclose(normal.spreads(), np.sqrt(np.diag(inverse)))


def test_table_is_whole() -> None:
    assert set(quality_norms.NORMALS) == {"look", *PROTOCOLS}
    assert set(quality_norms.USUAL_UNCERTAINTY) == set(PROTOCOLS)
    assert set(quality_norms.LIMITS) == set(PROTOCOLS)
    fitted = {name for name, rule in RULES.items() if rule.fitted}
    assert all({*named} == fitted for named in quality_norms.LIMITS.values())
    assert limits("other") == {name: rule.limit for name, rule in RULES.items()}
    for protocol in PROTOCOLS:
        assert all(limits(protocol)[name] >= RULES[name].limit for name in fitted)
    assert {*quality_norms.MIRROR} == {*PROTOCOLS, " ".join(PROTOCOLS)}
    assert quality.usual("look").mean.size == measures.CELLS**2
    assert all(quality.usual(protocol).mean.size == 12 for protocol in PROTOCOLS)


def save(pixels: Pixels, path: Path) -> Path:
    Image.fromarray((255 * pixels).astype(np.uint8)).save(path)
    return path


def test_norms_were_fitted_to_the_model_that_ships() -> None:
    model = hashlib.sha256(default_model().read_bytes()).hexdigest()
    assert model == quality_norms.MODEL, "run cxrseg-bench quality-fit, see its --help"


@pytest.mark.parametrize(("name", "rule"), RULES.items())
def test_rule_holds_on_one_side_of_its_limit(name: str, rule: Rule) -> None:
    words = dict.fromkeys(("lung", "side", "part", "what"), "x")
    beyond = rule.limit + (-0.001 if rule.below else 0.001)
    assert not judge(name, rule.limit, **words)
    assert not judge(name, rule.limit - (beyond - rule.limit), **words)
    (flag,) = judge(name, beyond, **words)
    assert (flag.code, flag.value, flag.threshold) == (rule.code, beyond, rule.limit)
    assert "{" not in flag.reason
    assert judge(name, beyond, beyond, **words) == []


def test_strict_run_withholds_what_is_flagged(run_cxrseg, xrays: Path) -> None:
    good, bad = save(drawn(0), xrays / "a.png"), save(drawn(0)[::-1], xrays / "b.png")
    result = run_cxrseg("--strict", "--device", "cpu", bad, good)
    assert result.code == 3 and not result.errors
    refused, done = result.out.splitlines()
    assert "-> nothing, --strict [flag: the image seems to be upside down]" in refused
    assert "a_lungs.png" in done and "[flag" not in done
    names = {path.name for path in xrays.iterdir()}
    assert names == {"a.png", "b.png", "a_lungs.png", "a_overlay.png", "a.json"}


def test_strict_run_without_flags_ends_well(run_cxrseg, xrays: Path) -> None:
    assert run_cxrseg("--strict", save(drawn(0), xrays / "a.png")).code == 0


def test_failure_outweighs_a_flag(run_cxrseg, xrays: Path) -> None:
    bad = save(drawn(0)[::-1], xrays / "b.png")
    (xrays / "c.png").write_bytes(b"no image")
    assert run_cxrseg("--strict", xrays / "c.png", bad).code == 1
    assert run_cxrseg("--strict", bad, xrays / "c.png").code == 1


def test_run_that_is_not_strict_writes_and_tells(run_cxrseg, xrays: Path) -> None:
    result = run_cxrseg(save(drawn(0)[::-1], xrays / "b.png"))
    assert result.code == 0 and "[flag: the image seems to be upside down]" in result.out
    (flag,) = json.loads((xrays / "b.json").read_text())["flags"]
    assert flag["code"] == "upside_down" and flag["value"] > flag["threshold"]
