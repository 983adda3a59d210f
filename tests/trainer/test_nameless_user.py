"""A user id without an entry in the list of users, as containers give them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAMELESS = """
import pwd

def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = unknown
"""

WORK = {
    "train": """
import cxrseg.trainer.fit.stages
from cxrseg.trainer.networks.unet import UNet, UNetArchitecture
UNet(UNetArchitecture((4, 8)), 64, ("right_lung",))
""",
    "export": "import cxrseg.export.pipeline, cxrseg.export.recover",
    "bench": "import cxrseg.benchmarks.paper, cxrseg.benchmarks.harness.plots",
}


@pytest.mark.parametrize("program", WORK)
def test_needs_neither_name_nor_home(program: str) -> None:
    names = ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", NAMELESS + WORK[program]],
        capture_output=True,
        text=True,
        env=plain,
    )
    assert done.returncode == 0, done.stderr
