"""Data flows one way: each package imports only what its place in the chain allows."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrseg.runtime.core.version import VERSION
from helpers.paths import REPO

HEAVY = {"torch", "onnx", "onnx_ir", "onnxscript", "peft", "lightning", "monai", "pydantic"}
TRAINING = {"lightning", "monai", "yaml", "tqdm"}

FROM_RUNTIME = {"core", "readers", "terminal"}
"""Modules of the runtime that the trainer may use: contracts, and terminal helpers."""


def modules_in(package: str) -> list[Path]:
    return sorted((REPO / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, wherever in it, with what it takes from them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(package: str) -> dict[str, str]:
    """Return imported name -> a file of the package that imports it."""
    return {name: path.name for path in modules_in(package) for name in imports_of(path)}


def own(package: str) -> dict[str, str]:
    """Return the imports from other packages of cxrseg, without the leading ``cxrseg.``."""
    names = {n: f for n, f in imported(package).items() if n.split(".")[0] == "cxrseg"}
    assert "cxrseg" not in names, "import what is used, not the namespace"
    return {n.removeprefix("cxrseg."): f for n, f in names.items()}


@pytest.mark.parametrize("package", ["runtime", "trainer", "export", "benchmarks"])
def test_packages_are_there(package: str) -> None:
    assert len(modules_in(package)) > 3
    assert f"{package}." in " ".join(own(package)), "the parser must see imports"


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("runtime", {"trainer", "export", "benchmarks"}),
        ("trainer", {"export", "benchmarks"}),
        ("export", {"benchmarks"}),
    ],
)
def test_arrows_between_packages(package: str, forbidden: set[str]) -> None:
    wrong = {name: file for name, file in own(package).items() if name.split(".")[0] in forbidden}
    assert not wrong


@pytest.mark.parametrize(
    ("package", "forbidden"), [("runtime", HEAVY | TRAINING), ("export", TRAINING)]
)
def test_packages_of_the_extras(package: str, forbidden: set[str]) -> None:
    tops = {name.split(".")[0]: file for name, file in imported(package).items()}
    assert not {name: file for name, file in tops.items() if name in forbidden}


def test_trainer_takes_the_contracts_alone() -> None:
    used = {n.split(".")[1]: f for n, f in own("trainer").items() if n.startswith("runtime.")}
    assert {"core", "readers"} <= set(used)
    assert not {name: file for name, file in used.items() if name not in FROM_RUNTIME}


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a statement loads in a fresh Python."""
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_package_alone_loads_nothing_heavy() -> None:
    modules = loaded_by("import cxrseg.runtime")
    assert "cxrseg.runtime" in modules
    assert not modules & (HEAVY | TRAINING | {"numpy", "onnxruntime", "cv2"})


@pytest.mark.parametrize(
    "module", ["segmenter", "cli", "batch.process", "writers.images", "readers"]
)
def test_runtime_loads_no_training_code(module: str) -> None:
    modules = loaded_by(f"import cxrseg.runtime.{module}")
    assert f"cxrseg.runtime.{module}" in modules
    assert not modules & (HEAVY | TRAINING)
    others = ("cxrseg.trainer", "cxrseg.export", "cxrseg.benchmarks")
    assert not [name for name in modules if name.startswith(others)]


@pytest.mark.parametrize("package", ["trainer", "export"])
def test_help_needs_no_torch(package: str) -> None:
    assert "torch" not in loaded_by(f"import cxrseg.{package}.cli")


def test_version_is_the_packages() -> None:
    assert importlib.metadata.version("cxrseg") == VERSION
