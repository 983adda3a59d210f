"""Compiling: merge, trace, fold and store; the graph of a model file, not yet written."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    DeduplicateHashedInitializersPass,
)

from cxrseg.export.graph.files import serialized_size
from cxrseg.export.graph.fuse import fused
from cxrseg.export.graph.passes import (
    compute_fp16,
    fold_biases,
    fold_weights,
    name_products,
    shrink_constants,
    store_fp16,
)
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.model_card import METADATA_KEY, ModelCard
from cxrseg.runtime.core.version import package_version
from cxrseg.trainer.adapt.layer_table import Layer
from cxrseg.trainer.fit.checkpoint import Loaded

Profile = Literal["cpu", "gpu"]
Precision = Literal["int8", "fp32"]

OPSET = 20
"""Integer activations of opset 21 do not load in ONNX Runtime."""

PARTS = {"matmul": (".scores", ".mix"), "qkv": (".q", ".k", ".v")}
"""Last part of a unit's name -> the products in the graph that it consists of."""


@dataclass(frozen=True)
class Compiled:
    """A model that is not written yet.

    Attributes:
        network: What it computes, in PyTorch.
        graph: The same in ONNX, as it goes to the file.
        products: Names of the nodes that are meant to run in integers.
        card: The model card inside.
    """

    network: torch.nn.Module
    graph: ir.Model
    products: tuple[str, ...]
    card: ModelCard

    @property
    def size(self) -> int:
        """Bytes of the file, if it is one."""
        return serialized_size(self.graph)


def compile_model(
    loaded: Loaded,
    precision: Precision,
    layers: Sequence[Layer],
    profile: Profile = "cpu",
    license_note: str = "",
) -> Compiled:
    """Merge, trace, fold and store.

    Args:
        loaded: A network; with calibrated quantizers for ``int8``.
        precision: ``int8``, or ``fp32`` for comparison.
        layers: The network's table.
        profile: ``gpu`` computes in FP16 what is not INT8.
        license_note: Terms of the weights, for the model card.

    Raises:
        CxrsegError: The traced graph is not what it promises.
    """
    precisions = layer_precisions(layers, precision)
    card = model_card(loaded, precisions, license_note)
    network = fused(loaded.model, layers, integer=precision == "int8")
    model = trace(network, loaded.model.image_size)
    if precision == "fp32":
        shrink_constants(model)
        finish(model, card)
        return Compiled(network, model, (), card)
    products = name_products(model)
    check_products(products, precisions)
    fold_weights(model)
    shrink_constants(model)
    fold_biases(model)
    if profile == "gpu":
        compute_fp16(model)
    store_fp16(model)
    finish(model, card)
    return Compiled(network, model, tuple(products), card)


def layer_precisions(layers: Sequence[Layer], precision: Precision) -> dict[str, str]:
    """Return layer -> precision, in the order of the network.

    FP16 means stored in FP16 for profile ``cpu``, computed in FP16 for ``gpu``; ``constant`` that
    the layer's result does not depend on the image and is stored in its place.
    """
    if precision == "fp32":
        return {row.name: "fp32" for row in layers}
    return {
        row.name: "constant" if row.constant else "int8" if row.quantized else "fp16"
        for row in layers
    }


def model_card(loaded: Loaded, precisions: dict[str, str], license_note: str) -> ModelCard:
    """Return the card of an export."""
    description = loaded.description
    return ModelCard(
        name=f"cxrseg-{description.architecture.name}",
        version=package_version(),
        labels=description.labels,
        preprocessing=description.preprocessing,
        precision=precisions,
        checkpoint_sha256=loaded.sha256,
        metrics=description.metrics,
        license=license_note,
    )


def trace(network: torch.nn.Module, size: int) -> ir.Model:
    """Trace a network for one gray image of `size` x `size` pixels into ONNX operators."""
    example = torch.zeros(1, 1, size, size)
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise CxrsegError("torch.onnx.export", "gave no graph", "install torch 2.13")
    return program.model


def promised_products(precisions: dict[str, str]) -> list[str]:
    """Return the products in the graph that the layers called INT8 consist of."""
    return [
        f"{name}{part}"
        for name, precision in precisions.items()
        if precision == "int8"
        for part in PARTS.get(name.rpartition(".")[2], ("",))
    ]


def check_products(products: Sequence[str], precisions: dict[str, str]) -> None:
    """Compare the traced graph with the layers that are called INT8.

    Raises:
        CxrsegError: A layer is missing, or one of another precision is there.
    """
    missing = set(products) ^ set(promised_products(precisions))
    if missing:
        names = ", ".join(sorted(missing)[:3])
        raise CxrsegError(
            "torch.onnx.export",
            f"the traced graph lacks integer layers or has others ({names})",
            "install the torch and onnxscript of cxrseg's requirements",
        )


def finish(model: ir.Model, card: ModelCard) -> None:
    """Leave what belongs in a file: each constant once, no traces of the tracer, the card inside.

    Args:
        model: The graph; is changed.
        card: The model card.
    """
    graph = model.graph
    for value in graph.initializers.values():
        if value.const_value is not None:  # the next pass hashes memory as it lies
            array = np.asarray(value.const_value.numpy(), order="C")
            value.const_value = ir.tensor(array, name=value.name)
    DeduplicateHashedInitializersPass()(model)
    ClearMetadataAndDocStringPass()(model)
    graph.name = "cxrseg"
    model.producer_name, model.producer_version = "cxrseg", card.version
    model.metadata_props.clear()
    model.metadata_props[METADATA_KEY] = card.to_json()
    inner = (value for node in graph for value in node.outputs if not value.is_graph_output())
    for value in (*inner, *graph.initializers.values()):  # whoever loads the file infers them
        value.shape = value.type = None
