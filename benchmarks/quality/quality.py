"""``cxrseg-bench quality``: how often the runtime flags images that are fine, and others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cxrseg.benchmarks.harness.options import DeviceOptions, RowOptions
from cxrseg.benchmarks.harness.parameters import PATH, argument, option
from cxrseg.benchmarks.harness.result import Result, Table
from cxrseg.benchmarks.harness.runner import benchmark
from cxrseg.benchmarks.harness.samples import csv_facts, model_facts
from cxrseg.export.reference.images import SourceImage, read_images
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.inference.session import default_threads
from cxrseg.runtime.quality.outline_flags import judged_protocol
from cxrseg.runtime.quality.rules import RULES
from cxrseg.runtime.readers.folders import find_images
from cxrseg.runtime.readers.reading import read
from cxrseg.runtime.segmenter import Segmenter

Pixels = NDArray[np.float32]

CUT = 0.3
"""Share of an image that is cut off at a side."""

DEFINITIONS = (
    "Flagged: share of the images with any flag of the runtime; each code's share follows. Images "
    "of the CSV are taken for good ones, whose flags are false alarms. Suspect folders and "
    "generated images should be flagged: inverted, upside down (turned by 180 degrees), quarter "
    f"turns, mirrored, cut (the outer {100 * CUT:.0f} % of the left or right side removed), blank "
    "(the image's mean) and noise (uniform)."
)


@dataclass(frozen=True)
class Options(DeviceOptions, RowOptions):
    """Options of ``cxrseg-bench quality``."""

    model: Path | None = argument(default=None, type=PATH)
    data: Path = option(
        "--data",
        metavar="CSV",
        type=PATH,
        help="Good images: columns image, split and others; paths relative to the file.",
    )
    suspects: tuple[Path, ...] = option(
        "--suspect",
        default=(),
        multiple=True,
        metavar="DIR",
        type=PATH,
        help="A folder of images that should be flagged; repeat for more.",
    )
    transforms: bool = option(
        "--transforms",
        default=False,
        is_flag=True,
        help="Also invert, turn, mirror and cut the good images, and replace them by nothing and"
        " noise.",
    )
    protocol: Protocol = option(
        "--protocol",
        default="fields",
        type=click.Choice(PROTOCOLS),
        help="What to segment. Rows of every protocol are taken.",
    )
    limit: int | None = option(
        "--limit",
        default=None,
        metavar="N",
        type=click.IntRange(min=1),
        help="Images of each source, spread evenly.",
    )


@dataclass(frozen=True)
class FlaggedImage:
    """What the runtime said of one image.

    Attributes:
        group: What kind of image it is.
        image: Its name.
        flags: Codes of its flags, in order.
    """

    group: str
    image: str
    flags: tuple[str, ...]


def _cut(pixels: Pixels) -> int:
    return int(CUT * pixels.shape[1])


TRANSFORMS: Mapping[str, Callable[[Pixels, int], Pixels]] = {
    "inverted": lambda pixels, _: 1 - pixels,
    "upside down": lambda pixels, _: pixels[::-1, ::-1],
    "quarter turn left": lambda pixels, _: np.rot90(pixels),
    "quarter turn right": lambda pixels, _: np.rot90(pixels, 3),
    "mirrored": lambda pixels, _: pixels[:, ::-1],
    "cut left": lambda pixels, _: pixels[:, _cut(pixels) :],
    "cut right": lambda pixels, _: pixels[:, : -_cut(pixels)],
    "blank": lambda pixels, _: np.full_like(pixels, pixels.mean()),
    "noise": lambda pixels, seed: np.random.default_rng(seed).random(pixels.shape, np.float32),
}
"""Name -> what makes of float32 [H, W] in [0, 1] and a seed an image that should be flagged."""


@benchmark("quality", Options)
def quality(options: Options) -> Result:
    """Measure how often the runtime flags images.

    MODEL is a file written by cxrseg-export; by default the one that ships with cxrseg. Figures
    are given per value of the column source. The limits come from the model's quality reference,
    which cxrseg-bench quality-fit fits to the splits train and val, never to test.

    Rows of the split external are evaluated with --split external alone.
    """
    images = read_images(options.data, [options.split], terms(options.where), options.limit)
    suspects = [(folder.name, x) for folder in options.suspects for x in find_images([folder])]
    segmenter = Segmenter(options.model, options.device, options.threads, options.protocol)
    total = len(images) * (1 + (len(TRANSFORMS) if options.transforms else 0)) + len(suspects)
    progress = tqdm(
        look(segmenter, images, suspects, options.transforms),
        total=total,
        unit="image",
        disable=None,
    )
    found = list(progress)
    groups = shares(found)
    return Result(
        f"{segmenter.path.name} on {options.data.name}, split {options.split}",
        {
            "model": model_facts(segmenter.path, segmenter.model),
            "settings": {
                "provider": segmenter.model.provider,
                "threads": options.threads or default_threads(),
                "protocol": options.protocol,
                "thresholds": thresholds(segmenter),
                "not_assessed": list(segmenter.not_assessed),
            },
            "dataset": {
                **csv_facts(options.data, options, len(images)),
                "suspects": [folder.name for folder in options.suspects],
            },
            "groups": groups,
        },
        [_table(groups)],
        definitions=DEFINITIONS,
        images=[asdict(each) for each in found if each.flags and ", " not in each.group],
    )


def terms(where: Sequence[str]) -> dict[str, list[str]]:
    """Return column -> accepted values of terms ``column=value``."""
    found: dict[str, list[str]] = {}
    for term in where:
        column, _, value = term.partition("=")
        found.setdefault(column, []).append(value)
    return found


def look(
    segmenter: Segmenter,
    images: Sequence[SourceImage],
    suspects: Sequence[tuple[str, Path]],
    transformed: bool,
) -> Iterator[FlaggedImage]:
    """Segment every image and give its flags.

    Args:
        segmenter: The loaded model.
        images: Images that are fine.
        suspects: Group and path of images that are not.
        transformed: Whether to do the good images under all `TRANSFORMS` as well.

    Raises:
        CxrsegError: An image cannot be read, or the model fails.
    """
    for seed, image in enumerate(images):
        radiograph = read(image.path)
        yield FlaggedImage(image.source, image.name, _codes(segmenter.segment(radiograph)))
        for name, transform in TRANSFORMS.items() if transformed else ():
            pixels = np.ascontiguousarray(transform(radiograph.pixels, seed))
            result = segmenter.segment(replace(radiograph, pixels=pixels), image.name)
            yield FlaggedImage(f"{image.source}, {name}", image.name, _codes(result))
    for group, path in suspects:
        yield FlaggedImage(f"suspect {group}", path.name, _codes(segmenter.segment(path)))


def _codes(result: Segmentation) -> tuple[str, ...]:
    return tuple(flag.code for flag in result.flags)


def shares(found: Sequence[FlaggedImage]) -> dict[str, dict[str, Any]]:
    """Return group -> number of images, share flagged and share of each code, most frequent first.

    The plain groups come before the generated ones.
    """
    groups: dict[str, list[FlaggedImage]] = {}
    for image in found:
        groups.setdefault(image.group, []).append(image)
    figures = {}
    for group in sorted(groups, key=lambda name: (name.startswith("suspect "), ", " in name)):
        images = groups[group]
        codes = Counter(code for image in images for code in dict.fromkeys(image.flags))
        figures[group] = {
            "images": len(images),
            "flagged": round(sum(bool(image.flags) for image in images) / len(images), 4),
            "codes": {code: round(n / len(images), 4) for code, n in codes.most_common()},
        }
    return figures


def _table(figures: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [
        [
            group,
            str(each["images"]),
            f"{100 * each['flagged']:.1f} %",
            ", ".join(f"{code} {100 * share:.1f} %" for code, share in each["codes"].items()),
        ]
        for group, each in figures.items()
    ]
    return Table(["images", "n", "flagged", "codes"], rows)


def thresholds(segmenter: Segmenter) -> dict[str, float]:
    """Return name -> limit of each rule that the segmenter judges."""
    reference = segmenter.reference
    protocol = judged_protocol(reference, segmenter.labels)
    fitted = {} if reference is None or protocol is None else reference.limits[protocol]
    return {
        name: round(float(fitted.get(name, rule.limit)), 4)
        for name, rule in RULES.items()
        if rule.code not in segmenter.not_assessed
    }
