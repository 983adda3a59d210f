"""Data flows one way: each package, and each room in it, imports only what stands before it."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cxrseg.runtime.core.version import VERSION
from helpers.paths import REPO

ROOMS = {
    "runtime": (
        *("core", "files", "terminal", "models", "readers", "inference", "quality", "measures"),
        *("segmenter", "writers", "batch", "about", "cli"),
    ),
    "trainer": (
        "old_names",
        "networks",
        "adapt",
        "recipe",
        "recipe_file",
        "data",
        "check",
        "fit",
        "cli",
    ),
    "export": (
        *("extra", "graph", "options", "verify", "reference", "integer", "report"),
        *("pipeline", "recover", "cli"),
    ),
    "benchmarks": (
        *("harness", "accuracy", "speed", "agreement", "quantization", "quality", "methods"),
        *("report", "paper", "cli"),
    ),
}
"""Package -> its rooms and top-level modules; each may import those before it alone."""

PACKAGES = tuple(ROOMS)

USES = {
    "runtime": {},
    "trainer": {"runtime": {"core", "files", "readers", "terminal"}},
    "export": {
        "runtime": {
            *("core", "files", "readers", "terminal", "models", "inference", "quality"),
        },
        "trainer": {"networks", "adapt", "data", "check", "fit"},
    },
    "benchmarks": {name: set(rooms) for name, rooms in ROOMS.items() if name != "benchmarks"},
}
"""Package -> other package -> rooms of it that may be used."""

HEAVY = {"torch", "onnx", "onnx_ir", "onnxscript", "peft", "lightning", "monai", "pydantic"}
TRAINING = {"lightning", "monai", "yaml", "tqdm"}

MAX_FILES = 12
"""Most modules of a room."""

MAX_LINES = 350
"""Most lines of a file, unless its docstring says why it is long."""

WHY = "This file is long because"


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules_in(package: str) -> list[Path]:
    return sorted((REPO / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, wherever in it, with what it takes from them."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield package and room, empty for the package itself, of each import from cxrseg."""
    for name in imports_of(path):
        if name.split(".")[0] == "cxrseg":
            assert name != "cxrseg", f"{path}: import what is used, not the namespace"
            package, room = [*name.split("."), ""][1:3]
            yield package, room if room in ROOMS[package] else ""


