"""What every DICOM object that is made from an X-ray has in common.

It joins the study of the X-ray as a new series, refers to it and says that it is not for
diagnosis. Its UIDs come from the X-ray's UID, the model's hash, the protocol and the version of
cxrseg: a second run replaces the first result in an archive, and another model's stands beside it.
"""

from __future__ import annotations

import io
from typing import Any

from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.own_files import MARK
from cxrseg.runtime.writers.dicom_source import Origin, derived_uid

NOT_FOR_DIAGNOSIS = "not for diagnosis"
"""Part of every Series Description that cxrseg writes."""

_NO_DAY, _NO_TIME = "19000101", "000000"


def result_uid(segmentation: Segmentation, origin: Origin, kind: str, level: str) -> str:
    """Return the UID of one output: the same for the same pixels, another for any others.

    Args:
        segmentation: The result, whose model and protocol count.
        origin: The X-ray.
        kind: Which output: ``seg`` or ``sc``.
        level: What in it: ``series``, ``instance`` or another word.
    """
    return derived_uid(
        origin.sop_instance,
        segmentation.model_sha256,
        segmentation.labels[0].protocol,
        package_version(),
        kind,
        level,
    )


def identity(segmentation: Segmentation, origin: Origin, kind: str) -> dict[str, Any]:
    """Return what highdicom's constructors of `kind` take of the series, the instance and us."""
    return {
        "series_instance_uid": result_uid(segmentation, origin, kind, "series"),
        "sop_instance_uid": result_uid(segmentation, origin, kind, "instance"),
        "instance_number": 1,
        "manufacturer": MARK,
        "manufacturer_model_name": segmentation.model,
        "software_versions": package_version(),
        "transfer_syntax_uid": ExplicitVRLittleEndian,
    }


def reference_dataset(segmentation: Segmentation, origin: Origin) -> Dataset:
    """Return what highdicom may know of the X-ray: its UIDs and its size, no identity to copy."""
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


def instance_reference(origin: Origin) -> Dataset:
    """Return an item that refers to the X-ray by its class and its UID."""
    item = Dataset()
    item.ReferencedSOPClassUID = origin.sop_class
    item.ReferencedSOPInstanceUID = origin.sop_instance
    return item


def finish(dataset: Dataset, origin: Origin) -> bytes:
    """Fill in the patient's identity, or say that it was removed, and return the file's bytes.

    Args:
        dataset: The object that highdicom made; it is changed.
        origin: The X-ray.

    Returns:
        The file, in the dataset's transfer syntax.
    """
    dataset.pop("SpecificCharacterSet", None)
    # Without a position in space, Patient Orientation is required, empty if unknown.
    orientation = origin.pixels.get("PatientOrientation")
    dataset.PatientOrientation = "" if orientation is None else orientation
    for element in origin.identity:
        dataset.add(element)
    # highdicom names itself there, with a date; Software Versions says what wrote the file.
    dataset.pop("ContributingEquipmentSequence", None)
    if origin.deidentified:
        _mark_deidentified(dataset)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _mark_deidentified(dataset: Dataset) -> None:
    """Remove dates, and say what was done (PS3.3 C.12.1, PS3.15 E.1)."""
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
