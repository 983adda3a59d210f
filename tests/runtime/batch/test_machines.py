from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from cxrseg.runtime import Segmenter
from cxrseg.runtime.batch import process as batch
from cxrseg.runtime.batch.jobs import Settings
from cxrseg.runtime.batch.plan import plan
from helpers.paths import REPO
from helpers.runs import contents, models_loaded, save_chests


def test_dask_gives_what_one_process_gives(run_cxrseg, model_file, model, xrays, tmp_path) -> None:
    save_chests(xrays, 6)
    assert run_cxrseg(xrays, "-o", tmp_path / "local", *model, "--threads", "1").code == 0
    recipe = [sys.executable, REPO / "examples" / "dask_folder.py", xrays]
    options = ["-o", tmp_path / "dask", "--model", model_file()]
    done = subprocess.run([*recipe, *options], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    assert contents(tmp_path / "dask") == contents(tmp_path / "local")


def test_each_worker_loads_the_model_once(model_file, xrays, tmp_path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra dev")
    save_chests(xrays, 12)
    (xrays / "bad.png").write_bytes(b"no image")
    do = partial(
        batch.process,
        segmenter=Segmenter(model_file(), "cpu", 1),
        settings=Settings(resume=True),
    )
    jobs = plan([xrays], tmp_path / "out")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path / "dask"
    )
    with cluster, distributed.Client(cluster) as client:
        for again in (False, True):
            *done, bad = client.gather(client.map(do, jobs, pure=False))
            assert [outcome.earlier for outcome in done] == [again] * 12
            assert str(bad).startswith(f"{xrays / 'bad.png'}: is not an image")
            assert list(client.run(models_loaded).values()) == [1, 1]
