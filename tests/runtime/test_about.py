from __future__ import annotations

import hashlib
import platform
import sys
from configparser import ConfigParser
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pydicom
import pytest

from cxrseg.runtime import about
from cxrseg.runtime.core.model_card import ModelCard
from cxrseg.runtime.core.preprocess import Preprocessing
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.models import default_model
from helpers.paths import REPO


def facts(text: str) -> dict[str, str]:
    """Return name -> value of the indented lines, wrapped ones joined."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("  "):
            name = line[2:16].strip() or name
            found[name] = f"{found.get(name, '')} {line[16:].strip()}".strip()
    return found


def test_versions_and_devices(run_cxrseg) -> None:
    result = run_cxrseg("--about")
    assert (result.code, result.err) == (0, "")
    told = facts(result.out)
    assert result.out.startswith(f"cxrseg {package_version()}. Not a diagnostic device.\n")
    assert told["Python"].startswith(platform.python_version())
    assert told["system"].startswith(platform.system())
    assert told["numpy"] == np.__version__ and told["pydicom"] == pydicom.__version__
    assert told["opencv"] == cv2.__version__
    assert told["onnxruntime"] == onnxruntime.__version__
    assert told["providers"] == ", ".join(onnxruntime.get_available_providers())
    assert told["runs on"] in told["providers"]
    assert all(len(line) <= 100 for line in result.out.splitlines() if "/" not in line)


def test_model_that_ships(run_cxrseg) -> None:
    told = facts(run_cxrseg("--about").out)
    path = default_model()
    assert told["file"].startswith(str(path))
    assert told["SHA-256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told["protocols"] == "fields, whole"
    assert "left_lung_whole = 2" in told["labels"]
    assert "384 x 384" in told["input"] and "percentile 0.5 to 99.5" in told["input"]
    assert told["quality"] == "reference of 3632 images, protocols fields, whole"
    assert told["code"] == "Apache-2.0" and "Shenzhen" in told["weights"]
    assert Path(told["model card"]).is_file()
    assert "Not a diagnostic device." in told["intended use"]


def test_named_model_whatever_the_order(run_cxrseg, model_file) -> None:
    card = ModelCard(
        "ward7", "9.9", ("right_lung", "left_lung"), Preprocessing(64), license="Ward 7,\n\x1b[31m"
    )
    path = model_file(card=card.to_json())
    for args in (["--about", "--model", path], ["--model", path, "--about", "no such file.png"]):
        result = run_cxrseg(*args)
        assert (result.code, result.err) == (0, "")
        told = facts(result.out)
        assert told["name"] == "ward7, exported by cxrseg 9.9"
        assert told["SHA-256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert told["protocols"] == "fields" and told["checkpoint"] == "not told"
        assert told["weights"] == "Ward 7, ?[31m" and "model card" not in told


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such model file"), (b"garbage" * 30, "is not a model of cxrseg-export")],
)
def test_broken_model_is_one_line(run_cxrseg, tmp_path, content, reason: str) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    result = run_cxrseg("--about", "--model", path)
    assert (result.code, result.out, len(result.errors)) == (1, "", 1)
    assert result.err.startswith(f"error: {path}: {reason}")


def test_library_that_is_missing_is_told(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setattr(about, "_PACKAGES", ("no-such-package",))
    told = about.libraries()
    assert told["imagecodecs"] == told["no-such-package"] == "not installed"
    assert told["numpy"] == np.__version__


def test_code_license_is_that_of_the_package() -> None:
    setup = ConfigParser()
    setup.read(REPO / "setup.cfg")
    assert setup["metadata"]["license"] == about.CODE_LICENSE


def test_model_without_quality_reference(run_cxrseg, model_file) -> None:
    told = facts(run_cxrseg("--about", "--model", model_file(reference=None)).out)
    assert told["quality"].startswith("no reference: only the flags that need none are raised")
