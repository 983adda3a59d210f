from __future__ import annotations

import pytest


@pytest.fixture
def model(model_file) -> list[str]:
    return ["--model", str(model_file()), "--device", "cpu"]
