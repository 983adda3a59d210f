"""Accuracy of the rows of ``cxrseg-bench methods``: what is measured, on what, and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrseg.benchmarks.accuracy.metrics import Mask
from cxrseg.benchmarks.accuracy.scoring import Agreement, Score, compare, read_reference
from cxrseg.benchmarks.accuracy.summary import MEASURES
from cxrseg.benchmarks.harness.legacy_samples import Case, read_cases, spread
from cxrseg.runtime.core.atomic import atomic_write
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import Protocol
from cxrseg.runtime.core.orientation import Orientation
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.inference.session import INPUT
from cxrseg.runtime.readers import read
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.trainer.data.samples import read_samples, read_table
from cxrseg.trainer.recipe import DataRecipe

BY = "source"
"""Column by which figures are told."""

JITTER = 20 / 512
"""Largest shift of a box's edge, as a share of the side: 20 px where a side has 512."""


@dataclass(frozen=True)
class Test:
    """Images to measure on.

    Attributes:
        name: What tables call it.
        split: Value of the column split.
        protocol: What is segmented.
        cases: The images; their rows have a column `BY`.
    """

    __test__ = False  # pytest takes it for a test of its own

    name: str
    split: str
    protocol: Protocol
    cases: Sequence[Case]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of images and masks, their names, patients and groups, lower-case hex."""
        found = hashlib.sha256(f"{self.split} {self.protocol}".encode())
        for case in self.cases:
            found.update(f"\n{case.name} {case.patient} {case.row[BY]} ".encode())
            for path in (case.image, case.mask):
                found.update(hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()


def tests_of(
    data: Sequence[Path],
    recipe: DataRecipe,
    protocols: Iterable[Protocol],
    external: bool,
    limit: int | None,
) -> list[Test]:
    """List what to measure on: the test images of each protocol, and the external ones if asked.

    Args:
        data: Folders and CSV files, as the trainer takes them.
        recipe: Which rows of a CSV are used, and their column of sources.
        protocols: What models segment.
        external: Whether to read rows of the split ``external`` too.
        limit: Most images of one protocol, split and source of data; None = all.

    Raises:
        CxrsegError: There is no test image, or a file is missing.
    """
    found = []
    for split in ("test", "external") if external else ("test",):
        for protocol in protocols:
            cases = [c for path in data for c in _cases(path, recipe, split, protocol, limit)]
            if cases:
                found.append(Test(f"{split}, {protocol}", split, protocol, cases))
    if not found:
        names = ", ".join(str(path) for path in data)
        raise CxrsegError(names, "no image of the split test", "name others with --test")
    return found


def _cases(
    path: Path, recipe: DataRecipe, split: str, protocol: Protocol, limit: int | None
) -> list[Case]:
    if path.is_dir():
        samples = [s for s in read_samples(path) if (s.split, s.protocol) == (split, protocol)]
        names = [f"{path.name}/{s.image.name}" for s in samples]
        cases = [
            Case(name, s.image, s.mask, name, {BY: s.group})
            for name, s in zip(names, samples, strict=True)
        ]
        return spread(cases, limit)
    where = [(column, value) for column, values in recipe.where.items() for value in values]
    _, rows = read_table(path)
    # As the trainer, which takes a CSV without the column for one of fields.
    if not any(
        row.get("split") == split
        and (row.get("protocol") or "fields") == protocol
        and all(row.get(column) in values for column, values in recipe.where.items())
        for row in rows
    ):
        return []
    cases = read_cases(path, split, where, protocol, limit)
    column = recipe.group_column
    return [replace(c, row={**c.row, BY: c.row.get(column) or path.stem}) for c in cases]


class Prompted:
    """Takes the place of an ONNX Runtime session: a SAM in PyTorch, with a box as its prompt.

    Attributes:
        box: [x0, y0, x1, y1] in pixels of the model input, or None for the whole image.

    Args:
        model: A `LungSAM` in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.box: NDArray[np.float32] | None = None

    def run(self, _outputs: object, feeds: Mapping[str, NDArray[np.float32]]) -> list[Any]:
        """Segment ``feeds["image"]``, float32 [1, 1, S, S], as a session does."""
        box = None if self.box is None else torch.from_numpy(self.box)[None]
        with torch.no_grad():
            logits: Tensor = self.model(torch.from_numpy(feeds[INPUT]), box)
        return [logits.numpy()]


