"""Simulated clicks: where they fall, what they mean, and what a network learns from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cxrseg.trainer.data.dataset import Batch
from cxrseg.trainer.fit.clicks import (
    Targets,
    correction_loss,
    doubt_loss,
    middle_of_error,
    targets_of,
)
from cxrseg.trainer.fit.losses import dice_of
from cxrseg.trainer.networks.edge import EDGE, INSIDE, NOWHERE, OUTSIDE, Clicks, EdgeSAM

LABELS = ("right_lung", "left_lung", "right_lung_whole", "left_lung_whole", "heart")


def batch(sided: list[bool], protocol: list[int], heart: list[bool]) -> Batch:
    count = len(sided)
    mask = torch.zeros(count, 4, 32, 32)
    for plane, (top, left) in enumerate(((4, 4), (4, 20), (4, 12), (14, 12))):
        mask[:, plane, top : top + 12, left : left + 8] = 1
    return {
        "image": torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(1)),
        "mask": mask,
        "sided": torch.tensor(sided),
        "protocol": torch.tensor(protocol),
        "heart": torch.tensor(heart),
    }


@pytest.fixture
def network() -> EdgeSAM:
    torch.manual_seed(2)
    return EdgeSAM(EDGE["conv_n"], 64, LABELS)


def test_an_image_tells_what_its_protocol_draws() -> None:
    data = batch([True, True, False], [0, 1, 0], [True, False, True])
    targets = targets_of(data, LABELS)
    assert targets.known.tolist() == [
        [True, True, False, False, True],
        [False, False, True, True, False],
        [False, False, False, False, True],
    ]
    order = [0, 1, 0, 1, 3]
    torch.testing.assert_close(targets.planes, data["mask"][:, order])


class TestMiddleOfError:
    def test_of_what_is_missing(self) -> None:
        truth = torch.zeros(1, 24, 24, dtype=torch.bool)
        truth[0, 4:15, 6:17] = True
        cells, mark = middle_of_error(torch.zeros_like(truth), truth)
        assert cells.tolist() == [[11, 9]] and mark.tolist() == [INSIDE]

    def test_of_what_is_too_much(self) -> None:
        found = torch.zeros(1, 24, 24, dtype=torch.bool)
        found[0, 2:5, 0:24] = True
        found[0, 12:21, 10:19] = True
        cells, mark = middle_of_error(found, torch.zeros_like(found))
        assert cells.tolist() == [[14, 16]] and mark.tolist() == [OUTSIDE]

    def test_the_largest_counts_whatever_its_kind(self) -> None:
        truth = torch.zeros(2, 24, 24, dtype=torch.bool)
        found = truth.clone()
        truth[0, 2:7, 2:7], found[0, 10:21, 10:21] = True, True
        truth[1, 2:13, 2:13], found[1, 16:21, 16:21] = True, True
        _, mark = middle_of_error(found, truth)
        assert mark.tolist() == [OUTSIDE, INSIDE]


def test_dice_by_hand() -> None:
    planes = batch([True], [0], [True])["mask"]
    logits = 60 * planes - 30
    logits[:, 1] = -30
    logits[:, 3, 14:20] = -30  # half of it
    expected = torch.tensor([[1.0, 0.0, 1.0, 2 / 3]])
    torch.testing.assert_close(dice_of(logits, planes), expected, atol=0.02, rtol=0)


def test_doubt_is_the_distance_from_the_dice_of_what_is_known() -> None:
    planes = batch([True], [0], [True])["mask"]
    targets = Targets(planes, torch.tensor([[True, False, False, True]]))
    perfect = 60 * planes - 30
    sure = torch.full((1, 4), 30.0)
    assert float(doubt_loss(sure, perfect, targets)) < 1e-3
    assert float(doubt_loss(-sure, perfect, targets)) > 0.99
    assert float(doubt_loss(0 * sure, perfect, targets)) == pytest.approx(0.5, abs=0.01)


class TestPrompt:
    @torch.no_grad()
    def answer(self, network: EdgeSAM, marks: list[int], mask: float) -> Tensor:
        image = batch([True], [0], [True])["image"]
        places = torch.tensor([[[10.0, 12.0]] * len(marks)])
        clicks = Clicks(places, torch.tensor([marks]))
        prompt = network.prompt(clicks, torch.full((1, 1, 16, 16), mask))
        masks, _ = network.mask_decoder(network.image_encoder(image), prompt)
        return torch.as_tensor(masks)

    def test_marks_and_mask_matter(self, network: EdgeSAM) -> None:
        network.eval()
        inside = self.answer(network, [INSIDE], 3.0)
        for marks, mask in (([OUTSIDE], 3.0), ([INSIDE], -3.0), ([INSIDE, OUTSIDE], 3.0)):
            assert (self.answer(network, marks, mask) - inside).abs().max() > 1e-4

    def test_what_is_nowhere_says_nothing_of_its_place(self, network: EdgeSAM) -> None:
        network.eval()
        image = batch([True], [0], [True])["image"]
        mask = torch.zeros(1, 1, 16, 16)
        answers = []
        with torch.no_grad():
            for x in (5.0, 50.0):
                clicks = Clicks(torch.tensor([[[x, x]]]), torch.tensor([[NOWHERE]]))
                prompt = network.prompt(clicks, mask)
                answers.append(network.mask_decoder(network.image_encoder(image), prompt)[0])
        torch.testing.assert_close(*answers)


def test_prompts_and_doubt_learn(network: EdgeSAM) -> None:
    torch.manual_seed(3)
    data = batch([True, False], [0, 0], [True, True])
    features = network.image_encoder(data["image"])
    masks, doubt = network.mask_decoder(features, network.no_prompt())
    targets = targets_of(data, LABELS)
    loss = correction_loss(network, features, masks, targets, rounds=2)
    (loss + doubt_loss(doubt, masks, targets)).backward()
    corners = {id(p) for e in network.prompt_encoder.point_embeddings[2:] for p in e.parameters()}
    for name, parameter in network.named_parameters():
        reached = parameter.grad is not None
        assert reached == (id(parameter) not in corners) or "no_mask_embed" in name, name


def test_a_network_learns_to_follow_clicks(network: EdgeSAM) -> None:
    torch.manual_seed(4)
    data = batch([True] * 4, [0] * 4, [True] * 4)
    targets = targets_of(data, LABELS)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        features = network.image_encoder(data["image"])
        masks, _ = network.mask_decoder(features, network.no_prompt())
        loss = correction_loss(network, features, masks, targets, rounds=1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_nothing_known_costs_nothing(network: EdgeSAM) -> None:
    data = batch([False], [0], [False])
    features = network.image_encoder(data["image"].repeat(2, 1, 1, 1))
    masks, _ = network.mask_decoder(features, network.no_prompt())
    targets = targets_of(batch([False] * 2, [0] * 2, [False] * 2), LABELS)
    assert correction_loss(network, features, masks, targets, rounds=2).item() == 0
