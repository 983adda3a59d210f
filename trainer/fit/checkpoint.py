"""The checkpoint format: what ``model.ckpt`` holds, written and read in one place.

A Lightning checkpoint of plain data: ``state_dict`` with base weights, unmerged adapters and
quantizer ranges under ``model.``, and ``hyper_parameters``, the `Description` that rebuilds the
network around them. Read with ``weights_only=True``, so a hostile file cannot run code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.files.atomic import atomic_write
from cxrseg.runtime.files.digest import sha256_of
from cxrseg.trainer.adapt.adapters import add_adapters, freeze_singular_values
from cxrseg.trainer.adapt.quantization import quantize, set_mode
from cxrseg.trainer.adapt.sensitivity import Sensitivity
from cxrseg.trainer.adapt.settings import AdapterConfig, QuantizationConfig
from cxrseg.trainer.networks import unet
from cxrseg.trainer.networks.build import (
    AnyArchitecture,
    Network,
    architecture_from,
    build_network,
    require_sam,
)
from cxrseg.trainer.networks.lungsam import LungSAM
from cxrseg.trainer.networks.sizes import AtMost
from cxrseg.trainer.networks.torch_file import read_torch_file
from cxrseg.trainer.networks.unet import UNet

FORMAT = "cxrseg-checkpoint"
FORMAT_VERSION = 2
"""Since 2, keys and values are int8: ranges of older quantized networks do not fit."""

PREFIX = "model."

MODEL = "model.ckpt"
"""What a run calls the checkpoint that it came to, in its folder."""

MOST_BUILT = 2
"""Most numbers that a network is made of while it is built, for each that it keeps."""

FREE_NUMBERS = 4_000_000
"""Numbers that any network may be made of."""

UNET_FORMAT = "cxrseg-unet-checkpoint"
"""Format of the U-Nets of ``cxrseg-bench methods`` before 0.2."""


@dataclass(frozen=True)
class Description:
    """Plain data that rebuilds a network, with what is known of its training.

    Attributes:
        architecture: Which network, and its size.
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
        images: Number of images that it was trained on, repetitions and earlier runs included;
            None where an earlier run did not tell.
        version: Version of the package that wrote it.
    """

    architecture: AnyArchitecture
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
    images: int | None = None
    version: str = ""

    @property
    def model(self) -> str:
        """What recipes call the network: ``vit_t``, ``unet``, ..."""
        return self.architecture.name

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
            "sensitivity": {name: s.model_dump() for name, s in self.sensitivity.items()},
            "ranks": dict(self.ranks),
            "data": dict(self.data),
            "metrics": dict(self.metrics),
            "images": self.images,
            "version": self.version,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Description:
        """Rebuild from `to_dict`.

        Raises:
            ValueError, KeyError, TypeError: The data is no description.
        """
        if data["format"] == UNET_FORMAT:
            data = _of_earlier_unet(data)
        if data["format"] != FORMAT:
            raise ValueError("of another program")
        if int(data["format_version"]) > FORMAT_VERSION:
            raise ValueError("of a newer version of this program")
        adapters, quantization = data["adapters"], data["quantization"]
        if int(data["format_version"]) < FORMAT_VERSION and quantization is not None:
            raise ValueError("quantized by an older version: repeat stage 2 from its stage1.ckpt")
        return cls(
            architecture=architecture_from(data["architecture"]),
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
            images=None if data.get("images") is None else int(data["images"]),
            version=str(data["version"]),
        )


def _of_earlier_unet(data: dict[str, Any]) -> dict[str, Any]:
    """Give the description of a U-Net of ``cxrseg-bench methods`` the form of all others."""
    return {
        **data,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": {"name": unet.NAME, "channels": data["features"]},
        "stage": 1,
        "method": "full",
        "adapters": None,
        "quantization": None,
        "ranks": {},
    }


@dataclass(frozen=True)
class Loaded:
    """A network with its description.

    Attributes:
        model: In evaluation mode, quantizers on where there are any.
        description: What the checkpoint says of it.
        sha256: Hash of the file, lower-case hex.
    """

    model: Network
    description: Description
    sha256: str

    @property
    def sam(self) -> LungSAM:
        """The network, for whoever can use a SAM alone.

        Raises:
            CxrsegError: It is of another kind.
        """
        return require_sam(self.model, f"a {self.description.model}")


def contents(model: Network, description: Description) -> dict[str, Any]:
    """Return what `save` writes."""
    import lightning

    state = {f"{PREFIX}{name}": value for name, value in model.state_dict().items()}
    return {
        "state_dict": state,
        "hyper_parameters": description.to_dict(),
        "pytorch-lightning_version": str(lightning.__version__),
    }


def save(model: Network, description: Description, path: Path) -> None:
    """Write a checkpoint; the file appears whole or not at all."""
    with atomic_write(path) as unfinished:
        torch.save(contents(model, description), unfinished)


def build(description: Description) -> Network:
    """Build the network of a description, with random weights.

    Raises:
        ValueError: It has labels, adapters or quantizers that the network cannot have.
        CxrsegError: The network's library is not installed.
    """
    size = description.preprocessing.size
    model = build_network(description.architecture, size, description.labels)
    if isinstance(model, UNet):
        if description.adapters is not None or description.quantization is not None:
            raise ValueError(f"a {description.model} has neither adapters nor fake quantizers")
        return model
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
        model = _filled(description, state)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as e:
        raise CxrsegError(
            path,
            f"not a checkpoint of cxrseg-train ({' '.join(str(e).split())[:200]})",
            "give the model.ckpt of a run",
        ) from None
    require_numbers(state, path)
    model.eval()
    set_mode(model, "quantize")
    return Loaded(model, description, sha256_of(path))


def _filled(description: Description, state: dict[str, Tensor]) -> Network:
    """Build a network with these weights.

    A description may ask for any size, but the weights are known to be no larger than their file.

    Raises:
        ValueError: The weights are not those of the network.
    """
    with AtMost(MOST_BUILT * sum(value.numel() for value in state.values()) + FREE_NUMBERS):
        model = build(description)
    wanted = {name: _form(value) for name, value in model.state_dict().items()}
    stored = {name: _form(value) for name, value in state.items()}
    odd = sorted(name for name in {*wanted, *stored} if wanted.get(name) != stored.get(name))
    if odd:
        raise ValueError(f"{len(odd)} weights are missing, unknown or of another shape: {odd[0]}")
    model.load_state_dict(state)
    return model


def _form(weight: Tensor) -> tuple[torch.Size, bool]:
    return weight.shape, weight.is_floating_point()


def require_numbers(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights of which no network can make a mask.

    Args:
        state: Name -> weight.
        path: The file, for the message.

    Raises:
        CxrsegError: One is NaN or infinite.
    """
    for name, value in state.items():
        if not value.isfinite().all():
            cause = f"its weights are not all numbers ({name}): the training diverged"
            raise CxrsegError(path, cause, "train again, with a lower learning rate")
