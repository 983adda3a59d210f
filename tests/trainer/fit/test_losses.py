"""The loss and the score across protocols, and masks with and without sides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cxrseg.trainer.fit.losses import (
    NO_PROTOCOL,
    bce_dice,
    channels_of,
    heart_dice,
    heart_loss,
    lung_loss,
    mislabeled,
    union_scores,
)

FIELDS = ("right_lung", "left_lung")
WHOLE = ("right_lung_whole", "left_lung_whole")
BOTH = FIELDS + WHOLE


def lungs(count: int = 1, size: int = 32) -> Tensor:
    """Return masks [count, 3, size, size]: right, left, union."""
    mask = torch.zeros(count, 3, size, size)
    mask[:, 0, 8:24, 4:12] = 1
    mask[:, 1, 8:24, 20:28] = 1
    mask[:, 2] = mask[:, 0] + mask[:, 1]
    return mask


def perfect(mask: Tensor, channels: int = 2) -> Tensor:
    logits = 60 * mask[:, :2] - 30
    return logits.repeat(1, channels // 2, 1, 1)


def flags(*values: bool) -> Tensor:
    return torch.tensor(values)


def test_channels_by_protocol() -> None:
    assert channels_of(BOTH) == {0: (0, 1), 1: (2, 3)}
    assert channels_of(WHOLE) == {1: (0, 1)}
    assert channels_of(("left_lung",)) == {0: (None, 0)}


def test_perfect_logits_cost_nothing() -> None:
    mask = lungs(2)
    loss = lung_loss(perfect(mask), mask, flags(True, False), torch.tensor([0, 0]), FIELDS)
    assert 0 <= float(loss) < 1e-3


def test_wrong_logits_cost_more_the_more_they_are_wrong() -> None:
    mask = lungs()
    one = torch.tensor([0])
    losses = [
        float(lung_loss(share * perfect(mask), mask, flags(True), one, FIELDS))
        for share in (1.0, 0.1, 0.0, -0.1, -1.0)
    ]
    assert losses == sorted(losses)
    assert losses[-1] > 10


def test_bce_dice_by_hand() -> None:
    logits, target = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    dice = (2 * 0.5 + 1) / (2 + 1 + 1)
    expected = float(torch.log(torch.tensor(2.0))) + 1 - dice
    assert float(bce_dice(logits, target)) == pytest.approx(expected, rel=1e-6)


def test_logits_are_enlarged_to_the_mask() -> None:
    mask = lungs()
    small = torch.nn.functional.avg_pool2d(perfect(mask), 4)
    loss = lung_loss(small, mask, flags(True), torch.tensor([0]), FIELDS)
    assert float(loss) < 0.1


def test_swapped_sides_cost_nothing_where_sides_are_not_told() -> None:
    mask = lungs()
    swapped = perfect(mask).flip(1)
    one = torch.tensor([0])
    told = float(lung_loss(swapped, mask, flags(True), one, FIELDS))
    untold = float(lung_loss(swapped, mask, flags(False), one, FIELDS))
    assert untold < 1e-3
    assert told > 1


def test_untold_sides_train_the_union_alone() -> None:
    mask = lungs()
    logits = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_(True)
    lung_loss(logits, mask, flags(False), torch.tensor([0]), FIELDS).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    winner = logits.detach().argmax(dim=1, keepdim=True)
    assert (logits.grad.gather(1, winner) != 0).all()
    assert (logits.grad.gather(1, 1 - winner) == 0).all()


def test_planes_of_untold_sides_do_not_matter() -> None:
    mask = lungs()
    blank = mask.clone()
    blank[:, :2] = 0
    logits = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    one = torch.tensor([0])
    first = lung_loss(logits, mask, flags(False), one, FIELDS)
    assert torch.equal(first, lung_loss(logits, blank, flags(False), one, FIELDS))
    assert not torch.equal(first, lung_loss(logits, mask, flags(True), one, FIELDS))


@pytest.mark.parametrize(
    ("protocol", "own", "other"), [(0, slice(2), slice(2, 4)), (1, slice(2, 4), slice(2))]
)
@pytest.mark.parametrize("sided", [True, False])
def test_the_other_protocol_gets_no_gradient(
    protocol: int, own: slice, other: slice, sided: bool
) -> None:
    logits = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    logits.requires_grad_(True)
    lung_loss(logits, lungs(), flags(sided), torch.tensor([protocol]), BOTH).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[:, other] == 0).all()
    assert (logits.grad[:, own] != 0).any()


def test_mixed_batch_is_the_mean_over_its_terms() -> None:
    logits = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(3))
    mask = lungs(2)
    mixed = lung_loss(logits, mask, flags(True, False), torch.tensor([0, 1]), BOTH)
    first = lung_loss(logits[:1], mask[:1], flags(True), torch.tensor([0]), BOTH)
    second = lung_loss(logits[1:], mask[1:], flags(False), torch.tensor([1]), BOTH)
    # The first image has three terms (union, right, left), the second one.
    assert float(mixed) == pytest.approx((3 * float(first) + float(second)) / 4, rel=1e-5)


def test_batch_without_a_channel_gives_zero_with_a_gradient() -> None:
    logits = torch.randn(1, 2, 32, 32, requires_grad=True)
    loss = lung_loss(logits, lungs(), flags(True), torch.tensor([1]), FIELDS)
    assert loss.item() == 0
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and (logits.grad == 0).all()


def test_scores() -> None:
    mask = lungs(3)
    logits = perfect(mask)
    logits[1, 1] = -30  # one lung of two is missed
    logits[2] = -30
    dice, iou = union_scores(logits, mask, torch.tensor([0, 0, 0]), FIELDS)
    assert dice.tolist() == pytest.approx([1, 2 / 3, 0], abs=1e-6)
    assert iou.tolist() == pytest.approx([1, 1 / 2, 0], abs=1e-6)


def test_score_of_nothing_found_where_nothing_is() -> None:
    dice, iou = union_scores(
        torch.full((1, 2, 8, 8), -1.0), torch.zeros(1, 3, 32, 32), torch.tensor([0]), FIELDS
    )
    assert (float(dice), float(iou)) == (1, 1)


def test_score_without_a_channel_is_nan() -> None:
    mask = lungs(2)
    dice, iou = union_scores(perfect(mask), mask, torch.tensor([1, 0]), FIELDS)
    assert dice.isnan().tolist() == iou.isnan().tolist() == [True, False]


def test_a_mask_that_fits_the_other_protocol_is_mislabeled() -> None:
    mask = lungs(4)
    whole = mask.clone()
    whole[:, :, 8:24, 12:20] = 1
    logits = torch.cat([60 * mask[:, :2] - 30, 60 * whole[:, :2] - 30], dim=1)
    truth = torch.stack([mask[0], whole[1], mask[2], whole[3]])
    protocol = torch.tensor([0, 0, 1, 1])
    assert mislabeled(logits, truth, protocol, BOTH).tolist() == [False, True, True, False]
    # The network may work at a quarter of the mask's size.
    small = torch.nn.functional.avg_pool2d(logits, 4)
    assert mislabeled(small, truth, protocol, BOTH).tolist() == [False, True, True, False]


def test_nothing_is_mislabeled_without_another_protocol() -> None:
    logits = -perfect(lungs(2))
    assert not mislabeled(logits, lungs(2), torch.tensor([0, 1]), FIELDS).any()


def test_an_image_without_protocol_teaches_nothing() -> None:
    mask = lungs(2)
    logits = torch.cat([perfect(mask[:1]), -perfect(mask[1:])])
    loss = lung_loss(logits, mask, flags(True, True), torch.tensor([0, NO_PROTOCOL]), FIELDS)
    assert 0 <= float(loss) < 1e-3


HEARTED = (*FIELDS, "heart")


def with_heart(count: int = 2) -> Tensor:
    mask = torch.zeros(count, 4, 32, 32)
    mask[:, :3] = lungs(count)
    mask[:, 3, 14:26, 10:22] = 1
    return mask


def test_the_heart_is_learned_where_it_is_drawn_alone() -> None:
    mask = with_heart()
    logits = torch.zeros(2, 3, 8, 8, requires_grad=True)
    heart_loss(logits, mask, flags(True, False), HEARTED).backward()  # type: ignore[no-untyped-call]
    touched = logits.grad.abs().amax((2, 3)) > 0  # type: ignore[union-attr]
    assert touched.tolist() == [[False, False, True], [False, False, False]]
    right = 60 * mask[:, [0, 1, 3]] - 30
    assert float(heart_loss(right, mask, flags(True, True), HEARTED)) < 1e-3
    assert float(heart_loss(-right, mask, flags(True, True), HEARTED)) > 10


@pytest.mark.parametrize(("drawn", "labels"), [((False, False), HEARTED), ((True, True), FIELDS)])
def test_no_heart_costs_nothing(drawn: tuple[bool, ...], labels: tuple[str, ...]) -> None:
    logits = torch.zeros(2, len(labels), 8, 8, requires_grad=True)
    loss = heart_loss(logits, with_heart(), flags(*drawn), labels)
    assert loss.item() == 0
    loss.backward()  # type: ignore[no-untyped-call]
    assert heart_dice(logits, with_heart(), flags(*drawn), labels).numel() == 0


def test_dice_of_the_heart_by_hand() -> None:
    mask = with_heart()
    logits = 60 * mask[:, [0, 1, 3]] - 30
    logits[1, 2] = -30
    logits[1, 2, 14:20, 10:22] = 30  # its upper half
    dice = heart_dice(logits, mask, flags(True, True), HEARTED)
    torch.testing.assert_close(dice, torch.tensor([1, 2 / 3]))
