"""The pages are built, and need no network to be read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import REPO


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|link)\b[^>]*(?:src|href)=\"(?:https?:)?//", text)


def test_blocks_and_classes_are_shown(site: Path) -> None:
    text = {name: (site / name / "index.html").read_text() for name in ("offline", "python")}
    assert text["offline"].count("<pre") == 2
    assert 'id="cxrseg.runtime.Segmenter.segment"' in text["python"]
    assert "<pre>Exit codes" in (site / "commands/run/index.html").read_text()
