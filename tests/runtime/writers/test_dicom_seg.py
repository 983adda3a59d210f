from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import uid

from cxrseg.runtime.writers.dicom_source import SOP_CLASSES
from helpers.dicom.dicom_outputs import Write, mask_png
from helpers.dicom.patient import CR, DX, INSTANCE, SC
from helpers.drawing.phantoms import blocks

hd = pytest.importorskip("highdicom", reason="needs the extra dicom")

# Some of these files are made wrong on purpose, which pydicom warns of while writing.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("sop_class", SOP_CLASSES)
def test_segmentation_equals_the_mask(write: Write, xrays: Path, sop_class: str) -> None:
    modality = {CR: "CR", DX: "DX"}.get(uid.UID(sop_class), "OT")
    write(SOPClassUID=sop_class, Modality=modality)
    seg = hd.seg.segread(xrays / "x_lungs.dcm")
    truth = mask_png(xrays)
    assert truth.shape == (121, 99) and set(np.unique(truth)) == {0, 1, 2}
    np.testing.assert_array_equal(seg.pixel_array, np.stack([truth == 1, truth == 2]))
    labels = seg.get_pixels_by_source_instance([INSTANCE], combine_segments=True)
    np.testing.assert_array_equal(labels[0], truth)
    assert seg.segmentation_type is hd.seg.SegmentationTypeValues.BINARY
    assert seg.BitsAllocated == 1 and "FrameOfReferenceUID" not in seg
    assert "PixelMeasuresSequence" not in seg.SharedFunctionalGroupsSequence[0]


def test_segments_are_coded(write: Write, xrays: Path) -> None:
    seg, _ = write()
    report = json.loads((xrays / "x.json").read_text())
    sides = []
    for number, segment in enumerate(seg.SegmentSequence, start=1):
        assert segment.SegmentNumber == number and segment.SegmentAlgorithmType == "AUTOMATIC"
        (category,) = segment.SegmentedPropertyCategoryCodeSequence
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        (side,) = kind.SegmentedPropertyTypeModifierCodeSequence
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert (category.CodeValue, category.CodingSchemeDesignator) == ("91723000", "SCT")
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("39607008", "SCT")
        assert algorithm.AlgorithmName == "cxrseg tiny" and "9.9" in algorithm.AlgorithmVersion
        assert report["model"]["sha256"] in algorithm.AlgorithmParameters
        sides.append((segment.SegmentLabel, side.CodeValue))
    assert sides == [("right lung", "24028007"), ("left lung", "7771000")]


def test_overlay_is_the_picture(write: Write, xrays: Path) -> None:
    _, sc = write()
    np.testing.assert_array_equal(
        sc.pixel_array, np.asarray(Image.open(xrays / "x_overlay.png").convert("RGB"))
    )
    assert sc.PhotometricInterpretation == "RGB" and sc.BurnedInAnnotation == "NO"
    assert "Not a diagnostic device" in sc.ImageComments
    assert "cxrseg" in sc.DerivationDescription
    assert sc.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


def test_turned_image_keeps_its_layout(write: Write, xrays: Path) -> None:
    turned = np.ascontiguousarray(blocks(121, 99).T)
    seg, sc = write(pixels=turned, PatientOrientation=["F", "L"])
    assert (seg.Rows, seg.Columns) == (sc.Rows, sc.Columns) == turned.shape
    truth = mask_png(xrays)
    np.testing.assert_array_equal(seg.pixel_array, np.stack([truth == 1, truth == 2]))
    assert list(seg.PatientOrientation) == ["F", "L"]


def test_empty_lung_has_its_frame(write: Write) -> None:
    seg, _ = write(pixels=blocks(121, 99, left_lung=False))
    assert seg.NumberOfFrames == 2
    assert seg.pixel_array[0].any() and not seg.pixel_array[1].any()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dicom3tools")
@pytest.mark.parametrize("options", [[], ["--deidentify"]])
@pytest.mark.parametrize("oriented", [True, False])
@pytest.mark.parametrize("sop_class", [CR, DX, SC])
def test_validator_finds_no_error(write: Write, xrays, options, oriented, sop_class) -> None:
    modality = {CR: "CR", DX: "DX", SC: "OT"}[uid.UID(sop_class)]
    lies = ["L", "F"] if oriented else None
    write(*options, SOPClassUID=sop_class, Modality=modality, PatientOrientation=lies)
    for name in ("x_lungs.dcm", "x_overlay.dcm"):
        done = subprocess.run(["dciodvfy", str(xrays / name)], capture_output=True, text=True)
        lines = (done.stdout + done.stderr).splitlines()
        assert not [line for line in lines if line.startswith("Error")]
        assert not [line for line in lines if "not present in standard" in line]


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="needs dcmtk")
def test_dcmtk_reads_the_files(write: Write, xrays: Path) -> None:
    write()
    for name, kind in (
        ("x_lungs.dcm", "SegmentationStorage"),
        ("x_overlay.dcm", "SecondaryCapture"),
    ):
        done = subprocess.run(["dcmdump", str(xrays / name)], capture_output=True, text=True)
        assert done.returncode == 0 and kind in done.stdout
        assert not [line for line in done.stderr.splitlines() if line[:2] in ("E:", "F:", "W:")]
