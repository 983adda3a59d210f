"""When there is no file, and why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_ir as ir
import pytest
import torch

from cxrseg.export.graph import compile as compiling
from cxrseg.export.graph.passes import fold_weights
from cxrseg.export.report import Report
from cxrseg.export.verify import proof as proving
from cxrseg.export.verify.agreement import SAME_NETWORK
from cxrseg.runtime.core.errors import CxrsegError

Export = Callable[..., Report]
Call = Callable[..., Any]


class TestRefusals:
    def test_stage_1_has_no_int8(self, export: Export, base_run: Path, tmp_path: Path) -> None:
        with pytest.raises(CxrsegError, match=r"not trained for INT8.*--stage 2"):
            export(tmp_path / "m.onnx", base_run / "model.ckpt")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("limit", ["mean", "worst"])
    def test_masks_that_differ_leave_no_file(
        self, limit: str, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(proving, "SAME_NETWORK", replace(SAME_NETWORK, **{limit: 1.1}))
        (tmp_path / "m.onnx").write_bytes(b"before")
        with pytest.raises(CxrsegError, match="not written: masks agree on"):
            export(tmp_path / "m.onnx")
        assert (tmp_path / "m.onnx").read_bytes() == b"before"
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_layer_in_float_leaves_no_file(
        self, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compiling, "fold_biases", lambda model: 0)
        with pytest.raises(CxrsegError, match=r"not written: \d+ layers would run in float"):
            export(tmp_path / "m.onnx")
        assert not list(tmp_path.iterdir())

    def test_network_that_differs_is_found(
        self, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:

        def damage(model: Any) -> int:
            count = fold_weights(model)
            name = "image_encoder.blocks.1.mlp.lin2.weight_int8"
            value = model.graph.initializers[name]
            array = value.const_value.numpy().copy()
            value.const_value = ir.tensor(-array[:, ::-1].copy(), name=name)
            return count

        monkeypatch.setattr(compiling, "fold_weights", damage)
        with pytest.raises(CxrsegError, match="masks agree on"):
            export(tmp_path / "m.onnx")

    @pytest.mark.parametrize("precision", ["int8", "fp32"])
    def test_a_network_of_nan_leaves_no_file(
        self, call_here: Call, fine_run: Path, tmp_path: Path, precision: str
    ) -> None:
        """Its masks agree, since nothing is as large as itself."""
        data = torch.load(fine_run / "model.ckpt", weights_only=True)
        for value in data["state_dict"].values():
            if value.is_floating_point():
                value.fill_(float("nan"))
        path = tmp_path / "model.ckpt"
        torch.save(data, path)
        done = call_here("export", path, "--precision", precision, "-o", tmp_path / "m.onnx")
        assert done.code == 1 and "its weights are not all numbers" in done.err
        assert list(tmp_path.iterdir()) == [path]

    def test_a_network_that_overflows_leaves_no_file(
        self, export: Export, base_run: Path, tmp_path: Path
    ) -> None:
        """Its weights are numbers, and what it makes of them is not."""
        path = tmp_path / "model.ckpt"
        data = torch.load(base_run / "model.ckpt", weights_only=True)
        for name, value in data["state_dict"].items():
            if "output_hypernetworks_mlps" in name:
                value.fill_(3e38)
        torch.save(data, path)
        with pytest.raises(CxrsegError, match="values that are not numbers; train again"):
            export(tmp_path / "m.onnx", path, precision="fp32")
        assert list(tmp_path.iterdir()) == [path]

    def test_missing_checkpoint(self, call_here: Call, tmp_path: Path) -> None:
        done = call_here("export", tmp_path / "none.ckpt")
        assert done.code == 1 and len(done.errors) == 1 and "no such file" in done.errors[0]

    def test_the_checkpoint_is_not_replaced(
        self, call_here: Call, fine_run: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.ckpt"
        shutil.copy(fine_run / "model.ckpt", path)
        before = path.read_bytes()
        done = call_here("export", path, "-o", path)
        assert done.code == 1
        assert "would replace an input" in done.err
        assert path.read_bytes() == before

    @pytest.mark.parametrize("option", ["--quality-data", "--verify-images"])
    def test_no_data_are_replaced(self, call_here: Call, tmp_path: Path, option: str) -> None:
        data = tmp_path / "data.txt"
        data.write_text("image,split")
        (tmp_path / "link").symlink_to(data)
        for output, cause in (
            (tmp_path / "link", "would replace an input"),
            (tmp_path / "a.PNG", "is the name of an image or a table"),
        ):
            done = call_here("export", tmp_path / "m.ckpt", option, data, "-o", output)
            assert done.code == 1 and cause in done.err and len(done.errors) == 1
        assert data.read_text() == "image,split"

    def test_wrong_usage(self, call_here: Call, tmp_path: Path) -> None:
        assert call_here("export", tmp_path / "m.ckpt", "--profile", "tpu").code == 2

    def test_empty_masks_prove_nothing(self, export: Export, tmp_path: Path) -> None:
        """On images without lungs both networks agree, and nothing is learned from that."""
        (tmp_path / "flat").mkdir()
        cv2.imwrite(str(tmp_path / "flat/x.png"), np.full((96, 96), 255, np.uint8))
        with pytest.raises(CxrsegError, match=r"lungs on 0 of 1 images.*--verify-images"):
            export(tmp_path / "m.onnx", verify_images=tmp_path / "flat")
        assert not (tmp_path / "m.onnx").exists()

    def test_folder_without_images(self, export: Export, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(CxrsegError):
            export(tmp_path / "m.onnx", verify_images=tmp_path / "empty")

    def test_missing_output_folder(self, export: Export, tmp_path: Path) -> None:
        with pytest.raises(CxrsegError, match="no folder"):
            export(tmp_path / "none/m.onnx")
