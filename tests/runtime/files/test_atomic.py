from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.files.atomic import atomic_write, prepare_folder, write_together
from helpers.runs import names


def write_one(path: Path, data: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_two(path: Path, data: bytes) -> None:
    write_together({path.with_name("other"): data, path: data})


writers = pytest.mark.parametrize("write", [write_one, write_two])
posix = pytest.mark.skipif(os.name != "posix", reason="permissions, pipes and links of POSIX")

Write = Callable[[Path, bytes], None]


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_write(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["x"]


def test_write_together_is_all_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(CxrsegError):
        write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert names(tmp_path) == ["b"]
    write_together({tmp_path / "a": b"1", tmp_path / "c": b"2"}, durable=True)
    assert names(tmp_path) == ["a", "b", "c"]


@posix
@writers
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_replaced_file_hands_on_its_permissions(tmp_path: Path, write: Write, mode: int) -> None:
    path = tmp_path / "x"
    write(path, b"old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    path.chmod(mode)
    write(path, b"new")
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == mode


@posix
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
@writers
def test_a_replaced_file_hands_on_its_owner(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "x"
    write(path, b"old")
    os.chown(path, 1234, 5678)
    write(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 5678)


@posix
def test_nobody_else_sees_what_becomes_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch(0o600)
    with atomic_write(path) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600


@posix
@writers
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "link to nothing", "folder"])
def test_what_is_no_file_stays(tmp_path: Path, write: Write, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("pipe")
        if kind == "link to a pipe":
            os.mkfifo(tmp_path / "pipe")
    before, mode = names(tmp_path), path.lstat().st_mode
    with pytest.raises(CxrsegError, match="x: cannot be written"):
        write(path, b"new")
    assert names(tmp_path) == before and path.lstat().st_mode == mode


@posix
@writers
def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path, write: Write) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "y", tmp_path / "x"
    target.write_bytes(b"old")
    link.symlink_to("far/y")
    write(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new" and names(target.parent) == ["y"]


@posix
@pytest.mark.parametrize("number", [1, 2, 3])
def test_no_kill_leaves_a_voucher_for_others_files(tmp_path: Path, number: int) -> None:
    files = [tmp_path / name for name in ("mask", "overlay", "report")]
    write_together(dict.fromkeys(files, b"old"))
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from cxrseg.runtime.files.atomic import write_together\n"
        "original, calls = Path.replace, []\n"
        "def replace(self, target):\n"
        "    calls.append(target)\n"
        f"    if len(calls) == {number}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, target)\n"
        "Path.replace = replace\n"
        "write_together(dict.fromkeys(map(Path, sys.argv[1:]), b'new'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not files[-1].exists()
    assert [file.read_bytes() for file in files[:-1]] == [
        b"new" if place < number else b"old" for place in (1, 2)
    ]


@posix
@pytest.mark.parametrize("name", ["a", "b"])
def test_files_of_one_result_are_not_one_file(tmp_path: Path, name: str) -> None:
    files = {tmp_path / "a": b"1", tmp_path / "b": b"2"}
    other = "ab".replace(name, "")
    (tmp_path / other).write_bytes(b"old")
    (tmp_path / name).symlink_to(other)
    with pytest.raises(CxrsegError, match="a link to another file of the same result"):
        write_together(files)
    assert names(tmp_path) == ["a", "b"] and (tmp_path / other).read_bytes() == b"old"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@posix
def test_durable_files_are_on_the_disk_before_they_get_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("folder" if is_folder else "file")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        steps.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"}, durable=True)
    assert steps == ["file", "file", "name", "name", "folder"]
    steps.clear()
    write_one(tmp_path / "a", b"3")
    assert steps == ["file", "name", "folder"]
    steps.clear()
    write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    prepare_folder(tmp_path / "plain" / "folder")
    assert steps == ["name", "name"]  # a plain batch is not slowed
    prepare_folder(tmp_path / "new" / "folder", durable=True)
    assert steps[2:] == ["folder", "folder"]


def test_files_of_two_runs_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def slow(self: Path, target: Path) -> Path:
        time.sleep(0.02)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", slow)
    files = [tmp_path / name for name in ("mask", "overlay", "report")]
    for _ in range(3):
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda data: write_together(dict.fromkeys(files, data)), [b"1", b"2"]))
        assert len({file.read_bytes() for file in files}) == 1
