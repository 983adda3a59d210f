"""Fit what the quality flags compare with: what is usual, and how unlike it is too much."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrseg.benchmarks.harness.legacy_samples import Case
from cxrseg.runtime.core.atomic import write_together
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol, labels_of
from cxrseg.runtime.core.preprocess import preprocess
from cxrseg.runtime.inference.postprocess import clean_components, label_mask
from cxrseg.runtime.inference.session import LoadedModel
from cxrseg.runtime.quality.assess import cut_rule
from cxrseg.runtime.quality.features import (
    Normal,
    asymmetry,
    cut_off,
    grid_logits,
    numbers,
    oddity,
    shape,
    thumbnail,
    uncertainty,
)
from cxrseg.runtime.quality.rules import RULES
from cxrseg.runtime.readers import read

MARK = '"""Written by ``cxrseg-bench quality-fit``; do not edit.'
"""What the file begins with."""

RIDGE = 0.02
"""Added to the variances of thumbnail cells, in squared standard deviations of the image."""

MIRROR_RIDGE = 0.01
"""Weight of the squares in the regression that tells sides, of the squared asymmetries."""

KEPT = 0.98
"""Share of the shapes that the fit keeps: the model fails on some training images, too."""

FALSE_ALARMS = 0.003
"""Share of the good images of any source that may pass the limit of any one flag.

Rounded up to whole images, lest a single image of a small source choose the limit.
"""

MARGIN = 1.2
"""Factor between what that share reaches and the limit, where no images say what is too much."""

CLOSE = ("mirror",)
"""Limits without a margin: a mirrored image has the score of the good one with the other sign, and
each that passes has the patient's lungs swapped."""

CAUGHT = 0.95
"""Share of the suspect images that the limit for them flags at least, whatever that costs."""

FOLDS = 5
"""Good images are judged by what is usual in the other folds, as new ones will be."""

Scores = dict[str, float]
Protocols = tuple[Protocol, ...]

LEAST = {name: rule.limit for name, rule in RULES.items() if rule.fitted}
"""Name in `RULES` -> the least that its limit may be."""

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


@dataclass(frozen=True)
class Outlined:
    """The outlines of one image under one protocol, on the grid of `quality_measures`.

    Attributes:
        lungs: float64 [12] of `quality_measures.shape`; None where a lung is missing.
        uncertainty: `quality_measures.uncertainty`.
        cut: `quality_measures.cut_off`.
    """

    lungs: NDArray[np.float64] | None
    uncertainty: float
    cut: Mapping[str, float]


@dataclass(frozen=True)
class Sample:
    """What the flags need to know of one image.

    Attributes:
        source: Where it comes from.
        patient: Whose it is.
        cells: float64 [CELLS, CELLS] of `quality_measures.thumbnail`; None where there is nothing
            to see.
        framed: The same with other margins.
        outlines: Protocol -> outlines, of the protocols that the model knows.
    """

    source: str
    patient: str
    cells: NDArray[np.float64] | None
    framed: NDArray[np.float64] | None
    outlines: Mapping[Protocol, Outlined]


@dataclass(frozen=True)
class Usual:
    """What is usual, fitted to good images.

    Attributes:
        look: Of thumbnails.
        shapes: Protocol -> of the shape of its lungs.
        bands: Protocol -> median of `quality_measures.uncertainty`.
        sides: Protocols -> weights of their `quality_measures.asymmetry`.
    """

    look: Normal
    shapes: Mapping[Protocol, Normal]
    bands: Mapping[Protocol, float]
    sides: Mapping[Protocols, NDArray[np.float64]]


@dataclass(frozen=True)
class Limit:
    """A fitted limit and what it follows from.

    Attributes:
        value: Above it a flag is raised.
        good: What at most `FALSE_ALARMS` of the good images of any source exceed.
        suspect: The least of the suspect images; None where they do not count.
    """

    value: float
    good: float
    suspect: float | None = None


