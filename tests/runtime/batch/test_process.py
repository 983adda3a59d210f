"""Folders at scale: several images at once, resuming, JSON Lines, kills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrseg.runtime import Segmenter
from cxrseg.runtime.batch import pool as parallel
from cxrseg.runtime.batch import process as batch
from cxrseg.runtime.batch.jobs import Settings
from cxrseg.runtime.batch.plan import plan
from cxrseg.runtime.batch.pool import in_order
from cxrseg.runtime.batch.workers import MAX_JOBS, default_workers, threads_each
from cxrseg.runtime.core.atomic import remove_stale
from cxrseg.runtime.core.model_card import ModelCard
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.writers.tables import Record, json_lines
from helpers import phantoms
from helpers.paths import REPO

MAIN = "from cxrseg.runtime.cli import program; program()"


@pytest.fixture
def model(model_file) -> list[str]:
    return ["--model", str(model_file()), "--device", "cpu"]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Return name -> content; of reports without what differs from run to run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".json":
                data = re.sub(rb'"timings_ms": \{[^}]*\}', b"", data)
            found[str(path.relative_to(folder))] = data
    return found


def save_chests(folder: Path, count: int, seed: int = 0, height: int = 72) -> None:
    """Save images that all differ."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        image = phantoms.blocks(height, height - 8, left_lung=i % 3 > 0)
        noise = rng.integers(0, 6, image.shape, dtype=np.uint8)
        Image.fromarray(image // 2 + noise).save(folder / f"{i:04}.png")


# Several at once.


@pytest.mark.parametrize("which", ["tiny", "shipped"])
def test_results_are_the_same_whatever_the_number_of_jobs(
    run_cxrseg, model_file, xrays, tmp_path, which: str
) -> None:
    for seed in range(5):
        image = phantoms.draw(seed, (160 + 8 * seed, 150)).image
        Image.fromarray(image).save(xrays / f"{seed}.png")
    (xrays / "1b.png").write_bytes(b"no image")
    model = ["--model", str(model_file())] if which == "tiny" else []
    seen = []
    for jobs, threads in ((1, 2), (2, 2), (4, 1)):
        out = tmp_path / f"out{jobs}"
        options = ["--jobs", str(jobs), "--threads", str(threads), "--device", "cpu"]
        told = tmp_path / f"{jobs}.jsonl"
        result = run_cxrseg(xrays, "-o", out, "--jsonl", told, *options, *model)
        assert result.code == 1 and len(result.errors) == 1 and "1b.png" in result.err
        order = [Path(line.split(": ")[0]).stem for line in result.out.splitlines()]
        assert order == ["0", "1", "2", "3", "4"]
        assert [Path(line["source"]).stem for line in lines_of(told)] == [
            *("0", "1", "1b", "2", "3", "4")
        ]
        seen.append(contents(out))
    assert len(seen[0]) == 15
    assert seen[0] == seen[1] == seen[2]


def test_images_are_done_side_by_side(run_cxrseg, model, xrays, monkeypatch) -> None:
    save_chests(xrays, 4)
    # Two threads must be in here at once for either to go on.
    together, original = threading.Barrier(2, timeout=30), batch.read

    def read(path: Path):
        together.wait()
        return original(path)

    monkeypatch.setattr(batch, "read", read)
    result = run_cxrseg(xrays, "--jobs", "2", *model)
    assert (result.code, result.err) == (0, "")


def test_default_is_one_job_per_thread_within_reason() -> None:
    assert default_workers(images=1, threads=8) == 1
    assert default_workers(images=0, threads=8) == 1
    assert default_workers(images=100, threads=1) == 1
    assert default_workers(images=100, threads=2) == 2
    assert default_workers(images=100, threads=64) == MAX_JOBS


@pytest.mark.parametrize(
    ("threads", "workers", "each"), [(2, 2, 1), (8, 4, 5), (8, 1, 8), (1, 4, 1)]
)
def test_all_inferences_together_take_the_threads_given(threads, workers, each) -> None:
    assert threads_each(threads, workers) == each


def test_few_items_are_in_flight() -> None:
    drawn: list[int] = []

    def items():
        for i in range(100):
            drawn.append(i)
            yield i

    results = in_order(lambda item, _: item * item, items(), workers=3)
    for count, result in enumerate(results):
        assert result == count * count
        assert len(drawn) - count <= 6


def test_outcomes_come_in_order_and_as_soon_as_they_can() -> None:
    release = threading.Event()

    def work(item: int, _: Callable[[], bool]) -> int:
        if item == 1:
            assert release.wait(30)
        return item

    results = in_order(work, range(6), workers=2)
    assert next(results) == 0
    release.set()
    assert list(results) == [1, 2, 3, 4, 5]


def test_closing_starts_nothing_more_and_waits_for_what_is_in_work() -> None:
    begun, ended = [], []

    def work(item: int, interrupted: Callable[[], bool]) -> int:
        begun.append(item)
        while item > 0 and not interrupted():
            time.sleep(0.01)
        ended.append(item)
        return item

    results = in_order(work, range(50), workers=2)
    assert next(results) == 0
    results.close()
    assert len(begun) <= 4 and sorted(begun) == sorted(ended)


def test_closing_does_not_wait_for_ever(monkeypatch) -> None:
    monkeypatch.setattr(parallel, "_PATIENCE_S", 0.1)
    release = threading.Event()
    results = in_order(lambda item, _: item == 0 or release.wait(60), range(3), workers=2)
    assert next(results) is True
    results.close()  # returns although the workers hang
    release.set()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("where", ["read", "segment"])
def test_ctrl_c_with_jobs_leaves_whole_files(model, xrays, tmp_path, where: str) -> None:
    save_chests(xrays, 30)
    code = (
        "import os, signal, sys, threading\n"
        "from cxrseg.runtime import segmenter\nfrom cxrseg.runtime.batch import process as batch\n"
        f"owner = batch if {where!r} == 'read' else segmenter.Segmenter\n"
        f"original, calls = getattr(owner, {where!r}), []\n"
        "def instead(*args, **kwargs):\n"
        "    calls.append(args)\n"
        "    if len(calls) == 9: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return original(*args, **kwargs)\n"
        f"setattr(owner, {where!r}, instead)\n"
    )
    out, told = tmp_path / "out", tmp_path / "all.jsonl"
    options = ["-o", str(out), "--jsonl", str(told), "--csv", str(tmp_path / "all.csv")]
    done = subprocess.run(
        [sys.executable, "-c", code + MAIN, str(xrays), *options, "--jobs", "3", *model],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 130
    assert [line for line in done.stderr.splitlines() if line] == [
        "error: interrupted; files already written are complete"
    ]
    reports = sorted(path.stem for path in out.glob("*.json"))
    assert 0 < len(reports) < 30
    # Neither a part of an image's files nor a temporary one.
    assert len(list(out.iterdir())) == 3 * len(reports)
    assert {Path(line["source"]).stem for line in lines_of(told)} <= set(reports)


# Resuming.


@pytest.fixture
def finished(run_cxrseg, model, save_chest, xrays, tmp_path):
    """Run once over two images; return what runs again with --skip-existing."""
    save_chest(xrays / "a.png")
    save_chest(xrays / "b.png", left_lung=False)
    out = tmp_path / "out"
    assert run_cxrseg(xrays, "-o", out, *model).code == 0

    def again(*args: str, model: list[str] = model) -> list[str]:
        """Return the names that were done again."""
        result = run_cxrseg(xrays, "-o", out, "--skip-existing", *model, *args)
        assert result.code in (0, 3), result.err
        lines = result.out.splitlines()
        assert len(lines) == 2
        return [Path(x.split(": ")[0]).name for x in lines if "skipped, done before -> " not in x]

    return again


def test_what_is_done_is_left_out(finished, tmp_path) -> None:
    out = tmp_path / "out"
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.iterdir()}
    assert finished() == []
    assert {x: (x.stat().st_mtime_ns, x.stat().st_ino) for x in out.iterdir()} == before
    assert finished("--jobs", "2") == []


def test_tables_of_a_resumed_run_are_those_of_a_whole_one(
    run_cxrseg, model, xrays, tmp_path
) -> None:
    save_chests(xrays, 4)
    (xrays / "0001b.png").write_bytes(b"no image")
    tables = {name: tmp_path / name for name in ("1.csv", "1.jsonl", "2.csv", "2.jsonl")}
    base = [xrays, "-o", tmp_path / "out", *model]
    assert run_cxrseg(*base, "--csv", tables["1.csv"], "--jsonl", tables["1.jsonl"]).code == 1
    again = ["--skip-existing", "--csv", tables["2.csv"], "--jsonl", tables["2.jsonl"]]
    result = run_cxrseg(*base, *again)
    assert result.code == 1 and result.out.count("skipped, done before") == 4
    assert tables["1.csv"].read_bytes() == tables["2.csv"].read_bytes()
    assert tables["1.jsonl"].read_bytes() == tables["2.jsonl"].read_bytes()


@pytest.mark.parametrize("name", ["a_lungs.png", "a_overlay.png", "a.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "newer"])
def test_outputs_that_are_not_whole_are_made_again(
    finished, tmp_path, name: str, damage: str
) -> None:
    path = tmp_path / "out" / name
    whole = contents(tmp_path / "out")
    if damage == "missing":
        path.unlink()
    elif damage == "empty":  # as a power failure leaves it
        path.write_bytes(b"")
    else:
        # Another run without a report wrote it: the report is not that of this file.
        later = (tmp_path / "out" / "a.json").stat().st_mtime_ns + 10_000_000
        os.utime(path, ns=(later, later))
    assert finished() == ([] if (name, damage) == ("a.json", "newer") else ["a.png"])
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report.pop("measurements"),
        lambda report: report["labels"].pop(),
        lambda report: report["labels"][0].update(area_px=None, area_mm2="?"),
        lambda report: report.update(model="?"),
        lambda report: report.update(program=report["program"] + ".1"),
        lambda report: report.update(spacing_mm=float("nan")),
    ],
)
def test_report_that_is_not_as_cxrseg_writes_it_does_not_count(finished, tmp_path, change) -> None:
    path = tmp_path / "out" / "a.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    assert finished() == ["a.png"]


def test_changed_input_is_done_again(finished, save_chest, xrays) -> None:
    save_chest(xrays / "a.png", left_lung=False)
    assert finished() == ["a.png"]
    assert finished() == []


def test_touched_input_is_done_again(finished, xrays, tmp_path) -> None:
    later = (tmp_path / "out" / "b.json").stat().st_mtime_ns + 10_000_000
    os.utime(xrays / "b.png", ns=(later, later))
    assert finished() == ["b.png"]


def test_another_image_of_the_same_name_is_done_though_it_is_older(
    finished, save_chest, xrays
) -> None:
    save_chest(xrays / "a.png", left_lung=False)
    os.utime(xrays / "a.png", (1, 1))
    assert finished() == ["a.png"]


def test_another_model_does_all_again(finished, model_file) -> None:
    card = ModelCard(
        name="tiny",
        version="9.10",
        labels=("right_lung", "left_lung"),
        preprocessing=Preprocessing(size=64, low=0, high=100),
    )
    other = ["--model", str(model_file("other.onnx", card=card.to_json())), "--device", "cpu"]
    assert finished(model=other) == ["a.png", "b.png"]
    assert finished(model=other) == []
    assert finished() == ["a.png", "b.png"]


def test_another_protocol_does_all_again(run_cxrseg, model_file, save_chest, xrays) -> None:
    labels = ("right_lung", "left_lung", "right_lung_whole", "left_lung_whole")
    run = [save_chest(xrays / "a.png"), "--model", model_file(labels=labels), "--skip-existing"]
    assert "skipped" not in run_cxrseg(*run).out
    assert "skipped" in run_cxrseg(*run).out
    assert "skipped" not in run_cxrseg(*run, "--protocol", "whole").out


def test_formats_must_all_be_there(run_cxrseg, model, save_chest, xrays) -> None:
    run = [save_chest(xrays / "a.png"), *model, "--skip-existing"]
    assert "skipped" not in run_cxrseg(*run, "--format", "json").out
    assert "skipped" not in run_cxrseg(*run).out
    assert "skipped" in run_cxrseg(*run, "--format", "json").out
    # The report is now of this run, which wrote no PNG: those beside it do not count.
    (xrays / "a.json").unlink()
    assert "skipped" not in run_cxrseg(*run, "--format", "json").out
    assert "skipped" not in run_cxrseg(*run).out


def test_strict_does_what_is_flagged_again(finished, xrays, tmp_path) -> None:
    assert finished("--strict") == ["b.png"]


@pytest.mark.parametrize("option", ["--skip-existing", "--watch"])
def test_resuming_needs_the_reports(run_cxrseg, xrays, option: str) -> None:
    result = run_cxrseg(xrays, option, "--format", "png")
    assert result.code == 2 and "add json to --format" in result.err


def test_of_two_images_with_the_same_outputs_the_one_done_first_keeps_them(
    run_cxrseg, model, save_chest, xrays
) -> None:
    save_chest(xrays / "x.png")
    run = [xrays, "--skip-existing", *model]
    assert run_cxrseg(*run).code == 0
    save_chest(xrays / "x.jpg")  # comes first in the folder's order
    for _ in range(2):
        result = run_cxrseg(*run)
        assert result.code == 1 and result.out.startswith(f"{xrays / 'x.png'}: skipped")
        assert result.err.startswith(f"error: {xrays / 'x.jpg'}: its outputs would overwrite those")
    (xrays / "x.png").unlink()
    assert run_cxrseg(*run).code == 0
    assert json.loads((xrays / "x.json").read_text())["input"] == "x.jpg"


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".cxrseg-00.tmp", tmp_path / ".cxrseg-01.tmp"
    other = tmp_path / ".other.tmp"
    for path in (old, new, other):
        path.write_bytes(b"x")
        if path != new:
            os.utime(path, (1, 1))
    remove_stale([tmp_path, tmp_path / "none"])
    assert sorted(tmp_path.iterdir()) == sorted([new, other])


# JSON Lines.


def test_lines_hold_what_the_reports_hold(run_cxrseg, model, save_chest, xrays, tmp_path) -> None:
    paths = [save_chest(xrays / "a.png"), xrays / "none.png"]
    paths.append(save_chest(xrays / "b.png", left_lung=False))
    told = tmp_path / "all.jsonl"
    assert run_cxrseg(*paths, "--jsonl", told, *model).code == 1
    first, failed, last = lines_of(told)
    report = json.loads((xrays / "a.json").read_text())
    assert first == report | {"source": str(paths[0]), "status": "ok", "error": None}
    assert failed["source"] == str(paths[1]) and failed["status"] == "error"
    assert "no such file" in failed["error"] and "labels" not in failed
    assert last["flags"][0]["code"] == "lung_missing"
    # A file of an earlier run is replaced.
    assert run_cxrseg(paths[2], "--strict", "--jsonl", told, *model).code == 3
    (flagged,) = lines_of(told)
    assert flagged["status"] == "flagged" and flagged["formats"] == []


@pytest.mark.parametrize("kind", ["foreign", "report", "folder", "no folder", "the table"])
def test_lines_that_cannot_be_are_refused_before_work(
    run_cxrseg, model, save_chest, xrays, tmp_path, kind: str
) -> None:
    told = tmp_path / "all.jsonl"
    if kind == "foreign":
        told.write_text('{"name": "x"}\n')
    elif kind == "report":
        assert run_cxrseg(save_chest(tmp_path / "a.png"), *model).code == 0
        told = tmp_path / "a.json"
    elif kind == "folder":
        told.mkdir()
    elif kind == "no folder":
        told = tmp_path / "no" / "all.jsonl"
    before = told.read_bytes() if told.is_file() else None
    also = ["--csv", told] if kind == "the table" else []
    result = run_cxrseg(save_chest(xrays / "x.png"), "--jsonl", told, *also, *model)
    assert result.code == (2 if also else 1) and result.out == "" and "--jsonl" in result.err
    assert [path.name for path in xrays.iterdir()] == ["x.png"]
    assert before is None or told.read_bytes() == before


def test_lines_are_there_as_soon_as_they_are_known(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    with json_lines(path) as add:
        for count in (1, 2):
            add(Record("x", "error", "is bad"))
            assert len(lines_of(path)) == count


def test_appending_keeps_whole_lines_and_adds_what_they_lack(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    with json_lines(path, append=True) as add:
        add(Record("done", "ok", report={"input": "done"}))
        add(Record("bad", "error", "is bad"))
    with path.open("a") as file:
        file.write("edited\n")
        file.write(path.read_text()[:30])  # a line that a kill cut off
    with json_lines(path, append=True) as add:
        add(Record("done", "ok", earlier=True))
        add(Record("lost", "ok", earlier=True))
        add(Record("done", "ok"))  # changed, and done again
        add(Record("bad", "error", "is bad"))
    lines = path.read_text().splitlines()
    assert lines.pop(2) == "edited"
    told = [(line["source"], line["status"]) for line in map(json.loads, lines)]
    first = [("done", "ok"), ("bad", "error")]
    assert told == [*first, ("lost", "ok"), *first]


# More than one machine.


def test_dask_gives_what_one_process_gives(run_cxrseg, model_file, model, xrays, tmp_path) -> None:
    save_chests(xrays, 6)
    assert run_cxrseg(xrays, "-o", tmp_path / "local", *model, "--threads", "1").code == 0
    recipe = [sys.executable, REPO / "examples" / "dask_folder.py", xrays]
    options = ["-o", tmp_path / "dask", "--model", model_file()]
    done = subprocess.run([*recipe, *options], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    assert contents(tmp_path / "dask") == contents(tmp_path / "local")


def models_loaded() -> int:
    """Return how often this process has loaded a model that it was sent."""
    from cxrseg.runtime import segmenter

    return segmenter._load.cache_info().misses


def test_each_worker_loads_the_model_once(model_file, xrays, tmp_path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra dev")
    save_chests(xrays, 12)
    (xrays / "bad.png").write_bytes(b"no image")
    do = partial(
        batch.process,
        segmenter=Segmenter(model_file(), "cpu", 1),
        settings=Settings(resume=True),
    )
    jobs = plan([xrays], tmp_path / "out")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path / "dask"
    )
    with cluster, distributed.Client(cluster) as client:
        for again in (False, True):
            *done, bad = client.gather(client.map(do, jobs, pure=False))
            assert [outcome.earlier for outcome in done] == [again] * 12
            assert str(bad).startswith(f"{xrays / 'bad.png'}: is not an image")
            assert list(client.run(models_loaded).values()) == [1, 1]


# A kill in the middle.


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1024  # type: ignore[index]


def start(*args: object, code: str = "") -> subprocess.Popen[str]:
    """Start the command as a process of its own, after some code."""
    line = [sys.executable, "-c", code + MAIN, *map(str, args)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def killed_at(number: int) -> str:
    """Return code with which a process kills itself when its n-th file is to get its name."""
    return (
        "import os, signal, threading\n"
        "from pathlib import Path\n"
        "lock, calls, original = threading.Lock(), [], Path.replace\n"
        "def replace(self, target):\n"
        "    with lock:\n"
        "        calls.append(target)\n"
        f"        if len(calls) == {number}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, target)\n"
        "Path.replace = replace\n"
    )


def check_kill_and_resume(xrays: Path, home: Path, count: int, model: list[str]) -> None:
    """Compare a run that is killed twice and resumed with one that is not."""
    run = [xrays, "-o", home / "out", "--jsonl", home / "all.jsonl", *model]
    for part in (1, 2):
        process = start(*run, "--skip-existing", code=killed_at(count + part))
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        reports = {path.stem for path in (home / "out").glob("*.json")}
        assert part * count // 3 - 10 <= len(reports) <= part * count // 3 + 10
        # Whole lines, but for the last at most, each with its report, and few are missing.
        lines = (home / "all.jsonl").read_text().split("\n")[:-1]
        assert {Path(json.loads(line)["source"]).stem for line in lines} <= reports
        assert len(lines) >= len(reports) - 2 * MAX_JOBS
    process = start(*run, "--skip-existing", "--csv", home / "all.csv")
    told, _ = process.communicate()
    assert process.returncode == 0
    assert len(told.splitlines()) == count
    assert told.count(": skipped, ") == len(reports)

    whole = [xrays, "-o", home / "whole", "--jsonl", home / "whole.jsonl", *model]
    process = start(*whole, "--csv", home / "whole.csv")
    process.communicate()
    assert process.returncode == 0
    kept = {n: x for n, x in contents(home / "out").items() if not n.startswith(".cxrseg-")}
    assert len(kept) == 3 * count
    assert kept == contents(home / "whole")
    assert (home / "all.csv").read_bytes() == (home / "whole.csv").read_bytes()
    one, other = lines_of(home / "all.jsonl"), lines_of(home / "whole.jsonl")
    for line in (*one, *other):
        del line["timings_ms"]
    assert one == other and len(one) == count


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_killed_and_resumed_equals_uninterrupted(model, xrays, tmp_path) -> None:
    save_chests(xrays, 60)
    check_kill_and_resume(xrays, tmp_path, 60, model)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_two_thousand_images(tmp_path: Path) -> None:
    """Memory stays flat, and a killed run is resumed, with the shipped model."""
    xrays, count = tmp_path / "xrays", 2000
    xrays.mkdir()
    drawn = [phantoms.draw(seed, (640, 560)).image for seed in range(10)]
    rng = np.random.default_rng(0)
    for i in range(count):
        height = int(rng.integers(300, 900))
        size = (int(height * rng.uniform(0.8, 1)), height)
        image = Image.fromarray(drawn[i % 10]).resize(size)
        image.save(xrays / f"{i:04}.png", compress_level=1)
    memory = {}
    tables = ["--jsonl", tmp_path / "first.jsonl", "--csv", tmp_path / "first.csv"]
    process = start(xrays, "-o", tmp_path / "first", *tables)
    assert process.stdout is not None
    with process.stdout:
        for done, _ in enumerate(process.stdout, start=1):
            if done in (20, 200, 1000, count - 10):
                memory[done] = memory_mib(process.pid)
    assert process.wait(60) == 0
    print({done: round(mib) for done, mib in memory.items()})
    assert memory[count - 10] < memory[200] + 40
    check_kill_and_resume(xrays, tmp_path, count, [])


def test_an_image_read_ahead_of_its_turn_gives_the_same(model, tmp_path: Path) -> None:
    save_chests(tmp_path / "in", 1)
    segmenter = Segmenter(model[1], "cpu")
    for name in ("ahead", "in turn"):
        (job,) = plan([tmp_path / "in"], tmp_path / name)
        if name == "ahead":
            ahead = batch.read_ahead(job)
            assert ahead == job
            assert ahead.ahead is not None
            job = ahead
        outcome = batch.process(job, segmenter)
        assert outcome.report["timings_ms"]["read"] > 0
    assert contents(tmp_path / "ahead") == contents(tmp_path / "in turn")


def test_what_cannot_be_read_ahead_is_told_in_its_turn(model, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    (job,) = plan([path], tmp_path / "out")
    assert batch.read_ahead(job) == job
    assert batch.read_ahead(job).ahead is None
    done = subprocess.run(
        [sys.executable, "-c", MAIN, str(path), *model], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("broken.png") == 1
    assert "Traceback" not in done.stderr
