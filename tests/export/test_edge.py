"""A network without relative positions and with ReLU, as the edge size has it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from cxrseg.export.graph import files as writing
from cxrseg.export.graph.compile import Compiled, compile_model
from cxrseg.export.recover import Stored, restore_encoder, restore_layers
from cxrseg.export.verify.operators import operator_coverage
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.adapt.layer_table import layer_table
from cxrseg.trainer.adapt.quantization import calibrate, quantize
from cxrseg.trainer.adapt.quantizers import QuantizationConfig
from cxrseg.trainer.fit.checkpoint import Description, Loaded, build
from cxrseg.trainer.networks.sam import ARCHITECTURES
from helpers.models.exported import FIELDS, logits_of


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
    compiled = compile_model(Loaded(model, quantized, "0" * 64), "int8", layer_table(model))
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
