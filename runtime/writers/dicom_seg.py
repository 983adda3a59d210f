"""DICOM outputs: the lungs as a Segmentation, the overlay as a Secondary Capture.

Both join the study of the X-ray as new series, refer to it and tell that they are not for
diagnosis. Their UIDs come from the X-ray's UID, the model's hash, the protocol and the version of
cxrseg: a run again replaces the former result in an archive, another model's stands beside it.
"""

from __future__ import annotations

import io
import warnings

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from cxrseg.runtime.core.labels import Label
from cxrseg.runtime.core.model_card import INTENDED_USE
from cxrseg.runtime.core.own_files import MARK
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.writers.dicom_source import Origin, derived_uid

SEG_SERIES = 9001
"""Series Number of the segmentation, above those that a modality gives."""

SC_SERIES = 9002
"""Series Number of the overlay."""

NOT_FOR_DIAGNOSIS = "not for diagnosis"
"""Part of every Series Description that cxrseg writes."""

_NO_DAY, _NO_TIME = "19000101", "000000"


def lungs_dcm(segmentation: Segmentation, origin: Origin) -> bytes:
    """Return the mask as DICOM Segmentation (PS3.3 A.51), one BINARY frame per lung.

    A segment is the lung (SCT 39607008, CID 7151) with its side as modifier (CID 244), of the
    category anatomical structure (SCT 91723000, CID 7150). Frames have the rows and columns of the
    X-ray, one per segment even where it is empty. A projection has no place in a patient's space,
    so no position, orientation or spacing is given: the X-ray referred to tells what is known.

    Args:
        segmentation: The result; its mask is laid as the X-ray is stored.
        origin: The X-ray; UIDs and identity are taken from it as they are.

    Returns:
        The file, explicit little endian.
    """
    masks = np.stack([segmentation.mask == label.value for label in segmentation.labels], axis=-1)
    name = f"{MARK} lungs, {NOT_FOR_DIAGNOSIS}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = hd.seg.Segmentation(
            source_images=[_stand_in(segmentation, origin)],
            pixel_array=masks[None],
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _segment(number, label, segmentation)
                for number, label in enumerate(segmentation.labels, start=1)
            ],
            series_instance_uid=_uid(segmentation, origin, "seg", "series"),
            series_number=SEG_SERIES,
            sop_instance_uid=_uid(segmentation, origin, "seg", "instance"),
            instance_number=1,
            manufacturer=MARK,
            manufacturer_model_name=segmentation.model,
            software_versions=package_version(),
            device_serial_number=segmentation.model_sha256,
            content_label="LUNGS",
            content_description=f"Lungs outlined by {MARK}, {NOT_FOR_DIAGNOSIS}",
            series_description=name,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=False,
        )
    organization = _uid(segmentation, origin, "seg", "dimensions")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return _finish(dataset, origin)


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = hd.sc.SCImage.from_ref_dataset(
            ref_dataset=_stand_in(segmentation, origin),
            pixel_array=picture,
            photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
            bits_allocated=8,
            coordinate_system=hd.CoordinateSystemNames.PATIENT,
            # highdicom demands an orientation; in the end the X-ray's own stands there.
            patient_orientation=("L", "F"),
            series_instance_uid=_uid(segmentation, origin, "sc", "series"),
            series_number=SC_SERIES,
            sop_instance_uid=_uid(segmentation, origin, "sc", "instance"),
            instance_number=1,
            manufacturer=MARK,
            manufacturer_model_name=segmentation.model,
            software_versions=package_version(),
            series_description=f"{MARK} overlay of lungs, {NOT_FOR_DIAGNOSIS}",
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
    for element in origin.pixels:
        dataset.add(element)
    # Both lungs: of a paired organ, no side is empty (PS3.3 C.7.3.1).
    dataset.Laterality = ""
    dataset.ImageComments = INTENDED_USE
    dataset.DerivationDescription = f"Outlines of the lungs by {_algorithm(segmentation)}"
    dataset.DerivationCodeSequence = [CodedConcept.from_code(codes.DCM.SegmentationImageDerivation)]
    source = _reference(origin)
    source.PurposeOfReferenceCodeSequence = [
        CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    dataset.SourceImageSequence = [source]
    series = Dataset()
    series.SeriesInstanceUID = origin.series
    series.ReferencedInstanceSequence = [_reference(origin)]
    dataset.ReferencedSeriesSequence = [series]
    return _finish(dataset, origin)


def _uid(segmentation: Segmentation, origin: Origin, kind: str, level: str) -> str:
    """Return the UID of one output; another for what would hold other pixels."""
    return derived_uid(
        origin.sop_instance,
        segmentation.model_sha256,
        segmentation.labels[0].protocol,
        package_version(),
        kind,
        level,
    )


def _stand_in(segmentation: Segmentation, origin: Origin) -> Dataset:
    """Return the X-ray as highdicom is to see it: without anything that it could copy."""
    dataset = Dataset()
    dataset.SOPClassUID = origin.sop_class
    dataset.SOPInstanceUID = origin.sop_instance
    dataset.SeriesInstanceUID = origin.series
    dataset.StudyInstanceUID = origin.study
    dataset.Rows, dataset.Columns = segmentation.mask.shape
    for keyword in ("PatientID", "PatientName", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(dataset, keyword, "")
    for keyword in ("PatientBirthDate", "StudyDate", "StudyTime"):
        setattr(dataset, keyword, None)
    for element in origin.pixels:
        if element.keyword.startswith("LossyImageCompression"):
            dataset.add(element)
    return dataset


def _reference(origin: Origin) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = origin.sop_class
    item.ReferencedSOPInstanceUID = origin.sop_instance
    return item


def _algorithm(segmentation: Segmentation) -> str:
    return f"{MARK} {package_version()}, model {segmentation.model} {segmentation.model_version}"


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


def _finish(dataset: Dataset, origin: Origin) -> bytes:
    """Fill in the identity and return the file's bytes."""
    dataset.pop("SpecificCharacterSet", None)
    # Without a position in space, how rows and columns run has to be told, empty if unknown.
    lies = origin.pixels.get("PatientOrientation")
    dataset.PatientOrientation = "" if lies is None else lies
    for element in origin.identity:
        dataset.add(element)
    # highdicom names itself there, with a date; Software Versions says what wrote the file.
    dataset.pop("ContributingEquipmentSequence", None)
    if origin.deidentified:
        _tell_deidentified(dataset)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _tell_deidentified(dataset: Dataset) -> None:
    """Remove dates, and tell what was done (PS3.3 C.12.1, PS3.15 E.1)."""
    for day, time in (
        ("InstanceCreationDate", "InstanceCreationTime"),
        ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
    ):
        dataset.pop(day, None)
        dataset.pop(time, None)
    if "ContentDate" in dataset:
        # A Segmentation has to have them: dummies.
        dataset.ContentDate, dataset.ContentTime = _NO_DAY, _NO_TIME
    dataset.PatientIdentityRemoved = "YES"
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    dataset.DeidentificationMethodCodeSequence = [
        CodedConcept("113100", "DCM", "Basic Application Confidentiality Profile")
    ]
