"""The steps of docs/offline.md; the first one needs a package index."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from helpers.dicom.patient import xray
from helpers.offline import namespace
from helpers.paths import REPO


def steps() -> list[str]:
    """Return the page's commands, block by block."""
    text = (REPO / "docs" / "offline.md").read_text(encoding="utf-8")
    return [dedent(block) for block in re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.M | re.S)]


def sh(commands: str, folder: Path, python: Path, *prefix: str) -> str:
    """Run commands with `python` as python3, and without settings of pip's."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    if not prefix:
        # Only where there is a network may the machine's own mirror be asked.
        environment |= {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
    done = subprocess.run(
        [*prefix, "sh", "-euc", commands],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="runs sh")
def test_steps_of_the_page(tmp_path: Path) -> None:
    connected, apart = tmp_path / "connected", tmp_path / "apart"
    apart.mkdir()
    shutil.copytree(
        REPO,
        connected,
        ignore=lambda folder, names: [n for n in names if n.startswith(".") or n == "tests"],
    )
    # As on a PC where nothing but Python was installed.
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "python"], check=True)
    python = tmp_path / "python" / "bin" / "python3"
    gather, install = steps()
    sh(gather, connected, python)
    shutil.copytree(connected / "wheels", apart / "wheels")
    shutil.copy(REPO / "examples" / "phantom.png", apart)
    xray(apart / "x.dcm")
    # Where the system allows it there is no network at all.
    prefix = namespace() or ["env"]
    assert "phantom_lungs.png" in sh(install, apart, python, *prefix)
    sh("cxrseg/bin/cxrseg-run --format seg,sc x.dcm", apart, python, *prefix)
    made = {"phantom_lungs.png", "phantom_overlay.png", "phantom.json"}
    assert made | {"x_lungs.dcm", "x_overlay.dcm"} <= {path.name for path in apart.iterdir()}
