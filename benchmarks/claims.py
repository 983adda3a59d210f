"""What the paper claims, beside what recorded results say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NOT_GIVEN = "not given"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A figure of the paper beside ours, as text.

    Attributes:
        what: What is measured.
        paper: The paper's figure.
        here: The recorded one.
        note: What to bear in mind when comparing them.
    """

    what: str
    paper: str
    here: str
    note: str


def claims(records: Iterable[Record]) -> list[Claim]:
    """Return every claim that one of the records says something of, in the order of the records."""
    found: list[Claim] = []
    for record in records:
        make = _MAKERS.get(str(record.get("benchmark")))
        if make is None:
            continue
        try:
            found += list(make(record))
        except (LookupError, TypeError, ValueError, AttributeError):
            # A record of another version; its own tables are shown all the same.
            continue
    return found


def _accuracy(record: Record) -> Iterator[Claim]:
    each, data = record["summary"]["all"], record["data"]
    dice = each["dice"]
    interval = dice["ci95"]
    spread = "" if interval is None else f" ({interval[0]:.4f} to {interval[1]:.4f})"
    yield Claim(
        f"Dice of {record['model']['file']}, {each['images']} images, split {data['split']}",
        "0.9559 in INT8; 0.9555 for the decoder trained in FP32",
        f"{dice['mean']:.4f}{spread}",
        "other images; ours without a prompt, the paper's with a box from the true mask",
    )


def _significance(record: Record) -> Iterator[Claim]:
    each = record["groups"]["all"]
    p = each["wilcoxon_p"]
    yield Claim(
        "Dice, INT8 against FP32",
        "no significant difference (Wilcoxon; p not at hand)",
        f"difference {each['difference']:+.5f}, p {'<0.0001' if p < 1e-4 else f'= {p:.4f}'}:"
        f" {each['verdict']}",
        f"margin of equivalence {each['margin']:g}; a difference that is not significant is no"
        " proof of equality",
    )


def _compression(record: Record) -> Iterator[Claim]:
    measured = record["measured"]
    yield Claim(
        f"FP32 : INT8, size of {measured['model']}",
        "2.24 times, by arithmetic",
        f"{measured['ratio']:.2f} times, bytes of files",
        "the paper keeps qkv and adapters in FP32; ours are merged and in INT8",
    )
    ours = record["trained"]["ours"][-2:]
    yield Claim(
        f"parameters trained by AdaLoRA, {measured['model']}",
        "16.6 times fewer",
        f"{ours[0]['fewer']:.1f} times fewer at the start, {ours[1]['fewer']:.1f} as it ends",
        "small networks have relatively more adapters; the paper's is ViT-B",
    )


def _quantization_error(record: Record) -> Iterator[Claim]:
    weights = record["weights"]
    if weights["exact"]:
        return
    far = weights["distances"]
    yield Claim(
        "rounding errors of weights",
        "zero mean, near Gaussian",
        f"mean {weights['in_steps']['mean']:+.4f} steps; distance {far['normal']:.3f} from normal,"
        f" within its step {far['steps_uniform']:.3f} from uniform",
        "Kolmogorov-Smirnov distances, 0 to 1",
    )
    yield Claim(
        "correlation of FP32 and INT8 weights",
        NOT_GIVEN,
        f"r = {weights['correlation']:.6f}",
        "the paper shows it as a plot",
    )


def _ranks(record: Record) -> Iterator[Claim]:
    each = [adapter["rank"] for adapter in record["adapters"]]
    yield Claim(
        "ranks that AdaLoRA leaves",
        "32 in every layer",
        f"{min(each)} to {max(each)}, {sum(each) / len(each):.1f} on average",
        "the paper prunes by a schedule, one mask for q, k and v; ours shares one budget",
    )


def _latency(record: Record) -> Iterator[Claim]:
    first, *others = record["models"]
    for each in others:
        yield Claim(
            f"latency, {each['file']} : {first['file']}",
            NOT_GIVEN,
            f"{each['relative']['latency']:.2f} times",
            f"{record['settings']['threads']} threads, medians",
        )


_MAKERS: dict[str, Callable[[Record], Iterator[Claim]]] = {
    "accuracy": _accuracy,
    "significance": _significance,
    "compression": _compression,
    "quantization-error": _quantization_error,
    "ranks": _ranks,
    "latency": _latency,
}
