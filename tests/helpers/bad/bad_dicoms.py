"""Bad files that claim to be DICOM."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from helpers.bad.damage import SIDE, Named
from helpers.drawing.phantoms import blocks


def _dataset(pixels: NDArray[Any], syntax: str = uid.ExplicitVRLittleEndian) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = "1.2.3.4", "1.2.3"
    dataset.StudyInstanceUID, dataset.Modality = "1.2", "DX"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "4711"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 if pixels.itemsize == 1 else 12
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    native = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    dataset.add_new("PixelData", "OB" if bits == 8 else "OW", native)
    return dataset


def _compressed(pixels: NDArray[Any], syntax: str, frame: bytes) -> bytes:
    dataset = _dataset(pixels, syntax)
    dataset["PixelData"].VR = "OB"
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    return _written(dataset)


def _written(dataset: Dataset, **attributes: object) -> bytes:
    """Return the file, with attributes set; those that are None are left out."""
    with warnings.catch_warnings():
        # They are made wrong on purpose.
        warnings.simplefilter("ignore")
        for keyword, value in attributes.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _eight() -> NDArray[np.uint8]:
    return blocks(SIDE, SIDE)


def _twelve() -> NDArray[np.uint16]:
    return blocks(SIDE, SIDE).astype(np.uint16) * 16


def _frames() -> dict[str, tuple[str, NDArray[Any], Callable[[NDArray[Any]], bytes]]]:
    """Return name -> (transfer syntax, pixels, their encoder)."""

    def lossless(predictor: int) -> Callable[[NDArray[Any]], bytes]:
        return lambda x: imagecodecs.jpeg_encode(
            x, lossless=True, predictor=predictor, bitspersample=12
        )

    def wavelets(level: int | None) -> Callable[[NDArray[Any]], bytes]:
        return lambda x: imagecodecs.jpeg2k_encode(
            x, level=level, codecformat="j2k", bitspersample=12, reversible=level is None
        )

    def twelve(x: NDArray[Any]) -> bytes:
        return bytes(imagecodecs.jpeg_encode(x, bitspersample=12))

    return {
        "baseline": (uid.JPEGBaseline8Bit, _eight(), imagecodecs.jpeg_encode),
        "extended": (uid.JPEGExtended12Bit, _twelve(), twelve),
        "lossless": (uid.JPEGLossless, _twelve(), lossless(4)),
        "sv1": (uid.JPEGLosslessSV1, _twelve(), lossless(1)),
        "jpegls": (uid.JPEGLSLossless, _twelve(), imagecodecs.jpegls_encode),
        "near": (uid.JPEGLSNearLossless, _eight(), imagecodecs.jpegls_encode),
        "j2k": (uid.JPEG2000Lossless, _twelve(), wavelets(None)),
        "j2k-lossy": (uid.JPEG2000, _twelve(), wavelets(60)),
    }


def dicom_seeds() -> dict[str, bytes]:
    seeds = {
        f"{name}.dcm": _written(_dataset(_twelve(), syntax))
        for name, syntax in (
            ("implicit", uid.ImplicitVRLittleEndian),
            ("explicit", uid.ExplicitVRLittleEndian),
            ("big", uid.ExplicitVRBigEndian),
            ("deflated", uid.DeflatedExplicitVRLittleEndian),
        )
    }
    for name, (syntax, pixels, encode) in _frames().items():
        seeds[f"{name}.dcm"] = _compressed(pixels, syntax, encode(pixels))
    rle = _dataset(_twelve())
    rle.compress(uid.RLELossless, generate_instance_uid=False)
    seeds["rle.dcm"] = _written(rle)
    return seeds


def _table(descriptor: list[int], entries: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW", bytes(2 * entries))
    return item


def _nested(depth: int, undefined: bool) -> bytes:
    """Return sequences in sequences, up to `depth`, explicit little endian."""
    content = b""
    for _ in range(depth):
        item, sequence = len(content), len(content) + 8
        ends = (b"", b"")
        if undefined:
            item = sequence = 0xFFFFFFFF
            ends = (b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0")
        content = b"\xfe\xff\0\xe0" + struct.pack("<I", item) + content + ends[0] + ends[1]
        content = b"\x28\0\x10\x30SQ\0\0" + struct.pack("<I", sequence) + content
    return content


_WORDS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel")


def dicom_headers() -> Named:
    """Yield DICOM files whose headers contradict their pixels or the standard, or are hostile."""
    yield from _sizes()
    yield from _words()
    yield from _numbers()
    yield from _lookup_tables()
    yield from _structures()
    yield from _syntaxes()
    yield from _compressed_frames()
    yield from _bombs()


def _sizes() -> Named:
    seeds = dicom_seeds()
    for keyword in _WORDS:
        for value in (0, 1, 7, 33, 65535):
            yield f"{keyword}-{value}.dcm", _written(_dataset(_twelve()), **{keyword: value})
    for rows, columns in ((10_000, 10_000), (65535, 65535), (31, 64), (64, 1), (9_999, 9_999)):
        yield (
            f"size-{columns}x{rows}.dcm",
            _written(_dataset(_twelve()), Rows=rows, Columns=columns),
        )
        for name in ("baseline", "sv1", "jpegls", "j2k", "rle"):
            dataset = pydicom.dcmread(io.BytesIO(seeds[f"{name}.dcm"]))
            content = _written(dataset, Rows=rows, Columns=columns)
            yield f"{name}-size-{columns}x{rows}.dcm", content


def _words() -> Named:
    for frames in ("0", "2", "-1", "2147483647", "99999999999", "one", "1.5", ""):
        dataset = _dataset(_twelve())
        dataset.add_new("NumberOfFrames", "LO", frames)
        yield f"frames-{frames or 'empty'}.dcm", _written(dataset)
    for keyword in (*_WORDS, "PixelRepresentation", "PhotometricInterpretation", "PixelData"):
        yield f"no-{keyword}.dcm", _written(_dataset(_twelve()), **{keyword: None})
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SOPClassUID"):
        dataset = _dataset(_twelve())
        dataset.add_new(keyword, "LO", "../../../etc/passwd")
        yield f"path-in-{keyword}.dcm", _written(dataset)
    for name in ("RGB", "YBR_FULL_422", "PALETTE COLOR", "MONOCHROME9", "\0\0"):
        safe = name.strip("\0").replace(" ", "-") or "zeros"
        dataset = _dataset(_twelve())
        yield f"photometric-{safe}.dcm", _written(dataset, PhotometricInterpretation=name)


def _numbers() -> Named:
    for keyword in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"):
        for value in ("NaN", "inf", "-1e308", "0", "wide", "1\\2\\3"):
            dataset = _dataset(_twelve())
            dataset.WindowCenter, dataset.WindowWidth = "2000", "900"
            dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
            dataset.add_new(keyword, "LO", value.split("\\"))
            yield f"{keyword}-{value.replace(chr(92), '-')}.dcm", _written(dataset)
    for values in (["-0.1", "-0.1"], ["0", "0"], ["NaN", "1"], ["1e300", "1e300"], ["0.1"], ["x"]):
        dataset = _dataset(_twelve())
        dataset.add_new("PixelSpacing", "LO", values)
        dataset.add_new("ImagerPixelSpacing", "LO", values)
        yield f"spacing-{'-'.join(values)}.dcm", _written(dataset)


def _lookup_tables() -> Named:
    for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
        for descriptor, entries in (
            *(([4096, 0, 16], 3), ([0, 0, 16], 100), ([3, 65535, 16], 4096), ([4096, 0, 0], 4096)),
            *(([4096, 0, 99], 4096), ([4096], 4096), ([1, 0, 8], 0)),
        ):
            dataset = _dataset(_twelve())
            setattr(dataset, keyword, [_table(descriptor, entries)])
            name = f"{keyword}-{'-'.join(map(str, descriptor))}-of-{entries}.dcm"
            yield name, _written(dataset)
        dataset = _dataset(_twelve())
        setattr(dataset, keyword, [Dataset()])
        yield f"{keyword}-of-nothing.dcm", _written(dataset)


def _structures() -> Named:
    plain = _written(_dataset(_twelve()))
    at = plain.index(b"\x28\0\x10\0US")
    for depth in (100, 5_000):
        for undefined in (False, True):
            name = f"nested-{depth}{'-undefined' * undefined}.dcm"
            yield name, plain[:at] + _nested(depth, undefined) + plain[at:]
    start = plain.index(b"\xe0\x7f\x10\0OW\0\0") + 8
    for length in (0, 1, 2**31, 2**32 - 2, 2**32 - 1):
        told = struct.pack("<I", length)
        yield f"pixels-of-{length}.dcm", plain[:start] + told + plain[start + 4 :]
    unknown = b"\x09\0\x10\0UN\0\0" + b"\xff" * 4
    yield "unknown-undefined.dcm", plain[:at] + unknown + plain[at:]
    yield "sequence-without-end.dcm", plain[:at] + b"\x09\0\x10\0SQ\0\0" + b"\xff" * 4
    endless = b"\x09\0\x10\0SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\0\xe0\0\0\0\0" * 50_000
    yield "items-without-end.dcm", plain[:at] + endless
    many = b"".join(b"\x28\0\x11\0US\x02\0\x40\0" for _ in range(50_000))
    yield "elements-again-and-again.dcm", plain[:at] + many + plain[at:]
    yield "preamble-alone.dcm", bytes(128) + b"DICM" + bytes(5000)


def _syntaxes() -> Named:
    plain = _written(_dataset(_twelve()))
    for syntax in (uid.MPEG2MPML, uid.HTJ2KLossless, uid.JPIPHTJ2KReferenced, "1.2", "", "../x"):
        # As long as the one that stands there.
        told = str(syntax)[:20].ljust(20, "\0").encode()
        content = plain.replace(b"1.2.840.10008.1.2.1\0", told, 1)
        yield f"syntax-{syntax.replace('/', '-') or 'none'}.dcm", content


def _compressed_frames() -> Named:
    for name, (syntax, pixels, encode) in _frames().items():
        yield f"{name}-is-text.dcm", _compressed(pixels, syntax, b"The lungs are clear." * 9)
        yield f"{name}-is-zeros.dcm", _compressed(pixels, syntax, bytes(2))
        large = np.zeros((2000, 2000), pixels.dtype)
        yield f"{name}-is-larger.dcm", _compressed(pixels, syntax, encode(large))


def _bombs() -> Named:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = dicom_seeds()["deflated.dcm"]
    cut = deflated.index(b"1.2.840.10008.1.2.1.99") + 22
    zeros = bytes(1 << 24)
    packed = b"".join(bomb.compress(zeros) for _ in range(70)) + bomb.flush()
    yield "bomb-deflated.dcm", deflated[:cut] + packed
