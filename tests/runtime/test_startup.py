from __future__ import annotations

from configparser import ConfigParser

import pytest
from PIL import Image

from cxrseg.runtime.batch import process as batch
from cxrseg.runtime.core.version import package_version
from helpers.paths import REPO
from helpers.runs import MAIN, run_python


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
    "PIL.TiffImagePlugin",
    "concurrent.futures",
    "csv",
    "cxrseg.runtime.batch.pool",
    "cxrseg.runtime.batch.resume",
    "cxrseg.runtime.batch.watch",
    "cxrseg.runtime.writers.tables",
    "email",
    "imagecodecs",
    "importlib.metadata",
    "multiprocessing",
    "pydicom",
    "secrets",
    "ssl",
    "urllib.request",
    "watchdog",
    "zipfile",
}
"""Modules that take long to import and that one PNG does not need."""

if hasattr(Image, "_import_plugin_for_extension"):
    # Older releases of Pillow always load their common formats, and what these need.
    UNUSED |= {
        "PIL.GifImagePlugin",
        "PIL.ImageOps",
        "PIL.JpegImagePlugin",
        "subprocess",
        "tempfile",
    }


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
        "from cxrseg.runtime.inference import loading\n"
        "late = ['cv2', 'PIL', 'cxrseg.runtime.segmenter', 'cxrseg.runtime.writers.images']\n"
        "print([name for name in late if name in sys.modules])\n"
        "create = loading.create_session\n"
        "def wait(*args):\n"
        "    end = time.monotonic() + 60\n"
        "    while any(x not in sys.modules for x in late) and time.monotonic() < end:\n"
        "        time.sleep(0.01)\n"
        "    print([name for name in late if name not in sys.modules])\n"
        "    return create(*args)\n"
        "loading.create_session = wait\n"
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
