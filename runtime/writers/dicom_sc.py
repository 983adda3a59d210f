"""The overlay as DICOM Secondary Capture."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from cxrseg.runtime.core.model_card import INTENDED_USE
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.own_files import MARK
from cxrseg.runtime.writers.dicom_derived import (
    NOT_FOR_DIAGNOSIS,
    finish,
    identity,
    instance_reference,
    reference_dataset,
)
from cxrseg.runtime.writers.dicom_source import Origin

SERIES_NUMBER = 9002
"""Series Number of the overlay, above those that a modality gives."""


def overlay_dcm(segmentation: Segmentation, picture: NDArray[np.uint8], origin: Origin) -> bytes:
    """Return a picture as DICOM Secondary Capture (PS3.3 A.8.1), derived from the X-ray.

    Args:
        segmentation: What the picture shows.
        picture: uint8 [H, W, 3], RGB, laid as the X-ray is stored.
        origin: The X-ray. What it says of burned-in annotation is passed on: cxrseg adds none and
            looks for none.

    Returns:
        The file, explicit little endian, uncompressed.
    """
    dataset = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=reference_dataset(segmentation, origin),
        pixel_array=picture,
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        # highdicom demands an orientation; in the end the X-ray's own stands there.
        patient_orientation=("L", "F"),
        series_number=SERIES_NUMBER,
        series_description=f"{MARK} overlay of lungs, {NOT_FOR_DIAGNOSIS}",
        **identity(segmentation, origin, "sc"),
    )
    for element in origin.pixels:
        dataset.add(element)
    # Both lungs: of a paired organ, no side is empty (PS3.3 C.7.3.1).
    dataset.Laterality = ""
    dataset.ImageComments = INTENDED_USE
    dataset.DerivationDescription = (
        f"Outlines of the lungs by {MARK} {package_version()},"
        f" model {segmentation.model} {segmentation.model_version}"
    )
    dataset.DerivationCodeSequence = [CodedConcept.from_code(codes.DCM.SegmentationImageDerivation)]
    source = instance_reference(origin)
    source.PurposeOfReferenceCodeSequence = [
        CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    dataset.SourceImageSequence = [source]
    series = Dataset()
    series.SeriesInstanceUID = origin.series
    series.ReferencedInstanceSequence = [instance_reference(origin)]
    dataset.ReferencedSeriesSequence = [series]
    return finish(dataset, origin)
