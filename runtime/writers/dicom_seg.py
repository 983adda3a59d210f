"""The lungs as DICOM Segmentation."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.sr.coding import CodedConcept
from pydicom.sr.codedict import codes

from cxrseg.runtime.core.labels import Label
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.own_files import MARK
from cxrseg.runtime.writers.dicom_derived import (
    NOT_FOR_DIAGNOSIS,
    finish,
    identity,
    reference_dataset,
    result_uid,
)
from cxrseg.runtime.writers.dicom_source import Origin

SERIES_NUMBER = 9001
"""Series Number of the segmentation, above those that a modality gives."""


def lungs_dcm(segmentation: Segmentation, origin: Origin) -> bytes:
    """Return the mask as DICOM Segmentation (PS3.3 A.51), one BINARY frame per lung.

    A segment is the lung (SCT 39607008, CID 7151) with its side as modifier (CID 244), of the
    category anatomical structure (SCT 91723000, CID 7150). Frames have the rows and columns of the
    X-ray, one per segment even where it is empty. A projection has no place in a patient's space,
    so no position, orientation or spacing is given: the X-ray that it refers to has what is known.

    Args:
        segmentation: The result; its mask is laid as the X-ray is stored.
        origin: The X-ray; UIDs and identity are taken from it as they are.

    Returns:
        The file, explicit little endian.
    """
    masks = np.stack([segmentation.mask == label.value for label in segmentation.labels], axis=-1)
    name = f"{MARK} lungs, {NOT_FOR_DIAGNOSIS}"
    dataset = hd.seg.Segmentation(
        source_images=[reference_dataset(segmentation, origin)],
        pixel_array=masks[None],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _segment(number, label, segmentation)
            for number, label in enumerate(segmentation.labels, start=1)
        ],
        series_number=SERIES_NUMBER,
        device_serial_number=segmentation.model_sha256,
        content_label="LUNGS",
        content_description=f"Lungs outlined by {MARK}, {NOT_FOR_DIAGNOSIS}",
        series_description=name,
        **identity(segmentation, origin, "seg"),
        omit_empty_frames=False,
    )
    organization = result_uid(segmentation, origin, "seg", "dimensions")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return finish(dataset, origin)


def _segment(number: int, label: Label, segmentation: Segmentation) -> hd.seg.SegmentDescription:
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"{label.side} lung",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Lung,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=f"{MARK} {segmentation.model}",
            family=codes.DCM.ArtificialIntelligence,
            version=f"{package_version()} (model {segmentation.model_version})",
            source=MARK,
            parameters={
                "model_sha256": segmentation.model_sha256,
                "protocol": label.protocol,
            },
        ),
        display_color=CIELabColor.from_rgb(*label.color),
    )
    side = codes.SCT.Right if label.side == "right" else codes.SCT.Left
    (kind,) = segment.SegmentedPropertyTypeCodeSequence
    kind.SegmentedPropertyTypeModifierCodeSequence = [CodedConcept.from_code(side)]
    segment.SegmentDescription = f"{label.title}, {NOT_FOR_DIAGNOSIS}"
    return segment
