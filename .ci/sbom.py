"""Write into a folder what a release consists of: the wheel, and a list of its parts (SBOM).

The list is CycloneDX 1.6: the wheel and the model in it with their SHA-256, and what
constraints.txt installs with them on this system, all with versions and licenses.

Usage: python .ci/sbom.py [FOLDER], by default dist.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

REPO = Path(__file__).resolve().parents[1]
PACKAGE = "cxrseg"
PIP = (sys.executable, "-m", "pip")


def call(*line: str | Path) -> str:
    """Run a program in the checkout and return what it prints."""
    return subprocess.run(line, cwd=REPO, check=True, stdout=subprocess.PIPE, text=True).stdout


def build_wheel(folder: Path) -> Path:
    """Build the wheel in a folder, in the place of an earlier one."""
    for old in folder.glob(f"{PACKAGE}-*"):
        old.unlink()
    call(*PIP, "wheel", "-q", "--no-deps", "--wheel-dir", folder, ".")
    (wheel,) = folder.glob(f"{PACKAGE}-*.whl")
    return wheel


def installed_parts(wheel: Path) -> dict[str, Any]:
    """Return the list of what the wheel needs and of itself, installed alone."""
    with TemporaryDirectory() as environment:
        call(sys.executable, "-m", "venv", "--without-pip", environment)
        install = (*PIP, "--python", environment, "install", "-q")
        call(*install, "--require-hashes", "--requirement", "constraints.txt")
        call(*install, "--no-index", "--find-links", wheel.parent, PACKAGE)
        options = ("--spec-version", "1.6", "--gather-license-texts", "--output-reproducible")
        listing = (sys.executable, "-m", "cyclonedx_py", "environment", *options, environment)
        parts: dict[str, Any] = json.loads(call(*listing))
    return parts


def complete(parts: dict[str, Any], wheel: Path) -> dict[str, Any]:
    """Say that the list is that of the wheel, and add the models in it."""
    (main,) = (part for part in parts["components"] if part["name"] == PACKAGE)
    parts["components"].remove(main)
    main["hashes"] = [sha256(wheel.read_bytes())]
    with zipfile.ZipFile(wheel) as archive:
        main["components"] = [
            {
                "type": "machine-learning-model",
                "bom-ref": name,
                "name": Path(name).name,
                "hashes": [sha256(archive.read(name))],
                "licenses": [{"license": {"name": "terms of MODEL_CARD.md"}}],
            }
            for name in archive.namelist()
            if name.endswith(".onnx")
        ]
    parts["metadata"]["component"] = main
    return parts


def sha256(data: bytes) -> dict[str, str]:
    """Return a hash as CycloneDX writes it."""
    return {"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}


def check(parts: dict[str, Any]) -> None:
    """Refuse a list that breaks the rules of CycloneDX, or names a part without a license."""
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(parts)):
        sys.exit(f"error: the list is no CycloneDX: {error}")
    for part in (*parts["components"], parts["metadata"]["component"]):
        if not part.get("licenses"):
            sys.exit(f"error: no license is known of {part['name']}")


def main() -> None:
    """Write the wheel and the list."""
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else REPO / "dist"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = build_wheel(folder)
    parts = complete(installed_parts(wheel), wheel)
    check(parts)
    _, version, _ = wheel.name.split("-", 2)
    listed = folder / f"{PACKAGE}-{version}.cdx.json"
    listed.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    print(f"{listed}: {PACKAGE} {version} and {len(parts['components'])} packages")


if __name__ == "__main__":
    main()
