"""The way back from a model file to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper

from cxrseg.export.cli import recover_command
from cxrseg.export.recover import frequencies, recover
from cxrseg.export.report import Report
from cxrseg.export.verify.agreement import compare
from cxrseg.export.verify.backends import onnx_backend, torch_backend
from cxrseg.export.verify.images import verification_images
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.models import default_model
from cxrseg.trainer.fit.checkpoint import load

Call = Callable[..., object]


@pytest.fixture(scope="module")
def images(phantom_data: Path) -> Path:
    return phantom_data / "val/images"


@pytest.fixture(scope="module")
def recovered(int8: Report, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("recovered") / "base.ckpt"
    recover(int8.path, output, verification_images(images)[0])
    return output


def test_a_float_checkpoint_with_the_masks_of_the_file(
    recovered: Path, int8: Report, images: Path
) -> None:
    loaded = load(recovered)
    description = loaded.description
    assert description.stage == 1
    assert description.adapters is None and description.quantization is None
    radiographs = verification_images(images)[0]
    backends = torch_backend(loaded.model), onnx_backend(int8.path, True)
    found = compare(*backends, radiographs, description.preprocessing, description.labels)
    assert found.mean > 0.995
    assert found.with_lungs == found.images


def test_weights_are_those_of_the_file(recovered: Path, int8: Report) -> None:
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load(int8.path).graph.initializer}
    name = "image_encoder.blocks.1.mlp.lin1"
    expected = held[f"{name}.weight_int8"] * held[f"{name}.weight_scale"][:, None]
    weight = load(recovered).model.state_dict()[f"{name}.weight"]
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6)


def test_training_starts_from_it(
    call: Call, recovered: Path, phantom_data: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: vit_n\nimage_size: 96\nstage1: {epochs: 1, images_per_epoch: 16, batch_size: 8}\n"
    )
    outcome = call(
        "train", phantom_data, "-o", tmp_path / "run", "--recipe", recipe,
        "--checkpoint", recovered, "--stage", "1",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err  # type: ignore[attr-defined]
    assert load(tmp_path / "run/model.ckpt").description.method == "adalora"


def test_layers_in_floating_point_come_back(
    export: Callable[..., Report], images: Path, tmp_path: Path
) -> None:
    kept = "mask_decoder.output_upscaling.3"
    report = export(tmp_path / "model.onnx", keep_fp16=(kept, "*.blocks.0.mlp.lin1"))
    assert report.precision[kept] == "fp16"
    found = recover(report.path, tmp_path / "base.ckpt", verification_images(images)[0])
    assert found.mean > 0.995


@pytest.mark.parametrize("side", [5, 6, 16])
def test_frequencies_of_a_positional_encoding(side: int) -> None:
    def encoding(matrix: torch.Tensor) -> torch.Tensor:
        y, x = torch.meshgrid(*[(torch.arange(side) + 0.5) / side * 2 - 1] * 2, indexing="ij")
        phase = 2 * torch.pi * (torch.stack([x, y], dim=-1).reshape(-1, 2) @ matrix)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)[None]

    positions = encoding(torch.randn(2, 128, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(
        encoding(frequencies(positions, side)), positions, atol=1e-4, rtol=1e-4
    )


class TestRefusals:
    def test_a_float_model(self, fp32: Report, tmp_path: Path) -> None:
        with pytest.raises(CxrsegError, match="no weights in INT8"):
            recover(fp32.path, tmp_path / "base.ckpt", [])
        assert not list(tmp_path.iterdir())

    def test_masks_that_differ(self, int8: Report, images: Path, tmp_path: Path) -> None:
        model = onnx.load(int8.path)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("norm1.bias") or tensor.name.endswith("norm1.bias_fp16"):
                array = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(array * 0 + 3, tensor.name))
        other = tmp_path / "other.onnx"
        onnx.save(model, other)
        with pytest.raises(CxrsegError, match=r"cannot be reproduced|with lungs"):
            recover(other, tmp_path / "base.ckpt", verification_images(images)[0])
        assert not (tmp_path / "base.ckpt").exists()

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(recover_command, ["-o", str(tmp_path / "no/base.ckpt")])
        assert isinstance(result.exception, CxrsegError)
        assert "no folder" in str(result.exception)

    def test_the_model_is_not_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(b"a model")
        result = CliRunner().invoke(recover_command, [str(path), "-o", str(path)])
        assert "would replace an input" in str(result.exception)
        assert path.read_bytes() == b"a model"


def test_the_shipped_model_is_a_base(tmp_path: Path) -> None:
    output = tmp_path / "base.ckpt"
    result = CliRunner().invoke(recover_command, ["-o", str(output)])
    assert result.exit_code == 0, result.output
    (line,) = [x for x in result.output.splitlines() if x.startswith("agreement ")]
    # Drawn images are unlike those that the model was trained on; on X-rays it is above 0.995.
    assert float(line.split()[1]) > 0.97
    loaded = load(output)
    assert f"cxrseg-{loaded.description.architecture.name}" in default_model().name
