from __future__ import annotations

import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrseg.runtime import CxrsegError, Radiograph, Segmenter, Spacing, read, write
from cxrseg.runtime.core.labels import LABELS
from cxrseg.runtime.files.own_files import is_ours
from cxrseg.runtime.models import DEFAULT_MODEL, default_model

ALL = tuple(label.name for label in LABELS)


def test_lungs_are_found_at_native_size(model_file, chest) -> None:
    pixels = chest(240, 160)
    result = Segmenter(model_file(), "cpu").segment(pixels)
    assert result.mask.shape == (240, 160) and result.mask.dtype == np.uint8
    assert set(np.unique(result.mask)) == {0, 1, 2}
    truth = np.where(pixels < 100, np.where(np.arange(160) < 80, 1, 2), 0)
    assert np.mean(result.mask == truth) > 0.9
    # The patient's right lung stands on the left of the image.
    assert (result.mask[:, :80] != 2).all() and (result.mask[:, 80:] != 1).all()
    assert result.area_px["right_lung"] == np.count_nonzero(result.mask == 1)
    assert result.fraction["left_lung"] == np.count_nonzero(result.mask == 2) / result.mask.size
    assert all(p is not None and 0.5 < p <= 1 for p in result.probability.values())
    assert result.area_mm2 is None and result.flags == ()
    assert set(result.timings) == {"preprocess", "inference", "postprocess"}


def test_file_radiograph_and_array_give_the_same_mask(
    model_file, save_chest, chest, xrays: Path
) -> None:
    segmenter = Segmenter(model_file(), "cpu", threads=1)
    path = save_chest(xrays / "x.png")
    from_file = segmenter.segment(path)
    assert "read" in from_file.timings
    for image in (str(path), read(path), chest(), chest().astype(np.uint16) * 257):
        np.testing.assert_array_equal(segmenter.segment(image).mask, from_file.mask)


def test_spacing_gives_areas_in_mm2(model_file, chest) -> None:
    radiograph = Radiograph(
        chest().astype(np.float32) / 255, Spacing(0.2, 0.5, "PixelSpacing"), {"format": "test"}
    )
    result = Segmenter(model_file(), "cpu").segment(radiograph)
    assert result.area_mm2 is not None
    assert result.area_mm2["right_lung"] == pytest.approx(result.area_px["right_lung"] * 0.1)
    data = json.loads(json.dumps(result.to_dict()))
    assert data["spacing_mm"] == {"row": 0.2, "column": 0.5, "source": "PixelSpacing"}
    assert data["labels"][0]["area_mm2"] == pytest.approx(result.area_mm2["right_lung"])
    assert data["provenance"] == {"format": "test"}


def test_missing_lung_is_flagged(model_file, chest) -> None:
    result = Segmenter(model_file(), "cpu").segment(chest(left_lung=False))
    (flag,) = result.flags
    assert flag.code == "lung_missing" and "left lung" in flag.reason
    assert flag.value < flag.threshold == 0.01
    assert result.probability["left_lung"] is None and result.area_px["left_lung"] == 0


def test_image_without_lungs_is_flagged_once(model_file) -> None:
    bright = np.full((100, 100), 0.9, np.float32)
    bright[0, 0] = 0.89
    result = Segmenter(model_file(), "cpu").segment(bright)
    assert [flag.code for flag in result.flags] == ["no_lung"]
    assert not result.mask.any()


def test_constant_image_is_segmented_without_complaint(model_file) -> None:
    assert Segmenter(model_file(), "cpu").segment(np.zeros((50, 50))).mask.shape == (50, 50)


def test_protocol_picks_its_channels(model_file, chest) -> None:
    path = model_file(labels=("left_lung_whole", "right_lung", "left_lung", "right_lung_whole"))
    for protocol, names in [("fields", ALL[:2]), ("whole", ALL[2:])]:
        segmenter = Segmenter(path, "cpu", protocol=protocol)
        result = segmenter.segment(chest())
        assert tuple(result.area_px) == names
        assert (result.mask[:, :50] != 2).all() and (result.mask[:, 50:] != 1).all()
        assert set(np.unique(result.mask)) == {0, 1, 2}


def test_protocol_that_the_model_lacks_is_refused(model_file) -> None:
    with pytest.raises(CxrsegError, match=r"--protocol whole.*it offers fields"):
        Segmenter(model_file(), "cpu", protocol="whole")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((50, 50, 3)),
        np.zeros((50,)),
        np.zeros((50, 50), complex),
        np.zeros((8, 50)),
        np.zeros((1, 1), np.uint8),
        np.broadcast_to(np.uint8(0), (20_000, 20_000)),
    ],
)
def test_array_that_is_no_image_is_refused(model_file, array: np.ndarray) -> None:
    with pytest.raises(CxrsegError, match="array"):
        Segmenter(model_file(), "cpu").segment(array)


