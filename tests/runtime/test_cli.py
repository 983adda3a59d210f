from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from cxrseg.runtime import CxrsegError
from cxrseg.runtime.batch import process as batch
from cxrseg.runtime.cli import command
from cxrseg.runtime.core.atomic import atomic_write, write_together
from cxrseg.runtime.core.errors import require_extra
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.inference.devices import PROVIDERS
from cxrseg.runtime.terminal.console import progress, run_command
from helpers.paths import REPO


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def outputs_of(*stems: str) -> list[str]:
    return sorted(stem + end for stem in stems for end in ("_lungs.png", "_overlay.png", ".json"))


@pytest.fixture
def model(model_file) -> list[str]:
    return ["--model", str(model_file()), "--device", "cpu", "--threads", "1"]


def test_one_image(run_cxrseg, model, save_chest, xrays: Path) -> None:
    path = save_chest(xrays / "x.png")
    result = run_cxrseg(path, *model)
    assert (result.code, result.err) == (0, "")
    (line,) = result.out.splitlines()
    assert line.startswith(f"{path}: right lung ")
    assert "% of the image" in line and line.endswith(f"-> {xrays / 'x_lungs.png'}")
    assert names(xrays) == sorted(["x.png", *outputs_of("x")])


def test_flag_is_in_the_line(run_cxrseg, model, save_chest, xrays: Path) -> None:
    result = run_cxrseg(save_chest(xrays / "x.png", left_lung=False), *model)
    assert result.code == 0
    assert "[flag: the left lung was not found or is too small]" in result.out


def test_folder_into_new_output_folder(run_cxrseg, model, save_chest, xrays, tmp_path) -> None:
    for name in ("b.png", "a.jpg", "c.tif"):
        save_chest(xrays / name)
    out = tmp_path / "deep" / "out"
    result = run_cxrseg(xrays, "-o", out, *model)
    assert (result.code, result.err) == (0, "")
    assert [Path(line.split(":")[0]).name for line in result.out.splitlines()] == [
        "a.jpg",
        "b.png",
        "c.tif",
    ]
    assert names(out) == outputs_of("a", "b", "c")
    assert names(xrays) == ["a.jpg", "b.png", "c.tif"]


def test_second_run_replaces_the_first_ones_outputs(run_cxrseg, model, save_chest, xrays) -> None:
    save_chest(xrays / "x.png")
    assert run_cxrseg(xrays, *model).code == 0
    before = names(xrays)
    assert run_cxrseg(xrays, *model).code == 0
    # As a shell expands *.png: the outputs are among the inputs.
    result = run_cxrseg(*sorted(xrays.glob("*.png")), *model)
    assert result.code == 0 and len(result.out.splitlines()) == 1
    assert names(xrays) == before


def test_same_image_twice_is_done_once(run_cxrseg, model, save_chest, xrays) -> None:
    path = save_chest(xrays / "x.png")
    result = run_cxrseg(path, xrays, xrays / ".." / "xrays" / "x.png", *model)
    assert (result.code, len(result.out.splitlines())) == (0, 1)


