"""The checkpoint format: what ``model.ckpt`` holds, written and read in one place.

A Lightning checkpoint of plain data: ``state_dict`` with base weights, unmerged adapters and
quantizer ranges under ``model.``, and ``hyper_parameters``, the `Description` that rebuilds the
network around them. Read with ``weights_only=True``, so a hostile file cannot run code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cxrseg.runtime.core.atomic import atomic_write
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.trainer.adapt.adapters import (
    AdapterConfig,
    add_adapters,
    freeze_singular_values,
    merge_adapters,
)
from cxrseg.trainer.adapt.quantization import quantize, set_mode, unquantize
from cxrseg.trainer.adapt.quantizers import QuantizationConfig
from cxrseg.trainer.adapt.sensitivity import Sensitivity
from cxrseg.trainer.networks.lungsam import LungSAM, load_official, load_weights
from cxrseg.trainer.networks.sam import Architecture, read_torch_file

FORMAT = "cxrseg-checkpoint"
FORMAT_VERSION = 2
"""Since 2, keys and values are int8: ranges of older quantized networks do not fit."""

PREFIX = "model."

MODEL = "model.ckpt"
"""What a run calls the checkpoint that it came to, in its folder."""


class Describes(Protocol):
    """What training and its checkpoints have to know of any network, plain data in the end."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Channel names."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The input contract."""

    @property
    def quantization(self) -> QuantizationConfig | None:
        """Quantizer settings; None for a network in float."""

    def to_dict(self) -> dict[str, Any]:
        """Return dicts, lists, strings and numbers only."""


@dataclass(frozen=True)
class Description:
    """Plain data that rebuilds a network, with what is known of its training.

    Attributes:
        architecture: Size of the network.
        labels: Channel names.
        preprocessing: The input contract; its size is the network's.
        stage: 1 = float, 2 = quantization-aware.
        method: What stage 1 trained.
        adapters: Adapter settings, or None where there are no adapters.
        quantization: Quantizer settings, or None in stage 1.
        sensitivity: What quantizing each layer alone does to the output, before stage 2.
        ranks: Final rank of each adapted layer.
        data: ``group/protocol/split`` -> number of samples.
        metrics: Figures of the last validation.
        version: Version of the package that wrote it.
    """

    architecture: Architecture
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    stage: int = 1
    method: str = "full"
    adapters: AdapterConfig | None = None
    quantization: QuantizationConfig | None = None
    sensitivity: dict[str, Sensitivity] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    data: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    version: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return dicts, lists, strings and numbers only."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "architecture": self.architecture.to_dict(),
            "labels": list(self.labels),
            "preprocessing": self.preprocessing.to_dict(),
            "stage": self.stage,
            "method": self.method,
            "adapters": self.adapters and self.adapters.model_dump(mode="json"),
            "quantization": self.quantization and self.quantization.model_dump(mode="json"),
            "sensitivity": {n: each.model_dump() for n, each in self.sensitivity.items()},
            "ranks": dict(self.ranks),
            "data": dict(self.data),
            "metrics": dict(self.metrics),
            "version": self.version,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Description:
        """Rebuild from `to_dict`.

        Raises:
            ValueError, KeyError, TypeError: The data is no description.
        """
        if data["format"] != FORMAT:
            raise ValueError("of another program")
        if int(data["format_version"]) > FORMAT_VERSION:
            raise ValueError("of a newer version of this program")
        adapters, quantization = data["adapters"], data["quantization"]
        if int(data["format_version"]) < FORMAT_VERSION and quantization is not None:
            raise ValueError("quantized by an older version: repeat stage 2 from its stage1.ckpt")
        return cls(
            architecture=Architecture.from_dict(data["architecture"]),
            labels=tuple(data["labels"]),
            preprocessing=Preprocessing.from_dict(data["preprocessing"]),
            stage=int(data["stage"]),
            method=str(data["method"]),
            adapters=None if adapters is None else AdapterConfig.model_validate(adapters),
            quantization=(
                None if quantization is None else QuantizationConfig.model_validate(quantization)
            ),
            sensitivity={
                str(k): Sensitivity.model_validate(v)
                for k, v in data.get("sensitivity", {}).items()
            },
            ranks={str(k): int(v) for k, v in data["ranks"].items()},
            data={str(k): int(v) for k, v in data["data"].items()},
            metrics={str(k): float(v) for k, v in data["metrics"].items()},
            version=str(data["version"]),
        )


@dataclass(frozen=True)
class Loaded:
    """A network with its description.

    Attributes:
        model: In evaluation mode, quantizers on where there are any.
        description: What the checkpoint says of it.
        sha256: Hash of the file, lower-case hex.
    """

    model: LungSAM
    description: Description
    sha256: str


def contents(model: nn.Module, description: Describes) -> dict[str, Any]:
    """Return what `save` writes."""
    import lightning

    state = {f"{PREFIX}{name}": value for name, value in model.state_dict().items()}
    return {
        "state_dict": state,
        "hyper_parameters": description.to_dict(),
        "pytorch-lightning_version": str(lightning.__version__),
    }


def save(model: nn.Module, description: Describes, path: Path) -> None:
    """Write a checkpoint; the file appears whole or not at all."""
    with atomic_write(path) as beside:
        torch.save(contents(model, description), beside)


def build(description: Description) -> LungSAM:
    """Build the network of a description, with random weights."""
    model = LungSAM(description.architecture, description.preprocessing.size, description.labels)
    if description.adapters is not None:
        add_adapters(model, description.adapters, total_steps=0)
        freeze_singular_values(model)
    if description.quantization is not None:
        quantize(model, description.quantization)
    return model


def load(path: Path) -> Loaded:
    """Read a checkpoint of `cxrseg-train`.

    Raises:
        CxrsegError: The file is missing, unsafe, of another program, or damaged.
    """
    checkpoint = read_torch_file(path)
    try:
        if not isinstance(checkpoint, dict):
            raise TypeError(f"holds a {type(checkpoint).__name__}")
        description = Description.from_dict(checkpoint["hyper_parameters"])
        state = {
            name.removeprefix(PREFIX): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith(PREFIX)
        }
        model = build(description)
        model.load_state_dict(state)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as e:
        raise CxrsegError(
            path,
            f"not a checkpoint of cxrseg-train ({' '.join(str(e).split())[:200]})",
            "give the model.ckpt of a run",
        ) from None
    model.eval()
    set_mode(model, "quantize")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Loaded(model, description, digest)


def float_state(model: LungSAM) -> dict[str, Tensor]:
    """Return the state dict of the same network without adapters and quantizers."""
    unquantize(model)
    merge_adapters(model)
    return model.state_dict()


def select_labels(
    state: dict[str, Tensor], old: tuple[str, ...], new: tuple[str, ...]
) -> dict[str, Tensor]:
    """Reorder mask tokens and their heads so that each label keeps its own.

    Labels that the checkpoint does not know take the tokens that are left.
    """
    count = state["mask_decoder.mask_tokens.weight"].shape[0]
    order = [old.index(name) if name in old else -1 for name in new]
    rest = [i for i in range(count) if i not in order]
    order = [i if i >= 0 else rest.pop(0) for i in order]
    order += rest
    selected = dict(state)
    selected["mask_decoder.mask_tokens.weight"] = state["mask_decoder.mask_tokens.weight"][order]
    head = "mask_decoder.output_hypernetworks_mlps."
    for name in state:
        if name.startswith(head):
            index, _, tail = name.removeprefix(head).partition(".")
            selected[name] = state[f"{head}{order[int(index)]}.{tail}"]
    return selected


@torch.no_grad()
def average(model: LungSAM, others: Sequence[LungSAM]) -> None:
    """Give a network the mean weights of itself and others of its kind, in place.

    Networks that were trained from a common start are often better on average than each, above all
    on images unlike those that they saw (Wortsman et al. 2022, Model soups).
    """
    states = [model.state_dict(), *(other.state_dict() for other in others)]
    for name, value in states[0].items():
        if value.is_floating_point():
            value.copy_(torch.stack([state[name] for state in states]).mean(dim=0))


def start_from(path: Path, description: Description) -> LungSAM:
    """Build a float network and start it from a checkpoint's merged weights.

    Args:
        path: A ``model.ckpt`` of any stage and image size, or an official ``sam_vit_*.pth``.
        description: The network to build.

    Raises:
        CxrsegError: The checkpoint cannot be read, or belongs to another network.
    """
    plain = replace(description, adapters=None, quantization=None)
    model = build(plain)
    checkpoint = read_torch_file(path)
    if isinstance(checkpoint, dict) and "hyper_parameters" in checkpoint:
        loaded = load(path)
        state = float_state(loaded.model)
        load_weights(
            model, select_labels(state, loaded.description.labels, description.labels), path
        )
    else:
        load_official(model, path)
    return model
