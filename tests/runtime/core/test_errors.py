from __future__ import annotations

import pytest

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.core.errors import require_extra


def test_require_extra_names_what_is_missing() -> None:
    require_extra("cxrseg-run", "x", ["json"])
    with pytest.raises(CxrsegError, match=r"\(no_such_module\); pip install \"cxrseg\[train\]\""):
        require_extra("cxrseg-train", "train", ["json", "no_such_module"])