def test_bad_inputs_fail_and_the_others_are_done(
    run_cxrseg, model, save_chest, xrays, tmp_path
) -> None:
    good = [save_chest(xrays / "a.png"), save_chest(xrays / "z.png")]
    bad = {
        "text.png": b"no image" * 100,
        "empty.png": b"",
        "cut.png": good[0].read_bytes()[: good[0].stat().st_size // 2],
        "scan.dcm": bytes(128) + b"DICM" + bytes(50),
    }
    for name, content in bad.items():
        (xrays / name).write_bytes(content)
    (tmp_path / "nothing").mkdir()
    inputs = [good[0], *(xrays / name for name in bad), xrays / "missing.png", tmp_path / "nothing"]
    result = run_cxrseg(*inputs, good[1], "-o", tmp_path / "out", *model)
    assert result.code == 1
    assert len(result.out.splitlines()) == 2
    assert len(result.errors) == len(bad) + 2
    assert all(line.startswith("error: ") and "; " in line for line in result.errors)
    for path, line in zip(inputs[1:], result.errors, strict=True):
        assert line.startswith(f"error: {path}: ")
    assert names(tmp_path / "out") == outputs_of("a", "z")


@pytest.mark.parametrize("make", ["missing", "corrupt", "foreign"])
def test_bad_model_is_one_line_and_exit_1(
    run_cxrseg, model_file, save_chest, xrays, tmp_path, make: str
) -> None:
    if make == "missing":
        path = tmp_path / "none.onnx"
    elif make == "corrupt":
        path = tmp_path / "bad.onnx"
        path.write_bytes(b"garbage" * 30)
    else:
        path = model_file(card="")
    result = run_cxrseg(save_chest(xrays / "x.png"), "--model", path, "-o", tmp_path / "out")
    assert (result.code, result.out, len(result.errors)) == (1, "", 1)
    assert result.err.startswith(f"error: {path}: ")
    assert names(xrays) == ["x.png"] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_line_and_report_name_the_provider(
    run_cxrseg, model_file, save_chest, xrays, monkeypatch, device: str
) -> None:
    offer(monkeypatch, "cpu")
    path = save_chest(xrays / "x.png")
    result = run_cxrseg(path, "--model", model_file(), "--device", device)
    assert (result.code, result.err) == (0, "")
    assert " ms on CPUExecutionProvider -> " in result.out
    assert json.loads((xrays / "x.json").read_text())["provider"] == "CPUExecutionProvider"


def offer(monkeypatch: pytest.MonkeyPatch, *devices: str) -> None:
    """Have ONNX Runtime claim to offer these devices."""
    import onnxruntime

    claimed = [PROVIDERS[device] for device in devices]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)


