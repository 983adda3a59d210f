from __future__ import annotations

import pickle

import pytest

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.core.errors import require_extra


def test_require_extra_names_what_is_missing() -> None:
    require_extra("cxrseg-run", "x", ["json"])
    with pytest.raises(CxrsegError, match=r"\(no_such_module\); pip install \"cxrseg\[train\]\""):
        require_extra("cxrseg-train", "train", ["json", "no_such_module"])


def test_much_that_is_quoted_is_cut_off() -> None:
    error = CxrsegError("pairs.csv", f"has no column 'image'; there are {'9' * 60_000}", "name it")
    assert 600 < len(str(error)) < 700
    assert str(error).endswith("999...; name it")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.cause) == (str(error), error.cause)
