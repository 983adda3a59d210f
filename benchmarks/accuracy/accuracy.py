"""``cxrseg-bench accuracy``: agreement of a model's masks with reference masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cxrseg.benchmarks.accuracy import scoring
from cxrseg.benchmarks.accuracy.picture import WORST, draw_worst
from cxrseg.benchmarks.accuracy.scoring import Score
from cxrseg.benchmarks.accuracy.summary import Summary, summaries, worst
from cxrseg.benchmarks.accuracy.tables import (
    image_row,
    lungs_table,
    mislabeled_tables,
    sides_table,
    union_table,
    worst_table,
)
from cxrseg.benchmarks.harness.options import DataOptions, DeviceOptions, SeedOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.result import Result
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.harness.samples import (
    Sample,
    csv_facts,
    grouping,
    model_facts,
    read_samples,
)
from cxrseg.runtime.core.labels import PROTOCOLS
from cxrseg.runtime.inference.session import default_threads
from cxrseg.runtime.segmenter import Segmenter

DEFINITIONS = (
    "At the size of each image. NSD (normalized surface Dice): share of both outlines that lies"
    " within 2 px, on a grid of 256 px for the longer side, of the other outline. HD95: 95th"
    " percentile of the Hausdorff distance, the larger of both directions. ASSD: average symmetric"
    " surface distance. Where one mask alone is empty, both distances are the image's diagonal."
    " CI: bootstrap over patients."
)

MISLABELED = (
    "Mislabeled: images whose reference mask agrees better, by Dice of both lungs together, with"
    " the model's lungs under the other label protocol than under its own. The model is the judge,"
    " so this is a reason to look at a mask and no proof that it is wrong. The mean Dice of the"
    " others is a little too good, because what the model gets wrong in that way is not among them."
)


@dataclass(frozen=True)
class ScoringOptions(SeedOptions, DeviceOptions, DataOptions):
    """What models are scored on, and with what."""


@dataclass(frozen=True)
class Options(ScoringOptions):
    """Options of ``cxrseg-bench accuracy``."""

    model: Path | None = argument(default=None, type=PATH)
    mislabeled: bool = option(
        "--mislabeled",
        default=False,
        is_flag=True,
        help="Also name the masks that fit the other label protocol better than their own. The"
        " model must know both.",
    )
    xrays: bool = option(
        "--xrays",
        default=False,
        is_flag=True,
        help="With -o: also draw the ten images of the lowest Dice, with the outlines of model and"
        " reference. They show patients: store them like X-rays.",
    )


@dataclass(frozen=True)
class ModelScores:
    """Scores of one model.

    Attributes:
        segmenter: The model.
        samples: The images.
        by: Name of the column that groups them; None = no groups.
        scores: One per image, in order.
        summary: Group -> its figures, and last those of all images.
    """

    segmenter: Segmenter
    samples: Sequence[Sample]
    by: str | None
    scores: Sequence[Score]
    summary: Mapping[str, Summary]

    @property
    def facts(self) -> dict[str, str]:
        """What a record tells of the model."""
        return model_facts(self.segmenter.path, self.segmenter.model)


def score_model(
    model: Path | None, options: ScoringOptions, find_mislabeled: bool = False
) -> ModelScores:
    """Score a model on the images of a CSV.

    Args:
        model: File of cxrseg-export; None = the one that ships with cxrseg.
        options: Which images, and with what.
        find_mislabeled: Also look for masks that fit the other label protocol better.

    Raises:
        CxrsegError: The CSV, an image or a mask cannot be read, or the model cannot be loaded or
            does not know the protocol.
    """
    samples = read_samples(options.data, options)
    by = grouping(samples, options)
    segmenter = Segmenter(model, options.device, options.threads, options.protocol)
    other = None
    if find_mislabeled:
        (name,) = (protocol for protocol in PROTOCOLS if protocol != options.protocol)
        other = Segmenter(model, options.device, options.threads, name)
    found = scoring.score(segmenter, samples, by, other)
    scores = list(tqdm(found, total=len(samples), unit="image", disable=None))
    return ModelScores(segmenter, samples, by, scores, summaries(scores, by, options.seed))


@benchmark("accuracy", Options, plots=(WORST,))
def accuracy(options: Options) -> Result:
    """Compare a model's lungs with reference masks.

    MODEL is a file written by cxrseg-export; by default the one that ships with cxrseg. Overlap
    (Dice, intersection over union, surface Dice) and surface distances (HD95, ASSD) are taken at
    the size of each image, of both lungs together and, where the reference tells sides, of each
    lung. Intervals are drawn over patients (column patient), or over images without such a
    column.

    Masks are gray images of 0 and 255, or label maps of 0, 1 (right lung) and 2 (left lung).
    Sides are known of label maps, of masks with files of the same name in sibling folders like
    masks_right and masks_left, and of masks that fall into two parts. Right and left are the
    patient's.

    A set of masks may mix lung fields (fields) with lungs that reach behind the heart (whole),
    whatever its file says. With --mislabeled, masks that agree better with what the model finds
    under the other protocol are counted and named.

    \b
    Rows of the split external are evaluated with --split external alone.

    \b
    Examples
      cxrseg-bench accuracy --data pairs.csv
      cxrseg-bench accuracy model.onnx --data pairs.csv --where source=shenzhen -o accuracy.json
      cxrseg-bench accuracy --data pairs.csv --split train --mislabeled
    """
    found = score_model(options.model, options, options.mislabeled)
    scores, segmenter = found.scores, found.segmenter
    data: dict[str, Any] = {
        "model": found.facts,
        "settings": {
            "provider": segmenter.model.provider,
            "threads": options.threads or default_threads(),
            "protocol": options.protocol,
        },
        "dataset": csv_facts(options.data, options, len(scores)),
        "summary": {name: summary.to_dict() for name, summary in found.summary.items()},
        "swapped": [score.image for score in scores if score.swapped],
        "missing": [
            {"image": score.image, "lungs": list(score.missing)}
            for score in scores
            if score.missing
        ],
    }
    tables = [union_table(found.summary), lungs_table(found.summary)]
    tables += [table for table in [sides_table(scores)] if table.rows]
    tables += [*mislabeled_tables(found.summary, scores), worst_table(scores)]
    shown = [(scores[i], found.samples[i]) for i in worst(scores)] if options.xrays else []
    return Result(
        title=f"{segmenter.path.name} on {options.data.name}, split {options.split}",
        data=data,
        tables=tables,
        plots=[draw_worst(segmenter, shown)] if shown else [],
        definitions=f"{DEFINITIONS} {MISLABELED}" if options.mislabeled else DEFINITIONS,
        images=[image_row(score, found.by) for score in scores],
    )
