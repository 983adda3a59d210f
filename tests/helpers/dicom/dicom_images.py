"""DICOM images of a phantom, made as a test wants them, and the encoders that compress them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from cxrseg.runtime import Radiograph
from helpers.drawing import phantoms

PHANTOM = phantoms.draw(1, (200, 180)).image
"""uint8 [200, 180], dense tissue bright."""

SECRETS = ("Doe^Jane", "ID-4711", "19700101", "Clinic of X", "1.2.826.0.1.3680043.8.498.42")


def levels(bits: int, signed: bool = False) -> NDArray[Any]:
    """Return the phantom with 2**bits levels, noise in its lowest bits."""
    noise = np.random.default_rng(0).normal(0, 2, PHANTOM.shape)
    values = np.clip(PHANTOM / 255 * (2**bits - 1) + noise, 0, 2**bits - 1).round()
    if signed:
        values -= 2 ** (bits - 1)
    return values.astype(f"<{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def unit(values: NDArray[Any]) -> NDArray[np.float64]:
    values = values.astype(np.float64)
    return (values - values.min()) / np.ptp(values)


def make(
    pixels: NDArray[Any] | None = None,
    bits: int = 12,
    syntax: str = uid.ExplicitVRLittleEndian,
    frame: bytes | None = None,
    **attributes: object,
) -> Dataset:
    """Return a DX image of a phantom; attributes that are None are left out."""
    pixels = levels(bits) if pixels is None else pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = SECRETS[4]
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = SECRETS[:3]
    dataset.InstitutionName = SECRETS[3]
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    big = syntax == uid.ExplicitVRBigEndian
    native = (pixels.astype(pixels.dtype.newbyteorder(">")) if big else pixels).tobytes()
    data = native if frame is None else encapsulate([frame])
    dataset.add_new("PixelData", "OB" if pixels.itemsize == 1 or frame else "OW", data)
    if frame is not None:
        dataset["PixelData"].is_undefined_length = True
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def codes(radiograph: Radiograph) -> list[str]:
    return [flag.code for flag in radiograph.flags]


def lossless_jpeg(values: NDArray[Any], bits: int, predictor: int) -> bytes:
    return imagecodecs.jpeg_encode(values, lossless=True, predictor=predictor, bitspersample=bits)


def jpeg2000(values: NDArray[Any], bits: int, level: int | None = None) -> bytes:
    return imagecodecs.jpeg2k_encode(
        values, level=level, codecformat="j2k", bitspersample=bits, reversible=level is None
    )


def rle(values: NDArray[Any], bits: int) -> bytes:
    dataset = make(values, bits)
    dataset.compress(uid.RLELossless, generate_instance_uid=False)
    return next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))


ENCODERS: dict[str, tuple[str, Callable[[NDArray[Any], int], bytes], float]] = {
    "JPEG lossless": (uid.JPEGLossless, lambda x, b: lossless_jpeg(x, b, 4), 0),
    "JPEG lossless SV1": (uid.JPEGLosslessSV1, lambda x, b: lossless_jpeg(x, b, 1), 0),
    "JPEG-LS": (uid.JPEGLSLossless, lambda x, b: imagecodecs.jpegls_encode(x), 0),
    "JPEG-LS near": (uid.JPEGLSNearLossless, lambda x, b: imagecodecs.jpegls_encode(x, level=2), 2),
    "JPEG 2000 lossless": (uid.JPEG2000Lossless, jpeg2000, 0),
    "RLE": (uid.RLELossless, rle, 0),
}


def bare(dataset: Dataset, implicit: bool = True, with_meta: bool = False) -> bytes:
    """Return the data set without preamble, and without file meta unless wanted."""
    buffer = io.BytesIO()
    meta = dataset.file_meta if with_meta else None
    del dataset.file_meta
    if meta is not None:
        pydicom.filewriter.write_file_meta_info(buffer, meta)
    pydicom.dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=True)
    return buffer.getvalue()


def table(first: int, entries: list[int], bits: int, signed: bool = False) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "US", entries)
    return item


def rgb(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(values[:, :, None], 3, axis=2)


def encoded(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
