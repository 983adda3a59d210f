"""Fit the constants of the runtime's quality flags to training images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrseg.benchmarks.cases import Case
from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.files import write_together
from cxrseg.runtime.labels import PROTOCOLS, Protocol, labels_of
from cxrseg.runtime.postprocess import label_mask
from cxrseg.runtime.preprocess import preprocess
from cxrseg.runtime.quality import Normal, grid_logits, shape, thumbnail, uncertainty
from cxrseg.runtime.readers import read
from cxrseg.runtime.session import LoadedModel

MARK = '"""Written by ``cxrseg-bench quality --fit``; do not edit.'
"""What a table begins with."""

RIDGE = 0.02
"""Added to the variances of thumbnail cells, in squared standard deviations of the image."""

KEPT = 0.98
"""Share of the shapes that the fit keeps: the model fails on some training images, too."""

_ROUNDS = 6
_FEWEST = 40
_CUT, _PAD, _PADDED = 0.08, 0.11, 0.4


def fit_normal(
    vectors: NDArray[np.float64], weights: NDArray[np.float64], ridge: float = 0, kept: float = 1
) -> Normal:
    """Fit a normal distribution, leaving out what lies farthest.

    Args:
        vectors: float64 [m, n].
        weights: float64 [m], above 0.
        ridge: Added to every variance.
        kept: Share of the vectors that count, in (0, 1].
    """
    chosen = np.ones(len(vectors), np.bool_)
    for _ in range(_ROUNDS if kept < 1 else 1):
        mean = np.average(vectors[chosen], axis=0, weights=weights[chosen])
        covariance = np.cov(vectors[chosen], rowvar=False, aweights=weights[chosen])
        covariance += ridge * np.eye(len(mean))
        normal = Normal(mean, np.linalg.cholesky(np.linalg.inv(covariance)).T)
        distances = normal.distance(vectors)
        chosen = distances <= np.quantile(distances, kept)
    return normal


def framed(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Cut the margins of float32 [H, W] at random and give some images a flat border."""
    height, width = pixels.shape
    top, bottom, left, right = rng.uniform(0, _CUT, 4) * (height, height, width, width)
    out = pixels[int(top) : height - int(bottom), int(left) : width - int(right)]
    if rng.random() < _PADDED:
        pads = (rng.uniform(0, _PAD, 4) * (height, height, width, width)).astype(int)
        gray = float(rng.choice([0.0, 0.0, float(out.max())]))
        out = np.pad(out, (tuple(pads[:2]), tuple(pads[2:])), constant_values=gray)
    return np.ascontiguousarray(out)


def fit(model: LoadedModel, cases: Iterable[Case], seed: int = 0) -> str:
    """Return the source text of the runtime's table, fitted to masks of this model.

    Every source (column ``source``) weighs the same.

    Args:
        model: The model whose masks the flags shall judge.
        cases: Training images.
        seed: Seed of the random margins.

    Raises:
        CxrsegError: An image cannot be read, or too few masks hold two lungs.
    """
    rng = np.random.default_rng(seed)
    names = model.card.labels
    channels: dict[Protocol, list[int]] = {
        protocol: [names.index(label.name) for label in labels_of(protocol)]
        for protocol in PROTOCOLS
        if {label.name for label in labels_of(protocol)} <= {*names}
    }
    looks: list[NDArray[np.float64]] = []
    sources: list[str] = []
    shapes: dict[Protocol, list[tuple[NDArray[np.float64], float, str]]] = {x: [] for x in channels}
    for case in cases:
        pixels = read(case.image).pixels
        source = case.row.get("source", "")
        cells = thumbnail(framed(pixels, rng))
        if cells is not None:
            looks.append(cells.ravel())
            sources.append(source)
        batch = preprocess(pixels, model.card.preprocessing)[None, None]
        (output,) = model.session.run([model.output_name], {model.input_name: batch})
        logits = np.asarray(output[0], np.float32)
        for protocol, indices in channels.items():
            grid = grid_logits(logits[indices])
            mask = label_mask(list(grid), labels_of(protocol))
            lungs = shape(mask)
            if lungs is not None:
                shapes[protocol].append((lungs, uncertainty(grid, mask), source))

    for protocol, found in shapes.items():
        if len(found) < _FEWEST:
            cause = f"{len(found)} masks of protocol {protocol} hold two lungs, too few to fit"
            raise CxrsegError("--fit", cause, "give more images")
    normals = {"look": fit_normal(np.stack(looks), balance(sources), ridge=RIDGE)}
    bands: dict[str, float] = {}
    for protocol, found in shapes.items():
        weights = balance([source for _, _, source in found])
        vectors = np.stack([lungs for lungs, _, _ in found])
        normals[protocol] = fit_normal(vectors, weights, kept=KEPT)
        bands[protocol] = float(np.median([band for _, band, _ in found]))
    return _source_text(model.sha256, len(sources), normals, bands)


def balance(groups: Sequence[str]) -> NDArray[np.float64]:
    """Return weights that give every group the same sum: float64 [m]."""
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[index], np.float64)


def _source_text(
    sha256: str, images: int, normals: dict[str, Normal], bands: dict[str, float]
) -> str:
    blocks = "".join(f'    "{name}": """\n{x.to_text()}\n""",\n' for name, x in normals.items())
    usual = "".join(f'    "{name}": {band:.4g},\n' for name, band in bands.items())
    return (
        f"{MARK}\n\n"
        f"Fitted to {images} training images, masks by the model with the SHA-256 below.\n"
        '"""\n\n'
        f'MODEL = "{sha256}"\n\n'
        f"USUAL_UNCERTAINTY = {{\n{usual}}}\n"
        '"""Protocol -> median of `quality.uncertainty`."""\n\n'
        f"NORMALS = {{\n{blocks}}}\n"
        '"""Name -> `quality.Normal` as text: mean, then the triangle of its root by rows."""\n'
    )


def check_table(path: Path) -> None:
    """Refuse, before the work, a table that would replace another file.

    Raises:
        CxrsegError: The name does not end in ``.py``, or the file is no earlier table.
    """
    if path.suffix != ".py":
        raise CxrsegError(path, "the table does not end in .py", "name it quality_table.py")
    if path.exists() and not path.read_bytes().startswith(MARK.encode()):
        raise CxrsegError(path, "exists and is no earlier table, so it is kept", "rename it")


def write_table(path: Path, text: str) -> None:
    """Write the table.

    Raises:
        CxrsegError: It cannot be written.
    """
    check_table(path)
    write_together({path: text.encode("ascii")})
