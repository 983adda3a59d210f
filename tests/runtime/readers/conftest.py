from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrseg.runtime import Radiograph, read
from helpers.dicom.dicom_images import make, save


@pytest.fixture
def read_made(tmp_path: Path) -> Callable[..., Radiograph]:
    def run(*args: Any, **options: Any) -> Radiograph:
        return read(save(make(*args, **options), tmp_path / "x.dcm"))

    return run
