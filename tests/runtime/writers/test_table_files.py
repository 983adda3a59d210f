"""Tables that go to devices, pipes and links, and to places that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from cxrseg.runtime.files.locks import take
from cxrseg.runtime.writers.table_files import json_lines
from cxrseg.runtime.writers.tables import COLUMNS, Record
from helpers.runs import MAIN, lines_of, names

if os.name != "posix":
    pytest.skip("pipes, devices and links of POSIX", allow_module_level=True)

tables = pytest.mark.parametrize("option", ["--csv", "--jsonl"])


def start(*args: object, **options) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    line = [sys.executable, "-c", MAIN, *map(str, args)]
    return subprocess.run(line, text=True, timeout=60, check=False, **options)


def is_table(option: str, text: str) -> bool:
    """Tell whether a text is the table, and nothing but it, of one image."""
    lines = text.splitlines()
    if option == "--jsonl":
        return len(lines) == 1 and lines[0].startswith('{"program": "cxrseg ')
    return len(lines) == 2 and lines[0].lstrip("\ufeff") == ",".join(COLUMNS)


def mknod(path: Path, minor: int) -> Path:
    """Make a memory device of our own: 3 is a null, 7 is always full."""
    try:
        os.mknod(path, 0o020666, os.makedev(1, minor))
        path.open("wb").close()
    except OSError:
        pytest.skip("only root makes devices, and not in every file system")
    return path


@tables
@pytest.mark.parametrize("through", ["device", "link"])
def test_a_device_is_written_to_and_stays(
    run_tiny, chest_png, tmp_path, option: str, through: str
) -> None:
    device = mknod(tmp_path / "null", 3)
    path = device
    if through == "link":
        path = tmp_path / "link"
        path.symlink_to(device)
    assert run_tiny(chest_png, option, path).code == 0
    assert device.is_char_device() and path.is_symlink() == (through == "link")


@tables
@pytest.mark.parametrize("output", ["pipe", "file"])
def test_standard_output_takes_a_table_alone(
    model, chest_png, tmp_path, option: str, output: str
) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    run = [chest_png, *model, option, link]
    if output == "pipe":
        done = start(*run, capture_output=True)
        told = done.stdout
    else:
        with (tmp_path / "told").open("w") as file:
            done = start(*run, stdout=file, stderr=subprocess.PIPE)
        told = (tmp_path / "told").read_text()
    assert done.returncode == 0 and link.is_symlink() and is_table(option, told)
    # What is printed otherwise goes beside it.
    assert done.stderr.startswith(f"{chest_png}: ")


@tables
def test_an_inherited_pipe_takes_a_table(model, chest_png, option: str) -> None:
    """As a shell passes it with ``>(cat)``."""
    reader, writer = os.pipe()
    try:
        run = [chest_png, *model, option, f"/dev/fd/{writer}"]
        done = start(*run, capture_output=True, pass_fds=[writer])
    finally:
        os.close(writer)
    with os.fdopen(reader) as file:
        assert done.returncode == 0 and is_table(option, file.read())


@tables
def test_a_named_pipe_takes_a_table_while_somebody_reads(
    run_tiny, chest_png, tmp_path, option: str
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    result = run_tiny(chest_png, option, path)
    assert result.code == 1 and "nobody reads this pipe" in result.err
    assert names(chest_png.parent) == ["x.png"]
    read = []
    # Opened here, so that somebody reads from the start on.
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(opened, True)

    def read_all() -> None:
        with os.fdopen(opened) as file:
            read.append(file.read())

    thread = Thread(target=read_all)
    result = run_tiny(chest_png, option, path)
    thread.start()
    thread.join(60)
    assert result.code == 0 and path.is_fifo() and is_table(option, read[0])


@tables
@pytest.mark.parametrize("kind", ["socket", "link to nothing", "device that is full"])
def test_what_takes_no_table_is_refused(
    run_tiny, chest_png, tmp_path, option: str, kind: str
) -> None:
    path = tmp_path / "x"
    if kind == "socket":
        os.mknod(path, 0o140666)
    elif kind == "link to nothing":
        path.symlink_to("nothing")
    else:
        mknod(path, 7)
    before = path.lstat().st_mode
    result = run_tiny(chest_png, option, path)
    assert result.code == 1 and f"{path}: cannot be written" in result.err
    assert path.lstat().st_mode == before and not (tmp_path / "nothing").exists()


@tables
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_a_folder_that_takes_no_files_is_told_before_the_work(
    run_tiny, chest_png, option: str
) -> None:
    # Where not even root can write.
    result = run_tiny(chest_png, option, "/proc/self/x")
    assert result.code == 1 and "/proc/self/x: cannot be written" in result.err
    assert names(chest_png.parent) == ["x.png"]
    result = run_tiny(chest_png, "-o", "/proc/self")
    assert result.code == 1 and result.err.startswith("error: /proc/self: cannot be written")


def test_one_place_takes_one_table(run_tiny, chest_png, tmp_path) -> None:
    told = tmp_path / "all"
    result = run_tiny(chest_png, "--csv", told, "--jsonl", tmp_path / "." / "x" / ".." / "all")
    assert result.code == 2 and "name the same file" in result.err and not told.exists()


def test_a_second_run_does_not_write_into_the_lines_of_the_first(
    run_tiny, chest_png, tmp_path
) -> None:
    told = tmp_path / "all.jsonl"
    with json_lines(told) as add:
        add(Record("first", "error", "is bad"))
        result = run_tiny(chest_png, "--jsonl", told)
        assert result.code == 1 and "another run is writing to it" in result.err
        assert names(chest_png.parent) == ["x.png"]
        add(Record("second", "error", "is bad"))
    assert [line["source"] for line in lines_of(told)] == ["first", "second"]
    assert run_tiny(chest_png, "--jsonl", told).code == 0 and len(lines_of(told)) == 1


def test_lines_of_whoever_appends_meanwhile_stay_whole(tmp_path: Path) -> None:
    told = tmp_path / "all.jsonl"
    with json_lines(told) as add:
        add(Record("first", "error", "is bad"))
        with told.open("a") as other:  # a program that asks for no lock
            other.write('{"source": "other"}\n')
        add(Record("second", "error", "is bad"))
    assert [line["source"] for line in lines_of(told)] == ["first", "other", "second"]


def test_a_line_that_does_not_fit_leaves_no_part_and_is_written_later(tmp_path: Path) -> None:
    told = tmp_path / "all.jsonl"
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from cxrseg.runtime.core.errors import CxrsegError\n"
        "from cxrseg.runtime.writers.table_files import json_lines\n"
        "from cxrseg.runtime.writers.tables import Record\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "path = Path(sys.argv[1])\n"
        "with json_lines(path) as add:\n"
        "    add(Record('a' * 300, 'error', ''))\n"
        "    try: add(Record('b' * 900, 'error', ''))\n"
        "    except CxrsegError as error: print(error)\n"
        "    assert path.read_bytes().count(b'\\n') == 1 and b'bb' not in path.read_bytes()\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, 2 * [resource.RLIM_INFINITY])\n"
        "    add(Record('c', 'error', ''))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(told)], capture_output=True, text=True, check=True
    )
    assert "all.jsonl: cannot be written" in done.stdout
    assert [line["source"][0] for line in lines_of(told)] == ["a", "b", "c"]


def test_a_lock_ends_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("w") as first:
        assert take(first.fileno())
        with path.open("w") as second:
            assert not take(second.fileno())
    with path.open("w") as third:
        assert take(third.fileno())
