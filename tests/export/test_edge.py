"""A network without relative positions and with ReLU, as the edge size has it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from cxrseg.export.recover import Stored, restore_encoder, restore_layers
from cxrseg.export.verify.operators import operator_coverage
from cxrseg.trainer.fit.checkpoint import build
from cxrseg.trainer.networks.sam import ARCHITECTURES
from helpers.models.exported import logits_of
from helpers.models.nano import Nano, write_nano


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Nano:
    architecture = replace(ARCHITECTURES["vit_n"], relative_positions=False, activation="relu")
    return write_nano(tmp_path_factory.mktemp("edge") / "edge.onnx", architecture, 96)


class TestEdge:
    def test_every_layer_runs_in_integers(self, edge: Nano) -> None:
        coverage = operator_coverage(edge.path, edge.compiled.products)
        assert coverage.fallen_back == ()
        assert len(coverage.executed) > 40

    def test_relu_costs_nothing(self, edge: Nano) -> None:
        in_file = Counter(node.op_type for node in onnx.load(edge.path).graph.node)
        assert in_file["Relu"] >= 2
        assert not {"Pad", "Slice"} & {*in_file}, "nothing shifts relative positions"
        assert "Relu" not in operator_coverage(edge.path, edge.compiled.products).operators

    def test_onnx_runtime_computes_the_same(self, edge: Nano, batch: NDArray[np.float32]) -> None:
        with torch.no_grad():
            expected = edge.compiled.network(torch.from_numpy(batch)).numpy()
        found = logits_of(edge.path, batch)
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999

    def test_its_weights_come_back(self, edge: Nano) -> None:
        stored = Stored(edge.path, ir.load(edge.path).graph)
        network = build(edge.description)
        with torch.no_grad():
            restore_layers(network, stored)
            restore_encoder(network, stored, [])
        name = "image_encoder.blocks.1.mlp.lin1"
        torch.testing.assert_close(network.state_dict()[f"{name}.weight"], stored.layer(name)[0])
