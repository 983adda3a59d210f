"""Bad files: 500 that claim to be X-rays, damaged, contradictory, hostile or of another kind.

Everything follows from the seed. Some damage leaves a file that can still be read.

    python tests/bad_files.py OUT
"""

from __future__ import annotations

import argparse
import gzip
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from helpers.phantoms import blocks

COUNT = 500
"""Number of files."""

SIDE = 64
"""Sides of the images that are damaged, in pixels."""

_HEADER = 400
"""Bytes at the beginning, where damage does more than among pixels."""

Named = Iterator[tuple[str, bytes]]
"""A file name's end, which tells what is wrong, and the file's content."""


def write_corpus(folder: Path, seed: int = 0) -> dict[Path, bytes]:
    """Write the files below ``raster`` and ``dicom``; return path -> content.

    A file is called by its number and what is wrong with it, with a suffix that is searched for.
    """
    rng = np.random.default_rng(seed)
    rasters = [*_raster_headers(), *_other_kinds()]
    dicoms = list(_dicom_headers())
    # Chance fills up what was thought of.
    half = COUNT // 2
    rasters += _damaged(rng, _raster_seeds(), half - len(rasters))
    dicoms += _damaged(rng, _dicom_seeds(), COUNT - half - len(dicoms))
    corpus = {}
    for kind, files in (("raster", rasters), ("dicom", dicoms)):
        (folder / kind).mkdir(parents=True)
        for number, (name, content) in enumerate(files):
            path = folder / kind / f"{number:03d}-{name}"
            path.write_bytes(content)
            corpus[path] = content
    return corpus


