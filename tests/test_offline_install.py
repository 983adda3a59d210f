"""The steps of docs/offline.md, and what they install; the first step needs a package index."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from textwrap import dedent

import pytest
from packaging.requirements import Requirement

from cxrseg.runtime.core.version import VERSION
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
    package = next(apart.glob("wheels/click-*.whl"))
    whole = package.read_bytes()
    package.write_bytes(whole + b"changed on its way")
    with pytest.raises(AssertionError, match="DO NOT MATCH THE HASHES"):
        sh(install, apart, python, *prefix)
    package.write_bytes(whole)
    assert "phantom_lungs.png" in sh(install, apart, python, *prefix)
    sh("cxrseg/bin/cxrseg-run --format seg,sc x.dcm", apart, python, *prefix)
    made = {"phantom_lungs.png", "phantom_overlay.png", "phantom.json"}
    assert made | {"x_lungs.dcm", "x_overlay.dcm"} <= {path.name for path in apart.iterdir()}


def required() -> list[Requirement]:
    """Return what cxrseg-run needs with all of its extras."""
    setup = ConfigParser()
    setup.read(REPO / "setup.cfg")
    texts = [setup["options"]["install_requires"]]
    texts += [setup["options.extras_require"][extra] for extra in ("dicom", "watch")]
    return [Requirement(line) for text in texts for line in text.splitlines() if line]


def pinned() -> dict[str, list[tuple[Requirement, int]]]:
    """Return name -> the versions that constraints.txt allows, each with its number of hashes."""
    pins: dict[str, list[tuple[Requirement, int]]] = {}
    text = re.sub(r"#.*", "", (REPO / "constraints.txt").read_text(encoding="utf-8"))
    for entry in text.replace("\\\n", " ").splitlines():
        if entry.strip():
            line, *hashes = entry.split("--hash=sha256:")
            pin = Requirement(line)
            assert all(re.fullmatch("[0-9a-f]{64}", x.strip()) for x in hashes)
            pins.setdefault(pin.name, []).append((pin, len(hashes)))
    return pins


@pytest.mark.parametrize("system", ["linux", "win32", "darwin"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_one_version_of_each_package_is_pinned(python: str, system: str) -> None:
    place = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "win32": "Windows", "darwin": "Darwin"}[system],
    }
    pins = pinned()
    for needed in required():
        (pin,) = [
            pin
            for pin, hashes in pins[needed.name]
            if hashes and (pin.marker is None or pin.marker.evaluate(place))
        ]
        (version,) = pin.specifier
        assert version.operator == "==" and needed.specifier.contains(version.version)


@pytest.mark.slow
def test_list_of_parts(tmp_path: Path) -> None:
    """What the wheel consists of and needs, with licenses."""
    subprocess.run([sys.executable, REPO / ".ci" / "sbom.py", tmp_path], check=True, timeout=900)
    assert (tmp_path / f"cxrseg-{VERSION}-py3-none-any.whl").is_file()
    parts = json.loads((tmp_path / f"cxrseg-{VERSION}.cdx.json").read_text(encoding="utf-8"))
    names = {part["name"] for part in parts["components"]}
    assert {needed.name for needed in required()} <= names and "cxrseg" not in names
    assert all(part["licenses"] and part["version"] for part in parts["components"])
    main = parts["metadata"]["component"]
    assert (main["name"], main["version"]) == ("cxrseg", VERSION)
    (model,) = main["components"]
    assert model["type"] == "machine-learning-model" and len(model["hashes"][0]["content"]) == 64
    assert str(tmp_path) not in json.dumps(parts)
