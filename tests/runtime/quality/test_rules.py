from __future__ import annotations

import pytest

from cxrseg.runtime.quality.rules import RULES, Rule, judge


@pytest.mark.parametrize(("name", "rule"), RULES.items())
def test_rule_holds_on_one_side_of_its_limit(name: str, rule: Rule) -> None:
    words = dict.fromkeys(("lung", "side", "part", "what"), "x")
    beyond = rule.limit + (-0.001 if rule.below else 0.001)
    assert not judge(name, rule.limit, **words)
    assert not judge(name, rule.limit - (beyond - rule.limit), **words)
    (flag,) = judge(name, beyond, **words)
    assert (flag.code, flag.value, flag.threshold) == (rule.code, beyond, rule.limit)
    assert "{" not in flag.reason
    assert judge(name, beyond, beyond, **words) == []
