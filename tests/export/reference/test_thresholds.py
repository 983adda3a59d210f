from __future__ import annotations

import numpy as np
import pytest

from cxrseg.export.reference.thresholds import CAUGHT, FALSE_ALARMS, MARGIN, choose
from cxrseg.runtime.quality.rules import RULES


def test_limit_leaves_a_margin_above_the_worst_source() -> None:
    rng = np.random.default_rng(0)
    good = {"calm": rng.normal(10, 1, 2000).tolist(), "wild": rng.normal(12, 2, 2000).tolist()}
    limit = choose("shape", good)
    assert limit.value == pytest.approx(MARGIN * limit.good) and limit.suspect is None
    for scores in good.values():
        assert np.mean(np.array(scores) > limit.good) <= FALSE_ALARMS
    assert np.mean(np.array(good["wild"]) > limit.good * 0.99) > 0
    assert choose("shape", {"calm": [1.0] * 9}).value == RULES["shape"].limit
    # Mirror images have the same scores with the other sign: they need no margin.
    assert choose("mirror", {"calm": [0.45] * 9}).value == 0.45


def test_limit_lies_between_good_and_suspect_images() -> None:
    good = {"a": [10.0] * 100 + [16.0] * 2}
    apart = choose("out_of_distribution", good, [25.0, 30.0, 40.0])
    assert apart.value == pytest.approx(20) and apart.suspect == 25
    # Where they overlap, most of what is suspect is flagged all the same.
    suspect = [12.0, *np.linspace(14, 30, 39)]
    overlapping = choose("out_of_distribution", {"a": [30.0] * 9}, suspect)
    assert np.mean(np.array(suspect) > overlapping.value) >= CAUGHT
