from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrseg.benchmarks.harness.plots import blank, plot
from cxrseg.benchmarks.harness.record import environment, now, write_record
from cxrseg.benchmarks.harness.result import Result, Table
from cxrseg.benchmarks.report.claims import claims
from cxrseg.benchmarks.report.page import LONG
from helpers.page import Page
from helpers.paths import REPO

Bench = Callable[..., Any]

RESULTS = REPO / "benchmarks/results"


def record(
    path: Path,
    benchmark: str = "ssim",
    rows: int = 2,
    shows_patients: bool = False,
    definitions: str = "",
) -> None:
    figure, axes = blank(3, 2)
    axes[0, 0].plot([1, 2])
    line = plot("line", figure, "A line < a curve", shows_patients)
    table = Table(["images of", "n"], [[f"source {n}", str(n)] for n in range(rows)])
    result = Result("Results", {}, [table], [line], definitions)
    facts = {"benchmark": benchmark, "command": f"cxrseg-bench {benchmark}", "date": now()}
    write_record(path, {**facts, **environment()}, result)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "results"
    home.mkdir()
    return home


def page_of(bench: Bench, folder: Path) -> Page:
    done = bench("report", folder)
    assert done.code == 0, done.err
    return Page((folder / "report.html").read_text())


def test_page_needs_nothing_else(bench: Bench, folder: Path) -> None:
    record(folder / "ssim.json")
    record(folder / "odd.json", "something-new", definitions="What it is.")
    page = page_of(bench, folder)
    assert page.tags.count("img") == 2
    others = [each for each in page.addresses if not each.startswith(("data:image/", "#"))]
    assert not others, others
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    text = (folder / "report.html").read_text()
    assert "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert "Where on the image do models differ?" in page.text
    assert "Other results" in page.text and "What it is." in page.text
    assert "source 1" in page.text and "A line < a curve" in page.text
    assert "cxrseg-bench something-new" in page.text
    assert page.text.count("From ssim.json") == page.text.count("From odd.json") == 2
    assert "X-rays of patients" not in page.text


def test_sections_stand_in_their_order(bench: Bench, folder: Path) -> None:
    for name in ("roofline", "ssim", "accuracy"):
        record(folder / f"a-{name}.json", name)
    text = page_of(bench, folder).text
    places = [text.rindex(words) for words in ("good are the masks", "Where on", "machine is used")]
    assert places == sorted(places)


def test_long_tables_are_folded(bench: Bench, folder: Path) -> None:
    record(folder / "ssim.json", rows=LONG + 1)
    assert f"Table of {LONG + 1} rows" in page_of(bench, folder).text


def test_page_with_patients_says_so(bench: Bench, folder: Path) -> None:
    record(folder / "ssim.json", shows_patients=True)
    assert "This page shows X-rays of patients" in page_of(bench, folder).text


def test_text_of_a_record_is_text(bench: Bench, folder: Path) -> None:
    """Whoever wrote a record cannot put a script into the page, nor have a file read."""
    script = "<script>alert(1)</script>"
    record(folder / "ssim.json", definitions=script)
    stolen = folder.parent / "secret.png"
    stolen.write_bytes(b"secret")
    data = json.loads((folder / "ssim.json").read_text())
    data["plots"] = [{"name": "../../secret", "caption": "x"}, {"name": "line", "caption": "<b>"}]
    data["title"] = script
    data["tables"][0] |= {"title": script, "note": "[go](http://a) <img src=http://a/b>"}
    data["tables"][0]["rows"][0] = [script, "![see](http://a/c.png)"]
    (folder / "ssim.json").write_text(json.dumps(data))
    done = bench("report", folder)
    assert done.code == 0
    assert done.err.count("error: ") == 1 and "the plot is left out" in done.err
    page = Page((folder / "report.html").read_text())
    assert "script" not in page.tags and "b" not in page.tags and page.tags.count("img") == 1
    assert not [each for each in page.addresses if not each.startswith(("data:image/", "#"))]
    assert page.text.count(script) == 4
    assert "Not shown:" in page.text


