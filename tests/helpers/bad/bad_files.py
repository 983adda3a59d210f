"""Bad files: 500 that claim to be X-rays, damaged, contradictory, hostile or of another kind.

Everything follows from the seed. Some damage leaves a file that can still be read.

    PYTHONPATH=tests python -m helpers.bad.bad_files OUT
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from helpers.bad.bad_dicoms import dicom_headers, dicom_seeds
from helpers.bad.bad_rasters import other_kinds, raster_headers, raster_seeds
from helpers.bad.damage import Named

COUNT = 500
"""Number of files."""

_HEADER = 400
"""Bytes at the beginning, where damage does more than among pixels."""


def write_corpus(folder: Path, seed: int = 0) -> dict[Path, bytes]:
    """Write the files below ``raster`` and ``dicom``; return path -> content.

    A file is called by its number and what is wrong with it, with a suffix that is searched for.
    """
    rng = np.random.default_rng(seed)
    rasters = [*raster_headers(), *other_kinds()]
    dicoms = list(dicom_headers())
    # Chance fills up what was thought of.
    half = COUNT // 2
    rasters += _damaged(rng, raster_seeds(), half - len(rasters))
    dicoms += _damaged(rng, dicom_seeds(), COUNT - half - len(dicoms))
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    print(len(write_corpus(parser.parse_args().out)), "files")
