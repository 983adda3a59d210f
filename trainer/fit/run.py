"""What a run was asked to do, checked before any of it is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.files.apart import require_apart
from cxrseg.runtime.files.atomic import atomic_write
from cxrseg.runtime.files.digest import sha256_of
from cxrseg.runtime.files.locks import wait_for
from cxrseg.runtime.files.opening import open_file, place_of, read_file
from cxrseg.trainer.data.samples import Sample, of_split, read_sources
from cxrseg.trainer.fit.checkpoint import MODEL
from cxrseg.trainer.networks.torch_file import read_torch_file
from cxrseg.trainer.old_names import rename_keys
from cxrseg.trainer.recipe import Recipe, StageChoice, StageRecipe

SETTINGS = "run.json"

MAX_SETTINGS = 1 << 20
"""Most bytes of the settings of a run."""

_PATIENCE_S = 10.0

_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What settings raise that somebody has edited."""

MACHINE = ("accelerator", "devices", "gradient_checkpointing", "checkpoint_minutes")
"""Settings of a recipe that may change when a run is resumed."""


@dataclass(frozen=True)
class Run:
    """What a run was asked to do.

    Attributes:
        data: Folders and CSV files.
        output: The run's folder.
        recipe: All settings.
        checkpoint: Where the weights start from; None for random ones.
        stages: Which stages to run.
        soup: Checkpoints whose weights are averaged with those of `checkpoint` to start from.
        teachers: Checkpoints of networks to learn from besides the masks.
    """

    data: tuple[Path, ...]
    output: Path
    recipe: Recipe
    checkpoint: Path | None
    stages: StageChoice
    soup: tuple[Path, ...] = field(default=(), kw_only=True)
    teachers: tuple[Path, ...] = field(default=(), kw_only=True)

    def settings(self) -> dict[str, Any]:
        """Return all that must not change when the run is resumed, as plain data.

        What concerns the machine alone may change, and data and checkpoint may move.
        """
        return {
            "data": [path.name for path in self.data],
            "checkpoint": None if self.checkpoint is None else self.checkpoint.name,
            "checkpoint_sha256": _sha256(self.checkpoint),
            "soup_sha256": [_sha256(path) for path in self.soup] or None,
            "teacher_sha256": [_sha256(path) for path in self.teachers] or None,
            "stages": self.stages,
            "recipe": _lasting(self.recipe),
        }


def _lasting(recipe: Recipe) -> dict[str, Any]:
    plain = recipe.model_dump(mode="json")
    for key in MACHINE:
        del plain[key]
    return plain


def _sha256(path: Path | None) -> str | None:
    """Return the SHA-256 of a file; None where there is none."""
    if path is None or not path.is_file():
        return None
    return sha256_of(path)


def check_request(run: Run) -> None:
    """Check that the options fit together and the starting checkpoint is there.

    Raises:
        CxrsegError: They do not, or it is not.
    """
    method, model = run.recipe.method, run.recipe.model
    if model == "unet" and run.stages != "1":
        cause = "a U-Net has no stage 2"
        remedy = "leave --stage out; cxrseg-export calibrates a U-Net to INT8"
        raise CxrsegError(f"--stage {run.stages}", cause, remedy)
    if run.checkpoint is not None:
        read_torch_file(run.checkpoint)
    elif run.stages == "2":
        raise CxrsegError("--stage 2", "needs a stage 1 model", "give it with --checkpoint")
    elif method != "full":
        raise CxrsegError(
            f"--method {method}",
            "adapts a trained model, and there is none",
            "give one with --checkpoint, or train from scratch with --method full",
        )
    if run.soup and run.checkpoint is None:
        cause = "is averaged with the --checkpoint that the run starts from, and there is none"
        raise CxrsegError("--soup", cause, "give one")
    for path in run.soup:
        read_torch_file(path)
    distills = any(stage.distillation for stage in stages_of(run))
    if distills and not run.teachers:
        raise CxrsegError("distillation", "the recipe needs a teacher", "give one with --teacher")
    if run.teachers and not distills:
        cause = "would teach nothing: distillation is 0 in the recipe"
        raise CxrsegError(run.teachers[0], cause, "give the stage a share of distillation, say 0.5")


