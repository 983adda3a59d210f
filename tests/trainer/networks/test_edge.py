"""The edge SAM behind the contract of our networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cxrseg.trainer.networks.build import architecture_from, build_network
from cxrseg.trainer.networks.convolutions import Convolution
from cxrseg.trainer.networks.edge import EDGE, EdgeArchitecture, EdgeSAM

LABELS = ("right_lung", "left_lung", "left_lung_whole")
NANO = EDGE["conv_n"]


def trained(seed: int = 3) -> EdgeSAM:
    """Return a nano network whose batch norms have seen images."""
    torch.manual_seed(seed)
    network = EdgeSAM(NANO, 64, LABELS).train()
    for name, parameter in network.named_parameters():
        if "norm.weight" in name and "transformer" not in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(4, 1, 64, 64))
    return network.eval()


@torch.no_grad()
def test_one_map_of_a_quarter_of_the_side_for_each_label(images: Tensor) -> None:
    assert trained()(images).shape == (2, 3, 16, 16)


@torch.no_grad()
def test_folding_changes_nothing_but_the_batch_norms(images: Tensor) -> None:
    network = trained()
    before = network(images)
    network.fold()
    assert network.architecture == replace(NANO, folded=True)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-4)
    again = build_network(network.architecture, 64, LABELS)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again.eval()(images), network(images))


@torch.no_grad()
def test_a_kernel_is_the_matrix_of_torchs_convolution() -> None:
    ours = Convolution(3, 5, size=3, stride=2)
    ours.norm = nn.Identity()
    torch_own = nn.Conv2d(3, 5, 3, 2, 1, bias=False)
    torch_own.weight.copy_(ours.kernel.weight.reshape(5, 3, 3, 3))
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(ours(x), torch_own(x))
    torch.testing.assert_close(ours.plain()(x), torch_own(x))


def test_fine_features_reach_the_masks(images: Tensor) -> None:
    network = trained()
    features = network.image_encoder(images)
    plain, _ = network.mask_decoder(features, network.no_prompt())
    for name in ("quarter", "eighth", "embedding"):
        blind = replace(features, **{name: torch.zeros_like(getattr(features, name))})
        masks, _ = network.mask_decoder(blind, network.no_prompt())
        assert (masks - plain).abs().max() > 1e-3, name


def test_all_but_what_prompts_need_learns(images: Tensor) -> None:
    network = trained().train()
    network(images).square().mean().backward()
    unused = {id(p) for module in network.unused_modules() for p in module.parameters()}
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == (id(parameter) in unused), name


def test_architectures_survive_plain_data() -> None:
    for architecture in EDGE.values():
        assert architecture_from(architecture.to_dict()) == architecture
    assert isinstance(build_network(NANO, 64, LABELS), EdgeSAM)


def test_the_edge_size_is_small() -> None:
    network = EdgeSAM(EDGE["conv_t"], 384, LABELS)
    assert sum(p.numel() for p in network.parameters()) < 2_000_000


@pytest.mark.parametrize("labels", [(), ("spleen",)])
def test_labels_are_checked(labels: tuple[str, ...]) -> None:
    with pytest.raises((ValueError, LookupError)):
        EdgeSAM(NANO, 64, labels)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": (8, 8, 8)},
        {"channels": (8, 8, 8, 10**9)},
        {"blocks": (0, 1, 10**7)},
        {"blocks": (0, 1, True)},
        {"decoder_dim": 40},
        {"folded": 1},
        {"name": "conv_x"},
    ],
)
def test_sizes_are_bounded(change: dict[str, object]) -> None:
    data = {**NANO.to_dict(), **change}
    with pytest.raises((ValueError, TypeError)):
        EdgeArchitecture.from_dict(data)
