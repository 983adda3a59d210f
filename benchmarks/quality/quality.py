"""``cxrseg-bench quality``: how often the runtime flags images that are fine, and others."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.legacy_options import (
    columns_and_values,
    device_option,
    limit_option,
    output_option,
    split_option,
    threads_option,
    where_option,
)
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol
from cxrseg.runtime.terminal.console import echo, watched

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cxrseg.benchmarks.harness.legacy_samples import Case
    from cxrseg.runtime.segmenter import Segmenter

    Pixels = NDArray[np.float32]

_PATH = click.Path(path_type=Path)
_CUT = 0.3

DEFINITIONS = (
    "Flagged: share of the images with any flag of the runtime; each code's share follows. Images "
    "of the CSV are taken for good ones, whose flags are false alarms. Suspect folders and "
    f"generated images should be flagged: inverted, upside down (turned by 180 degrees), quarter "
    f"turns, mirrored, cut (the outer {100 * _CUT:.0f} % of the left or right side removed), blank "
    "(the image's mean) and noise (uniform)."
)


@dataclass(frozen=True)
class Looked:
    """What the runtime said of one image.

    Attributes:
        group: What kind of image it is.
        image: Its name.
        flags: Codes of its flags, in order.
    """

    group: str
    image: str
    flags: tuple[str, ...]


def transforms() -> dict[str, Callable[[Pixels, int], Pixels]]:
    """Return name -> what makes of float32 [H, W] in [0, 1] and a seed an image to be flagged."""
    import numpy as np

    def noise(pixels: Pixels, seed: int) -> Pixels:
        return np.random.default_rng(seed).random(pixels.shape, np.float32)

    def cut(pixels: Pixels) -> int:
        return int(_CUT * pixels.shape[1])

    return {
        "inverted": lambda pixels, _: 1 - pixels,
        "upside down": lambda pixels, _: pixels[::-1, ::-1],
        "quarter turn left": lambda pixels, _: np.rot90(pixels),
        "quarter turn right": lambda pixels, _: np.rot90(pixels, 3),
        "mirrored": lambda pixels, _: pixels[:, ::-1],
        "cut left": lambda pixels, _: pixels[:, cut(pixels) :],
        "cut right": lambda pixels, _: pixels[:, : -cut(pixels)],
        "blank": lambda pixels, _: np.full_like(pixels, pixels.mean()),
        "noise": noise,
    }


def look(
    segmenter: Segmenter,
    cases: Sequence[Case],
    suspects: Sequence[tuple[str, Path]],
    generated: bool,
) -> Iterator[Looked]:
    """Segment every image and give its flags.

    Args:
        segmenter: The loaded model.
        cases: Images that are fine, grouped by their column ``source``.
        suspects: Group and path of images that are not.
        generated: Whether to transform every case as well.

    Raises:
        CxrsegError: An image cannot be read, or the model fails.
    """
    import numpy as np

    from cxrseg.runtime.readers import read

    makers = transforms() if generated else {}
    for seed, case in enumerate(cases):
        radiograph = read(case.image)
        source = case.row.get("source") or "images"
        yield Looked(source, case.name, _codes(segmenter.segment(radiograph)))
        for name, make in makers.items():
            pixels = np.ascontiguousarray(make(radiograph.pixels, seed))
            result = segmenter.segment(replace(radiograph, pixels=pixels), case.name)
            yield Looked(f"{source}, {name}", case.name, _codes(result))
    for group, path in suspects:
        yield Looked(f"suspect {group}", path.name, _codes(segmenter.segment(path)))


def _codes(result: Any) -> tuple[str, ...]:
    return tuple(flag.code for flag in result.flags)


def shares(looked: Sequence[Looked]) -> dict[str, dict[str, Any]]:
    """Return group -> number of images, share flagged and share of each code, most frequent first.

    The plain groups come before the generated ones.
    """
    groups: dict[str, list[Looked]] = {}
    for each in looked:
        groups.setdefault(each.group, []).append(each)
    found = {}
    for group in sorted(groups, key=lambda name: (name.startswith("suspect "), ", " in name)):
        images = groups[group]
        codes = Counter(code for each in images for code in dict.fromkeys(each.flags))
        found[group] = {
            "images": len(images),
            "flagged": round(sum(bool(each.flags) for each in images) / len(images), 4),
            "codes": {code: round(n / len(images), 4) for code, n in codes.most_common()},
        }
    return found


def shares_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the shares as an aligned Markdown table."""
    from cxrseg.benchmarks.harness.legacy_record import table

    rows = [
        [
            group,
            str(each["images"]),
            f"{100 * each['flagged']:.1f} %",
            ", ".join(f"{code} {100 * share:.1f} %" for code, share in each["codes"].items()),
        ]
        for group, each in figures.items()
    ]
    return table(["images", "n", "flagged", "codes"], rows)


