"""What a DICOM output takes from the X-ray that it was made from: identity, study, references."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydicom import uid
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.readers.dicom.source import read_file

IDENTITY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""Type 2 attributes of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): every
image of a study has to carry them, empty where nothing is known. Nothing else is copied."""

SOP_CLASSES = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing,
    uid.SecondaryCaptureImageStorage,
)
"""Kinds of image that DICOM outputs are made for."""

_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
# What each may hold, and how often: words that the standard defines. Other text may be a name.
_ABOUT_PIXELS = {
    "PatientOrientation": ("[APRLHF]{1,3}", 2),
    "LossyImageCompression": ("00|01", 1),
    "LossyImageCompressionMethod": (
        "ISO_(10918_1|13818_2|14495_1|14496_10|15444_1|15444_15|18181_1|23008_2)",
        9,
    ),
}
_BURNED_IN, _RATIO = "BurnedInAnnotation", "LossyImageCompressionRatio"
_MOST_RATIO = 1000

_ASCII = ("", "ISO_IR 6", "ISO 2022 IR 6")

_AGAIN = "export it from the archive again, or leave seg and sc out of --format"


@dataclass(frozen=True)
class Origin:
    """The X-ray that a DICOM output belongs to.

    Attributes:
        sop_class: SOP Class UID.
        sop_instance: SOP Instance UID, by which the output refers to the X-ray.
        series: Series Instance UID of the X-ray.
        study: Study Instance UID, which the output shares.
        identity: `IDENTITY`, with Specific Character Set where it is not ASCII.
        pixels: What the file says of its pixels: orientation, lossy compression, burned-in
            annotation; absent where it says nothing.
        deidentified: Whether identity was taken out and UIDs were replaced.
    """

    sop_class: str
    sop_instance: str
    series: str
    study: str
    identity: Dataset
    pixels: Dataset
    deidentified: bool = False


def read_origin(path: Path) -> Origin:
    """Read from a DICOM file what its outputs need; its pixels are not touched.

    Args:
        path: A file that `read` has accepted.

    Returns:
        The origin. Values are copied as they are; those that the file lacks are empty.

    Raises:
        CxrsegError: The file has no UID to refer to, is of another kind than `SOP_CLASSES`, or
            cannot be read.
    """
    keywords = ["SpecificCharacterSet", *_UIDS, *IDENTITY, *_ABOUT_PIXELS, _BURNED_IN, _RATIO]
    try:
        file = read_file(path, keywords)
        dataset = file.dataset
        sets = dataset.get("SpecificCharacterSet") or ""
        dataset.decode()
        identity = _identity(dataset)
        pixels = _about_pixels(dataset)
        uids = {keyword: str(dataset.get(keyword) or "") for keyword in _UIDS}
    # On damaged files pydicom raises nearly any type.
    except Exception as error:
        # Its text may quote a patient's name.
        cause = f"its patient and study cannot be read ({type(error).__name__})"
        raise CxrsegError(path, cause, _AGAIN) from error
    if file.repairs:
        # What stands in a damaged sequence may be of another patient.
        cause = f"its patient and study cannot be told for sure: {'; '.join(file.repairs)}"
        raise CxrsegError(path, cause, _AGAIN)
    for keyword, value in uids.items():
        if not _is_uid(value):
            cause = f"has no valid {keyword}, so a DICOM output could not refer to it"
            raise CxrsegError(path, cause, _AGAIN)
    if uids["SOPClassUID"] not in SOP_CLASSES:
        name = uid.UID_dictionary.get(uids["SOPClassUID"], ("a private one",))[0]
        cause = f"is of a kind that DICOM outputs are not made for ({name})"
        raise CxrsegError(path, cause, "leave seg and sc out of --format")
    if not isinstance(sets, str) or sets not in _ASCII:
        # What pydicom decoded it encodes anew: one set holds every name.
        identity.SpecificCharacterSet = "ISO_IR 192"
    sop_class, sop_instance, series, study = (uids[keyword] for keyword in _UIDS)
    return Origin(sop_class, sop_instance, series, study, identity, pixels)


def _identity(dataset: Dataset) -> Dataset:
    part = Dataset()
    for keyword in IDENTITY:
        if keyword in dataset:
            if dictionary_VR(keyword) != dataset[keyword].VR:
                raise ValueError("a value representation that the standard does not allow")
            part.add(dataset[keyword])
        else:
            setattr(part, keyword, "")
    return part


def _about_pixels(dataset: Dataset) -> Dataset:
    part = Dataset()
    for keyword, (pattern, most) in _ABOUT_PIXELS.items():
        words = _words(dataset, keyword)
        if 0 < len(words) <= most and all(re.fullmatch(pattern, word) for word in words):
            setattr(part, keyword, words)
    burned_in = _words(dataset, _BURNED_IN)
    if burned_in:
        # Whatever is not a plain no may be meant as a yes, in whatever language.
        part.BurnedInAnnotation = "NO" if set(burned_in) == {"NO"} else "YES"
    with suppress(ValueError):
        ratios = [float(word) for word in _words(dataset, _RATIO)]
        if ratios and all(1 <= ratio <= _MOST_RATIO for ratio in ratios):
            part.LossyImageCompressionRatio = [f"{ratio:.3g}" for ratio in ratios]
    return part


def _words(dataset: Dataset, keyword: str) -> list[str]:
    """Return the values of an element as text in upper case; none where they cannot be read."""
    try:
        value = dataset.get(keyword)
    # Of values that contradict their representation pydicom raises nearly any type.
    except Exception:
        return ["?"]
    values = value if isinstance(value, MultiValue | list) else [value]
    words = [str(x).strip("\0 ").upper() for x in values if x is not None]
    return words if any(words) else []


def _is_uid(value: str) -> bool:
    # Archives hold UIDs with a component like 01, which the standard does not allow.
    return 0 < len(value) <= 64 and set(value) <= set("0123456789.")


def derived_uid(*sources: str) -> str:
    """Return the UID that always comes from these texts.

    Equal sources give equal UIDs, so that a result computed again replaces the former in an
    archive and does not stand beside it.

    Args:
        sources: Texts; among them a UID of the X-ray, which makes the result unique.
    """
    return str(uid.generate_uid(entropy_srcs=["\0".join(("cxrseg", *sources))]))


def deidentified(origin: Origin) -> Origin:
    """Return the origin without identity, after the Basic Profile (PS3.15 annex E, table E.1-1).

    Names, dates and numbers are emptied. Patient ID becomes a dummy made from the study, because
    archives merge patients without one. UIDs are replaced by ones derived from them (action U):
    results of one study stay together, and who holds the X-ray can compute what they refer to;
    others cannot. Text burned into the picture is not looked for.
    """
    empty = Dataset()
    for keyword in IDENTITY:
        setattr(empty, keyword, "")
    study = _replaced(origin.study)
    empty.PatientID = f"ANON-{study[-12:]}"
    empty.PatientName = empty.PatientID
    return Origin(
        origin.sop_class,
        _replaced(origin.sop_instance),
        _replaced(origin.series),
        study,
        empty,
        _without_ratio(origin.pixels),
        deidentified=True,
    )


def _without_ratio(pixels: Dataset) -> Dataset:
    """Return what may be told of pixels: no free number, which could be one of the patient's."""
    part = Dataset()
    part.update(pixels)
    part.pop(_RATIO, None)
    return part


def _replaced(original: str) -> str:
    return derived_uid("deidentified", original)
