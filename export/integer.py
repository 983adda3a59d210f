"""A loaded network in INT8: with the layers, bits and X-rays to calibrate that were asked for."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cxrseg.export.graph import unet
from cxrseg.export.options import ExportOptions
from cxrseg.export.reference.images import FITTED_SPLITS, read_images
from cxrseg.export.verify.backends import saturates
from cxrseg.export.verify.proof import TRAINED, TRAINED_IN_FLOAT
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.preprocess import Preprocessing, preprocess
from cxrseg.runtime.readers import find_images, read
from cxrseg.trainer.adapt.layer_table import Layer, layer_table
from cxrseg.trainer.adapt.quantization import make_float, set_weight_bits
from cxrseg.trainer.adapt.settings import QuantizationConfig
from cxrseg.trainer.data.samples import spread
from cxrseg.trainer.fit.checkpoint import Loaded
from cxrseg.trainer.networks.unet import UNet

CALIBRATION_IMAGES = 64
"""Most X-rays that activation ranges are set from."""

BATCH = 8

TRAINING = "train"
"""Split of a table or of a data folder that is taken."""


@dataclass(frozen=True)
class IntegerNetwork:
    """A network in INT8.

    Attributes:
        loaded: The network, with the description and the hash of its checkpoint.
        layers: Its table.
        trained: What its masks are compared with -> the network as it was trained.
    """

    loaded: Loaded
    layers: Sequence[Layer]
    trained: dict[str, torch.nn.Module]


def in_integers(
    loaded: Loaded, layers: Sequence[Layer], source: Path, options: ExportOptions
) -> IntegerNetwork:
    """Return a network in INT8; the one given may be changed.

    A SAM brings its quantizers from training. A U-Net gets them here, after it.

    Args:
        loaded: The network.
        layers: Its table.
        source: Where it comes from, for messages.
        options: Layers to keep in float, bits, and X-rays to calibrate with.

    Raises:
        CxrsegError: It knows no INT8, a pattern matches no layer, there are no X-rays to calibrate
            with, or 8 bits cannot be verified.
    """
    if isinstance(loaded.model, UNet):
        return rounded_later(loaded, loaded.model, layers, source, options)
    config = require_quantized(loaded, source)
    require_exact(options.weight_bits or config.weight_bits)
    trained = copy.deepcopy(loaded.model)
    if options.weight_bits is not None:
        set_weight_bits(loaded.model, options.weight_bits)
    if kept := matching(options.keep_fp16, [row for row in layers if row.quantized]):
        make_float(loaded.model, kept)
        layers = layer_table(loaded.model)  # the network is another now
    return IntegerNetwork(loaded, layers, {TRAINED: trained})


def rounded_later(
    loaded: Loaded, model: UNet, layers: Sequence[Layer], source: Path, options: ExportOptions
) -> IntegerNetwork:
    """Return a U-Net in INT8, with activation ranges from X-rays.

    Args:
        loaded: The network with its description.
        model: The network.
        layers: Its table.
        source: Where it comes from, for messages.
        options: Layers to keep in float, bits, and X-rays to calibrate with.

    Raises:
        CxrsegError: A pattern matches no layer, there are no X-rays to calibrate with, or 8 bits
            cannot be verified.
    """
    config = QuantizationConfig.model_validate({"weight_bits": options.weight_bits or 7})
    require_exact(config.weight_bits)
    kept = {row.name for row in matching(options.keep_fp16, layers)}
    batches = calibration_batches(options, loaded.description.preprocessing, source)
    chosen = [row for row in layers if row.name not in kept]
    integer = unet.quantized(model, chosen, config, batches)
    return IntegerNetwork(
        replace(loaded, model=integer), layer_table(integer), {TRAINED_IN_FLOAT: model}
    )


def require_quantized(loaded: Loaded, source: Path) -> QuantizationConfig:
    """Return how a network was quantized in training.

    Raises:
        CxrsegError: It was not: the checkpoint is of stage 1.
    """
    config = loaded.description.quantization
    if config is None:
        raise CxrsegError(
            source,
            "was not trained for INT8 (stage 1 only)",
            "train it with cxrseg-train --stage 2 --checkpoint, or export --precision fp32",
        )
    return config


def require_exact(weight_bits: int) -> None:
    """Refuse 8-bit weights where they cannot be verified.

    Raises:
        CxrsegError: This CPU's integer kernels saturate with them.
    """
    if weight_bits == 8 and saturates():
        raise CxrsegError(
            "--weight-bits 8",
            "this computer's integer kernels saturate with 8-bit weights, so the file cannot be "
            "verified here",
            "export with --weight-bits 7, or on a computer with VNNI",
        )


def matching(patterns: Sequence[str], layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers whose names match any of the patterns.

    Raises:
        CxrsegError: A pattern matches none.
    """
    names = [layer.name for layer in layers]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise CxrsegError(
                f"--keep-fp16 {pattern}",
                "matches no INT8 layer",
                f"layers are called like {names[0]}" if names else "the model has none",
            )
    return [row for row in layers if any(fnmatch.fnmatchcase(row.name, p) for p in patterns)]


def calibration_batches(options: ExportOptions, spec: Preprocessing, source: Path) -> list[Tensor]:
    """Return X-rays to set activation ranges from: float32 batches [B, 1, S, S] in [0, 1].

    Args:
        options: Where the X-rays are.
        spec: The input contract.
        source: The checkpoint, for messages.

    Raises:
        CxrsegError: There are none.
    """
    data = options.calibration_images or options.quality_data or options.verify_images
    if data is None:
        raise CxrsegError(
            source,
            "needs X-rays for INT8, since training set no activation ranges",
            "give some of its kind with --calibration-images, or export --precision fp32",
        )
    if data.is_file() or (data / TRAINING / "images").is_dir():
        paths = [image.path for image in read_images(data, [TRAINING])]
    elif any((data / split / "images").is_dir() for split in FITTED_SPLITS):
        paths = [image.path for image in read_images(data)]
    else:
        paths = find_images([data])
    paths = spread(paths, CALIBRATION_IMAGES)
    images = [torch.from_numpy(preprocess(read(path).content, spec)) for path in paths]
    return list(torch.split(torch.stack(images)[:, None], BATCH))