def _damaged(rng: np.random.Generator, seeds: dict[str, bytes], count: int) -> Named:
    """Yield `count` files, each seed in turn: cut off, or with bits or bytes changed."""
    names = list(seeds)
    for number in range(count):
        name = names[number % len(names)]
        content = bytearray(seeds[name])
        how = ("cut", "bits", "header", "hole")[number // len(names) % 4]
        if how == "cut":
            del content[int(rng.integers(1, len(content))) :]
        elif how == "bits":
            for place in rng.integers(0, len(content), 30):
                content[place] ^= 1 << int(rng.integers(8))
        elif how == "header":
            # Behind the signature, so that it is still taken for what it was.
            start = 140 if name.endswith(".dcm") else 8
            for place in rng.integers(start, start + _HEADER, 4):
                content[place % len(content)] = int(rng.choice([0, 1, 127, 128, 255]))
        else:
            place = int(rng.integers(0, len(content)))
            content[place : place + 200] = bytes(min(200, len(content) - place))
        yield f"{how}-{name}", bytes(content)


# PNG, JPEG, TIFF, BMP.


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _raster_seeds() -> dict[str, bytes]:
    gray = Image.fromarray(blocks(SIDE, SIDE))
    deep = Image.fromarray(blocks(SIDE, SIDE).astype(np.uint16) * 257)
    color = gray.convert("RGB")
    return {
        "gray.png": _saved(gray, "PNG"),
        "gray16.png": _saved(deep, "PNG"),
        "alpha.png": _saved(color.convert("RGBA"), "PNG"),
        "palette.png": _saved(gray.convert("P"), "PNG"),
        "bits.png": _saved(gray.convert("1"), "PNG"),
        "gray.jpg": _saved(gray, "JPEG"),
        "progressive.jpg": _saved(color, "JPEG", progressive=True),
        "cmyk.jpg": _saved(color.convert("CMYK"), "JPEG"),
        "raw.tif": _saved(gray, "TIFF"),
        "deep.tif": _saved(deep, "TIFF"),
        "float.tif": _saved(gray.convert("F"), "TIFF"),
        "lzw.tif": _saved(deep, "TIFF", compression="tiff_lzw"),
        "deflate.tif": _saved(color, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": _saved(color, "TIFF", compression="jpeg"),
        "packbits.tif": _saved(gray, "TIFF", compression="packbits"),
        "fax.tif": _saved(gray.convert("1"), "TIFF", compression="group4"),
        "gray.bmp": _saved(gray, "BMP"),
        "color.bmp": _saved(color, "BMP"),
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(
    width: int, height: int, depth: int = 8, color: int = 0, extra: bytes = b"", data: bytes = b""
) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    pixels = _chunk(b"IDAT", data or zlib.compress(bytes(SIDE * (SIDE + 1))))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + _chunk(b"IEND", b"")


def _tiff(*directories: dict[int, tuple[int, int]], loop: bool = False) -> bytes:
    """Return a TIFF of tag -> (type, value) per page; the last page leads to the first in a loop.

    Its 4096 pixels lie at offset 8.
    """
    content = bytearray(b"II*\0" + struct.pack("<I", 8 + SIDE * SIDE) + bytes(SIDE * SIDE))
    first = len(content)
    for number, tags in enumerate(directories):
        content += struct.pack("<H", len(tags))
        for tag, (kind, value) in sorted(tags.items()):
            content += struct.pack("<HHII", tag, kind, 1, value & 0xFFFFFFFF)
        last = number == len(directories) - 1
        following = (first if loop else 0) if last else len(content) + 4
        content += struct.pack("<I", following)
    return bytes(content)


_PAGE = {
    **{256: (4, SIDE), 257: (4, SIDE), 258: (3, 8), 259: (3, 1), 262: (3, 1)},
    **{273: (4, 8), 277: (3, 1), 278: (4, SIDE), 279: (4, SIDE * SIDE)},
}


def _bmp(
    width: int, height: int, bits: int, compression: int, data: bytes, colors: int = 0
) -> bytes:
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colors, colors
    )
    palette = bytes(4 * min(colors or 256, 256)) if bits <= 8 else b""
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + palette + data


def _raster_headers() -> Named:
    top = 2**31 - 1
    for width, height in ((0, 0), (0, 64), (1, 1), (31, 64), (top, top), (2**32 - 1, 64)):
        yield f"size-{width}x{height}.png", _png(width, height)
    for width, height in ((64, 65), (10_000, 10_000), (10_001, 10_000), (30_000, 3_000)):
        yield f"few-pixels-{width}x{height}.png", _png(width, height)
    for depth, color in ((0, 0), (3, 0), (16, 3), (1, 2), (8, 5), (8, 7), (255, 255), (8, 3)):
        yield f"depth-{depth}-color-{color}.png", _png(64, 64, depth, color)
    zeros = zlib.compress(bytes(20_000_000), 9)
    yield "bomb-bits.png", _png(20_000, 2_000, 1, data=zeros)
    yield "bomb-more-data-than-pixels.png", _png(64, 64, data=zeros)
    yield "bomb-text.png", _png(64, 64, extra=_chunk(b"zTXt", b"Comment\0\0" + zeros))
    yield "bomb-many-texts.png", _png(64, 64, extra=_chunk(b"zTXt", b"a\0\0" + zeros[:9999]) * 200)
    yield "bomb-profile.png", _png(64, 64, extra=_chunk(b"iCCP", b"a\0\0" + zeros))
    yield "frames.png", _png(64, 64, extra=_chunk(b"acTL", struct.pack(">II", 2**31, 0)))
    yield "transparency.png", _png(64, 64, extra=_chunk(b"tRNS", b""))
    yield "exif.png", _png(64, 64, extra=_chunk(b"eXIf", b"MM\0*" + b"\xff" * 40))
    seeds = _raster_seeds()
    gray = seeds["gray.png"]
    yield "no-data.png", gray[: gray.index(b"IDAT") - 4] + _chunk(b"IEND", b"")
    yield "no-end.png", gray[:-12]
    yield "long-chunk.png", gray[:33] + struct.pack(">I", 2**32 - 1) + b"IDAT" + gray[41:]

    jpeg = seeds["gray.jpg"]
    frame = jpeg.index(b"\xff\xc0")
    for precision, height, width in (
        *((8, 0, 0), (8, 0, 64), (8, 65535, 65535), (8, 5_000, 5_000), (8, 65, 64)),
        *((12, 64, 64), (16, 64, 64), (0, 64, 64)),
    ):
        told = struct.pack(">BHH", precision, height, width)
        name = f"frame-{precision}-{width}x{height}.jpg"
        yield name, jpeg[: frame + 4] + told + jpeg[frame + 9 :]
    for components in (0, 2, 255):
        content = jpeg[: frame + 9] + bytes([components]) + jpeg[frame + 10 :]
        yield f"components-{components}.jpg", content
    for name, marker in (("no-tables", b"\xff\xc4"), ("no-quantization", b"\xff\xdb")):
        yield f"{name}.jpg", jpeg.replace(marker, b"\xff\xec")
    yield "long-comment.jpg", jpeg[:2] + b"\xff\xfe\xff\xff" + jpeg[2:]
    yield "zero-comment.jpg", jpeg[:2] + b"\xff\xfe\0\0" + jpeg[2:]
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\xff\xff\xff\xff"
    yield "exif.jpg", jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    yield "twice.jpg", jpeg[:-2] + jpeg
    yield "restarts.jpg", jpeg[:-2] + b"\xff\xd0\xff\xd1" * 100_000

    for tag, value in (
        *((256, 0), (256, 2**32 - 1), (257, 0), (257, 500_000), (256, 10**4)),
        *((258, 0), (258, 3), (258, 64), (258, 65535), (277, 0), (277, 65535), (278, 0)),
        *((259, 0), (259, 4), (259, 5), (259, 6), (259, 7), (259, 34712), (259, 65535)),
        *((262, 3), (262, 6), (262, 65535), (273, 2**32 - 1), (279, 2**32 - 1), (279, 0)),
    ):
        yield f"tag-{tag}-{value}.tif", _tiff({**_PAGE, tag: (_PAGE[tag][0], value)})
    for tag in sorted(_PAGE):
        yield f"no-tag-{tag}.tif", _tiff({k: v for k, v in _PAGE.items() if k != tag})
    yield "wrong-types.tif", _tiff({tag: (2, value) for tag, (_, value) in _PAGE.items()})
    yield "loop.tif", _tiff(_PAGE, loop=True)
    yield "loop-of-two.tif", _tiff(_PAGE, _PAGE, loop=True)
    yield "pages.tif", _tiff(*[_PAGE] * 50_000)
    yield "empty-pages.tif", _tiff(_PAGE, *[{}] * 300_000)
    yield "no-directory.tif", b"II*\0" + struct.pack("<I", 2**32 - 1)
    yield "big.tif", b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63 - 1) + bytes(100)
    yield "tags.tif", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 65535 * 12
    many = _tiff({**_PAGE, **{tag: (4, 2**32 - 1) for tag in range(1000, 30_000)}})
    yield "many-tags.tif", many

    pixels = bytes(SIDE * SIDE * 4)
    for width, height in ((0, 0), (-64, 64), (64, -(2**31)), (top, top), (64, 10**6)):
        yield f"size-{width}x{height}.bmp", _bmp(width, height, 24, 0, pixels)
    for bits in (0, 3, 16, 64, 65535):
        yield f"bits-{bits}.bmp", _bmp(64, 64, bits, 0, pixels)
    for compression in (2, 3, 4, 5, 6, 2**32 - 1):
        yield f"compression-{compression}.bmp", _bmp(64, 64, 8, compression, pixels)
    # Runs, ends of line, and jumps, of which each costs the decoder more than it costs the file.
    for name, code in (("run", b"\xff\0"), ("end", b"\0\0"), ("jump", b"\0\x02\xff\xff")):
        yield f"rle-{name}.bmp", _bmp(5_000, 5_000, 8, 1, code * 100_000)
        yield f"rle-{name}-small.bmp", _bmp(64, 64, 8, 1, code * 100_000)
    yield "colors.bmp", _bmp(64, 64, 8, 0, pixels, colors=2**31 - 1)
    yield "start.bmp", b"BM" + b"\xff" * 12 + _bmp(64, 64, 8, 0, pixels)[14:]
    yield "info.bmp", b"BM" + bytes(12) + b"\xff" * 40


def _other_kinds() -> Named:
    """Yield files of other kinds and of none, under the names of images."""
    image = Image.fromarray(blocks(SIDE, SIDE))
    for kind in ("GIF", "WEBP", "PPM", "ICO", "TGA", "PCX", "JPEG2000", "EPS"):
        yield f"is-{kind.lower()}.png", _saved(image, kind)
    frames = {"save_all": True, "append_images": [image.rotate(90)]}
    yield "animated.png", _saved(image, "PNG", **frames)
    yield "two-pages.tif", _saved(image, "TIFF", **frames)
    text = b"The lungs are clear.\n" * 40
    for suffix in ("png", "jpg", "tif", "bmp", "dcm"):
        yield f"empty.{suffix}", b""
        yield f"text.{suffix}", text
        yield f"zeros.{suffix}", bytes(5000)
    for name, content in (
        ("one-byte", b"\x89"),
        ("utf16", "Röntgen".encode("utf-16") * 50),
        ("pdf", b"%PDF-1.4\n" + text),
        ("zip", b"PK\x03\x04" + bytes(200)),
        ("gzip", gzip.compress(text, mtime=0)),
        ("program", b"\x7fELF" + bytes(200)),
        ("web-page", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("vector", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("pickle", b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x93."),
        ("array", b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
    ):
        yield f"{name}.png", content
    for name, magic in (
        *(("png", b"\x89PNG\r\n\x1a\n"), ("jpg", b"\xff\xd8\xff"), ("bmp", b"BM")),
        *(("tif", b"II*\0"), ("dcm", bytes(128) + b"DICM")),
    ):
        yield f"magic.{name}", magic
        yield f"magic-and-text.{name}", magic + text


# DICOM.


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


def _dicom_seeds() -> dict[str, bytes]:
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


def _dicom_headers() -> Named:
    seeds = _dicom_seeds()
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
    for syntax in (uid.MPEG2MPML, uid.HTJ2KLossless, uid.JPIPHTJ2KReferenced, "1.2", "", "../x"):
        # As long as the one that stands there.
        told = str(syntax)[:20].ljust(20, "\0").encode()
        content = plain.replace(b"1.2.840.10008.1.2.1\0", told, 1)
        yield f"syntax-{syntax.replace('/', '-') or 'none'}.dcm", content
    for name, (syntax, pixels, encode) in _frames().items():
        yield f"{name}-is-text.dcm", _compressed(pixels, syntax, b"The lungs are clear." * 9)
        yield f"{name}-is-zeros.dcm", _compressed(pixels, syntax, bytes(2))
        large = np.zeros((2000, 2000), pixels.dtype)
        yield f"{name}-is-larger.dcm", _compressed(pixels, syntax, encode(large))
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = seeds["deflated.dcm"]
    cut = deflated.index(b"1.2.840.10008.1.2.1.99") + 22
    zeros = bytes(1 << 24)
    packed = b"".join(bomb.compress(zeros) for _ in range(70)) + bomb.flush()
    yield "bomb-deflated.dcm", deflated[:cut] + packed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    print(len(write_corpus(parser.parse_args().out)), "files")