def good_images(
    data: Path, split: str, where: Sequence[tuple[str, str]], limit: int | None
) -> list[Case]:
    """Return the rows of both protocols: how a reference was drawn does not matter here.

    Args:
        data: The CSV.
        split: Value of its column ``split``.
        where: Column and value that a row must have.
        limit: Images of each source, spread evenly; None = all.

    Raises:
        CxrsegError: As `read_cases`.
    """
    from cxrseg.benchmarks.harness.legacy_samples import read_cases, spread

    found: dict[str, Case] = {}
    errors = []
    for protocol in PROTOCOLS:
        try:
            found |= {case.name: case for case in read_cases(data, split, where, protocol)}
        except CxrsegError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    groups: dict[str, list[Case]] = {}
    for case in found.values():
        groups.setdefault(case.row.get("source", ""), []).append(case)
    return [case for group in groups.values() for case in spread(group, limit)]


@click.command("quality")
@click.argument("model", required=False, type=_PATH)
@click.option(
    "--data",
    required=True,
    metavar="CSV",
    type=_PATH,
    help="Good images: columns image, mask, split and others; paths relative to the file.",
)
@split_option
@where_option
@click.option(
    "--suspect",
    "suspects",
    multiple=True,
    metavar="DIR",
    type=_PATH,
    help="A folder of images that should be flagged; repeat for more.",
)
@click.option(
    "--transforms",
    "generated",
    is_flag=True,
    help="Also invert, turn, mirror and cut the good images, and replace them by nothing and"
    " noise.",
)
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="fields",
    show_default=True,
    help="What to segment.",
)
@output_option
@device_option
@threads_option
@limit_option
@click.pass_context
def command(
    context: click.Context,
    model: Path | None,
    data: Path,
    split: str,
    where: tuple[str, ...],
    suspects: tuple[Path, ...],
    generated: bool,
    protocol: Protocol,
    output: Path | None,
    device: str,
    threads: int | None,
    limit: int | None,
) -> None:
    """Measure how often the runtime flags images.

    MODEL is a file written by cxrseg-export; by default the one that ships with cxrseg. Rows of
    every protocol are taken; figures are given per value of the column source, and --limit counts
    images of each source. The limits come from cxrseg-bench quality-fit, never from the split
    test.

    \b
    Rows of the split external are evaluated with --split external alone.
    """
    # Imported here, so that --help answers at once.
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        command_line,
        environment,
        now,
        write_record,
    )
    from cxrseg.runtime.inference.session import default_threads
    from cxrseg.runtime.readers import find_images
    from cxrseg.runtime.segmenter import Segmenter

    cases = good_images(data, split, columns_and_values(where), limit)
    images = [(folder.name, path) for folder in suspects for path in find_images([folder])]
    if output is not None:
        check_output(output)
    segmenter = Segmenter(model, device, threads, protocol)

    date = now()
    count = len(cases) * (1 + (len(transforms()) if generated else 0)) + len(images)
    looked = list(watched(look(segmenter, cases, images, generated), count))
    figures = shares(looked)
    title = f"{segmenter.path.name} on {data.name}, split {split}"
    tables = [shares_table(figures)]
    for line in "\n\n".join([title, *tables]).split("\n"):
        echo(line)
    if output is None:
        return
    loaded = segmenter.model
    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment(),
        "model": {
            "file": segmenter.path.name,
            "name": loaded.card.name,
            "version": loaded.card.version,
            "sha256": loaded.sha256,
        },
        "settings": {
            "provider": loaded.provider,
            "threads": threads or default_threads(),
            "protocol": protocol,
            "thresholds": thresholds(segmenter),
            "not_assessed": list(segmenter.not_assessed),
        },
        "data": {
            "csv": data.name,
            "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
            "split": split,
            "where": list(where),
            "limit": limit,
            "suspects": [folder.name for folder in suspects],
            "images": len(looked),
        },
        "definitions": DEFINITIONS,
        "groups": figures,
        "flagged_images": [
            {"group": each.group, "image": each.image, "flags": list(each.flags)}
            for each in looked
            if each.flags and ", " not in each.group
        ],
    }
    write_record(output, "quality", record, _markdown(title, record, tables))
    echo(f"written: {output}, {output.with_suffix('.md')}")


def thresholds(segmenter: Segmenter) -> dict[str, float]:
    """Return name -> limit of each rule that the segmenter judges."""
    from cxrseg.runtime.quality.assess import judged_protocol
    from cxrseg.runtime.quality.rules import RULES

    reference, labels = segmenter.reference, segmenter.labels
    protocol = judged_protocol(reference, labels)
    fitted = {} if reference is None or protocol is None else reference.limits[protocol]
    lacking = {*segmenter.not_assessed}
    return {
        name: round(float(fitted.get(name, rule.limit)), 4)
        for name, rule in RULES.items()
        if rule.code not in lacking
    }


def _markdown(title: str, record: Mapping[str, Any], tables: Sequence[str]) -> str:
    from cxrseg.benchmarks.harness.legacy_record import circumstances

    facts = [
        f"# Quality flags: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; model SHA-256 `{record['model']['sha256']}`.",
        record["definitions"],
    ]
    return "\n\n".join([*facts, *tables])
