"""No command opens a network connection, and each does its work where there is no network.

Observers, as far as the system allows: an audit hook in every Python that a command starts, an
empty network namespace around it, strace, which sees what compiled libraries do, and a home folder
that has to stay empty.
"""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import pytest
from PIL import Image

from cxrseg.runtime.models import default_model
from helpers.dicom.patient import xray
from helpers.drawing import phantoms
from helpers.offline import namespace, tracer
from helpers.paths import REPO

WATCHED = Path(__file__).parent / "watched"

RECIPE = """
model: vit_n
image_size: 64
stage1: {epochs: 1, images_per_epoch: 4, batch_size: 2}
"""


def entry_points() -> dict[str, tuple[str, str]]:
    """Return command -> its module and function, all that the package installs."""
    setup = ConfigParser()
    setup.read(REPO / "setup.cfg")
    found = {}
    for line in setup["options.entry_points"]["console_scripts"].split("\n"):
        if line:
            name, module, function = re.split(r"[=:]", line.replace(" ", ""))
            found[name] = (module, function)
    return found


@dataclass(frozen=True)
class Watched:
    """What a command did.

    Attributes:
        code: Exit code.
        output: What it printed.
        hooked: Attempts that the audit hook saw.
        traced: Attempts that strace saw.
        kept: Files that it left in the home folder.
    """

    code: int
    output: str
    hooked: list[str]
    traced: list[str]
    kept: list[str]


BUILD_SERVERS = (
    *("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL"),
    *("CODEBUILD_BUILD_ID", "BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER"),
)
"""Variables by which ONNX Runtime knows a build server, from which it reports nothing."""


def watch(folder: Path, code: str, *args: object, **variables: str) -> Watched:
    """Run Python code in a process without network, in a home of its own, and watch it."""
    hook_log, trace_log, home = folder / "hook.log", folder / "strace.log", folder / "home"
    for log in (hook_log, trace_log):
        log.write_text("")
    home.mkdir(exist_ok=True)
    prefix = [*namespace(), *(tracer() and [*tracer(), str(trace_log)])]
    environment = {
        **os.environ,
        "PYTHONPATH": str(WATCHED),
        "CXRSEG_TEST_NETWORK_LOG": str(hook_log),
        "OMP_NUM_THREADS": "1",
        "HOME": str(home),
        # Its list of fonts is no report.
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        **variables,
    }
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", *BUILD_SERVERS):
        environment.pop(name, None)
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=folder,
        timeout=300,
    )
    # Sockets of the file system and of the kernel's own tables (netlink) lead to no network.
    outward = re.compile(r"AF_INET6?\b|AF_PACKET|AF_VSOCK")
    return Watched(
        done.returncode,
        done.stdout,
        hook_log.read_text().splitlines(),
        [x for x in trace_log.read_text(errors="replace").splitlines() if outward.search(x)],
        sorted(str(x.relative_to(home)) for x in home.rglob("*") if x.is_file()),
    )


def run_offline(folder: Path, command: str, *args: object) -> None:
    """Run one of the commands; it must succeed, never try, and leave nothing behind.

    What a library wants to send later it keeps in the home folder.
    """
    module, function = entry_points()[command]
    code = f"import sys; sys.argv[0] = {command!r}; from {module} import {function}; {function}()"
    done = watch(folder, code, *args)
    assert (done.hooked, done.traced, done.kept) == ([], [], [])
    assert done.code == 0, done.output[-2000:]


def test_every_command_is_run_here() -> None:
    run = set(re.findall(r'run_offline\(\w+, "([a-z-]+)"', Path(__file__).read_text()))
    assert run == set(entry_points())


def test_run(tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="needs the extra dicom")
    chest = phantoms.draw(3, (128, 112)).image
    Image.fromarray(chest).save(tmp_path / "x.png")
    xray(tmp_path / "y.dcm", chest)
    for args in (
        ["--csv", "all.csv", "-o", "png", "x.png", "y.dcm"],
        ["--format", "png,json,seg,sc", "-o", "dicom", "y.dcm"],
        ["--about"],
    ):
        run_offline(tmp_path, "cxrseg-run", "--device", "cpu", *args)
    assert len(list(tmp_path.glob("png/*"))) == 6 and len(list(tmp_path.glob("dicom/*"))) == 5


def test_train(tmp_path: Path) -> None:
    phantoms.write_dataset(tmp_path / "data", {"train": 4, "val": 2, "test": 1}, 64, seed=100)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    options = ["--recipe", "recipe.yaml", "--method", "full", "--stage", "1"]
    run_offline(tmp_path, "cxrseg-train", "data", "-o", "run", *options)
    assert (tmp_path / "run/model.ckpt").is_file()


def test_export_and_recover(tmp_path: Path, fine_run: Path, phantom_data: Path) -> None:
    verify = ["--verify-images", phantom_data / "val/images"]
    run_offline(tmp_path, "cxrseg-export", fine_run / "model.ckpt", "-o", "nano.onnx", *verify)
    run_offline(tmp_path, "cxrseg-recover", "nano.onnx", "-o", "base.ckpt", *verify)
    assert (tmp_path / "nano.onnx").is_file() and (tmp_path / "base.ckpt").is_file()


