"""The figures that README, docs/ and the model card quote equal the JSON in benchmarks/results/.

`FIGURES` renders each sentence or table row from the results, and a test looks for it on its page,
whatever the line breaks. A figure with three or more decimals that none of them holds is an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import pytest

from cxrseg.runtime.models import default_model
from helpers.paths import REPO

RESULTS = REPO / "benchmarks" / "results"

PAGES = ("README.md", "runtime/models/MODEL_CARD.md", "docs/evidence.md", "docs/flags.md")
"""Pages with figures."""

CHOSEN = {
    # A margin that was chosen, a bound that is tested, the paper's figure.
    "docs/evidence.md": {"0.005", "0.002", "0.9559"},
    # A limit of a rule.
    "docs/flags.md": {"0.0941"},
}
"""Figures that are no results of ours."""

Data = Mapping[str, Any]


@cache
def data(name: str) -> Data:
    """Return what a benchmark measured."""
    record: Data = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return dict(record["data"])


def interval(summary: Data) -> str:
    low, high = summary["dice"]["ci95"]
    return f"{low:.3f} to {high:.3f}"


def dice(summary: Data) -> str:
    """Return number of images, mean Dice and its interval as cells."""
    return f"{summary['images']} | {summary['dice']['mean']:.4f} | {interval(summary)}"


def of_lungs(summary: Data) -> str:
    """Return the same with percentile and both lungs."""
    right, left = (summary["lungs"][side]["dice"]["mean"] for side in ("right", "left"))
    return f"{dice(summary)} | {summary['dice']['p5']:.3f} | {right:.3f} | {left:.3f}"


def card_row(summary: Data) -> str:
    """Return a row of the model card, which tells the distance as well."""
    return f"{of_lungs(summary)} | {summary['hd95_px']['mean']:.1f} |"


def sources() -> dict[str, Data]:
    """Return the summaries of the test images by what the pages call them."""
    fields = data("accuracy-int8")["summary"]
    whole = data("accuracy-whole")["summary"]
    return {
        "jsrt": data("accuracy-jsrt")["summary"]["all"],
        "shenzhen": fields["source shenzhen"],
        "children": fields["source covidradio_viral"],
        "adults, whole": whole["source covid_v7"],
        "children, whole": whole["source kermany_v7"],
        "whole": whole["all"],
    }


def model(name: str, index: int) -> Data:
    """Return a model of a latency result; the first one is the INT8 file."""
    return dict(data(name)["models"][index])


def flagged(result: str, group: str) -> int:
    each = data(result)["groups"][group]
    return round(each["flagged"] * each["images"])


def readme() -> Iterator[str]:
    found = sources()
    yield f"JSRT, adults, hospitals that the model has never seen | {dice(found['jsrt'])} |"
    yield f"Shenzhen, adults, tuberculosis and normal | {dice(found['shenzhen'])} |"
    yield f"viral pneumonia, children | {dice(found['children'])} |"
    yield f"whole lungs, adults and children | {dice(found['whole'])} |"
    yield f"The file has {default_model().stat().st_size / 1e6:.1f} MB."
    yield f"takes {data('startup')['processes'][1]['wall_ms']['median'] / 1000:.2f} s on two CPU"


def card() -> Iterator[str]:
    found = sources()
    yield f"other hospitals** | fields | {card_row(found['jsrt'])}"
    yield f"tuberculosis and normal | fields | {card_row(found['shenzhen'])}"
    yield f"viral pneumonia, children | fields | {card_row(found['children'])}"
    yield f"often sick and badly framed | whole | {card_row(found['adults, whole'])}"
    yield f"Kermany, children | whole | {card_row(found['children, whole'])}"
    yield f"on every source to {largest_difference():.4f}"
    train = data("accuracy-train")["summary"]["source shenzhen"]
    yield f"{train['mislabeled']} of {train['images']} training masks of the Shenzhen images"


def compared() -> dict[str, Data]:
    """Return the comparisons of INT8 and FP32 by source."""
    results = (data(f"significance{name}")["groups"] for name in ("", "-whole", "-jsrt"))
    return {name: each for result in results for name, each in result.items() if name != "all"}


def largest_difference() -> float:
    """Return what the means of INT8 and FP32 differ by at most, on any source."""
    assert {each["margin"] for each in compared().values()} == {0.005}
    assert max(each["tost_p"] for each in compared().values()) < 0.001
    largest = max(abs(each["difference"]) for each in compared().values())
    return math.ceil(1e4 * largest) / 1e4


def evidence() -> Iterator[str]:
    yield from evidence_of_accuracy()
    yield from evidence_of_int8()
    yield from evidence_of_methods()
    yield from evidence_of_speed()
    yield from evidence_of_claims()


def evidence_of_accuracy() -> Iterator[str]:
    found = sources()
    yield f"JSRT, adults, external | {of_lungs(found['jsrt'])} |"
    yield f"Shenzhen, adults, tuberculosis and normal | {of_lungs(found['shenzhen'])} |"
    yield f"viral pneumonia, children | {of_lungs(found['children'])} |"
    yield f"`--protocol whole`, adults and children | {of_lungs(found['whole'])} |"
    assert not any(each["swapped"] or each["missing"] for each in found.values())
    test, train = (data(f"accuracy-{x}")["summary"]["source shenzhen"] for x in ("int8", "train"))
    yield f"{test['mislabeled']} of the {test['images']} Shenzhen test masks"
    yield f"so do {train['mislabeled']} of the {train['images']} that the model"
    yield f"Without the 8, the mean Dice is {test['mean_dice_others']:.3f}."


def evidence_of_int8() -> Iterator[str]:
    yield f"Their means differ by at most {largest_difference():.4f} on each source."
    significant = [name for name, each in compared().items() if each["holm_p"] < 0.05]
    assert significant == ["source jsrt"]
    difference = compared()["source jsrt"]["difference"]
    yield f"On JSRT the difference of {difference:.5f} is significant (Wilcoxon)"
    seven, eight = (data(f"accuracy-val{bits}")["summary"]["all"] for bits in ("", "-8bit"))
    yield (
        f"the Dice is {seven['dice']['mean']:.4f} with 7 bits and {eight['dice']['mean']:.4f}"
        " with 8 bits."
    )
    similar = data("ssim")["groups"]["all"]
    assert f"{similar['ours']:.4f}" == f"{similar['baseline']:.4f}"
    yield f"with the reference is {similar['ours']:.4f} for both."
    weights = data("quantization-error")["weights"]
    far = weights["distances"]
    yield f"have a mean of {weights['in_steps']['mean']:+.4f} steps."
    yield f"(distance {far['steps_uniform']:.3f}) than to a normal one ({far['steps_normal']:.3f})."
    yield f"correlate at r = {weights['correlation']:.4f}."
    logits = data("quantization-error")["outputs"][-1]
    assert logits["name"] == "logits"
    yield f"{logits['sqnr']:.1f} dB above the rounding noise"


def row_of_methods(name: str) -> Data:
    rows = data("methods")["rows"]
    return next(row for row in rows if row["row"] == name and row["precision"] == "int8")


def four(row: Data) -> list[float]:
    """Return mean Dice on Shenzhen, children, whole lungs and JSRT of a row of methods."""
    found = row["accuracy"]
    fields = found["test, fields"]
    each = (
        fields["source shenzhen"],
        fields["source covidradio_viral"],
        found["test, whole"]["all"],
        found["external, fields"]["all"],
    )
    return [summary["dice"]["mean"] for summary in each]


def evidence_of_methods() -> Iterator[str]:
    titles = {
        "adalora-qat": "SAM, `vit_t`, AdaLoRA-QAT",
        "unet-latency": "U-Net, same latency",
        "unet-size": "U-Net, same size",
    }
    for name, title in titles.items():
        row = row_of_methods(name)
        cells = [
            title,
            f"{row['images_before'] + sum(row['images']):,}",
            f"{row['size_bytes'] / 1e6:.1f}",
            f"{row['relative_latency']:.2f}",
            *(f"{mean:.3f}" for mean in four(row)),
        ]
        yield f"| {' | '.join(cells)} |"
    found = sources()
    means = [f"{found[x]['dice']['mean']:.3f}" for x in ("shenzhen", "children", "whole", "jsrt")]
    yield f"the SAM reaches {', '.join(means[:3])} and {means[3]} on these sources"
    ours = [four(row) for row in data("methods")["rows"] if not row["row"].startswith("unet")]
    assert max(max(each) - min(each) for each in zip(*ours, strict=True)) < 0.0021


def evidence_of_speed() -> Iterator[str]:
    titles = {
        "latency": "`vit_t`, 384 px, as shipped",
        "latency-vit_b-256": "`vit_b`, 256 px, global attention",
        "latency-vit_b-512": "`vit_b`, 512 px",
    }
    for name, title in titles.items():
        int8, fp32, *official = data(name)["models"]
        size, latency = fp32["relative"]["size"], fp32["relative"]["latency"]
        last = f"{official[0]['relative']['latency']:.2f} " if official else ""
        megabytes = int8["size_bytes"] / 1e6
        yield f"| {title} | {megabytes:.1f} | {size:.2f} | {latency:.2f} | {last}|"
    small, whole = model("latency", 0)["size_bytes"], default_model().stat().st_size
    yield f"The {small / 1e6:.1f} MB are the model without its quality reference"
    yield f"The shipped file has {whole / 1e6:.1f} MB."
    yield f"reaches {100 * data('roofline')['models'][0]['share']:.0f} % of what"
    _, run = data("startup")["processes"]
    yield (
        f"takes {run['wall_ms']['median'] / 1000:.2f} s and"
        f" {run['peak_memory_bytes'] / 1e6:.0f} MB. That is {run['relative']:.2f} times as long"
    )
    pair = data("agreement")["pairs"][0]
    assert pair["first"] == "OpenVINOExecutionProvider"
    ratio = data("agreement")["latency"][1]["ratio"]
    yield (
        f"in {100 * pair['mean']:.2f} % of the pixels ({100 * pair['worst']:.2f} % in the worst of"
        f" {pair['with_lungs']} X-rays), in {ratio:.2f} times the time."
    )
    haswell, nehalem = data("emulation")["comparisons"]
    yield (
        f"the masks of {haswell['images']} X-rays equal this machine's in"
        f" {100 * haswell['worst']:.2f} % of the pixels of the worst image."
    )
    yield f"(Nehalem) it is {100 * nehalem['worst']:.2f} %."


def evidence_of_claims() -> Iterator[str]:
    ours = data("accuracy-int8")["summary"]["all"]
    yield f"{ours['dice']['mean']:.4f} on {ours['images']} other images, without a prompt"
    yield f"by {data('significance')['groups']['all']['difference']:.5f}; equivalent within 0.005"
    compression = data("compression")
    real = data("compression-512")["measured"]["ratio"]
    yield (
        f"{compression['paper']['ratio']:.2f} counted on its tensors; {real:.2f} in bytes of real"
        " files"
    )
    fewer = compression["trained"]["paper"][-1]
    yield f"| {fewer['paper']} | {fewer['fewer']:.1f} by the same method |"
    ranks = [adapter["rank"] for adapter in data("ranks")["adapters"]]
    yield f"{min(ranks)} to {max(ranks)}, {sum(ranks) / len(ranks):.1f} on average"


def flags() -> Iterator[str]:
    groups = data("quality")["groups"]
    lateral = groups["suspect lateral"]["images"]
    yield f"Of {lateral} lateral views, {flagged('quality', 'suspect lateral')} are flagged"
    others = ("kermany_v7", "covid_v7")
    yield (
        f"{flagged('quality', 'shenzhen')} of {groups['shenzhen']['images']} (Shenzhen),"
        f" {flagged('quality', 'covidradio_viral')} of {groups['covidradio_viral']['images']}"
        f" (viral pneumonia, children) and {sum(flagged('quality', x) for x in others)}"
        f" of {sum(groups[x]['images'] for x in others)} others"
    )
    poor = groups["suspect hannover"]
    assert poor["flagged"] == 0.2
    yield f"One fifth of {poor['images']} bedside"
    changed = {
        (protocol, name): each
        for protocol in ("", "-whole")
        for name, each in data(f"quality-transforms{protocol}")["groups"].items()
        if "," in name
    }
    mirrored = [each["flagged"] for (_, name), each in changed.items() if "mirrored" in name]
    wrong = [each for (_, name), each in changed.items() if "mirrored" not in name]
    assert {each["flagged"] for each in wrong} == {1.0}
    yield f"Of {sum(each['images'] for each in wrong) // 2:,} inverted, turned, cut, blank"
    yield f"{100 * min(mirrored):.1f} % to {100 * max(mirrored):.1f} % are flagged"


FIGURES: dict[str, Callable[[], Iterator[str]]] = dict(
    zip(PAGES, (readme, card, evidence, flags), strict=True)
)


def words(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


@pytest.mark.parametrize("page", PAGES)
def test_figures_are_those_of_the_results(page: str) -> None:
    text = words((REPO / page).read_text(encoding="utf-8"))
    missing = [line for line in FIGURES[page]() if line not in text]
    assert not missing, "change the page to this, or measure again"


def unaccounted(page: str) -> list[str]:
    """Return the figures with three decimals or more that no rendered line holds."""
    text = words((REPO / page).read_text(encoding="utf-8"))
    rendered = FIGURES[page]() if page in FIGURES else iter(())
    for line in rendered:
        text = text.replace(line, " ")
    text = re.sub(r"https?://\S+|arXiv [\d.]+", " ", text)
    return [x for x in re.findall(r"\d*\.\d{3,}", text) if x not in CHOSEN.get(page, ())]


@pytest.mark.parametrize(
    "page",
    sorted(
        str(path.relative_to(REPO).as_posix())
        for path in (*REPO.glob("[A-Z]*.md"), *REPO.glob("docs/*.md"), REPO / PAGES[1])
    ),
)
def test_no_figure_is_unaccounted_for(page: str) -> None:
    assert unaccounted(page) == []
