from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cxrseg.benchmarks.speed import latency
from cxrseg.benchmarks.speed.latency import (
    IMAGE,
    STEPS,
    figures_table,
    interleaved,
    open_subjects,
    peak_memory,
    random_input,
    sample_image,
    settle,
)
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.model_card import METADATA_KEY

Bench = Callable[..., Any]

RUNS = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no rests, which matter to times alone, and load less often."""
    monkeypatch.setattr(latency, "settle", lambda: None)
    monkeypatch.setattr(latency, "LOADS", 2)


def write_model(
    path: Path,
    shape: Sequence[int | str] = (1, 3, 32, 32),
    kind: int = TensorProto.FLOAT,
    inputs: Sequence[str] = ("pixels",),
    reshape: Sequence[int] = (-1,),
) -> Path:
    """Write a model without a card that reshapes its first input."""
    nodes = [helper.make_node("Reshape", [inputs[0], "form"], ["out"])]
    ports = [helper.make_tensor_value_info(name, kind, list(shape)) for name in inputs]
    out = helper.make_tensor_value_info("out", kind, None)
    form = numpy_helper.from_array(np.array(reshape, np.int64), "form")
    graph = helper.make_graph(nodes, "foreign", ports, [out], [form])
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def with_card(source: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write a copy of a model with a changed card."""
    model = onnx.load(str(source))
    card = json.loads(model.metadata_props[0].value)
    change(card)
    del model.metadata_props[:]
    helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return write_model(tmp_path / "foreign.onnx")


def measured(bench: Bench, output: Path, *args: str | Path | int) -> dict[str, Any]:
    result = bench("latency", *args, "--device", "cpu", "--threads", 1, "-o", output)
    assert result.code == 0, result.err
    assert result.err == "", "no bar without a terminal"
    return json.loads(output.read_text())  # type: ignore[no-any-return]


@pytest.fixture
def record(bench: Bench, model: Path, foreign: Path, tmp_path: Path) -> dict[str, Any]:
    args = [model, foreign, "--runs", RUNS, "--warmup", 1]
    return measured(bench, tmp_path / "latency.json", *args)