def test_bench(tmp_path: Path) -> None:
    phantom = phantoms.draw(3, (96, 80))
    Image.fromarray(phantom.image).save(tmp_path / "x.png")
    Image.fromarray(phantom.mask).save(tmp_path / "m.png")
    (tmp_path / "pairs.csv").write_text("image,mask,split\nx.png,m.png,test\n")
    options = ["--data", "pairs.csv", "-o", "accuracy.json"]
    run_offline(tmp_path, "cxrseg-bench", "accuracy", default_model(), *options)
    assert (tmp_path / "accuracy.json").is_file()


# The observers see what they are there for.


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "socket.getaddrinfo"),
        ("import socket; socket.socket().connect(('127.0.0.1', 9))", "socket.connect"),
        ("import socket; socket.socket().bind(('127.0.0.1', 0))", "socket.bind"),
        (
            "import socket as s\ns.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
            "socket.sendto",
        ),
        ("import urllib.request as u; u.urlopen('http://127.0.0.1:9')", "urllib.Request"),
        (
            "import subprocess, sys\n"
            "c = 'import socket; socket.gethostbyname(\"localhost\")'\n"
            "sys.exit(subprocess.call([sys.executable, '-c', c]))",
            "socket.gethostbyname",
        ),
    ],
)
def test_hook_sees_and_forbids(tmp_path: Path, code: str, event: str) -> None:
    done = watch(tmp_path, code)
    assert [line.split()[0] for line in done.hooked] == [event]
    assert done.code == 1 and "forbidden in this test" in done.output
    assert done.traced == []


def test_hook_allows_what_stays_on_the_machine(tmp_path: Path) -> None:
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("this system has no such sockets")
    code = "import socket as s; x = s.socket(s.AF_UNIX); x.bind('x'); x.listen()\n"
    done = watch(tmp_path, code + "s.socket(s.AF_UNIX).connect('x')")
    assert (done.code, done.hooked, done.traced) == (0, [], [])


def test_tracer_sees_what_python_does_not(tmp_path: Path) -> None:
    if not tracer():
        pytest.skip("needs strace, and the permission to use it")
    code = (
        "import ctypes, struct, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "address = struct.pack('=H', 2) + struct.pack('>H', 9) + bytes([127, 0, 0, 1]) + bytes(8)\n"
        "sys.exit(libc.connect(libc.socket(2, 1, 0), address, 16) == 0)"
    )
    done = watch(tmp_path, code)
    assert done.code == 0 and done.hooked == []
    assert len(done.traced) == 1 and "connect(" in done.traced[0]


def test_namespace_is_empty(tmp_path: Path) -> None:
    if not namespace():
        pytest.skip("needs unshare, and the permission to use it")
    done = watch(tmp_path, "import socket; print([x for _, x in socket.if_nameindex()])")
    assert done.output.strip() == "['lo']"


LOAD = "import onnxruntime as o; o.InferenceSession({model!r})"


def test_reports_of_onnxruntime_would_be_seen(tmp_path: Path) -> None:
    """A library that reports its use keeps what it is to send in the home folder."""
    if sys.platform == "win32" or not reports(onnxruntime.__version__):
        pytest.skip("this ONNX Runtime reports nothing from this system")
    load = LOAD.format(model=str(default_model()))
    told = watch(tmp_path, load, ORT_DISABLE_TELEMETRY="0")
    assert told.code == 0 and told.kept


def reports(version: str) -> bool:
    major, minor = (int(part) for part in version.split(".")[:2])
    return (major, minor) >= (1, 29)


@pytest.mark.parametrize(
    "module",
    ["runtime.inference.session", "export.verify.backends", "benchmarks.agreement.agreement"],
)
def test_importing_any_part_is_enough_to_stop_them(tmp_path: Path, module: str) -> None:
    load = LOAD.format(model=str(default_model()))
    done = watch(tmp_path, f"import cxrseg.{module}; {load}", ORT_DISABLE_TELEMETRY="0")
    assert (done.code, done.kept, done.traced) == (0, [], []), done.output


@pytest.mark.parametrize("package", ["runtime", "trainer", "export", "benchmarks"])
def test_no_module_imports_what_talks_to_a_network(package: str) -> None:
    found = set()
    for path in (REPO / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {(alias.name.split(".")[0], path.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(((node.module or "").split(".")[0], path.name))
    assert len(found) > 20
    assert not {item for item in found if item[0] in NETWORK}


NETWORK = {
    *("socket", "socketserver", "ssl", "http", "urllib", "ftplib", "smtplib", "poplib", "imaplib"),
    *("telnetlib", "xmlrpc", "asyncio", "webbrowser", "requests", "httpx", "aiohttp", "urllib3"),
    *("huggingface_hub", "pynetdicom", "grpc", "zmq"),
}
