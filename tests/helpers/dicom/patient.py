"""A DICOM chest X-ray of an invented patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from helpers.drawing.phantoms import blocks

STUDY, SERIES, INSTANCE = "1.2.826.0.1.99.1", "1.2.826.0.1.99.1.1", "1.2.826.0.1.99.1.1.1"

CR = uid.ComputedRadiographyImageStorage
DX = uid.DigitalXRayImageStorageForPresentation
SC = uid.SecondaryCaptureImageStorage

IDENTITY = {
    "PatientName": "Doe^Jane",
    "PatientID": "ID-4711",
    "PatientBirthDate": "19700102",
    "PatientSex": "F",
    "StudyDate": "20210304",
    "StudyTime": "101112",
    "StudyID": "ST-77",
    "AccessionNumber": "ACC-123",
    "ReferringPhysicianName": "House^Gregory",
}
"""What every image of a study has to carry."""

UNNEEDED = {
    "InstitutionName": "Clinic of X",
    "PatientAddress": "Lane 5",
    "PatientAge": "051Y",
    "OperatorsName": "Smith^Bob",
    "StudyDescription": "Chest of Jane",
    "OtherPatientIDs": "ANOTHER-9",
    "PatientComments": "lives alone",
    "StationName": "ROOM-3",
    "DeviceSerialNumber": "SN-55",
    "SeriesDescription": "PA by Bob",
}


def chest(pixels: NDArray[Any] | None = None, **attributes: object) -> Dataset:
    """Return a chest of a patient; attributes that are None are left out."""
    pixels = (blocks(121, 99) if pixels is None else pixels).astype("<u2") * 16
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    values: dict[str, object] = {
        "SOPClassUID": DX,
        "SOPInstanceUID": INSTANCE,
        "SeriesInstanceUID": SERIES,
        "StudyInstanceUID": STUDY,
        **IDENTITY,
        **UNNEEDED,
        "Modality": "DX",
        "PatientOrientation": ["L", "F"],
        "BurnedInAnnotation": "NO",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": pixels.tobytes(),
        **attributes,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID") or DX
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or "1.2.3"
    return dataset


def xray(path: Path, pixels: NDArray[Any] | None = None, **attributes: object) -> Path:
    """Write a `chest`."""
    chest(pixels, **attributes).save_as(path, enforce_file_format=True)
    return path


def references(dataset: Dataset) -> list[tuple[str, ...]]:
    """Return (study, series) and (class, instance) of the X-ray that an output refers to."""
    (series,) = dataset.ReferencedSeriesSequence
    (instance,) = series.ReferencedInstanceSequence
    (image,) = dataset.SourceImageSequence
    assert image.ReferencedSOPInstanceUID == instance.ReferencedSOPInstanceUID
    return [
        (dataset.StudyInstanceUID, series.SeriesInstanceUID),
        (image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID),
    ]
