"""A report of an earlier run, whatever is in it, counts as it should or is replaced."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st
from PIL import Image

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.batch.jobs import Done, Outcome, Settings
from cxrseg.runtime.batch.plan import Planner, search
from cxrseg.runtime.batch.record import describe, recording
from cxrseg.runtime.batch.workers import process_all
from cxrseg.runtime.writers.report import load_report
from cxrseg.runtime.writers.report_form import is_complete
from helpers.drawing.phantoms import blocks
from helpers.fuzz.reports import changed_json
from helpers.trials.answers import check_refusal, tiny_segmenter
from helpers.trials.trial import fuzzed


def run(folder: Path) -> Outcome:
    """Do a folder of one image as ``--skip-existing`` does, with both tables."""
    settings = Settings(resume=True)
    jobs = Planner(None, settings).jobs(search([folder]))
    tables = folder / "all.csv", folder / "all.jsonl"
    lost: list[CxrsegError] = []
    outcomes = []
    with recording(*tables, False, lost.append) as record:
        for job, outcome in process_all(jobs, tiny_segmenter(), settings):
            record(job, outcome)
            outcomes.append(outcome)
    assert not lost and len(outcomes) == 1
    assert [path.read_bytes().count(b"\n") for path in tables] == [2, 1]
    assert json.loads(tables[1].read_bytes())["source"] == str(folder / "x.png")
    return outcomes[0]


@cache
def done() -> dict[str, bytes]:
    """Return the files of a folder in which a run has been: name -> content."""
    with TemporaryDirectory() as folder:
        Image.fromarray(blocks()).save(Path(folder, "x.png"))
        run(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@fuzzed(st.deferred(lambda: changed_json(done()["x.json"])))
def test_reports(case: bytes, home: Path) -> bool:
    before = done() | {"x.json": case}
    for name in ("x.png", "x_lungs.png", "x_overlay.png", "x.json"):
        (home / name).write_bytes(before[name])
    outcome = run(home)
    after = {path.name: path.read_bytes() for path in home.iterdir()}
    assert after.keys() == before.keys()
    same = {name for name in after if after[name] == before[name]}
    assert {"x.png", "x_lungs.png", "x_overlay.png"} <= same
    if isinstance(outcome, Done):
        assert describe(outcome).startswith(str(home / "x.png"))
        assert is_complete(load_report(home / "x.json"))
        assert outcome.earlier == ("x.json" in same)
        return outcome.earlier
    check_refusal(outcome)
    assert "was not written by cxrseg" in str(outcome) and "x.json" in same
    return False