@dataclass(frozen=True)
class Fit:
    """A fitted table and how it does on the images that it was fitted to.

    Attributes:
        text: Source text of the table.
        limits: Protocol -> name as in `RULES` -> limit.
        alarms: Protocol -> source -> number of ``images``, then share of them above each limit and
            above ``any``, judged by what is usual in the other folds.
        mirrored: Protocol -> source -> share of the good images that would be flagged as mirrored
            if they were, judged like the alarms.
        caught: Protocol -> number of suspect ``images`` with two lungs, share ``flagged`` by the
            limit ``strange``, and share flagged when the limit is fitted ``without`` the image.
    """

    text: str
    limits: Mapping[Protocol, Mapping[str, Limit]]
    alarms: Mapping[Protocol, Mapping[str, Mapping[str, float]]]
    mirrored: Mapping[Protocol, Mapping[str, float]]
    caught: Mapping[Protocol, Mapping[str, float]]


def gather(
    model: LoadedModel, cases: Iterable[Case], suspects: Iterable[Path], seed: int = 0
) -> Iterator[tuple[Sample, bool]]:
    """Segment images: good ones, then suspect ones.

    Args:
        model: The model whose masks the flags shall judge.
        cases: Good images.
        suspects: Images of something else, such as lateral views.
        seed: Seed of the random margins.

    Yields:
        A sample, and whether it is suspect.

    Raises:
        CxrsegError: An image cannot be read.
    """
    rng = np.random.default_rng(seed)
    for case in cases:
        source = case.row.get("source") or "images"
        yield _sample(model, read(case.image).pixels, source, case.patient, rng), False
    for path in suspects:
        yield _sample(model, read(path).pixels, path.parent.name, path.name, rng), True


def _sample(
    model: LoadedModel,
    pixels: NDArray[np.float32],
    source: str,
    patient: str,
    rng: np.random.Generator,
) -> Sample:
    names = model.card.labels
    batch = preprocess(pixels, model.card.preprocessing)[None, None]
    (output,) = model.session.run([model.output_name], {model.input_name: batch})
    logits = np.asarray(output[0], np.float32)
    outlines: dict[Protocol, Outlined] = {}
    for protocol in PROTOCOLS:
        labels = labels_of(protocol)
        if {label.name for label in labels} <= {*names}:
            channels = logits[[names.index(label.name) for label in labels]]
            grid = grid_logits(clean_components(channels, labels))
            mask = label_mask(list(grid), labels)
            outlines[protocol] = Outlined(shape(mask), uncertainty(grid, mask), cut_off(mask))
    return Sample(source, patient, thumbnail(pixels), thumbnail(framed(pixels, rng)), outlines)


def fit_usual(samples: Sequence[Sample]) -> Usual:
    """Fit what is usual. Every source weighs the same.

    Raises:
        CxrsegError: Too few masks hold two lungs.
    """
    seen = [(each.framed.ravel(), each.source) for each in samples if each.framed is not None]
    if len(seen) < _FEWEST:
        raise _too_few(f"{len(seen)} images show anything")
    look = fit_normal(
        np.stack([cells for cells, _ in seen]), balance([source for _, source in seen]), RIDGE
    )
    shapes: dict[Protocol, Normal] = {}
    bands: dict[Protocol, float] = {}
    for protocol in samples[0].outlines:
        found = [
            (outlined.lungs, outlined.uncertainty, each.source)
            for each in samples
            for outlined in [each.outlines[protocol]]
            if outlined.lungs is not None
        ]
        if len(found) < _FEWEST:
            raise _too_few(f"{len(found)} masks of protocol {protocol} hold two lungs")
        vectors = np.stack([lungs for lungs, _, _ in found])
        weights = balance([source for _, _, source in found])
        shapes[protocol] = fit_normal(vectors, weights, kept=KEPT)
        bands[protocol] = float(np.median([band for _, band, _ in found]))
    known = tuple(shapes)
    combined = [(x,) for x in known] + ([known] if len(known) > 1 else [])
    return Usual(look, shapes, bands, {each: _fit_sides(samples, each) for each in combined})


def _fit_sides(samples: Sequence[Sample], protocols: Protocols) -> NDArray[np.float64]:
    """Return weights w so that w @ asymmetry is near 1, and near -1 for mirror images.

    Ridge regression. A mirror image has the asymmetry with the other sign, so that there is no
    offset and each image stands for both.
    """
    rows, sources = [], []
    for each in samples:
        lungs = _lungs_under(each, protocols)
        if each.framed is not None and lungs is not None:
            rows.append(asymmetry(each.framed, lungs))
            sources.append(each.source)
    if len(rows) < _FEWEST:
        raise _too_few(f"{len(rows)} images hold two lungs under {' and '.join(protocols)}")
    x, weights = np.stack(rows), balance(sources)
    weights = weights / weights.sum()
    spread = np.sqrt(weights @ x**2)
    z = x / spread
    squares = (z * weights[:, None]).T @ z + MIRROR_RIDGE * np.eye(len(spread))
    return np.asarray(np.linalg.solve(squares, weights @ z) / spread)


