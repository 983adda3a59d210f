"""What Lightning trains: the learning rate over a stage of any length."""

from __future__ import annotations

import pytest
import torch

from cxrseg.trainer.fit.module import one_cycle


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20, 100])
@pytest.mark.parametrize("warmup", [0.01, 0.1, 0.5])
def test_the_rate_peaks_at_its_own_and_falls(steps: int, warmup: float) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, (1e-3, 2e-4), strict=True)]
    optimizer = torch.optim.AdamW(groups)
    schedule = one_cycle(optimizer, steps, warmup)
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    first, second = zip(*rates, strict=True)
    assert second == pytest.approx([0.2 * rate for rate in first])
    assert max(first) <= 1e-3 * (1 + 1e-9)
    if steps > 2:
        assert max(first) > 0.8e-3
        assert first[-1] < 1e-6