def test_installation_without_a_model_says_so(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cxrseg.runtime.models.shipped.__file__", str(tmp_path / "shipped.py"))
    with pytest.raises(CxrsegError, match="holds no model file"):
        Segmenter()
    (tmp_path / DEFAULT_MODEL).write_bytes(b"x")
    assert default_model() == tmp_path / DEFAULT_MODEL


def test_lungs_png_is_a_palette_image_of_label_values(model_file, save_chest, xrays: Path) -> None:
    path = save_chest(xrays / "x.png", height=333, width=217)
    result = Segmenter(model_file(), "cpu").segment(path)
    outputs = write(result, read(path), path)
    with Image.open(outputs.lungs) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (217, 333))
        np.testing.assert_array_equal(np.asarray(image), result.mask)
        assert image.getpalette()[:9] == [0, 0, 0, *LABELS[0].color, *LABELS[1].color]
    # Bit depth and color type of the header.
    assert outputs.lungs.read_bytes()[24:26] == bytes([8, 3])


def test_overlay_draws_each_lung_in_its_color(model_file, save_chest, xrays: Path) -> None:
    path = save_chest(xrays / "x.png", height=240, width=200)
    result = Segmenter(model_file(), "cpu").segment(path)
    with Image.open(write(result, read(path), path).overlay) as image:
        assert (image.mode, image.size) == ("RGB", (200, 240))
        canvas = np.asarray(image)
    right = (canvas == LABELS[0].color).all(axis=2)
    left = (canvas == LABELS[1].color).all(axis=2)
    assert right[:, :100].any() and not right[:, 104:].any()
    assert left[:, 100:].any() and not left[:, :96].any()
    gray = canvas[~(right | left)]
    assert (gray[:, 0] == gray[:, 1]).all() and (gray[:, 1] == gray[:, 2]).all()


def test_report_tells_what_a_reader_needs(model_file, save_chest, xrays: Path) -> None:
    path = save_chest(xrays / "x.png")
    result = Segmenter(model_file(), "cpu").segment(path)
    report = json.loads(write(result, read(path), path).report.read_text())
    assert report["program"].startswith("cxrseg ")
    assert "Not a diagnostic device" in report["intended_use"]
    assert report["input"] == "x.png" and report["size"] == {"height": 120, "width": 100}
    assert [label["value"] for label in report["labels"]] == [1, 2]
    assert report["labels"][0]["title"] == "right lung"
    assert report["model"]["name"] == "tiny" and len(report["model"]["sha256"]) == 64
    assert report["provider"] == "CPUExecutionProvider"
    assert report["spacing_mm"] is None
    assert set(report["timings_ms"]) == {"read", "preprocess", "inference", "postprocess"}


def test_all_outputs_are_recognized_as_ours(model_file, save_chest, xrays: Path) -> None:
    path = save_chest(xrays / "x.png")
    outputs = write(Segmenter(model_file(), "cpu").segment(path), read(path), path)
    assert all(is_ours(output) for output in outputs)
    assert not is_ours(path) and not is_ours(xrays / "none")


def test_output_beyond_the_old_16_bit_sides(model_file) -> None:
    long = np.zeros((40_000, 32), np.uint8)
    long[10_000:30_000] = 255
    assert Segmenter(model_file(), "cpu").segment(long).mask.shape == (40_000, 32)


def test_pickled_segmenter_loads_the_model_once(model_file, chest) -> None:
    segmenter = Segmenter(model_file(), "cpu", 1)
    data = pickle.dumps(segmenter)
    assert len(data) < 1000  # the path, not the model
    other = pickle.loads(data)
    assert other is not segmenter and pickle.loads(data) is other
    pixels = chest()
    np.testing.assert_array_equal(other.segment(pixels).mask, segmenter.segment(pixels).mask)


def test_pickled_segmenter_refuses_another_model(model_file) -> None:
    path = model_file()
    data = pickle.dumps(Segmenter(path, "cpu", 1))
    path.write_bytes(model_file("other.onnx", labels=ALL).read_bytes())
    with pytest.raises(CxrsegError, match="is not the model file that the segmenter was made from"):
        pickle.loads(data)


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(CxrsegError("x", "is bad", "mend it")))
    assert (error.subject, error.cause, error.remedy) == ("x", "is bad", "mend it")
    assert str(error) == "x: is bad; mend it"


@pytest.mark.parametrize(("provider", "together"), [("CPUExecutionProvider", 2), ("Other", 1)])
def test_an_accelerator_does_one_image_at_a_time(
    model_file, chest, monkeypatch, provider: str, together: int
) -> None:
    from cxrseg.runtime.inference import loading as module

    loaded = module.load_model(model_file(), "cpu", 1)
    barrier, most, inside = threading.Barrier(2), [0], []

    class Session:
        def run(self, *args: object) -> object:
            inside.append(1)
            most[0] = max(most[0], len(inside))
            if together == 2:
                barrier.wait(30)
                most[0] = 2
            else:
                time.sleep(0.05)
            inside.pop()
            return loaded.session.run(*args)

    fake = replace(loaded, session=Session(), provider=provider)
    monkeypatch.setattr(module.Loading, "model", lambda loading: fake)
    segmenter = Segmenter(model_file())
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(segmenter.segment, [chest()] * 2)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert most == [together]
