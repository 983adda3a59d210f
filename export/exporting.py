"""The export: merge, trace, fold, store, verify; then, and only then, a file."""

from __future__ import annotations

import copy
import fnmatch
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    DeduplicateHashedInitializersPass,
)

from cxrseg.export.census import Census, take_census
from cxrseg.export.graph import (
    compute_fp16,
    fold_biases,
    fold_weights,
    name_products,
    shrink_constants,
    store_fp16,
)
from cxrseg.export.merge import CONSTANT, Shipped, float_twin
from cxrseg.export.verify import (
    Agreement,
    Run,
    compare,
    onnx_runner,
    saturates,
    synthetic_radiographs,
)
from cxrseg.runtime.card import METADATA_KEY, ModelCard
from cxrseg.runtime.errors import CxrsegError
from cxrseg.runtime.files import atomic_write
from cxrseg.runtime.readers import find_images, read
from cxrseg.runtime.session import load_model
from cxrseg.runtime.version import package_version
from cxrseg.trainer.checkpoint import Loaded, load
from cxrseg.trainer.quantization import attention_names, quantizable, set_weight_bits
from cxrseg.trainer.sensitivity import Sensitivity, keep_float, units

Profile = Literal["cpu", "gpu"]
Precision = Literal["int8", "fp32"]

OPSET = 20
"""Integer activations of opset 21 do not load in ONNX Runtime."""

ENOUGH = 0.999
"""Least share of pixels on which PyTorch and ONNX Runtime must agree, on average."""

ENOUGH_WORST = 0.995
"""The same for the worst image."""

ENOUGH_TRAINED = 0.995
"""Least share on average where a few activations may move over a rounding step: against the network
as it was trained, before biases became int32 and the rest FP16, and for FP16 computation."""

ENOUGH_TRAINED_WORST = 0.98
"""The same for the worst image."""

TRAINED = "ONNX Runtime, optimized : PyTorch as trained, fake-quantized"

PARTS = {"matmul": (".scores", ".mix"), "qkv": (".q", ".k", ".v")}
"""Last part of a unit's name -> the products in the graph that it consists of."""

SYNTHETIC_IMAGES = 8


@dataclass(frozen=True)
class Report:
    """What was exported, and the evidence that it is right.

    Attributes:
        path: The file.
        precision: Layer -> ``int8``, ``fp16``, ``fp32`` or ``constant``.
        sensitivity: Layer -> what its quantization alone does, where training measured it.
        size: Bytes of the file.
        fp32_size: Bytes of the FP32 export of the same checkpoint.
        census: Operators of ONNX Runtime's optimized graph.
        agreements: What was compared -> agreement of masks.
        verified_on: Which images.
        sha256: Hash of the file.
    """

    path: Path
    precision: dict[str, str]
    sensitivity: dict[str, Sensitivity]
    size: int
    fp32_size: int
    census: Census
    agreements: dict[str, Agreement]
    verified_on: str
    sha256: str

    @property
    def ratio(self) -> float:
        """How many times smaller than FP32."""
        return self.fp32_size / self.size


def matching(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the names that match any of the patterns.

    Raises:
        CxrsegError: A pattern matches nothing.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise CxrsegError(
                f"--keep-fp16 {pattern}",
                "matches no INT8 layer",
                f"layers are called like {names[0]}" if names else "the model has none",
            )
    return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def layer_precisions(loaded: Loaded, precision: Precision) -> dict[str, str]:
    """Return layer -> precision, in the order of the network.

    FP16 means stored in FP16 for profile ``cpu``, computed in FP16 for ``gpu``; ``constant`` that
    the layer's result does not depend on the image and is stored in its place.
    """
    model = loaded.model
    integer = units(model)
    names = [*quantizable(model), *(f"{name}.matmul" for name in attention_names(model))]
    precisions = {name: "int8" if name in integer else "fp16" for name in names}
    precisions |= {name: "constant" for name in names if name.startswith(CONSTANT)}
    if precision == "fp32":
        return dict.fromkeys(precisions, "fp32")
    return precisions


def trace(network: Shipped) -> ir.Model:
    """Trace a network for one gray image of its size into ONNX operators."""
    size = network.image_size
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


def serialize(model: ir.Model, card: ModelCard) -> bytes:
    """Return the file's bytes: each constant once, no traces of the tracer, the card inside."""
    for value in model.graph.initializers.values():
        if value.const_value is not None:  # the next pass hashes memory as it lies
            array = np.asarray(value.const_value.numpy(), order="C")
            value.const_value = ir.tensor(array, name=value.name)
    DeduplicateHashedInitializersPass()(model)
    ClearMetadataAndDocStringPass()(model)
    model.graph.name = "cxrseg"
    model.producer_name, model.producer_version = "cxrseg", card.version
    model.metadata_props.clear()
    model.metadata_props[METADATA_KEY] = card.to_json()
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return bytes(proto.SerializeToString())


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


def torch_runner(network: torch.nn.Module) -> Run:
    """Return a function that runs a network in PyTorch."""

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(batch))[0].numpy(), dtype=np.float32)

    return run


