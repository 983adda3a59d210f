"""The exported file: what is in it, what ONNX Runtime makes of it, and when there is none."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from cxrseg.export import pipeline as exporting
from cxrseg.export.graph import compile as compiling
from cxrseg.export.graph import files as writing
from cxrseg.export.graph.compile import Compiled, compile_model, promised_products
from cxrseg.export.graph.passes import fold_weights
from cxrseg.export.graph.trace import Shipped, float_twin
from cxrseg.export.pipeline import Report, table
from cxrseg.export.recover import Stored, restore_encoder, restore_layers
from cxrseg.export.verify.agreement import (
    SAME_NETWORK,
    Agreement,
    Limits,
    compare,
    synthetic_radiographs,
)
from cxrseg.export.verify.backends import onnx_backend, saturates
from cxrseg.export.verify.operators import INTEGER_OPS, operator_coverage
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.model_card import METADATA_KEY, ModelCard
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.segmenter import Segmenter
from cxrseg.trainer.adapt.quantization import calibrate, quantize, unquantize
from cxrseg.trainer.adapt.quantizers import QuantizationConfig, QuantizedWeight
from cxrseg.trainer.fit.checkpoint import Description, Loaded, build, load, save
from cxrseg.trainer.networks.sam import ARCHITECTURES

Export = Callable[..., Report]
Call = Callable[..., Any]

FIELDS = ("right_lung", "left_lung")


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def int8_layers(report: Report) -> list[str]:
    return [name for name in products(report) if ".matmul." not in name]


def products(report: Report) -> list[str]:
    """Return the names of the products that the report calls int8."""
    return promised_products(report.precision)


def card_of(path: Path) -> ModelCard:
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    return ModelCard.from_json(properties[METADATA_KEY])


def logits_of(path: Path, image: NDArray[np.float32]) -> NDArray[np.float32]:
    return onnx_backend(path.read_bytes(), True)(image)


@pytest.fixture(scope="module")
def batch() -> NDArray[np.float32]:
    image = cv2.resize(synthetic_radiographs(1)[0], (96, 96))
    return np.asarray(image, np.float32)[None, None]


class TestInt8:
    def test_passes_the_checker(self, int8: Report) -> None:
        onnx.checker.check_model(str(int8.path), full_check=True)
        model = onnx.load(int8.path)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
        assert not any(
            t.HasField("data_location") and t.data_location == TensorProto.EXTERNAL
            for t in model.graph.initializer
        )

    def test_input_and_output(self, int8: Report) -> None:
        graph = onnx.load(int8.path).graph
        (image,), (logits,) = graph.input, graph.output
        assert (image.name, logits.name) == ("image", "logits")
        assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [1, 1, 96, 96]
        assert [d.dim_value for d in logits.type.tensor_type.shape.dim] == [1, 2, 24, 24]

    def test_every_layer_is_int8_in_the_file(self, int8: Report) -> None:
        held = constants(onnx.load(int8.path))
        layers = int8_layers(int8)
        constant = [n for n, p in int8.precision.items() if p == "constant"]
        assert len(constant) == 4 and all(".layers.0.self_attn." in name for name in constant)
        assert len(layers) == len(int8.precision) - 6 + 4 > 40, "q, k and v are three"
        assert not any(name.startswith(tuple(constant)) for name in held)
        for layer in layers:
            weight = held[f"{layer}.weight_int8"]
            assert weight.dtype == np.int8, layer
            largest = int(np.abs(weight.astype(int)).max())
            assert largest > 60, layer
            assert largest <= 63, layer

    def test_weights_have_no_float_copy(self, int8: Report) -> None:
        held = constants(onnx.load(int8.path))
        sizes = {held[f"{layer}.weight_int8"].size for layer in int8_layers(int8)}
        for layer in int8_layers(int8):
            floats = [
                n
                for n, a in held.items()
                if n.startswith(f"{layer}.")
                and a.dtype in (np.float16, np.float32)
                and a.size in sizes
                and n.endswith(("weight", "weight_fp16", "bias"))
            ]
            assert not floats
        operators = {node.op_type: node for node in onnx.load(int8.path).graph.node}
        for node in onnx.load(int8.path).graph.node:
            if node.op_type == "QuantizeLinear":
                assert node.input[0] not in held, "a weight is quantized when the file is loaded"
        assert "DequantizeLinear" in operators

    def test_biases_are_integer(self, int8: Report) -> None:
        model = onnx.load(int8.path)
        held = constants(model)
        producers = {o: n for n in model.graph.node for o in n.output}
        layers = [n for n in model.graph.node if n.op_type in ("Gemm", "Conv")]
        assert {node.name for node in layers} == set(int8_layers(int8))
        neck = ("image_encoder.neck.0", "image_encoder.neck.2")
        biased = [node for node in layers if node.name not in neck]
        assert len(biased) == len(layers) - 2 > 40, "only the neck's convolutions have none"
        for node in biased:
            dequantize = producers[node.input[2]]
            assert dequantize.op_type == "DequantizeLinear", node.name
            assert held[dequantize.input[0]].dtype == np.int32, node.name

    def test_large_floats_are_stored_in_half(self, int8: Report) -> None:
        held = constants(onnx.load(int8.path))
        large = {n for n, a in held.items() if a.dtype == np.float32 and a.size >= 256}
        assert not large
        assert any(a.dtype == np.float16 for a in held.values())

    def test_nothing_falls_back(self, int8: Report) -> None:
        assert int8.coverage.fallen_back == ()
        assert len(products(int8)) == len(int8_layers(int8)) + 4
        assert set(int8.coverage.executed) == set(products(int8))
        assert set(int8.coverage.executed.values()) <= set(INTEGER_OPS)
        assert int8.coverage.executed["image_encoder.neck.2"] == "QLinearConv"
        assert not {"Gemm", "Conv", "FusedGemm", "FusedConv"} & set(int8.coverage.operators)

    def test_masks_agree(self, int8: Report) -> None:
        assert len(int8.agreements) == 3
        for name, agreement in int8.agreements.items():
            assert agreement.images == 8
            trained = name == exporting.TRAINED
            assert agreement.mean >= (0.995 if trained else 0.9995), name
        assert int8.verified_on == "8 images of images"

    def test_masks_are_masks(self, int8: Report, phantom_data: Path) -> None:
        segmenter = Segmenter(int8.path)
        for path in sorted((phantom_data / "test/images").iterdir()):
            truth = cv2.imread(str(path.parent.parent / "masks" / path.name), -1)
            found = segmenter.segment(path).mask
            for label in (1, 2):
                overlap = np.sum((found == label) & (truth == label))
                assert 2 * overlap / np.sum((found == label).astype(int) + (truth == label)) > 0.75

    def test_card(self, int8: Report, fine_run: Path) -> None:
        card = card_of(int8.path)
        loaded = load(fine_run / "model.ckpt")
        assert card.name == "cxrseg-vit_n"
        assert card.labels == FIELDS
        assert card.preprocessing == Preprocessing(96)
        assert card.precision == int8.precision
        assert card.checkpoint_sha256 == loaded.sha256
        assert card.metrics == loaded.description.metrics
        assert card.license == "for tests"

    def test_report(self, int8: Report) -> None:
        assert int8.size == int8.path.stat().st_size < int8.fp32_size
        assert int8.ratio == int8.fp32_size / int8.size > 1.3
        text = table(int8)
        assert int8.sha256 in text and "QGemm" in text and "agreement" in text

    def test_folder_holds_the_file_alone(self, int8: Report) -> None:
        assert list(int8.path.parent.iterdir()) == [int8.path]


class TestFp32:
    def test_is_float_throughout(self, fp32: Report) -> None:
        onnx.checker.check_model(str(fp32.path), full_check=True)
        held = constants(onnx.load(fp32.path))
        assert not [n for n, a in held.items() if a.dtype in (np.int8, np.uint8, np.float16)]
        assert set(fp32.precision.values()) == {"fp32"}
        assert fp32.coverage.executed == {} and fp32.size == fp32.fp32_size

    def test_equals_pytorch(self, fp32: Report, fine_run: Path, batch: NDArray[np.float32]) -> None:
        model = load(fine_run / "model.ckpt").model
        unquantize(model)
        with torch.no_grad():
            expected = model(torch.from_numpy(batch))[0].numpy()
        np.testing.assert_allclose(logits_of(fp32.path, batch), expected, rtol=1e-3, atol=1e-3)
        assert expected.std() > 1

    def test_a_checkpoint_of_stage_1_will_do(
        self, export: Export, base_run: Path, tmp_path: Path
    ) -> None:
        report = export(tmp_path / "m.onnx", base_run / "model.ckpt", precision="fp32")
        assert min(a.mean for a in report.agreements.values()) > 0.9999


class TestGpu:
    def test_passes_the_checker(self, gpu: Report) -> None:
        onnx.checker.check_model(str(gpu.path), full_check=True)

    def test_what_is_not_integer_is_computed_in_half(self, gpu: Report) -> None:
        graph = onnx.load(gpu.path).graph
        integer = {o for n in graph.node if n.op_type == "DequantizeLinear" for o in n.output}
        half = {
            o
            for n in graph.node
            if n.op_type == "Cast"
            and onnx.helper.get_node_attr_value(n, "to") == TensorProto.FLOAT16
            for o in n.output
        }
        half |= {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT16}
        products = [n for n in graph.node if n.op_type in ("MatMul", "Gemm", "Conv")]
        float_products = [n for n in products if not set(n.input) & integer]
        assert float_products, "relative positions and the decoder's attention stay float"
        for node in float_products:
            assert set(node.input) <= half, node.name

    def test_same_masks_on_the_cpu(self, gpu: Report, int8: Report) -> None:
        one, other = (onnx_backend(report.path.read_bytes(), True) for report in (int8, gpu))
        agreement = compare(one, other, synthetic_radiographs(4), Preprocessing(96), FIELDS)
        assert agreement.mean > 0.99
        assert gpu.coverage.fallen_back == ()


class TestRefusals:
    def test_stage_1_has_no_int8(self, export: Export, base_run: Path, tmp_path: Path) -> None:
        with pytest.raises(CxrsegError, match=r"not trained for INT8.*--stage 2"):
            export(tmp_path / "m.onnx", base_run / "model.ckpt")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("limit", ["mean", "worst"])
    def test_masks_that_differ_leave_no_file(
        self, limit: str, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exporting, "SAME_NETWORK", replace(SAME_NETWORK, **{limit: 1.1}))
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
        assert "would be replaced by its own result" in done.err
        assert path.read_bytes() == before

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


class TestSelection:
    def test_layers_kept_in_float(self, export: Export, base_run: Path, tmp_path: Path) -> None:
        """Layers and products that a pattern keeps are FP16 in the file, the others int8."""
        config = QuantizationConfig(keep_float=("mask_decoder.*", "image_encoder.blocks.0.*"))
        loaded = load(base_run / "model.ckpt")
        quantize(loaded.model, config)
        radiographs = np.stack([cv2.resize(r, (96, 96)) for r in synthetic_radiographs(8)])
        calibrate(loaded.model, [torch.from_numpy(radiographs[:, None])])
        description = replace(loaded.description, quantization=config, stage=2)
        save(loaded.model, description, tmp_path / "m.ckpt")

        report = export(tmp_path / "m.onnx", tmp_path / "m.ckpt", profile="gpu")
        kept = [n for n, p in report.precision.items() if p == "fp16"]
        assert "image_encoder.blocks.0.mlp.lin1" in kept
        assert "image_encoder.blocks.0.attn.matmul" in kept
        assert set(report.precision.values()) == {"int8", "fp16", "constant"}
        assert all(n.startswith(("mask_decoder.", "image_encoder.blocks.0.")) for n in kept)
        held = constants(onnx.load(report.path))
        for layer in kept:
            assert f"{layer}.weight_int8" not in held
        assert report.coverage.fallen_back == ()
        # Asked for more than the file holds, the coverage names what is missing.
        missing = (
            "image_encoder.blocks.0.mlp.lin1",
            "image_encoder.blocks.0.attn.matmul.scores",
            "image_encoder.blocks.0.attn.matmul.mix",
        )
        coverage = operator_coverage(report.path.read_bytes(), [*products(report), *missing])
        assert coverage.fallen_back == missing

    def test_rows_of_attention_with_their_own_scales(
        self, export: Export, base_run: Path, tmp_path: Path
    ) -> None:
        config = QuantizationConfig(row_scales=True)
        loaded = load(base_run / "model.ckpt")
        quantize(loaded.model, config)
        radiographs = np.stack([cv2.resize(r, (96, 96)) for r in synthetic_radiographs(8)])
        calibrate(loaded.model, [torch.from_numpy(radiographs[:, None])])
        description = replace(loaded.description, quantization=config, stage=2)
        save(loaded.model, description, tmp_path / "m.ckpt")

        report = export(tmp_path / "m.onnx", tmp_path / "m.ckpt")
        mixes = [name for name in products(report) if name.endswith(".matmul.mix")]
        operators = Counter(node.op_type for node in onnx.load(report.path).graph.node)
        assert operators["ReduceMax"] == len(mixes) == loaded.model.architecture.depth
        assert report.coverage.fallen_back == ()

    def test_patterns_of_the_command(self, export: Export, tmp_path: Path) -> None:
        report = export(tmp_path / "m.onnx", keep_fp16=("*.neck.*", "*.blocks.0.attn.matmul"))
        kept = {n for n, p in report.precision.items() if p == "fp16"}
        assert kept == {
            "image_encoder.neck.0",
            "image_encoder.neck.2",
            "image_encoder.blocks.0.attn.matmul",
        }
        assert card_of(report.path).precision == report.precision

    def test_a_pattern_without_a_layer(self, export: Export, tmp_path: Path) -> None:
        with pytest.raises(CxrsegError, match=r"--keep-fp16 nek: matches no INT8 layer"):
            export(tmp_path / "m.onnx", keep_fp16=("nek",))
        assert not list(tmp_path.iterdir())

    def test_eight_bits(self, export: Export, int8: Report, tmp_path: Path) -> None:
        if saturates():
            with pytest.raises(CxrsegError, match=r"--weight-bits 8: .* saturate"):
                export(tmp_path / "m.onnx", weight_bits=8)
            assert not list(tmp_path.iterdir())
            return
        report = export(tmp_path / "m.onnx", weight_bits=8)
        for path, limit in ((report.path, 127), (int8.path, 63)):
            held = constants(onnx.load(path))
            largest = [
                int(np.abs(held[f"{n}.weight_int8"].astype(int)).max()) for n in int8_layers(report)
            ]
            assert max(largest) == limit

    def test_sensitivities_are_listed(self, int8: Report) -> None:
        assert set(int8.sensitivity) == set(int8.precision)
        lines = table(int8).splitlines()
        for name, each in int8.sensitivity.items():
            (line,) = [text for text in lines if text.split()[:1] == [name]]
            assert line.split()[1:] == [
                int8.precision[name],
                f"{each.sqnr:.1f}",
                f"{each.dice_loss:.5f}",
            ]


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
        with pytest.raises(CxrsegError, match=r"m\.onnx: is not a model that ONNX"):
            Segmenter(two.path, "cpu")

    def test_a_failure_leaves_neither(
        self, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writing, "ONE_FILE", 100_000)
        monkeypatch.setattr(exporting, "SAME_NETWORK", Limits(1.1, 1.1))
        with pytest.raises(CxrsegError, match="masks agree on"):
            export(tmp_path / "m.onnx", precision="fp32")
        assert not list(tmp_path.iterdir())

    def test_size_is_known_before(self, fp32: Report, int8: Report) -> None:
        for report in (fp32, int8):
            model = ir.load(report.path)
            assert abs(writing.serialized_size(model) - report.size) <= 4096


class TestCoverage:
    def test_a_weight_dequantized_in_float_is_found(self, int8: Report) -> None:
        """A float input turns its layer into a float product, whatever the weight is."""
        model = onnx.load(int8.path)
        layer = "image_encoder.blocks.0.mlp.lin2"
        producers = {o: n for n in model.graph.node for o in n.output}
        weights = [n.output[0] for n in model.graph.node if f"{layer}.weight_int8" in n.input]
        changed = 0
        for node in model.graph.node:
            if weights[0] in node.input:
                dequantize = producers[node.input[0]]
                quantize_node = producers[dequantize.input[0]]
                node.input[0] = quantize_node.input[0]
                changed += 1
        assert changed == 1
        coverage = operator_coverage(model.SerializeToString(), products(int8))
        assert coverage.fallen_back == (layer,)
        assert layer not in coverage.executed

    def test_a_product_in_float_is_found(self, int8: Report) -> None:
        model = onnx.load(int8.path)
        attention = "image_encoder.blocks.1.attn"
        scale = f"{attention}.quantizers.query.scale"
        producers = {o: n for n in model.graph.node for o in n.output}
        (dequantized,) = [
            n.output[0]
            for n in model.graph.node
            if n.op_type == "DequantizeLinear" and scale in n.input
        ]
        for node in model.graph.node:
            if dequantized in node.input:
                source = producers[producers[dequantized].input[0]].input[0]
                node.input[list(node.input).index(dequantized)] = source
        coverage = operator_coverage(model.SerializeToString(), products(int8))
        assert coverage.fallen_back == (f"{attention}.matmul.scores",)

    def test_unknown_layer_is_found(self, int8: Report) -> None:
        coverage = operator_coverage(int8.path.read_bytes(), ["image_encoder.none"])
        assert coverage.fallen_back == ("image_encoder.none",)


@dataclass(frozen=True)
class Edge:
    """A network as the edge size has it: without relative positions, with ReLU."""

    description: Description
    compiled: Compiled
    path: Path


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Edge:
    torch.manual_seed(3)
    nano = ARCHITECTURES["vit_n"]
    architecture = replace(nano, relative_positions=False, activation="relu")
    description = Description(architecture, FIELDS, Preprocessing(96))
    model, config = build(description).eval(), QuantizationConfig()
    with torch.no_grad():  # equal constants would be stored once
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    quantize(model, config)
    calibrate(model, [torch.rand(2, 1, 96, 96) for _ in range(3)])
    quantized = replace(description, stage=2, quantization=config)
    compiled = compile_model(Loaded(model, quantized, "0" * 64), "int8")
    path = tmp_path_factory.mktemp("edge") / "edge.onnx"
    writing.save(compiled.graph, path)
    return Edge(description, compiled, path)


class TestEdge:
    def test_every_layer_runs_in_integers(self, edge: Edge) -> None:
        coverage = operator_coverage(edge.path, edge.compiled.products)
        assert coverage.fallen_back == ()
        assert len(coverage.executed) > 40

    def test_relu_costs_nothing(self, edge: Edge) -> None:
        in_file = Counter(node.op_type for node in onnx.load(edge.path).graph.node)
        assert in_file["Relu"] >= 2
        assert not {"Pad", "Slice"} & {*in_file}, "nothing shifts relative positions"
        assert "Relu" not in operator_coverage(edge.path, edge.compiled.products).operators

    def test_onnx_runtime_computes_the_same(self, edge: Edge, batch: NDArray[np.float32]) -> None:
        with torch.no_grad():
            expected = edge.compiled.network(torch.from_numpy(batch)).numpy()
        found = logits_of(edge.path, batch)
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999

    def test_its_weights_come_back(self, edge: Edge) -> None:
        stored = Stored(edge.path, ir.load(edge.path).graph)
        network = build(edge.description)
        with torch.no_grad():
            restore_layers(network, stored)
            restore_encoder(network, stored, [])
        name = "image_encoder.blocks.1.mlp.lin1"
        torch.testing.assert_close(network.state_dict()[f"{name}.weight"], stored.layer(name)[0])


class TestMerge:
    @torch.no_grad()
    def test_shipped_network_equals_the_trained_one(
        self, fine_run: Path, batch: NDArray[np.float32]
    ) -> None:
        model = load(fine_run / "model.ckpt").model
        image = torch.from_numpy(batch)
        before = model(image)
        shipped = Shipped(model)
        torch.testing.assert_close(
            float_twin(model)(image), _float(model, image), rtol=1e-4, atol=1e-3
        )
        agree = ((shipped(image) > 0) == (before > 0)).float().mean()
        assert agree > 0.99
        assert not [n for n, _ in shipped.named_modules() if "lora" in n]
        torch.testing.assert_close(model(image), before, rtol=0, atol=0, msg="model was changed")

    def test_quantizers_stay(self, fine_run: Path) -> None:
        model = load(fine_run / "model.ckpt").model
        count = sum(isinstance(m, QuantizedWeight) for m in model.modules())
        split = 2 * model.architecture.depth  # one qkv becomes three layers
        shipped = Shipped(model)
        assert sum(isinstance(m, QuantizedWeight) for m in shipped.modules()) == count + split
        assert not [m for m in float_twin(model).modules() if isinstance(m, QuantizedWeight)]


def _float(model: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    import copy

    twin = copy.deepcopy(model)
    unquantize(twin)  # type: ignore[arg-type]
    return torch.as_tensor(twin(image))


class TestVerify:
    def test_agreement_by_hand(self) -> None:
        def left(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            logits = np.full((2, 8, 8), -1, np.float32)
            logits[0, :, :4] = 1
            return logits

        def nothing(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.full((2, 8, 8), -1, np.float32)

        images, spec = synthetic_radiographs(3), Preprocessing(32)
        assert compare(left, left, images, spec, FIELDS) == Agreement(1.0, 1.0, 3, 3)
        differ = compare(left, nothing, images, spec, FIELDS)
        assert differ.mean == differ.worst == pytest.approx(0.5)
        assert differ.with_lungs == 0, "the second backend found none"
        both = compare(left, nothing, images, spec, (FIELDS[0], "right_lung_whole"))
        assert both.mean == pytest.approx(0.75), "each protocol counts"

    def test_eight_bit_products_are_tried(self) -> None:
        """Seven bits are exact on every CPU; what eight are depends on it."""
        assert not saturates(limit=63)
        assert isinstance(saturates(), bool)

    def test_synthetic_images_differ_and_repeat(self) -> None:
        first, second = synthetic_radiographs(2), synthetic_radiographs(2)
        np.testing.assert_array_equal(first, second)
        assert np.abs(first[0] - first[1]).max() > 0.05
        assert all(i.dtype == np.float32 and i.min() >= 0 and i.max() <= 1 for i in first)