def stages_of(run: Run) -> list[StageRecipe]:
    """Return the settings of the stages that a run has."""
    recipe = run.recipe
    every = {"1": [recipe.stage1], "2": [recipe.stage2], "all": [recipe.stage1, recipe.stage2]}
    return every[run.stages]


def is_started(run: Run) -> bool:
    """Tell whether anything was trained in the run's folder.

    Its settings alone do not count: a run can be refused after they were written.
    """
    return any((run.output / name).exists() for name in ("stage1", "stage2", MODEL))


def check_folder(run: Run, resume: bool) -> None:
    """Check that the run's folder is free, or belongs to these settings; write nothing.

    Raises:
        CxrsegError: The folder is in use, has other settings, or holds what is no file.
    """
    _check_files(run.output)
    path = run.output / SETTINGS
    settings = run.settings()
    if resume and not path.is_file():
        raise CxrsegError(run.output, "no run to resume there", "leave --resume out to start one")
    if path.is_file() and (is_started(run) or resume):
        if not resume:
            raise CxrsegError(
                run.output, "holds a run already", "add --resume to go on, or choose another -o"
            )
        try:
            recorded = json.loads(read_file(path, MAX_SETTINGS))
            rename_keys(recorded)
            rename_keys(recorded["recipe"])
            # Settings that came later have their defaults in runs of before.
            recorded["recipe"] = _lasting(Recipe.model_validate(recorded["recipe"]))
            recorded.setdefault("checkpoint_sha256", settings["checkpoint_sha256"])
        except _UNREADABLE as error:
            cause = f"damaged ({' '.join(str(error).split())[:200]})"
            raise CxrsegError(path, cause, "start a new run") from None
        recorded, now = _flat(recorded), _flat(settings)
        changed = [key for key in {**now, **recorded} if now.get(key) != recorded.get(key)]
        if changed:
            raise CxrsegError(
                run.output,
                f"the run has another {changed[0]} "
                f"({recorded.get(changed[0])!r}, now {now.get(changed[0])!r})",
                "resume with the same options, or choose another -o",
            )
    read = [path for path in (*run.data, run.checkpoint, *run.soup, *run.teachers) if path]
    numbers = "12" if run.stages == "all" else run.stages
    for name in (SETTINGS, MODEL, *(f"stage{number}.ckpt" for number in numbers)):
        require_apart(run.output / name, read, "choose another -o")
    if path.is_file():
        with only_run(run):
            pass


@contextmanager
def only_run(run: Run) -> Iterator[None]:
    """Keep other runs out of the folder, which has its settings, while the block runs.

    Raises:
        CxrsegError: Another run is in it.
    """
    with open_file(run.output / SETTINGS) as file:
        # The loaders of a run that was killed end a little later.
        if not wait_for(file.fileno(), _PATIENCE_S):
            cause = "another run is training there"
            raise CxrsegError(run.output, cause, "wait for it, or choose another -o")
        yield


def _check_files(folder: Path) -> None:
    """Refuse, before hours of work, a folder in which not every file could be opened or replaced.

    Raises:
        CxrsegError: It holds a pipe, a device, or a link to one or to nothing.
    """
    for found in folder.rglob("*"):
        try:
            if not found.is_dir():
                place_of(found)
        except OSError as error:
            cause = f"a run keeps files there, and {error.strerror or error}"
            raise CxrsegError(found, cause, "remove it, or choose another -o") from None


def record_settings(run: Run) -> None:
    """Create the run's folder with its settings.

    Raises:
        CxrsegError: It cannot be written.
    """
    try:
        run.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise CxrsegError(run.output, cause, "choose another -o") from None
    with atomic_write(run.output / SETTINGS) as path:
        path.write_text(json.dumps(run.settings(), indent=2), encoding="utf-8")


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def read_data(run: Run) -> list[Sample]:
    """List the samples that a run learns from and is judged by.

    Raises:
        CxrsegError: A source is unusable, or no training or validation image is left.
    """
    samples = read_sources(run.data, run.recipe.data)
    learned = [sample for sample in samples if sample.protocol in run.recipe.labels]
    for split in ("train", "val"):
        if not of_split(learned, split):
            raise CxrsegError(
                ", ".join(str(path) for path in run.data),
                f"no image of split {split!r} with a mask of protocol "
                f"{' or '.join(run.recipe.labels)}",
                "a run needs images to learn from (train) and to judge by (val)",
            )
    return learned