def verification_images(folder: Path | None) -> tuple[list[NDArray[np.float32]], str]:
    """Return radiographs to verify on, at most 32, and what they are.

    Raises:
        CxrsegError: The folder holds no readable image.
    """
    if folder is None:
        return synthetic_radiographs(SYNTHETIC_IMAGES), f"{SYNTHETIC_IMAGES} synthetic images"
    paths = find_images([folder])
    paths = [paths[i * len(paths) // 32] for i in range(32)] if len(paths) > 32 else paths
    return [read(path).pixels for path in paths], f"{len(paths)} images of {folder.name}"


def require_quantized(loaded: Loaded, source: Path) -> None:
    """Refuse a checkpoint that knows no INT8.

    Raises:
        CxrsegError: It is of stage 1.
    """
    if loaded.description.quantization is None:
        raise CxrsegError(
            source,
            "was not trained for INT8 (stage 1 only)",
            "train it with cxrseg-train --stage 2 --checkpoint, or export --precision fp32",
        )


def require_exact(loaded: Loaded, weight_bits: int | None) -> None:
    """Refuse 8-bit weights where they cannot be verified.

    Raises:
        CxrsegError: This CPU's integer kernels saturate with them.
    """
    config = loaded.description.quantization
    if (weight_bits or (config and config.weight_bits)) == 8 and saturates():
        raise CxrsegError(
            "--weight-bits 8",
            "this computer's integer kernels saturate with 8-bit weights, so the file cannot be "
            "verified here",
            "export with --weight-bits 7, or on a computer with VNNI",
        )


@dataclass(frozen=True)
class Compiled:
    """A model file that is not written yet.

    Attributes:
        network: What it computes, in PyTorch.
        data: Bytes of the file.
        products: Names of the nodes that are meant to run in integers.
        card: The model card inside.
    """

    network: Shipped
    data: bytes
    products: tuple[str, ...]
    card: ModelCard


def compile_model(
    loaded: Loaded, precision: Precision, profile: Profile = "cpu", license_note: str = ""
) -> Compiled:
    """Merge, trace, fold and store.

    Args:
        loaded: A network; calibrated for ``int8``.
        precision: ``int8``, or ``fp32`` for comparison.
        profile: ``gpu`` computes in FP16 what is not INT8.
        license_note: Terms of the weights, for the model card.

    Raises:
        CxrsegError: The traced graph is not what it promises.
    """
    precisions = layer_precisions(loaded, precision)
    card = model_card(loaded, precisions, license_note)
    if precision == "fp32":
        network = float_twin(loaded.model)
        model = trace(network)
        shrink_constants(model)
        return Compiled(network, serialize(model, card), (), card)
    network = Shipped(loaded.model)
    model = trace(network)
    products = name_products(model)
    check_products(products, precisions)
    fold_weights(model)
    shrink_constants(model)
    fold_biases(model)
    if profile == "gpu":
        compute_fp16(model)
    store_fp16(model)
    return Compiled(network, serialize(model, card), tuple(products), card)


def export(
    checkpoint: Path,
    output: Path,
    profile: Profile = "cpu",
    precision: Precision = "int8",
    verify_images: Path | None = None,
    keep_fp16: Sequence[str] = (),
    weight_bits: int | None = None,
    license_note: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Export a checkpoint to one verified ONNX file.

    Args:
        checkpoint: A ``model.ckpt``; of stage 2 for ``int8``.
        output: The file to write.
        profile: ``cpu`` stores layers that are not integer in FP16; ``gpu`` also computes them so.
        precision: ``int8``, or ``fp32`` for comparison.
        verify_images: Folder of X-rays to verify on; None for synthetic ones.
        keep_fp16: Patterns, as in the shell, of layers to take out of INT8.
        weight_bits: 7 or 8; None for what the model was trained with.
        license_note: Terms of the weights, for the model card.
        say: Called with a line for each step.

    Raises:
        CxrsegError: The checkpoint is unusable, or the verification failed; no file is written.
    """
    folder = output.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise CxrsegError(folder, "no folder that can be written to", "choose another -o")
    radiographs, verified_on = verification_images(verify_images)
    loaded = load(checkpoint)
    if precision == "int8":
        require_quantized(loaded, checkpoint)
        require_exact(loaded, weight_bits)
    trained = copy.deepcopy(loaded.model)
    keep_float(loaded.model, matching(keep_fp16, list(units(loaded.model))))
    if weight_bits is not None:
        set_weight_bits(loaded.model, weight_bits)
    say("tracing the FP32 network")
    reference = compile_model(loaded, "fp32", profile, license_note)
    if precision == "fp32":
        compiled = reference
    else:
        say("tracing the INT8 network")
        compiled = compile_model(loaded, "int8", profile, license_note)
    data, card = compiled.data, compiled.card
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)

    say("verifying")
    census = take_census(data, compiled.products)
    shipped = torch_runner(compiled.network)
    runners = {
        "ONNX Runtime, optimized : the same network in PyTorch": (onnx_runner(data, True), shipped),
        "ONNX Runtime, unoptimized : the same": (onnx_runner(data, False), shipped),
    }
    if precision == "int8":
        runners[TRAINED] = (onnx_runner(data, True), torch_runner(trained))
    agreements = {
        name: compare(first, second, radiographs, card.preprocessing, card.labels)
        for name, (first, second) in runners.items()
    }
    check(output, census, agreements, profile)
    with atomic_write(output) as beside:
        beside.write_bytes(data)
        sha256 = load_model(beside, "cpu").sha256
    return Report(
        output,
        card.precision,
        loaded.description.sensitivity,
        len(data),
        len(reference.data),
        census,
        agreements,
        verified_on,
        sha256,
    )


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


def check(output: Path, census: Census, agreements: dict[str, Agreement], profile: Profile) -> None:
    """Refuse an export that is not what it promises.

    Computing in FP16 (profile ``gpu``) is held to the looser limit.

    Raises:
        CxrsegError: A layer meant for integers runs in float, or masks differ.
    """
    if census.fallen_back:
        names = ", ".join(census.fallen_back[:3])
        raise CxrsegError(
            output,
            f"not written: {len(census.fallen_back)} layers would run in float ({names})",
            "install the onnxruntime of cxrseg's requirements",
        )
    for name, agreement in agreements.items():
        loose = name == TRAINED or profile == "gpu"
        mean, worst = (ENOUGH_TRAINED, ENOUGH_TRAINED_WORST) if loose else (ENOUGH, ENOUGH_WORST)
        if 2 * agreement.with_lungs < agreement.images:
            raise CxrsegError(
                output,
                f"not written: the model finds lungs on {agreement.with_lungs} of "
                f"{agreement.images} images, too few to compare masks ({name})",
                "give X-rays of the kind it was trained on with --verify-images",
            )
        if agreement.mean < mean or agreement.worst < worst:
            raise CxrsegError(
                output,
                f"not written: masks agree on {agreement.mean:.5f} of the pixels, "
                f"{agreement.worst:.5f} in the worst image ({name}); needed are {mean} and {worst}",
                "train longer, or verify on images of the kind it was trained on (--verify-images)",
            )


def table(report: Report) -> str:
    """Return the report as text."""
    counts = Counter(report.precision.values())
    lines = [f"{'layer':64} {'':5} {'SQNR dB':>8} {'Dice loss':>10}"]
    for name, precision in report.precision.items():
        each = report.sensitivity.get(name)
        figures = "" if each is None else f" {each.sqnr:8.1f} {each.dice_loss:10.5f}"
        lines.append(f"{name:64} {precision:5}{figures}")
    lines += [
        "layers      " + ", ".join(f"{n} {p}" for p, n in sorted(counts.items())),
        f"size        {report.size / 1e6:.2f} MB, {report.ratio:.2f} times smaller than FP32 "
        f"({report.fp32_size / 1e6:.2f} MB)",
        "operators   " + ", ".join(f"{n} {op}" for op, n in list(report.census.operators.items())),
        f"integer     {_by_operator(report.census.executed.values())}",
    ]
    for name, agreement in report.agreements.items():
        lines.append(
            f"agreement   {agreement.mean:.6f} of pixels, "
            f"worst image {agreement.worst:.6f} ({name})"
        )
    lines += [f"verified    on {report.verified_on}", f"sha256      {report.sha256}"]
    return "\n".join(lines)


def _by_operator(operators: Iterable[str]) -> str:
    counts = Counter(operators)
    return ", ".join(f"{n} layers as {op}" for op, n in counts.most_common()) or "none"