def room_of(path: Path, package: str) -> str:
    """Return the room that a file belongs to, or the module's own name at the top."""
    first = path.relative_to(REPO / package).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_are_those_that_stand_here(package: str) -> None:
    found = {room_of(path, package) for path in modules_in(package)} - {"__init__"}
    assert found == set(ROOMS[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_between_packages(package: str) -> None:
    arrows = [(p, r, f) for f in modules_in(package) for p, r in own_imports(f) if p != package]
    assert arrows or package == "runtime", "the parser must see imports"
    # The runtime's own package holds the switch that keeps ONNX Runtime quiet.
    allowed = {p: {*rooms, ""} for p, rooms in USES[package].items()}
    wrong = [(p, r, f.name) for p, r, f in arrows if r not in allowed.get(p, set())]
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_between_rooms(package: str) -> None:
    order = {room: number for number, room in enumerate(ROOMS[package])}
    wrong = []
    for path in modules_in(package):
        here = room_of(path, package)
        if here == "__init__":
            continue
        for other, room in own_imports(path):
            if other == package and room and room != here and order[room] > order[here]:
                wrong.append(f"{path.relative_to(REPO)} imports {room}")
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_cycle(package: str) -> None:
    """Module by module, imports within functions included."""
    names = {_dotted(path): path for path in modules_in(package)}
    graph = {
        name: {t for i in imports_of(path) if (t := _module(i, names)) and t != name}
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above[above.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def _dotted(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(("cxrseg", *(p for p in parts if p != "__init__")))


def _module(name: str, known: dict[str, Path]) -> str | None:
    """Return the module that an imported name belongs to."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    # A room's own docstring module imports nothing back.
    return name or None


@pytest.mark.parametrize("package", PACKAGES)
def test_the_terminal_room_alone_prints(package: str) -> None:
    """Where texts of files and folders are made harmless for a terminal."""
    found = {
        f"{path.relative_to(REPO)}:{node.lineno}"
        for path in modules_in(package)
        if path.parent != REPO / "runtime" / "terminal"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "click.echo", "click.secho", "sys.stdout.write")
    }
    assert not found


OPENED_ELSEWHERE = {
    # What the system gives, or a program of ours has just written.
    "runtime/inference/session.py": "the processor's topology",
    "runtime/terminal/streams.py": "nowhere",
    "runtime/terminal/quiet.py": "nowhere",
    "benchmarks/harness/record.py": "the processor's name",
    "runtime/writers/table_files.py": "where `place_of` has said that a file can be",
    "benchmarks/agreement/providers.py": "a profile in a temporary folder",
    "benchmarks/agreement/emulation.py": "a mask in a temporary folder",
}
"""File -> what it opens without asking the room `files` whether it may be opened."""


@pytest.mark.parametrize("package", PACKAGES)
def test_the_room_of_files_alone_opens_paths(package: str) -> None:
    """What a user names may be a pipe or a device."""
    found = {
        str(path.relative_to(REPO))
        for path in modules_in(package)
        if path.parent != REPO / "runtime" / "files"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and _opens(node)
    }
    assert found == {name for name in OPENED_ELSEWHERE if name.startswith(package)}


def _opens(call: ast.Call) -> bool:
    """Tell whether a call opens a path by itself, as far as can be seen."""
    name = ast.unparse(call.func)
    if name in ("Image.open", "torch.load", "pydicom.dcmread"):
        # These take an open file, too.
        return "path" in ast.unparse(call.args[0]).lower()
    return name in ("open", "io.FileIO", "FileIO") or name.endswith(
        (".open", ".read_text", ".read_bytes")
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_each_room_explains_itself(package: str) -> None:
    for folder in {path.parent for path in modules_in(package)}:
        assert (folder / "__init__.py").is_file(), folder
        words = ast.get_docstring(tree(folder / "__init__.py")) or ""
        assert len(re.findall(r"\w.*?\.(?:\s|$)", words, re.DOTALL)) >= 2, folder


def test_rooms_and_files_stay_small() -> None:
    files = [p for package in (*PACKAGES, "tests") for p in modules_in(package)]
    crowded = {str(p.parent) for p in files if len(list(p.parent.glob("*.py"))) > MAX_FILES}
    assert not crowded
    long = [
        f"{p.relative_to(REPO)}: {count}"
        for p in files
        if (count := len(p.read_text().splitlines())) > MAX_LINES
        and WHY not in (ast.get_docstring(tree(p)) or "")
    ]
    assert not long


@pytest.mark.parametrize(
    ("package", "forbidden"), [("runtime", HEAVY | TRAINING), ("export", TRAINING - {"monai"})]
)
def test_packages_of_the_extras(package: str, forbidden: set[str]) -> None:
    found = {
        (name.split(".")[0], path.name) for path in modules_in(package) for name in imports_of(path)
    }
    assert not [(name, file) for name, file in found if name in forbidden]


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
    "module", ["segmenter", "cli", "batch.process", "writers.writing", "readers.reading"]
)
def test_runtime_loads_no_training_code(module: str) -> None:
    modules = loaded_by(f"import cxrseg.runtime.{module}")
    assert f"cxrseg.runtime.{module}" in modules
    assert not modules & (HEAVY | TRAINING)
    others = ("cxrseg.trainer", "cxrseg.export", "cxrseg.benchmarks")
    assert not [name for name in modules if name.startswith(others)]


@pytest.mark.parametrize("package", ["trainer", "export", "benchmarks"])
def test_help_needs_no_torch(package: str) -> None:
    assert "torch" not in loaded_by(f"import cxrseg.{package}.cli")


def test_export_loads_no_training_library() -> None:
    assert not loaded_by("import cxrseg.export.pipeline") & {"lightning", "monai"}


def test_version_is_the_packages() -> None:
    assert importlib.metadata.version("cxrseg") == VERSION