def _lungs_under(sample: Sample, protocols: Protocols) -> list[NDArray[np.float64]] | None:
    found = [sample.outlines[protocol].lungs for protocol in protocols]
    lungs = [each for each in found if each is not None]
    return lungs if len(lungs) == len(found) else None


def _too_few(cause: str) -> CxrsegError:
    return CxrsegError("quality-fit", f"{cause}, too few to fit", "give more images")


def score(sample: Sample, protocol: Protocol, usual: Usual) -> Scores | None:
    """Return name as in `RULES` -> what the runtime compares with that limit.

    None where a lung is missing or there is nothing to see: the runtime flags that anyway.
    """
    outlined = sample.outlines[protocol]
    if outlined.lungs is None or sample.cells is None:
        return None
    band = outlined.uncertainty / usual.bands[protocol]
    odd = oddity(sample.cells, outlined.lungs, band, usual.look, usual.shapes[protocol])
    known = tuple(sample.outlines)
    lungs = _lungs_under(sample, known)
    if lungs is None:
        known, lungs = (protocol,), [outlined.lungs]
    mirror = -float(usual.sides[known] @ asymmetry(sample.cells, lungs))
    scores = {"strange": odd.strange, "shape": odd.shape, "mirror": mirror, "unsure": band}
    for side, share in outlined.cut.items():
        name = cut_rule(side)
        scores[name] = max(share, scores.get(name, 0))
    return scores


def choose(name: str, good: Mapping[str, Sequence[float]], suspect: Sequence[float] = ()) -> Limit:
    """Choose one limit.

    Where suspect images say what is too much the limit is the geometric mean of what the good
    images reach and of the least suspect one, but flags `CAUGHT` of the suspect ones; otherwise it
    leaves a `MARGIN`, but for those of `CLOSE`. It never falls below that of `RULES`.

    Args:
        name: Of `RULES`.
        good: Source -> scores of good images.
        suspect: Scores of images to be flagged.
    """
    reached = max(
        float(np.quantile(scores, 1 - FALSE_ALARMS, method="lower")) for scores in good.values()
    )
    if not len(suspect):
        margin = 1 if name in CLOSE else MARGIN
        return Limit(max(LEAST[name], margin * reached), reached)
    least = float(min(suspect))
    # Rounded down: the image at the quantile itself must exceed the limit.
    caught = float(np.quantile(suspect, 1 - CAUGHT, method="lower")) * (1 - 1e-3)
    return Limit(max(LEAST[name], min((reached * least) ** 0.5, caught)), reached, least)


def fit(
    model: LoadedModel,
    samples: Sequence[Sample],
    suspects: Sequence[Sample] = (),
    poor: Sequence[str] = (),
) -> Fit:
    """Fit the runtime's table.

    Args:
        model: The model that segmented the samples.
        samples: Good images, not of a test split.
        suspects: Images that the limit ``strange`` shall tell from good ones.
        poor: Sources that help to tell what is usual but choose no limit.

    Raises:
        CxrsegError: Too few masks hold two lungs, or no source is left to choose limits.
    """
    sources = sorted({each.source for each in samples})
    trusted = [source for source in sources if source not in poor]
    if not trusted:
        cause = f"no source is left of {', '.join(sources)}"
        raise CxrsegError("--poor", cause, "leave one out of it")
    usual = fit_usual(samples)
    folds = [zlib.crc32(each.patient.encode()) % FOLDS for each in samples]
    judged: list[tuple[Sample, Usual]] = []
    for fold in range(FOLDS):
        others = fit_usual([each for each, at in zip(samples, folds, strict=True) if at != fold])
        judged += [(each, others) for each, at in zip(samples, folds, strict=True) if at == fold]

    limits: dict[Protocol, dict[str, Limit]] = {}
    alarms: dict[Protocol, dict[str, dict[str, float]]] = {}
    mirrored: dict[Protocol, dict[str, float]] = {}
    caught: dict[Protocol, dict[str, float]] = {}
    for protocol in usual.shapes:
        scores: dict[str, list[Scores]] = {source: [] for source in sources}
        for each, others in judged:
            found = score(each, protocol, others)
            if found is not None:
                scores[each.source].append(found)
        odd = [found for each in suspects if (found := score(each, protocol, usual)) is not None]
        strange = [found["strange"] for found in odd]
        chosen = {}
        for name in LEAST:
            good = {x: [each[name] for each in scores[x]] for x in trusted if scores[x]}
            chosen[name] = choose(name, good, strange if name == "strange" else ())
        limits[protocol] = chosen
        alarms[protocol] = {x: _alarms(found, chosen) for x, found in scores.items() if found}
        least = chosen["mirror"].value
        mirrored[protocol] = {
            x: float(np.mean([-each["mirror"] > least for each in found]))
            for x, found in scores.items()
            if found
        }
        if strange:
            good = {x: [each["strange"] for each in scores[x]] for x in trusted if scores[x]}
            caught[protocol] = _caught(strange, chosen["strange"].value, good)
    text = _source_text(model.sha256, len(samples), usual, limits)
    return Fit(text, limits, alarms, mirrored, caught)


