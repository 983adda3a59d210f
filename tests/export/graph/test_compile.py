"""What is in the file that an export writes: integers, halves, and the card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from cxrseg.export.report import Report
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.fit.checkpoint import load
from helpers.models.exported import FIELDS, card_of, constants, int8_layers


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


class TestFp32:
    def test_is_float_throughout(self, fp32: Report) -> None:
        onnx.checker.check_model(str(fp32.path), full_check=True)
        held = constants(onnx.load(fp32.path))
        assert not [n for n, a in held.items() if a.dtype in (np.int8, np.uint8, np.float16)]
        assert set(fp32.precision.values()) == {"fp32"}
        assert fp32.proof.coverage.executed == {} and fp32.size == fp32.fp32_size


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
