"""Segment a folder of X-rays on several processes or machines with Dask.

    pip install cxrseg "distributed"
    python examples/dask_folder.py xrays/ -o results                       # this computer
    python examples/dask_folder.py /share/xrays -o /share/results --scheduler tcp://head:8786

Every worker must see both folders, and the model file, under the same paths. The segmenter travels
with the tasks, but each worker process loads the model once.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from cxrseg.runtime import CxrsegError, Segmenter
from cxrseg.runtime.batch.jobs import Settings
from cxrseg.runtime.batch.plan import plan
from cxrseg.runtime.batch.process import process


def main() -> int:
    """Segment what is still to do, print a line per image, and return the exit code."""
    parser = argparse.ArgumentParser(description="Segment a folder of X-rays with Dask.")
    parser.add_argument("images", type=Path, help="folder of X-rays")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", type=Path, help="model file [default: the one that ships]")
    parser.add_argument("--scheduler", help="address of a running scheduler [default: start one]")
    parser.add_argument("--workers", type=int, default=2, help="local processes [default: 2]")
    options = parser.parse_args()

    from distributed import Client, LocalCluster, as_completed

    # One thread per inference: the workers are what runs side by side.
    segmenter = Segmenter(options.model, device="cpu", threads=1)
    jobs = plan([options.images.absolute()], options.output.absolute())
    do = partial(process, segmenter=segmenter, settings=Settings(resume=True))
    cluster = options.scheduler or LocalCluster(
        n_workers=options.workers, threads_per_worker=1, dashboard_address=None
    )
    failed = 0
    with Client(cluster) as client:
        for _, outcome in as_completed(client.map(do, jobs, pure=False), with_results=True):
            if isinstance(outcome, CxrsegError):
                failed += 1
                print(f"error: {outcome}")
            else:
                print(f"{outcome.source} -> {outcome.outputs.report}")
    if not options.scheduler:
        cluster.close()
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
