"""``cxrseg-bench quality-fit``: fit the runtime's flags to a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.legacy_options import (
    columns_and_values,
    device_option,
    output_option,
    threads_option,
    where_option,
)
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.terminal.console import echo, watched

if TYPE_CHECKING:
    from cxrseg.export.reference.fit import Fit

_PATH = click.Path(path_type=Path)


@click.command("quality-fit")
@click.argument("model", required=False, type=_PATH)
@click.option(
    "--data",
    required=True,
    metavar="CSV",
    type=_PATH,
    help="Good images: columns image, mask, split, source and others; its splits train and val"
    " are taken, never others.",
)
@where_option
@click.option(
    "--suspect",
    "suspects",
    multiple=True,
    metavar="DIR",
    type=_PATH,
    help="A folder of what is no frontal chest X-ray, such as lateral views; repeat for more.",
)
@click.option(
    "--poor",
    multiple=True,
    metavar="SOURCE",
    help="A source of badly framed or very ill chests: it helps to tell what is usual, but its"
    " images may be flagged more often. Repeat for more.",
)
@click.option(
    "--write-model",
    "written",
    metavar="FILE.onnx",
    type=_PATH,
    help="Write a copy of the model with the reference inside; may be MODEL itself.",
)
@output_option
@device_option
@threads_option
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Images of each source and split, spread evenly over all.",
)
@click.pass_context
def command(
    context: click.Context,
    model: Path | None,
    data: Path,
    where: tuple[str, ...],
    suspects: tuple[Path, ...],
    poor: tuple[str, ...],
    written: Path | None,
    output: Path | None,
    device: str,
    threads: int | None,
    limit: int,
) -> None:
    """Fit the quality reference of a model, and write it into the model file.

    MODEL is a file written by cxrseg-export; by default the one that ships with cxrseg. What is
    usual is fitted to the good images, and each limit is set so that it flags at most 0.3 % of
    those of any source, with a margin. The limit for images that are no frontal chest lies midway
    between good and suspect ones and flags 95 % of the suspect ones at least.

    \b
    A few minutes; then look at the false alarms on test images:
      cxrseg-bench quality-fit ward7.onnx --data pairs.csv --suspect lateral/ --write-model new.onnx
      cxrseg-bench quality new.onnx --data pairs.csv --suspect lateral/
    """
    # Imported here, so that --help answers at once.
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        circumstances,
        command_line,
        environment,
        now,
        write_record,
    )
    from cxrseg.export.reference.attach import attach
    from cxrseg.export.reference.fit import fit
    from cxrseg.export.reference.images import FITTED_SPLITS, SourceImage, read_images
    from cxrseg.export.reference.observe import observe
    from cxrseg.runtime.inference.session import load_model
    from cxrseg.runtime.models import default_model
    from cxrseg.runtime.readers import find_images

    if output is not None:
        check_output(output)
    terms: dict[str, list[str]] = {}
    for column, value in columns_and_values(where):
        terms.setdefault(column, []).append(value)
    images = read_images(data, where=terms, limit=limit)
    unknown = {*poor} - {image.source for image in images}
    if unknown:
        remedy = "name a value of the column source"
        raise CxrsegError("--poor", f"no image has the source {min(unknown)!r}", remedy)
    odd = [
        SourceImage(found.name, found, found.parent.name, found.name)
        for found in (find_images(suspects) if suspects else ())
    ]
    path = default_model() if model is None else model
    loaded = load_model(path, device, threads)

    date = now()
    echo(f"cxrseg-bench: fitting to {len(images)} images ...", err=True)
    good = list(watched(observe(loaded, images), len(images)))
    fitted = fit(good, list(watched(observe(loaded, odd), len(odd))), poor)
    if written is not None:
        attach(fitted.reference, path, written)
        echo(f"written: {written}")
    title = f"{path.name} on {data.name}, splits {' and '.join(FITTED_SPLITS)}"
    tables = _tables(fitted)
    for line in "\n\n".join([title, *tables]).split("\n"):
        echo(line)
    if output is None:
        return
    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment(),
        "model": {"file": path.name, "sha256": loaded.sha256},
        "data": {
            "csv": data.name,
            "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
            "images": len(good),
            "suspects": [folder.name for folder in suspects],
            "poor": list(poor),
        },
        "definitions": DEFINITIONS,
        "limits": {
            protocol: {name: asdict(threshold) for name, threshold in found.thresholds.items()}
            for protocol, found in fitted.protocols.items()
        },
        "alarms": {protocol: found.alarms for protocol, found in fitted.protocols.items()},
        "mirrored": {protocol: found.mirrored for protocol, found in fitted.protocols.items()},
        "caught": {x: found.caught for x, found in fitted.protocols.items() if found.caught},
    }
    page = [
        f"# Fit of the quality flags: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; model SHA-256 `{loaded.sha256}`.",
        DEFINITIONS,
        *tables,
    ]
    write_record(output, "quality-fit", record, "\n\n".join(page))
    echo(f"written: {output}, {output.with_suffix('.md')}")


DEFINITIONS = (
    "Good reach: what at most 0.3 % of the good images of any source exceed (poor sources aside), "
    "each judged by what is usual in the four other folds of patients. Then the share of the good "
    "images above each limit, and above any; if mirrored: the share that would be flagged as "
    "mirrored if they were. Suspect images are counted where the mask holds two lungs; left out: "
    "flagged when the limit is fitted without the image."
)


def _tables(fitted: Fit) -> list[str]:
    from cxrseg.benchmarks.harness.legacy_record import table

    out = []
    for protocol, fit in fitted.protocols.items():
        alarms = fit.alarms
        rows = [
            [
                name,
                f"{limit.value:.3g}",
                f"{limit.good:.3g}",
                "" if limit.suspect is None else f"{limit.suspect:.3g}",
                *(f"{100 * found[name]:.2f} %" for found in alarms.values()),
            ]
            for name, limit in fit.thresholds.items()
        ]
        either = [f"{100 * found['any']:.2f} %" for found in alarms.values()]
        counts = [f"{found['images']:.0f}" for found in alarms.values()]
        turned = [f"{100 * share:.1f} %" for share in fit.mirrored.values()]
        rows += [["any", "", "", "", *either], ["if mirrored", "", "", "", *turned]]
        rows += [["images", "", "", "", *counts]]
        header = [f"protocol {protocol}", "limit", "good reach", "least suspect", *alarms]
        out.append(table(header, rows))
        if fit.caught:
            out.append(_sentence(fit.caught))
    return out


def _sentence(caught: Mapping[str, float]) -> str:
    return (
        f"Suspect images with two lungs: {caught['images']:.0f}; flagged as out of distribution "
        f"{100 * caught['flagged']:.1f} %, left out {100 * caught['without']:.1f} %."
    )
