"""What the paper claims, beside what recorded results say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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
        source: Name of the record.
    """

    what: str
    paper: str
    here: str
    note: str
    source: str = ""


def claims(records: Iterable[tuple[str, Record]]) -> list[Claim]:
    """Return every claim that one of the records says something of, in the order of the records.

    What two records say alike is told once.

    Args:
        records: Name and content of each.
    """
    found: dict[Claim, Claim] = {}
    for name, record in records:
        make = _MAKERS.get(str(record.get("benchmark")))
        if make is None:
            continue
        try:
            for claim in list(make(record)):
                found.setdefault(claim, replace(claim, source=name))
        except (LookupError, TypeError, ValueError, AttributeError):
            # A record of another version; its own tables are shown all the same.
            continue
    return list(found.values())


def _accuracy(record: Record) -> Iterator[Claim]:
    data = record["data"]
    scores = data["summary"]["all"]
    dice = scores["dice"]
    interval = dice["ci95"]
    spread = "" if interval is None else f" ({interval[0]:.4f} to {interval[1]:.4f})"
    yield Claim(
        f"masks of {record['title']}, {scores['images']} images, {data['settings']['protocol']}",
        "INT8: Dice 0.9559, IoU 0.9158, NSD 0.9431, HD95 8.2 px; FP32, decoder alone: Dice 0.9555",
        f"Dice {dice['mean']:.4f}{spread}, IoU {scores['iou']['mean']:.4f}, NSD"
        f" {scores['nsd']['mean']:.4f}, HD95 {scores['hd95_px']['mean']:.1f} px",
        "other images; ours without a prompt, HD95 in pixels of the X-ray; the paper's with a box"
        " from the true mask, HD95 in pixels of 256",
    )


def _significance(record: Record) -> Iterator[Claim]:
    data = record["data"]
    first, second = (model["file"] for model in data["models"])
    settings, comparison = data["settings"], data["groups"]["all"]
    p = comparison["wilcoxon_p"]
    yield Claim(
        f"Dice, {first} against {second}, split {settings['split']}, {settings['protocol']}",
        "no significant difference (Wilcoxon; p not at hand)",
        f"difference {comparison['difference']:+.5f}, p {'<0.0001' if p < 1e-4 else f'= {p:.4f}'}:"
        f" {comparison['verdict']}",
        f"margin of equivalence {comparison['margin']:g}; a difference that is not significant is"
        " no proof of equality",
    )


def _compression(record: Record) -> Iterator[Claim]:
    data = record["data"]
    measured, count = data["measured"], data["paper"]
    yield Claim(
        "compression of SAM ViT-B",
        f"{count['says']['ratio']} times, by arithmetic",
        f"{count['ratio']:.2f} times, counted on its tensors",
        "Linear weights in INT8, qkv and adapters in FP32",
    )
    yield Claim(
        f"FP32 : INT8, files of {measured['model']}, {measured['image_size']} px",
        "no file is exported",
        f"{measured['ratio']:.2f} times, in bytes",
        "adapters merged, qkv in INT8 too, the rest in FP16",
    )
    for model, whose, note in (
        ("SAM ViT-B", "paper", "the paper does not say how it counted"),
        (
            f"{measured['model']} by cxrseg-train",
            "ours",
            "small networks have relatively larger adapters and decoders",
        ),
    ):
        full, decoder, start, end = data["trained"][whose]
        said = f"decoder {decoder['paper']} times fewer than all, AdaLoRA {end['paper']}"
        yield Claim(
            f"parameters trained of {model}",
            NOT_GIVEN if end["paper"] is None else said,
            f"decoder {decoder['fewer']:.1f} times fewer than all {full['full'] / 1e6:.1f} million,"
            f" AdaLoRA {start['fewer']:.1f} at the start and {end['fewer']:.1f} at the end",
            note,
        )


def _quantization_error(record: Record) -> Iterator[Claim]:
    weights = record["data"]["weights"]
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
    left = [adapter["rank"] for adapter in record["data"]["adapters"]]
    yield Claim(
        "ranks that AdaLoRA leaves",
        "32 in every layer",
        f"{min(left)} to {max(left)}, {sum(left) / len(left):.1f} on average",
        "the paper prunes by a schedule, one mask for q, k and v; ours shares one budget",
    )


def _latency(record: Record) -> Iterator[Claim]:
    data = record["data"]
    first, *others = data["models"]
    for model in others:
        yield Claim(
            f"latency, {model['file']} : {first['file']}",
            NOT_GIVEN,
            f"{model['relative']['latency']:.2f} times",
            f"medians, threads: {data['settings']['threads']}",
        )


_MAKERS: dict[str, Callable[[Record], Iterator[Claim]]] = {
    "accuracy": _accuracy,
    "significance": _significance,
    "compression": _compression,
    "quantization-error": _quantization_error,
    "ranks": _ranks,
    "latency": _latency,
}
