"""The model's file, or its two files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from cxrseg.export import cli
from cxrseg.export.graph import files as writing
from cxrseg.export.report import Report
from cxrseg.export.verify import proof as proving
from cxrseg.export.verify.agreement import Limits
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.segmenter import Segmenter
from helpers.models.exported import logits_of

Export = Callable[..., Report]


class TestTwoFiles:
    """What is too large for one file: a model above the limit, which is lowered here."""

    @pytest.fixture
    def two(self, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
        monkeypatch.setattr(writing, "ONE_FILE", 100_000)
        return export(tmp_path / "m.onnx", precision="fp32")

    def test_same_logits(self, two: Report, fp32: Report, batch: NDArray[np.float32]) -> None:
        assert [path.name for path in two.files] == ["m.onnx", "m.onnx.data"]
        assert sorted(two.path.parent.iterdir()) == sorted(two.files)
        assert two.size == sum(path.stat().st_size for path in two.files)
        assert two.path.stat().st_size < 200_000 + fp32.size // 10
        session = onnxruntime.InferenceSession(two.path)
        logits = session.run(None, {"image": batch})[0][0]
        np.testing.assert_allclose(logits, logits_of(fp32.path, batch), atol=1e-5)

    def test_refers_to_its_neighbor_alone(self, two: Report) -> None:
        model = onnx.load(two.path, load_external_data=False)
        places = {
            e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"
        }
        assert places == {"m.onnx.data"}

    def test_is_not_for_the_runtime(self, two: Report) -> None:
        with pytest.raises(CxrsegError, match=r"m\.onnx: .*it has weights outside the file"):
            Segmenter(two.path, "cpu")

    def test_a_failure_leaves_neither(
        self, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writing, "ONE_FILE", 100_000)
        monkeypatch.setattr(proving, "SAME_NETWORK", Limits(1.1, 1.1))
        with pytest.raises(CxrsegError, match="masks agree on"):
            export(tmp_path / "m.onnx", precision="fp32")
        assert not list(tmp_path.iterdir())

    def test_size_is_known_before(self, fp32: Report, int8: Report) -> None:
        for report in (fp32, int8):
            model = ir.load(report.path)
            assert abs(writing.serialized_size(model) - report.size) <= 4096


@pytest.mark.skipif(os.name != "posix", reason="permissions, pipes and links of POSIX")
class TestPlaces:
    """Where an export, or the way back, may put its file."""

    @pytest.mark.parametrize("kind", ["pipe", "link to nothing", "folder", "no folder"])
    def test_what_takes_no_file_is_told_before_the_work(
        self, capfd: pytest.CaptureFixture[str], fine_run: Path, tmp_path: Path, kind: str
    ) -> None:
        path = tmp_path / "x"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "link to nothing":
            path.symlink_to("nothing")
        elif kind == "folder":
            path.mkdir()
        else:
            path = tmp_path / "none" / "x"
        before = sorted(tmp_path.iterdir())
        for main, source in ((cli.main, [fine_run / "model.ckpt"]), (cli.recover_main, [])):
            with pytest.raises(SystemExit) as stop:
                main([*map(str, source), "-o", str(path)])
            *steps, error = capfd.readouterr().err.splitlines()
            assert stop.value.code == 1 and len(steps) == 1 and "loading ..." in steps[0]
            assert error.startswith(f"error: {path}: ") and error.endswith("choose another -o")
            assert sorted(tmp_path.iterdir()) == before

    def test_a_link_is_followed_and_permissions_stay(self, tmp_path: Path) -> None:
        (tmp_path / "far").mkdir()
        target, link = tmp_path / "far" / "old.onnx", tmp_path / "m.onnx"
        target.write_bytes(b"old")
        target.chmod(0o600)
        link.symlink_to(target)
        with writing.atomic_outputs(writing.require_place(link, tmp_path / "c.ckpt")) as path:
            path.write_bytes(b"new")
        assert link.is_symlink() and target.read_bytes() == b"new"
        assert target.stat().st_mode & 0o777 == 0o600
        assert sorted(tmp_path.rglob("*")) == sorted([target.parent, target, link])

    def test_no_kill_leaves_a_model_beside_the_weights_of_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, weights = tmp_path / "m.onnx", tmp_path / "m.onnx.data"

        def write() -> None:
            with writing.atomic_outputs(model) as path:
                path.write_bytes(b"new")
                path.with_name(weights.name).write_bytes(b"new")

        model.write_bytes(b"old")
        weights.write_bytes(b"old")
        original = Path.replace

        def replace(self: Path, target: Path) -> Path:
            if target == model:
                raise KeyboardInterrupt  # ends it without any cleaning up of ours
            return original(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            write()
        assert not model.exists() and weights.read_bytes() == b"new"