def _alarms(scores: Sequence[Scores], limits: Mapping[str, Limit]) -> dict[str, float]:
    above = {name: [each[name] > limit.value for each in scores] for name, limit in limits.items()}
    shares = {name: float(np.mean(found)) for name, found in above.items()}
    either = np.any([*above.values()], axis=0)
    return {"images": len(scores), "any": float(np.mean(either)), **shares}


def _caught(
    strange: Sequence[float], limit: float, good: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    def without(index: int) -> bool:
        others = [x for at, x in enumerate(strange) if at != index]
        return strange[index] > choose("strange", good, others).value

    return {
        "images": len(strange),
        "flagged": float(np.mean([x > limit for x in strange])),
        "without": float(np.mean([without(index) for index in range(len(strange))])),
    }


def balance(groups: Sequence[str]) -> NDArray[np.float64]:
    """Return weights that give every group the same sum: float64 [m]."""
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[index], np.float64)


def _source_text(
    sha256: str,
    images: int,
    usual: Usual,
    limits: Mapping[Protocol, Mapping[str, Limit]],
) -> str:
    shapes = {str(protocol): normal for protocol, normal in usual.shapes.items()}
    normals = {"look": usual.look, **shapes}
    blocks = "".join(f'    "{name}": """\n{x.to_text()}\n""",\n' for name, x in normals.items())
    bands = "".join(f'    "{name}": {band:.4g},\n' for name, band in usual.bands.items())
    sides = "".join(
        f'    "{" ".join(protocols)}": """\n{numbers(weights)}\n""",\n'
        for protocols, weights in usual.sides.items()
    )
    chosen = "".join(
        f'    "{protocol}": {{\n'
        + "".join(f'        "{name}": {limit.value:.4g},\n' for name, limit in named.items())
        + "    },\n"
        for protocol, named in limits.items()
    )
    return (
        f"{MARK}\n\n"
        f"Fitted to {images} images, masks by the model with the SHA-256 below.\n"
        '"""\n\n'
        f'MODEL = "{sha256}"\n\n'
        f"MIRROR = {{\n{sides}}}\n"
        '"""Protocols -> weights of their `quality_measures.asymmetry`."""\n\n'
        f"USUAL_UNCERTAINTY = {{\n{bands}}}\n"
        '"""Protocol -> median of `quality_measures.uncertainty`."""\n\n'
        f"LIMITS = {{\n{chosen}}}\n"
        '"""Protocol -> name in `quality_table.RULES` -> limit."""\n\n'
        f"NORMALS = {{\n{blocks}}}\n"
        '"""Name -> `Normal` as text: mean, then the triangle of its root by rows."""\n'
    )


def check_table(path: Path) -> None:
    """Refuse, before the work, a table that would replace another file.

    Raises:
        CxrsegError: The name does not end in ``.py``, or the file is no earlier table.
    """
    if path.suffix != ".py":
        raise CxrsegError(path, "the table does not end in .py", "name it quality_norms.py")
    if path.exists() and not path.read_bytes().startswith(MARK.encode()):
        raise CxrsegError(path, "exists and is no earlier table, so it is kept", "rename it")


def write_table(path: Path, text: str) -> None:
    """Write the table.

    Raises:
        CxrsegError: It cannot be written.
    """
    check_table(path)
    write_together({path: text.encode("ascii")})
