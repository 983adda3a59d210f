"""Where a run's weights start from: one checkpoint, or a model soup of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.trainer.adapt.adapters import merge_adapters
from cxrseg.trainer.adapt.quantization import unquantize
from cxrseg.trainer.fit.checkpoint import Description, build, load, require_numbers
from cxrseg.trainer.networks.build import AnySAM, Network, require_sam
from cxrseg.trainer.networks.edge import EdgeSAM
from cxrseg.trainer.networks.lungsam import LungSAM, load_official, load_weights
from cxrseg.trainer.networks.torch_file import read_torch_file


def float_state(model: AnySAM) -> dict[str, Tensor]:
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


LABEL_ROWS = (
    "mask_decoder.mask_tokens.weight",
    "mask_decoder.bias",
    "mask_decoder.iou_head.4.weight",
    "mask_decoder.iou_head.4.bias",
)
"""Parameters of an edge SAM that have a row for each label."""


def keep_labels(
    state: dict[str, Tensor], old: tuple[str, ...], model: EdgeSAM
) -> dict[str, Tensor]:
    """Return a state in which each label has its own rows, and a new label those of `model`.

    Args:
        state: Of an edge SAM of the same size.
        old: Its labels.
        model: The network that it is for.
    """
    kept, own = dict(state), model.state_dict()
    for name in LABEL_ROWS:
        rows = own[name].clone()
        for row, label in enumerate(model.labels):
            if label in old:
                rows[row] = state[name][old.index(label)]
        kept[name] = rows
    return kept


@torch.no_grad()
def model_soup(model: Network, others: Sequence[Network]) -> None:
    """Give a network the uniform average of its own weights and others', in place (a model soup).

    Networks that were trained from a common start are often better on average than each, above all
    on images unlike those that they saw (Wortsman et al. 2022, Model soups).
    """
    states = [model.state_dict(), *(other.state_dict() for other in others)]
    for name, value in states[0].items():
        if value.is_floating_point():
            value.copy_(torch.stack([state[name] for state in states]).mean(dim=0))


def start_from(path: Path, description: Description) -> tuple[Network, int | None]:
    """Build a float network and start it from a checkpoint's merged weights.

    Args:
        path: A ``model.ckpt`` of any stage and, but for a U-Net's, any labels; or for a SAM an
            official ``sam_vit_*.pth``. Images of any size.
        description: The network to build.

    Returns:
        The network, and the number of images that the checkpoint was trained on, None if unknown.

    Raises:
        CxrsegError: The checkpoint cannot be read, or belongs to another network.
    """
    model = build(replace(description, adapters=None, quantization=None))
    checkpoint = read_torch_file(path)
    if not (isinstance(checkpoint, dict) and "hyper_parameters" in checkpoint):
        if not isinstance(model, LungSAM):
            cause = (
                f"is no checkpoint of cxrseg-train, and a {description.model} starts from no other"
            )
            remedy = f"give the model.ckpt of a {description.model}, or leave --checkpoint out"
            raise CxrsegError(path, cause, remedy)
        load_official(model, path)
        require_numbers(model.state_dict(), path)
        return model, None
    start = load(path)
    if isinstance(model, LungSAM):
        state = float_state(require_sam(start.model, path))
        selected = select_labels(state, start.description.labels, description.labels)
        load_weights(model, selected, path)
    elif isinstance(model, EdgeSAM) and isinstance(start.model, EdgeSAM):
        state = float_state(start.model)
        if model.architecture.folded:
            start.model.fold()
            state = start.model.state_dict()
        if start.model.architecture != model.architecture:
            cause = f"is a {start.description.model} of another size, or one without batch norms"
            raise CxrsegError(path, cause, f"give a {description.model}, or another --method")
        model.load_state_dict(keep_labels(state, start.model.labels, model))
    else:
        _require_same(start.description, description, path)
        model.load_state_dict(start.model.state_dict())
    return model, start.description.images


def _require_same(start: Description, wanted: Description, path: Path) -> None:
    if (start.architecture, start.labels) != (wanted.architecture, wanted.labels):
        kind = ", ".join(f"{k} {v}" for k, v in start.architecture.to_dict().items())
        raise CxrsegError(
            path,
            f"does not fit: it is of another network ({kind}; labels {', '.join(start.labels)})",
            "give the same --model, its channels in the recipe, and the same --labels",
        )
