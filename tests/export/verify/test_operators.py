"""What ONNX Runtime executes, layer by layer."""

from __future__ import annotations

import onnx

from cxrseg.export.report import Report
from cxrseg.export.verify.operators import operator_coverage
from helpers.models.exported import products


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
