"""``cxrseg-bench quality-fit``: fit the quality reference of a model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cxrseg.benchmarks.harness.options import DeviceOptions, WhereOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.result import Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.harness.samples import model_facts
from cxrseg.benchmarks.quality.quality import terms
from cxrseg.export.reference.attach import attach
from cxrseg.export.reference.fit import LIMIT, Fit, ProtocolFit, fit
from cxrseg.export.reference.images import FITTED_SPLITS, SourceImage, read_images
from cxrseg.export.reference.observe import Observation, observe
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.atomic import check_place
from cxrseg.runtime.files.digest import sha256_of
from cxrseg.runtime.inference.loading import LoadedModel, load_model
from cxrseg.runtime.models import default_model
from cxrseg.runtime.readers.folders import find_images

DEFINITIONS = (
    "Good reach: what at most 0.3 % of the good images of any source exceed (poor sources aside), "
    "each judged by what is usual in the four other folds of patients. Then the share of the good "
    "images above each limit, and above any; if mirrored: the share that would be flagged as "
    "mirrored if they were. Suspect images are counted where the mask holds two lungs; left out: "
    "flagged when the limit is fitted without the image."
)


@dataclass(frozen=True)
class Options(DeviceOptions, WhereOptions):
    """Options of ``cxrseg-bench quality-fit``."""

    model: Path | None = argument(default=None, type=PATH)
    data: Path = option(
        "--data",
        metavar="CSV|FOLDER",
        type=PATH,
        help="Good images: a CSV with the columns image, split, source and others, or a data"
        " folder. The splits train and val are taken, never others.",
    )
    suspects: tuple[Path, ...] = option(
        "--suspect",
        default=(),
        multiple=True,
        metavar="DIR",
        type=PATH,
        help="A folder of what is no frontal chest X-ray, such as lateral views; repeat for more.",
    )
    poor: tuple[str, ...] = option(
        "--poor",
        default=(),
        multiple=True,
        metavar="SOURCE",
        help="A source of badly framed or very ill chests: it helps to tell what is usual, but its"
        " images may be flagged more often. Repeat for more.",
    )
    limit: int = option(
        "--limit",
        default=LIMIT,
        metavar="N",
        type=click.IntRange(min=1),
        help="Images of each source and split, spread evenly over all.",
    )
    write_model: Path | None = option(
        "--write-model",
        default=None,
        metavar="FILE.onnx",
        type=PATH,
        help="Write a copy of the model with the reference inside; may be MODEL itself.",
    )


@benchmark("quality-fit", Options)
def quality_fit(options: Options) -> Result:
    """Fit the quality reference of a model, and write it into the model file.

    MODEL is a file written by cxrseg-export; by default the one that ships with cxrseg. What is
    usual is fitted to the good images, and each limit is set so that it flags at most 0.3 % of
    those of any source, with a margin. The limit for images that are no frontal chest lies midway
    between good and suspect ones and flags 95 % of the suspect ones at least.

    A few minutes; then look at the false alarms on test images:

    \b
      cxrseg-bench quality-fit ward7.onnx --data pairs.csv --write-model new.onnx
      cxrseg-bench quality new.onnx --data pairs.csv
    """
    if options.write_model is not None:
        check_written_model(options.write_model)
    images = read_images(options.data, FITTED_SPLITS, terms(options.where), options.limit)
    unknown = {*options.poor} - {image.source for image in images}
    if unknown:
        remedy = "name a value of the column source"
        raise CxrsegError("--poor", f"no image has the source {min(unknown)!r}", remedy)
    suspects = [
        SourceImage(path.name, path, folder.name, path.name)
        for folder in options.suspects
        for path in find_images([folder])
    ]
    path = options.model or default_model()
    model = load_model(path, options.device, options.threads)
    observed = list(_observed(model, [*images, *suspects]))
    fitted = fit(observed[: len(images)], observed[len(images) :], options.poor)
    if options.write_model is not None:
        attach(fitted.reference, path, options.write_model)
    return Result(
        f"{path.name} on {options.data.name}, splits {' and '.join(FITTED_SPLITS)}",
        {
            "model": model_facts(path, model),
            "dataset": {
                **_file_facts(options.data),
                "images": len(images),
                "suspects": [folder.name for folder in options.suspects],
                "poor": list(options.poor),
            },
            **_figures(fitted),
        },
        [_table(protocol, found) for protocol, found in fitted.protocols.items()],
        definitions=DEFINITIONS,
    )


def check_written_model(path: Path) -> None:
    """Refuse, before the work, a model file that could not be written after it.

    Raises:
        CxrsegError: It does not end in ``.onnx``, its folder is missing or not writable, or a file
            stands there that is no model of cxrseg's.
    """
    remedy = "choose another with --write-model"
    if path.suffix != ".onnx":
        raise CxrsegError(path, "does not end in .onnx", "name it like model.onnx")
    if not os.access(path.parent, os.W_OK):
        raise CxrsegError(path, "its folder cannot be written to", remedy)
    check_place(path, remedy)
    if path.exists():
        try:
            load_model(path, "cpu")
        except CxrsegError as error:
            cause = f"exists and is no model of cxrseg's, so it is kept ({error.cause})"
            raise CxrsegError(path, cause, remedy) from error


def _observed(model: LoadedModel, images: list[SourceImage]) -> Iterator[Observation]:
    return iter(tqdm(observe(model, images), total=len(images), unit="image", disable=None))


def _file_facts(data: Path) -> dict[str, str]:
    if data.is_dir():
        return {"folder": data.name}
    return {"csv": data.name, "sha256": sha256_of(data)}


def _figures(fitted: Fit) -> dict[str, Any]:
    protocols = fitted.protocols.items()
    return {
        "limits": {
            protocol: {name: asdict(threshold) for name, threshold in found.thresholds.items()}
            for protocol, found in protocols
        },
        "alarms": {protocol: found.alarms for protocol, found in protocols},
        "mirrored": {protocol: found.mirrored for protocol, found in protocols},
        "caught": {protocol: found.caught for protocol, found in protocols if found.caught},
    }


def _table(protocol: str, found: ProtocolFit) -> Table:
    alarms, nothing = found.alarms, ["", "", ""]
    rows = [
        [
            name,
            f"{threshold.value:.3g}",
            f"{threshold.good:.3g}",
            "" if threshold.suspect is None else f"{threshold.suspect:.3g}",
            *(f"{100 * share[name]:.2f} %" for share in alarms.values()),
        ]
        for name, threshold in found.thresholds.items()
    ]
    rows += [
        ["any", *nothing, *(f"{100 * share['any']:.2f} %" for share in alarms.values())],
        ["if mirrored", *nothing, *(f"{100 * x:.1f} %" for x in found.mirrored.values())],
        ["images", *nothing, *(f"{share['images']:.0f}" for share in alarms.values())],
    ]
    header = [f"protocol {protocol}", "limit", "good reach", "least suspect", *alarms]
    note = ""
    if found.caught:
        note = (
            f"Suspect images with two lungs: {found.caught['images']:.0f}; flagged as out of"
            f" distribution {100 * found.caught['flagged']:.1f} %, left out"
            f" {100 * found.caught['without']:.1f} %."
        )
    return Table(header, rows, note=note)