def fail_on(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Have ONNX Runtime raise an exception when it starts the device."""
    import onnxruntime

    create = onnxruntime.InferenceSession

    def session(data: bytes, options: object, providers: list[str], **rest: object) -> object:
        if PROVIDERS[device] in providers:
            raise RuntimeError("driver too old\nand more")
        return create(data, options, providers=providers, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)


def test_unavailable_device_is_refused_with_the_available_ones(
    run_cxrseg, model_file, save_chest, xrays, monkeypatch
) -> None:
    offer(monkeypatch, "cpu")
    path = save_chest(xrays / "x.png")
    for device in PROVIDERS.keys() - {"cpu"}:
        result = run_cxrseg(path, "--model", model_file(), "--device", device)
        assert (result.code, result.out, len(result.errors)) == (1, "", 1)
        assert result.err.startswith(f"error: --device {device}: not available")
        assert result.err.endswith("; available here: auto, cpu\n")
    assert names(xrays) == ["x.png"]


@pytest.mark.parametrize("how", ["does not start", "raises", "computes nothing"])
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_device_that_does_not_work_is_refused_unless_auto(
    run_cxrseg, model_file, save_chest, xrays, monkeypatch, how: str
) -> None:
    import onnxruntime

    if how == "computes nothing":
        # A real provider that starts and takes no part of any such model.
        idle = "AzureExecutionProvider"
        if idle not in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime lacks it")
        if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
            pytest.skip("this ONNX Runtime does not tell who computes")
        monkeypatch.setitem(PROVIDERS, "cuda", idle)
    elif PROVIDERS["cuda"] in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    if how == "raises":
        fail_on(monkeypatch, "cuda")
    offer(monkeypatch, "cuda", "cpu")
    path, model = save_chest(xrays / "x.png"), model_file()
    named = run_cxrseg(path, "--model", model, "--device", "cuda")
    assert (named.code, named.out, len(named.errors)) == (1, "", 1)
    assert named.err.startswith("error: --device cuda: ONNX Runtime offers the device but could")
    assert named.err.endswith("; available here: auto, cpu\n")
    assert ("(driver too old)" in named.err) is (how == "raises")
    assert names(xrays) == ["x.png"]
    auto = run_cxrseg(path, "--model", model)
    assert (auto.code, auto.err) == (0, "") and " on CPUExecutionProvider -> " in auto.out


def test_corrupt_model_is_not_blamed_on_the_device(
    run_cxrseg, save_chest, xrays, tmp_path, monkeypatch
) -> None:
    offer(monkeypatch, "cuda", "cpu")
    fail_on(monkeypatch, "cuda")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"garbage" * 30)
    result = run_cxrseg(save_chest(xrays / "x.png"), "--model", bad, "--device", "cuda")
    assert result.code == 1 and result.err.startswith(f"error: {bad}: is not a model")


@pytest.mark.parametrize("below", ["", "sub"])
def test_output_that_cannot_be_a_folder(
    run_cxrseg, model, save_chest, xrays, tmp_path, below: str
) -> None:
    (tmp_path / "file").write_text("x")
    result = run_cxrseg(save_chest(xrays / "x.png"), "-o", tmp_path / "file" / below, *model)
    assert (result.code, result.out, len(result.errors)) == (1, "", 1)
    assert names(xrays) == ["x.png"]


def test_output_file_that_cannot_be_written_leaves_nothing(
    run_cxrseg, model, save_chest, xrays, tmp_path
) -> None:
    out = tmp_path / "out"
    (out / "x.json").mkdir(parents=True)
    result = run_cxrseg(save_chest(xrays / "x.png"), save_chest(xrays / "y.png"), "-o", out, *model)
    assert result.code == 1 and len(result.errors) == 1 and "x.json" in result.err
    assert names(out) == sorted(["x.json", *outputs_of("y")])


def test_full_disk_leaves_nothing(run_cxrseg, model, save_chest, xrays, tmp_path, monkeypatch):
    written = []
    original = Path.open

    def open_(self: Path, mode: str = "r", *args, **kwargs):
        if "x" in mode:
            written.append(self)
            if len(written) == 3:
                raise OSError(28, "No space left on device")
        return original(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_)
    result = run_cxrseg(save_chest(xrays / "x.png"), *model)
    assert result.code == 1 and "No space left on device" in result.err
    assert names(xrays) == ["x.png"]


def test_equal_stems_do_not_overwrite_each_other(run_cxrseg, model, save_chest, tmp_path) -> None:
    first = save_chest(tmp_path / "a" / "x.png")
    second = save_chest(tmp_path / "b" / "x.png", left_lung=False)
    out = tmp_path / "out"
    result = run_cxrseg(first, second, "-o", out, *model)
    assert result.code == 1 and len(result.out.splitlines()) == 1
    assert result.err.startswith(f"error: {second}: its outputs would overwrite those of {first}")
    assert json.loads((out / "x.json").read_text())["labels"][1]["area_px"] > 0
    beside = run_cxrseg(first, save_chest(tmp_path / "a" / "x.jpg"), *model)
    assert beside.code == 1 and "would overwrite" in beside.err


def test_files_of_others_are_kept(run_cxrseg, model, save_chest, xrays) -> None:
    path = save_chest(xrays / "x.png")
    theirs = xrays / "x.json"
    theirs.write_text('{"shapes": []}')
    result = run_cxrseg(path, *model)
    assert result.code == 1 and "not written by cxrseg" in result.err
    assert theirs.read_text() == '{"shapes": []}' and names(xrays) == ["x.json", "x.png"]


def test_input_is_never_overwritten(run_cxrseg, model, save_chest, tmp_path) -> None:
    one = save_chest(tmp_path / "a" / "x.png")
    other = save_chest(tmp_path / "b" / "x_lungs.png")
    before = other.read_bytes()
    result = run_cxrseg(one, other, "-o", tmp_path / "b", *model)
    assert result.code == 1 and "would overwrite an input file" in result.err
    assert other.read_bytes() == before
    assert (tmp_path / "b" / "x_lungs_lungs.png").exists()


def test_unexpected_failure_costs_one_image_only(
    run_cxrseg, model, save_chest, xrays, monkeypatch
) -> None:
    paths = [save_chest(xrays / name) for name in ("a.png", "b.png", "c.png")]
    original = batch.read

    def read(path: Path):
        if path.name == "b.png":
            raise ZeroDivisionError("oh\nno")
        return original(path)

    monkeypatch.setattr(batch, "read", read)
    result = run_cxrseg(*paths, *model)
    assert result.code == 1 and len(result.out.splitlines()) == 2
    assert result.errors == [
        f"error: {paths[1]}: unexpected failure (ZeroDivisionError: oh no); please report it"
    ]


@pytest.mark.skipif(os.name != "posix", reason="makes links and names of Unix")
def test_paths_that_the_system_rejects(run_cxrseg, model, save_chest, xrays, tmp_path) -> None:
    (xrays / "loop.png").symlink_to(xrays / "loop.png")
    too_long = xrays / ("n" * 300 + ".png")
    outputs_too_long = save_chest(xrays / ("n" * 247 + ".png"))
    good = save_chest(xrays / "x.png")
    result = run_cxrseg(xrays / "loop.png", too_long, outputs_too_long, good, *model)
    assert result.code == 1 and len(result.out.splitlines()) == 1
    assert len(result.errors) == 3 and "unexpected" not in result.err
    assert names(xrays) == sorted(["loop.png", outputs_too_long.name, "x.png", *outputs_of("x")])


def test_odd_file_names(run_cxrseg, model, save_chest, xrays, tmp_path) -> None:
    odd = ["sp ace.png", "line\nbreak.png", "\x1b[31mred.png", "-o.png", "胸.png"]
    if os.name == "posix":
        odd.append(os.fsdecode(b"latin\xe9.png"))
    for name in odd:
        save_chest(tmp_path / "seed.png").rename(xrays / name)
    result = run_cxrseg(xrays, *model)
    assert (result.code, result.err) == (0, "")
    assert len(result.out.splitlines()) == len(odd) and "\x1b" not in result.out
    assert len(names(xrays)) == 4 * len(odd)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["x.png", "--device", "abacus"],
        ["x.png", "--protocol", "heart"],
        ["x.png", "--threads", "0"],
        ["x.png", "--nonsense"],
        ["--model", "m.onnx"],
    ],
)
def test_wrong_usage_is_exit_2(run_cxrseg, args: list[str]) -> None:
    result = run_cxrseg(*args)
    assert result.code == 2 and "Usage: cxrseg-run" in result.err and result.out == ""


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_teaches(flag: str) -> None:
    result = CliRunner().invoke(command, [flag])
    assert result.exit_code == 0
    for part in ("_lungs.png", "Exit codes", "Examples", "[default: fields]", "diagnostic"):
        assert part in result.output
    # Every option stands under a heading.
    for heading in ("What is written:", "How it is computed:", "Many images:", "Other options:"):
        assert heading in result.output
    for option in command.params:
        if isinstance(option, click.Option):
            assert re.search(rf"^  .*{option.opts[-1]}\b", result.output, re.M)


def run_python(code: str, *args: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120, **options
    )


MAIN = "from cxrseg.runtime.cli import main; main()"


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_version_and_help_load_nothing_heavy(flag: str) -> None:
    done = run_python(
        "import sys\nfrom cxrseg.runtime.cli import main\ntry: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "print(sorted({'numpy','cv2','onnxruntime','PIL','torch'} & set(sys.modules)))",
        flag,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


UNUSED = {
    "concurrent.futures",
    "cxrseg.runtime.batch.pool",
    "cxrseg.runtime.batch.resume",
    "cxrseg.runtime.batch.watch",
    "email",
    "imagecodecs",
    "importlib.metadata",
    "multiprocessing",
    "pydicom",
    "secrets",
    "ssl",
    "tempfile",
    "urllib.request",
    "watchdog",
    "zipfile",
}
"""Modules that take long to import and that one PNG does not need."""

if hasattr(Image, "_import_plugin_for_extension"):
    # Older releases of Pillow always load their common formats, and subprocess with JPEG.
    UNUSED |= {"PIL.GifImagePlugin", "PIL.JpegImagePlugin", "subprocess"}


def test_one_png_loads_nothing_that_it_does_not_need(model, save_chest, xrays) -> None:
    done = run_python(
        "import sys\nbefore = set(sys.modules)\nfrom cxrseg.runtime.cli import main\n"
        "try: main()\nexcept SystemExit as e: assert not e.code\n"
        f"print(sorted({UNUSED!r} & (set(sys.modules) - before)))",
        str(save_chest(xrays / "x.png")),
        *model,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_the_images_need_is_imported_while_the_model_loads(model, save_chest, xrays) -> None:
    # Neither the command nor the session imports these before: the model waits for nothing.
    done = run_python(
        "import sys, time\nfrom cxrseg.runtime import cli\n"
        "from cxrseg.runtime.batch import process as batch\n"
        "from cxrseg.runtime.inference import session\n"
        "late = ['cv2', 'PIL', 'cxrseg.runtime.segmenter', 'cxrseg.runtime.writers.images']\n"
        "print([name for name in late if name in sys.modules])\n"
        "create = session._create_session\n"
        "def wait(*args):\n"
        "    end = time.monotonic() + 60\n"
        "    while any(x not in sys.modules for x in late) and time.monotonic() < end:\n"
        "        time.sleep(0.01)\n"
        "    print([name for name in late if name not in sys.modules])\n"
        "    return create(*args)\n"
        "session._create_session = wait\n"
        "cli.main()",
        str(save_chest(xrays / "x.png")),
        *model,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == ["[]", "[]"]


def test_library_that_cannot_be_preloaded_is_told_where_it_is_used(
    run_cxrseg, model, save_chest, xrays, monkeypatch
) -> None:
    monkeypatch.setattr(batch, "_PRELOADED", ("no_such_module",))
    result = run_cxrseg(save_chest(xrays / "x.png"), *model)
    assert (result.code, result.err) == (0, "")


def test_version_is_that_of_the_package() -> None:
    setup = ConfigParser()
    setup.read(REPO / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: runtime.core.version.VERSION"
    assert run_python(MAIN, "--version").stdout == f"cxrseg-run, version {package_version()}\n"


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = run_python(
        "import sys, cxrseg.runtime\n"
        "print(sorted({'numpy','cv2','onnxruntime','PIL','torch'} & set(sys.modules)))\n"
        "assert 'Segmenter' in dir(cxrseg.runtime) and cxrseg.runtime.__version__\n"
        "assert all(getattr(cxrseg.runtime, name) for name in cxrseg.runtime.__all__)\n"
        "print('torch' in sys.modules, any(m.startswith('cxrseg.trainer') for m in sys.modules))"
    )
    assert done.stdout.splitlines() == ["[]", "False False"], done.stderr


def test_broken_pipe_is_quiet(model, save_chest, xrays) -> None:
    paths = [str(save_chest(xrays / f"{i}.png")) for i in range(3)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *paths, *model],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_narrow_terminal_encoding(model, save_chest, xrays) -> None:
    path = save_chest(xrays / "胸.png")
    done = run_python(MAIN, str(path), *model, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_is_exit_130_and_leaves_whole_files(model, save_chest, xrays) -> None:
    paths = [save_chest(xrays / f"{i}.png") for i in range(3)]
    # The interruption comes while the second image is being written.
    code = (
        "import os, signal\n"
        "from cxrseg.runtime.core import atomic as files\n"
        "calls, place = [], files._temporary\n"
        "def temporary(path):\n"
        "    calls.append(path)\n"
        "    if len(calls) == 6: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return place(path)\n"
        "files._temporary = temporary\n" + MAIN
    )
    done = run_python(code, *map(str, paths), *model)
    assert done.returncode == 130
    assert [line for line in done.stderr.splitlines() if line] == [
        "error: interrupted; files already written are complete"
    ]
    assert names(xrays) == sorted(["0.png", "1.png", "2.png", *outputs_of("0")])


def test_progress_bar_does_not_garble_the_lines(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress(2) as lines:
        lines.done("first line")
        lines.done("second line")
    out, err = capsys.readouterr()
    assert out.splitlines() == ["first line", "second line"]
    assert "2/2" in err


def test_run_command_maps_outcomes_to_exit_codes(capsys) -> None:
    def code_of(outcome: object) -> int:
        @click.command("tool")
        def tool() -> object:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        with pytest.raises(SystemExit) as info:
            run_command(tool, [])
        return int(info.value.code or 0)

    assert code_of(None) == 0
    assert code_of(1) == 1
    assert code_of(CxrsegError("x", "is bad", "mend it")) == 1
    assert capsys.readouterr().err == "error: x: is bad; mend it\n"
    assert code_of(click.UsageError("no")) == 2
    assert code_of(click.Abort()) == 130
    assert code_of(KeyboardInterrupt()) == 130
    capsys.readouterr()
    assert code_of(RuntimeError("odd")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: tool: unexpected failure (RuntimeError: odd)")


def test_require_extra_names_what_is_missing() -> None:
    require_extra("cxrseg-run", "x", ["json"])
    with pytest.raises(CxrsegError, match=r"\(no_such_module\); pip install \"cxrseg\[train\]\""):
        require_extra("cxrseg-train", "train", ["json", "no_such_module"])


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
    write_together({tmp_path / "a": b"1", tmp_path / "c": b"2"})
    assert names(tmp_path) == ["a", "b", "c"]