def box_around(
    mask: Mask, size: int, generator: np.random.Generator, jitter: float = JITTER
) -> NDArray[np.float32]:
    """Return the box around a mask, each edge moved outwards at random.

    Args:
        mask: bool [H, W] with something in it.
        size: Side S of the model input.
        generator: Where the moves come from.
        jitter: Largest move, as a share of the side.

    Returns:
        float32 [4]: x0, y0, x1, y1 in pixels of the model input, within it.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    edges = np.array(
        [
            columns[0] / width,
            rows[0] / height,
            (columns[-1] + 1) / width,
            (rows[-1] + 1) / height,
        ]
    )
    moved = edges + generator.uniform(0, jitter, 4) * [-1, -1, 1, 1]
    return np.asarray(size * moved.clip(0, 1), dtype=np.float32)


def prompted_scores(
    segmenter: Segmenter, model: nn.Module, cases: Sequence[Case], seed: int
) -> Iterator[Score]:
    """Score a SAM as the paper does: prompted with the box around the reference, perturbed.

    Args:
        segmenter: The exported model; all but the network itself is done as it does.
        model: The `LungSAM` that was exported.
        cases: Images with masks.
        seed: Seed of the perturbation, which is the same for each model.

    Yields:
        One score per case, in order.

    Raises:
        CxrsegError: An image or mask cannot be read.
    """
    session = Prompted(model)
    segmenter.model = replace(segmenter.model, session=session)
    size = segmenter.model.card.preprocessing.size
    for number, case in enumerate(cases):
        radiograph = read(case.image)
        reference = read_reference(case.mask, radiograph.size)
        orientation = radiograph.orientation or Orientation("L", "F")
        upright = orientation.upright(reference.union)
        session.box = box_around(upright, size, np.random.default_rng((seed, number)))
        result = segmenter.segment(radiograph, str(case.image))
        yield compare(result, reference, case, case.row[BY])


def kept(path: Path, key: Mapping[str, Any], make: Callable[[], Iterable[Score]]) -> list[Score]:
    """Return scores from a file if it has them for the same `key`, else make and keep them.

    Args:
        path: JSON file.
        key: Plain data; what the scores depend on, besides the version of this package.
        make: Gives the scores.
    """
    wanted = {"version": package_version(), **key}
    if path.is_file():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["key"] == wanted:
                return [_score(each) for each in stored["scores"]]
        except (ValueError, KeyError, TypeError):
            pass  # damaged: made anew
    scores = list(make())
    plain = {"key": wanted, "scores": [asdict(each) for each in scores]}
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(plain), encoding="utf-8")
    return scores


def _score(plain: dict[str, Any]) -> Score:
    lungs = {side: Agreement(**each) for side, each in plain["lungs"].items()}
    tuples = {name: tuple(plain[name]) for name in ("missing", "flags")}
    return Score(**{**plain, "union": Agreement(**plain["union"]), "lungs": lungs, **tuples})


def over_seeds(runs: Sequence[Sequence[Score]]) -> list[Score]:
    """Return, for each image, the mean of its measures over several trainings.

    Args:
        runs: Scores of the same images, one sequence per training, at least one.
    """
    if len(runs) == 1:
        return list(runs[0])
    return [
        replace(each[0], union=_mean([score.union for score in each]), lungs={})
        for each in zip(*runs, strict=True)
    ]


def _mean(agreements: Sequence[Agreement]) -> Agreement:
    values: dict[str, Any] = {}
    for name in MEASURES:
        known = [getattr(each, name) for each in agreements]
        values[name] = None if None in known else float(np.mean(known))
    return Agreement(**values)
