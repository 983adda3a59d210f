"""``cxrseg-bench labels``: reference masks that seem to follow the other label protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from cxrseg.benchmarks.harness.legacy_options import (
    by_option,
    columns_and_values,
    data_option,
    device_option,
    limit_option,
    output_option,
    protocol_option,
    split_option,
    threads_option,
    where_option,
)
from cxrseg.runtime.core.labels import PROTOCOLS, Protocol
from cxrseg.runtime.terminal.console import echo, watched

if TYPE_CHECKING:
    from cxrseg.benchmarks.harness.legacy_samples import Case
    from cxrseg.runtime.segmenter import Segmenter

_PATH = click.Path(path_type=Path)

DEFINITIONS = (
    "Misfiled: images whose reference mask agrees better, by Dice of both lungs together at native"
    " size, with the model's lungs under the other protocol than under the one that it is filed"
    " under. The model is the judge, so this is a reason to look at a mask, not proof that it is"
    " wrong; and the mean Dice of the others is a little too good, because what the model gets"
    " wrong in that way is not among them."
)


@dataclass(frozen=True)
class Fit:
    """How well one mask agrees with the model under both protocols.

    Attributes:
        image: Name of the image in the CSV.
        group: Its value in the grouping column; empty without one.
        own: Dice of both lungs together, in [0, 1], under the mask's protocol.
        other: The same under the other protocol.
    """

    image: str
    group: str
    own: float
    other: float

    @property
    def misfiled(self) -> bool:
        """Whether the mask agrees better with the other protocol."""
        return self.other > self.own


def other_protocol(protocol: Protocol) -> Protocol:
    """Return the protocol that is not this one."""
    (other,) = (name for name in PROTOCOLS if name != protocol)
    return other


def fits(own: Segmenter, other: Segmenter, cases: Sequence[Case], by: str | None) -> Iterator[Fit]:
    """Compare every mask with what a model finds under both protocols.

    Args:
        own: The model, under the protocol of the masks.
        other: The same model under the other.
        cases: Images with masks.
        by: Column whose value becomes the group.

    Raises:
        CxrsegError: An image or mask cannot be read, or their sizes differ.
    """
    from cxrseg.benchmarks.accuracy.metrics import dice
    from cxrseg.runtime.readers import read
    from cxrseg.trainer.data.samples import read_mask

    for case in cases:
        radiograph = read(case.image)
        truth = read_mask(case.mask, radiograph.size) != 0
        agreed = [
            dice(each.segment(radiograph, case.name).mask != 0, truth) for each in (own, other)
        ]
        yield Fit(case.name, case.row[by] if by else "", *agreed)


def counts(found: Sequence[Fit]) -> list[dict[str, Any]]:
    """Return, for each group and for all, how many are misfiled, and the Dice with and without."""
    groups = sorted({fit.group for fit in found})
    parts = {group: [fit for fit in found if fit.group == group] for group in groups}
    if len(groups) > 1:
        parts["all"] = list(found)
    return [
        {
            "group": group or ("-" if len(groups) > 1 else "all"),
            "images": len(part),
            "misfiled": sum(fit.misfiled for fit in part),
            "mean_dice": _mean(fit.own for fit in part),
            "mean_dice_misfiled": _mean(fit.own for fit in part if fit.misfiled),
            "mean_dice_others": _mean(fit.own for fit in part if not fit.misfiled),
        }
        for group, part in parts.items()
    ]


def _mean(values: Iterator[float]) -> float | None:
    known = list(values)
    return round(fmean(known), 6) if known else None


def _counts_table(figures: Sequence[dict[str, Any]]) -> str:
    from cxrseg.benchmarks.harness.legacy_record import table

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    header = ["images", "n", "misfiled", "Dice", "Dice, misfiled", "Dice, others"]
    rows = [
        [
            each["group"],
            str(each["images"]),
            str(each["misfiled"]),
            *(number(each[f"mean_dice{end}"]) for end in ("", "_misfiled", "_others")),
        ]
        for each in figures
    ]
    return table(header, rows)


def _misfiled_table(found: Sequence[Fit], protocol: Protocol) -> str:
    from cxrseg.benchmarks.harness.legacy_record import table

    rows = [[fit.image, f"{fit.own:.4f}", f"{fit.other:.4f}"] for fit in found if fit.misfiled]
    header = ["misfiled", f"Dice, {protocol}", f"Dice, {other_protocol(protocol)}"]
    return table(header, rows) if rows else ""


@click.command("labels")
@click.argument("model", required=False, type=_PATH)
@data_option
@split_option
@where_option
@by_option
@protocol_option
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
    by: str | None,
    protocol: Protocol,
    output: Path | None,
    device: str,
    threads: int | None,
    limit: int | None,
) -> None:
    """Find masks that seem to follow the other label protocol.

    A set of masks may mix lung fields (fields) with lungs that reach behind the heart (whole),
    whatever its file says. Listed are images whose mask agrees better with what a model finds
    under the other protocol. Look at them; cxrseg-train leaves such images out where a recipe sets
    skip_misfiled.

    MODEL is a file written by cxrseg-export that knows both protocols; by default the one that
    ships with cxrseg.

    \b
    Example
      cxrseg-bench labels --data pairs.csv --split train
    """
    # Imported here, so that --help answers at once.
    from cxrseg.benchmarks.harness.legacy_record import (
        check_output,
        circumstances,
        command_line,
        csv_facts,
        environment,
        model_facts,
        now,
        write_record,
    )
    from cxrseg.benchmarks.harness.legacy_samples import grouping, read_cases
    from cxrseg.runtime.inference.session import default_threads
    from cxrseg.runtime.segmenter import Segmenter

    cases = read_cases(data, split, columns_and_values(where), protocol, limit)
    by = grouping(cases, by, data)
    if output is not None:
        check_output(output)
    own, other = (
        Segmenter(model, device, threads, each) for each in (protocol, other_protocol(protocol))
    )
    date = now()
    found = list(watched(fits(own, other, cases, by), len(cases)))
    figures = counts(found)
    title = f"{own.path.name} on {data.name}, split {split}, filed under {protocol}"
    tables = [_counts_table(figures), _misfiled_table(found, protocol)]
    for line in "\n\n".join([title, *filter(None, tables)]).split("\n"):
        echo(line)
    if output is None:
        return
    record: dict[str, Any] = {
        "command": command_line(context),
        "date": date,
        **environment(),
        "model": model_facts(own.path, own.model),
        "settings": {
            "provider": own.model.provider,
            "threads": threads or default_threads(),
            "protocol": protocol,
        },
        "data": csv_facts(data, split, where, limit, len(cases)),
        "definitions": DEFINITIONS,
        "groups": figures,
        "misfiled": [
            {"image": fit.image, "dice": round(fit.own, 6), "dice_other": round(fit.other, 6)}
            for fit in found
            if fit.misfiled
        ],
    }
    facts = [
        f"# Labels: {title}",
        f"`{record['command']}`",
        f"{circumstances(record)}; model SHA-256 `{record['model']['sha256']}`.",
        DEFINITIONS,
    ]
    write_record(output, "labels", record, "\n\n".join([*facts, *filter(None, tables)]))
    echo(f"written: {output}, {output.with_suffix('.md')}")
