from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.atomic import prepare_output
from cxrseg.runtime.files.opening import open_file, open_stream, place_of, read_file

if os.name != "posix":
    pytest.skip("pipes, devices and links of POSIX", allow_module_level=True)

SPECIAL = {
    "pipe": "it is a pipe",
    "device": "it is a device",
    "disk": "it is a disk",
    "socket": "it is a socket",
    "folder": "it is a folder",
    "link": "it is a pipe",
}


def make(path: Path, kind: str) -> Path:
    """Put something at a path that is no file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind in ("device", "disk"):
        try:
            # Numbers that no driver has: nothing can happen.
            os.mknod(path, {"device": 0o020666, "disk": 0o060666}[kind], os.makedev(250, 250))
        except PermissionError:
            pytest.skip("only root makes devices")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(make(path.with_name("pipe"), "pipe"))
    return path


@pytest.mark.parametrize(("kind", "words"), SPECIAL.items())
def test_what_is_no_file_is_neither_opened_nor_replaced(tmp_path: Path, kind, words) -> None:
    path = make(tmp_path / "x", kind)
    for ask in (open_file, place_of):
        with pytest.raises(OSError, match=f"{words}, not a regular file"):
            ask(path)


def test_files_and_links_to_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("x")
    assert [read_file(tmp_path / name, 5) for name in ("x", "link")] == [b"12345"] * 2
    with pytest.raises(OSError, match="larger than 4 bytes") as failure:
        read_file(tmp_path / "x", 4)
    assert failure.value.errno == errno.EFBIG
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "none")


def test_a_link_is_followed_to_a_file_and_refused_to_nothing(tmp_path: Path) -> None:
    target, link = tmp_path / "x", tmp_path / "link"
    link.symlink_to("x")
    with pytest.raises(OSError, match="a link to nothing"):
        place_of(link)
    target.touch()
    assert place_of(link) == target.resolve()
    assert place_of(target) == target and place_of(tmp_path / "new") == tmp_path / "new"
    assert open_stream(link) is open_stream(tmp_path / "new") is None
    (tmp_path / "loop").symlink_to("loop")
    for ask in (open_file, place_of, open_stream):
        with pytest.raises(OSError) as failure:
            ask(tmp_path / "loop")
        assert failure.value.errno == errno.ELOOP


def test_a_pipe_takes_text_while_somebody_reads_it(tmp_path: Path) -> None:
    path = make(tmp_path / "x", "pipe")
    with pytest.raises(OSError, match="nobody reads this pipe"):
        open_stream(path)
    with closing(os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")) as reader:
        stream = open_stream(path)
        assert stream is not None
        with stream:
            assert os.get_blocking(stream.fileno())
            stream.write(b"text")
        assert reader.read() == b"text"


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "a link"])
def test_an_open_file_is_written_on_with_and_not_replaced(tmp_path: Path, name: str) -> None:
    with (tmp_path / "x").open("wb", buffering=0) as file:
        file.write(b"first ")
        path = Path(name.format(file.fileno()))
        if name == "a link":
            path = tmp_path / "link"
            path.symlink_to(f"/dev/fd/{file.fileno()}")
        with pytest.raises(OSError, match="stands for an open file"):
            place_of(path)
        stream = open_stream(path)
        assert stream is not None
        with stream:
            stream.write(b"second")
        file.write(b" third")
    assert (tmp_path / "x").read_bytes() == b"first second third"


def test_an_open_file_that_takes_nothing_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with (tmp_path / "x").open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        open_stream(f"/dev/fd/{file.fileno()}")


def test_numbers_are_names_like_others(tmp_path: Path) -> None:
    assert place_of(tmp_path / "1") == tmp_path / "1" and open_stream(tmp_path / "1") is None
    with pytest.raises(OSError):
        open_stream("/dev/fd/987654321")


def test_standard_output_that_is_a_file_keeps_what_it_has(tmp_path: Path) -> None:
    code = (
        "from cxrseg.runtime.files.opening import open_stream\n"
        "print('line', flush=True)\n"
        "with open_stream('/dev/stdout') as stream: stream.write(b'table\\n')\n"
        "print('last')\n"
    )
    with (tmp_path / "x").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "x").read_text() == "line\ntable\nlast\n"


def test_what_is_no_output_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for kind, make in {
        "a file": path.touch,
        "a pipe": lambda: os.mkfifo(path),
        "a link to nothing": lambda: path.symlink_to("nothing"),
    }.items():
        make()
        with pytest.raises(CxrsegError, match=f"x: is {kind}, not a folder"):
            prepare_output(path)
        path.unlink()