def test_damaged_results_cost_none_of_the_others(bench: Bench, folder: Path) -> None:
    record(folder / "ssim.json")
    (folder / "broken.json").write_text("{")
    (folder / "foreign.json").write_text('{"program": "other"}')
    (folder / "image.json").write_text('{"program": "cxrseg 0.1.0", "areas": 1}')
    record(folder / "torn.json", "ranks")
    (folder / "torn-line.png").unlink()
    record(folder / "odd.json", "ranks")
    data = json.loads((folder / "odd.json").read_text())
    (folder / "odd.json").write_text(json.dumps({**data, "tables": [{"rows": 3}]}))
    done = bench("report", folder)
    assert done.code == 0
    named = sorted(re.findall(r"error: \S+/(\S+):", done.err))
    assert named == ["broken.json", "odd.json", "torn-line.png"]
    text = Page((folder / "report.html").read_text()).text
    assert "source 1" in text and "broken.json" in text


def test_a_plot_of_another_run_is_not_shown(bench: Bench, folder: Path) -> None:
    """As a kill among the files of a result, or two runs at the same time, can leave it."""
    record(folder / "ssim.json")
    (folder / "ssim-line.png").write_bytes((RESULTS / "ranks-heatmap.png").read_bytes())
    done = bench("report", folder)
    assert done.code == 0 and "ssim-line.png: is of another run than ssim.json" in done.err
    assert Page((folder / "report.html").read_text()).tags.count("img") == 0


def test_wrong_folders_and_pages(bench: Bench, folder: Path, tmp_path: Path) -> None:
    for args, words in (
        ((folder,), "holds no result"),
        ((tmp_path / "none",), "no such folder"),
        ((folder, "-o", tmp_path / "page.txt"), ".html"),
        ((folder, "-o", tmp_path / "none/page.html"), "no such folder"),
    ):
        done = bench("report", *args)
        assert done.code == 1 and words in done.err, done.err
    record(folder / "ssim.json")
    (folder / "report.html").write_text("<html>mine</html>")
    done = bench("report", folder)
    assert done.code == 1 and "kept" in done.err
    assert (folder / "report.html").read_text() == "<html>mine</html>"
    again = tmp_path / "again.html"
    for _ in range(2):
        assert bench("report", folder, "-o", again, "--title", "Ward 7 & 8").code == 0
    assert "Ward 7 & 8" in Page(again.read_text()).text


def test_claims_of_recorded_results() -> None:
    """Results of this repository, older ones among them."""
    records = {path.name: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    found = claims(records.items())
    dice = {c.source: float(c.here.split()[1]) for c in found if c.what.startswith("masks of")}
    assert dice == {
        name: pytest.approx(record["data"]["summary"]["all"]["dice"]["mean"], abs=1e-4)
        for name, record in records.items()
        if record["benchmark"] == "accuracy"
    }
    own = {c.what: c.here for c in found if c.source == "compression.json"}
    data = {name: records[f"{name}.json"]["data"] for name in ("compression", "ranks")}
    assert own["compression of SAM ViT-B"].startswith(
        f"{data['compression']['paper']['ratio']:.2f}"
    )
    assert own["FP32 : INT8, files of vit_t, 384 px"].startswith(
        f"{data['compression']['measured']['ratio']:.2f} times"
    )
    ranks = [adapter["rank"] for adapter in data["ranks"]["adapters"]]
    sources = {claim.source: claim.here for claim in found}
    assert sources["ranks.json"].startswith(f"{min(ranks)} to {max(ranks)}, ")
    assert {"significance.json", "quantization-error.json", "latency.json"} <= set(sources)


def test_what_two_records_say_alike_is_told_once() -> None:
    record = {"benchmark": "ranks", "data": {"adapters": [{"rank": 3}, {"rank": 5}]}}
    found = claims([("a.json", record), ("b.json", record)])
    assert [claim.source for claim in found] == ["a.json"]
    assert "3 to 5, 4.0 on average" in found[0].here


@pytest.mark.parametrize(
    "benchmark",
    ["accuracy", "significance", "ranks", "compression", "quantization-error", "latency"],
)
@pytest.mark.parametrize("data", [None, 3, {}, {"models": 3, "weights": [], "adapters": []}])
def test_claims_of_foreign_records(benchmark: str, data: object) -> None:
    foreign = {"benchmark": benchmark, "data": data}
    assert claims([("a.json", {"benchmark": benchmark}), ("b.json", foreign)]) == []


def test_page_of_this_repositorys_results(bench: Bench, tmp_path: Path) -> None:
    done = bench("report", RESULTS, "-o", tmp_path / "all.html")
    assert done.code == 0 and done.err == ""
    page = Page((tmp_path / "all.html").read_text())
    assert page.text.count("How this was made") == len(list(RESULTS.glob("*.json")))
