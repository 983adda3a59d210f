"""``cxrseg-bench box-prompts``: accuracy of a SAM that is prompted with a box, as in the paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from cxrseg.benchmarks.accuracy.metrics import Mask
from cxrseg.benchmarks.accuracy.scoring import Score, compare, read_reference
from cxrseg.benchmarks.accuracy.summary import summaries
from cxrseg.benchmarks.accuracy.tables import union_table
from cxrseg.benchmarks.harness.options import DataOptions, SeedOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument
from cxrseg.benchmarks.harness.result import Result
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.harness.samples import Sample, csv_facts, grouping, read_samples
from cxrseg.benchmarks.quantization.exports import card_of_export
from cxrseg.runtime.core.borders import inside_borders
from cxrseg.runtime.core.orientation import UPRIGHT
from cxrseg.runtime.inference.model_file import INPUT
from cxrseg.runtime.readers.reading import read
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.trainer.fit.checkpoint import load

JITTER = 20 / 512
"""Largest shift of a box's edge, as a share of the side: 20 px where a side has 512."""

DEFINITIONS = (
    "The network in PyTorch, since the files take no box, prompted as in the paper: with the box"
    " around the reference mask, each edge moved outwards by 0 to 20 px of 512 (the paper names no"
    " grid). Networks that were trained without a prompt do not know such a box."
)


@dataclass(frozen=True)
class Options(DataOptions, SeedOptions):
    """What is prompted, and on which images."""

    model: Path = argument(metavar="MODEL", type=PATH)
    checkpoint: Path = argument(metavar="CHECKPOINT", type=PATH)


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
    segmenter: Segmenter, model: nn.Module, samples: Sequence[Sample], by: str | None, seed: int
) -> Iterator[Score]:
    """Score a SAM that is prompted with the box around the reference, perturbed.

    Args:
        segmenter: The exported model; all but the network itself is done as it does.
        model: The `LungSAM` that was exported.
        samples: Images with masks.
        by: Column that groups are told by.
        seed: Seed of the perturbation, which is the same for each model.

    Yields:
        One score per sample, in order.

    Raises:
        CxrsegError: An image or mask cannot be read.
    """
    session = Prompted(model)
    segmenter.model = replace(segmenter.model, session=session)
    size = segmenter.model.card.preprocessing.size
    for number, sample in enumerate(samples):
        radiograph = read(sample.image)
        reference = read_reference(sample.mask, radiograph)
        orientation = radiograph.orientation or UPRIGHT
        seen = orientation.upright(reference.union)[inside_borders(radiograph.upright)]
        session.box = box_around(seen, size, np.random.default_rng((seed, number)))
        result = segmenter.segment(radiograph, str(sample.image))
        yield compare(result, reference, sample, sample.row[by] if by else "")


@benchmark("box-prompts", Options)
def box_prompts(options: Options) -> Result:
    """Score a SAM that is prompted with a box, as the paper does.

    MODEL is an export of CHECKPOINT; the network itself runs in PyTorch, prompted with the box
    around the reference mask, each edge moved outwards by 0 to 20 pixels of 512.

    \b
    Example
      cxrseg-bench box-prompts model.onnx model.ckpt --data pairs.csv -o box.json
    """
    loaded = load(options.checkpoint)
    model = loaded.sam
    card_of_export(options.model, loaded.sha256)
    samples = read_samples(options.data, options)
    by = grouping(samples, options)
    segmenter = Segmenter(options.model, "cpu", None, options.protocol)
    progress = tqdm(
        prompted_scores(segmenter, model, samples, by, options.seed),
        total=len(samples),
        unit="image",
        disable=None,
    )
    figures = summaries(list(progress), by, options.seed)
    return Result(
        title=f"{options.model.name}, prompted with boxes, on {options.data.name}",
        data={
            "protocol": options.protocol,
            "dataset": csv_facts(options.data, options, len(samples)),
            "summary": {name: summary.to_dict() for name, summary in figures.items()},
        },
        tables=[union_table(figures)],
        definitions=DEFINITIONS,
    )