def test_record_describes_the_models(record: dict[str, Any], model: Path, foreign: Path) -> None:
    for each, path in zip(record["models"], (model, foreign), strict=True):
        assert each["title"] == each["file"] == path.name
        assert each["size_bytes"] == path.stat().st_size
        assert each["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    ours, other = record["models"]
    assert ours["card"] == {"name": "tiny", "version": "9.9", "protocol": "fields"}
    assert ours["input"] == [1, 1, 64, 64]
    assert other["card"] is other["image_ms"] is other["peak_memory_bytes"] is None
    assert other["input"] == [1, 3, 32, 32]


def test_figures_follow_from_the_samples(record: dict[str, Any]) -> None:
    first = record["models"][0]
    for each in record["models"]:
        times = each["latency_ms"]
        assert len(times["samples"]) == RUNS
        assert times["median"] == pytest.approx(np.median(times["samples"]), abs=1e-3)
        assert times["p5"] == pytest.approx(np.percentile(times["samples"], 5), abs=1e-3)
        assert times["p95"] == pytest.approx(np.percentile(times["samples"], 95), abs=1e-3)
        assert 0 < times["p5"] <= times["median"] <= times["p95"]
        assert each["throughput"] == pytest.approx(1000 / times["median"])
        assert each["load_ms"]["median"] == pytest.approx(
            np.median(each["load_ms"]["samples"]), abs=1e-3
        )
        assert len(each["load_ms"]["samples"]) == record["settings"]["loads"] == 2
        size = each["size_bytes"] / first["size_bytes"]
        ratio = times["median"] / first["latency_ms"]["median"]
        assert each["relative"]["size"] == pytest.approx(size, abs=1e-6)
        assert each["relative"]["latency"] == pytest.approx(ratio, abs=1e-6)
        for samples in (times["samples"], each["load_ms"]["samples"]):
            assert samples == [round(sample, 3) for sample in samples]
    assert first["relative"] == {"size": 1.0, "latency": 1.0}
    image = first["image_ms"]
    assert len(image["samples"]) == record["settings"]["image_runs"] == RUNS
    assert image["median"] == pytest.approx(np.median(image["samples"]), abs=1e-3)
    assert all(0 < image[step] < max(image["samples"]) for step in STEPS)


def test_record_tells_how_it_was_made(record: dict[str, Any], tmp_path: Path) -> None:
    assert record["benchmark"] == "latency"
    assert record["command"] == (
        "cxrseg-bench latency tiny.onnx foreign.onnx --device cpu --threads 1 --runs 6 --warmup 1"
        " --output latency.json"
    )
    assert record["settings"] == {
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "runs": RUNS,
        "warmup": 1,
        "loads": 2,
        "image_runs": RUNS,
        "image": [2000, 2000],
    }
    assert record["seed"] == 0
    assert {"date", "versions", "machine"} <= set(record)
    markdown = (tmp_path / "latency.md").read_text()
    for text in (record["command"], record["models"][1]["sha256"], "| foreign.onnx |"):
        assert text in markdown
    for written in (json.dumps(record), markdown):
        assert str(tmp_path) not in written


def test_models_take_turns(record: dict[str, Any]) -> None:
    assert len(record["order"]) == RUNS
    assert set(record["order"]) == {"0 1", "1 0"}, "both orders come up"


def test_order_follows_from_the_seed(bench: Bench, foreign: Path, tmp_path: Path) -> None:
    args = [foreign, foreign, "--runs", 8]
    orders = [
        measured(bench, tmp_path / f"{number}.json", *args, "--seed", seed)["order"]
        for number, seed in enumerate((1, 1, 2))
    ]
    assert orders[0] == orders[1] != orders[2]


def test_interleaving() -> None:
    now = 0.0
    calls: list[int] = []
    pauses: list[int] = []
    ticks: list[int] = []

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    def subject(index: int) -> Callable[[], object]:
        def run() -> None:
            calls.append(index)
            # The n-th run of subject i takes (10 i + n) ms and less than 1 µs.
            advance((10 * index + calls.count(index)) / 1000 + 3e-7)

        return run

    def rest() -> None:
        pauses.append(len(calls))
        advance(7)

    def step() -> None:
        ticks.append(len(calls))
        advance(5)

    found = interleaved([subject(i) for i in range(3)], 4, 2, 0, step, lambda: now, rest)
    assert len(calls) == 18
    rounds = [calls[start : start + 3] for start in range(0, 18, 3)]
    assert all(sorted(each) == [0, 1, 2] for each in rounds), "each model once in every round"
    assert len({tuple(each) for each in rounds}) > 1, "in changing order"
    assert found.order == rounds[2:]
    # The first two of each are the warm-up; rests and steps count for nothing.
    assert found.samples == [[10 * index + n for n in (3, 4, 5, 6)] for index in range(3)]
    assert pauses == list(range(18))
    assert ticks == list(range(1, 19))


@pytest.mark.parametrize(("spinning", "least"), [(0.0, 0.03), (0.5, 0.5), (60.0, 1.9)])
def test_rest_ends_when_the_threads_do(spinning: float, least: float) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    settle(lambda: now, lambda: min(now, spinning), sleep)
    assert least <= now <= least + 0.2


def test_inputs_repeat() -> None:
    one = random_input((1, 3, 8, 8), 0)
    assert one.dtype == np.float32
    assert 0 <= one.min() < one.max() < 1
    assert np.array_equal(one, random_input([1, 3, 8, 8], 0))
    assert not np.array_equal(one, random_input((1, 3, 8, 8), 1))
    image = sample_image(0)
    assert (image.shape, image.dtype) == (IMAGE, np.uint8)
    assert np.array_equal(image, sample_image(0))


def test_foreign_models_alone(bench: Bench, foreign: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "batch.onnx", ("N", 1, 48, 32), inputs=["x"])
    record = measured(bench, tmp_path / "r.json", foreign, other, "--runs", 2)
    assert [each["input"] for each in record["models"]] == [[1, 3, 32, 32], [1, 1, 48, 32]]
    assert [each["card"] for each in record["models"]] == [None, None]


def test_equal_names_are_told_apart(bench: Bench, foreign: Path, tmp_path: Path) -> None:
    record = measured(bench, tmp_path / "r.json", foreign, foreign, "--runs", 2)
    assert [each["title"] for each in record["models"]] == ["foreign.onnx", "foreign.onnx (2)"]
    assert [each["relative"]["size"] for each in record["models"]] == [1, 1]


def test_model_of_the_other_protocol(bench: Bench, model: Path, tmp_path: Path) -> None:
    labels = ["right_lung_whole", "left_lung_whole"]
    whole = with_card(model, tmp_path / "whole.onnx", lambda card: card.update(labels=labels))
    (each,) = measured(bench, tmp_path / "r.json", whole, "--runs", 1)["models"]
    assert each["card"]["protocol"] == "whole"
    assert each["image_ms"]["median"] > 0


def test_steps_are_counted(model: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "peak_memory", lambda *_: None)
    subjects = open_subjects([foreign, model], "cpu", 1)
    for runs in (1, 12):
        count = 0

        def step() -> None:
            nonlocal count
            count += 1

        latency.measure(subjects, runs, 2, 0, step)
        assert count == latency.steps(subjects, runs, 2)


def test_memory_of_a_fresh_process(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (subject,) = open_subjects([model], "cpu", 1)
    image = sample_image(0)
    peak = peak_memory(subject, image)
    if sys.platform == "win32":
        assert peak is None
    else:
        assert peak is not None
        assert 20e6 < peak < 2e9
        model.unlink()
        with pytest.raises(CxrsegError, match=r"tiny\.onnx: .*memory failed .*no such model file"):
            peak_memory(subject, image)
    monkeypatch.setattr(latency, "find_spec", lambda _: None)
    assert peak_memory(subject, image) is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child starts from nothing")
def test_memory_of_the_caller_does_not_count() -> None:
    code = (
        "import subprocess, sys\n"
        "held = bytearray(b'x' * 200_000_000)\n"
        "child = 'from cxrseg.benchmarks.speed.latency import peak_bytes; print(peak_bytes())'\n"
        "subprocess.run([sys.executable, '-c', child], check=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 0 < int(result.stdout) < 200e6, result.stderr


def test_table_is_printed(bench: Bench, model: Path, foreign: Path) -> None:
    result = bench("latency", model, foreign, "--runs", 2, "--device", "cpu", "--threads", 1)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "CPUExecutionProvider, threads 1, runs 2"
    assert [line.split("|")[1].strip() for line in (lines[2], *lines[4:])] == [
        "model",
        "tiny.onnx",
        "foreign.onnx",
    ]
    assert len({len(line) for line in lines[2:]}) == 1, "aligned"
    assert lines[2].endswith("| rel. size | rel. latency |")
    assert lines[5].split("|")[8].strip() == lines[5].split("|")[9].strip() == "-"
    assert not list(model.parent.glob("*.json"))


def test_table_of_one_model_has_no_ratios(record: dict[str, Any]) -> None:
    assert "rel." not in figures_table(record["models"][:1])


def test_default_model(
    bench: Bench, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrseg.runtime.models.default_model", lambda: model)
    record = measured(bench, tmp_path / "r.json", "--runs", 1, "--warmup", 0)
    assert [each["file"] for each in record["models"]] == ["tiny.onnx"]
    assert record["order"] == ["0"]


def refused(bench: Bench, *args: str | Path | int) -> str:
    result = bench("latency", *args, "--runs", 1)
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1
    return str(result.err)


def test_missing_and_corrupt_models_are_refused(
    bench: Bench, model: Path, foreign: Path, tmp_path: Path
) -> None:
    output = tmp_path / "r.json"
    message = refused(bench, model, tmp_path / "none.onnx", "-o", output)
    assert "none.onnx: no such model file" in message
    foreign.write_bytes(foreign.read_bytes()[:50])
    assert "ONNX Runtime can load" in refused(bench, foreign, "-o", output)
    newer = with_card(model, tmp_path / "new.onnx", lambda card: card.update(format_version=99))
    assert "is newer" in refused(bench, newer, "-o", output)
    assert not output.exists()


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (1, 3, "H", "W")},
        {"shape": (2, 3, 32, 32)},
        {"shape": (3, 32, 32)},
        {"shape": (1, 3, 2**16, 2**16)},
        {"kind": TensorProto.DOUBLE},
        {"inputs": ("pixels", "points")},
    ],
)
def test_models_without_a_fixed_image_input_are_refused(
    bench: Bench, tmp_path: Path, options: dict[str, Any]
) -> None:
    path = write_model(tmp_path / "odd.onnx", **options)
    message = refused(bench, path)
    assert "odd.onnx: its input is not one image of fixed size: pixels tensor(" in message


def test_model_that_fails(bench: Bench, tmp_path: Path) -> None:
    path = write_model(tmp_path / "fails.onnx", ("N", 1, 32, 32), reshape=(7, 7))
    assert "fails.onnx: the model failed on random input [1, 1, 32, 32]" in refused(bench, path)


def test_device_that_is_not_there(
    bench: Bench, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "--device cuda: not available" in refused(bench, model, "--device", "cuda")


def test_bad_output_is_told_before_the_work(bench: Bench, tmp_path: Path) -> None:
    message = refused(bench, tmp_path / "none.onnx", "-o", tmp_path / "r.txt")
    assert "does not end in .json" in message


@pytest.mark.parametrize(
    "args", [["--runs", 0], ["--warmup", -1], ["--threads", 0], ["--device", "abacus"]]
)
def test_wrong_usage(bench: Bench, model: Path, args: list[str | int]) -> None:
    assert bench("latency", model, *args).code == 2


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from cxrseg.benchmarks.cli import main\n"
        "try:\n"
        "    main(['latency', '--help'])\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "heavy = {'torch', 'onnxruntime', 'cv2', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "MODEL" in result.stdout
