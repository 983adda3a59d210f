"""What is to be done with an image, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.writers.paths import DEFAULT_FORMATS, Format, Outputs

if TYPE_CHECKING:
    from cxrseg.runtime.core.radiograph import Radiograph
    from cxrseg.runtime.writers.report import Report


@dataclass(frozen=True)
class Settings:
    """What to do with each image.

    Attributes:
        formats: What to write.
        deidentify: As `write` takes it.
        strict: Write nothing for an image that is flagged.
        resume: Leave out an image that an earlier run has done, with the same model and settings,
            as `earlier_report` decides; ``json`` is among the formats.
        durable: As `write` takes it.
    """

    formats: tuple[Format, ...] = DEFAULT_FORMATS
    deidentify: bool = False
    strict: bool = False
    resume: bool = False
    durable: bool = False


@dataclass(frozen=True)
class Task:
    """An image to do.

    Attributes:
        source: The image.
        folder: Folder for its outputs, made if needed; None = beside the image.
        ahead: The image and the ms that it took, where it has been read before its turn.
    """

    source: Path
    folder: Path | None = None
    ahead: tuple[Radiograph, float] | None = field(default=None, compare=False, repr=False)

    @property
    def home(self) -> Path:
        """Where its outputs lie."""
        return self.source.parent if self.folder is None else self.folder

    def outputs(self, formats: Iterable[Format]) -> Outputs:
        """Return the paths of its outputs."""
        return Outputs.of(self.source, self.folder, formats)


@dataclass(frozen=True)
class Done:
    """An image that was segmented and written.

    Attributes:
        source: The image.
        outputs: The files written; no format where it was withheld.
        report: What the JSON report holds, whether or not it was written.
        earlier: Whether an earlier run did it.
    """

    source: Path
    outputs: Outputs
    report: Report
    earlier: bool = False

    @property
    def withheld(self) -> bool:
        """Whether nothing was written, because the image is flagged."""
        return not self.outputs.formats


Job = Task | CxrsegError
"""An image to do, or why an input cannot be done."""

Outcome = Done | CxrsegError
"""What became of a job."""


def would_overwrite(source: Path, owner: Path) -> CxrsegError:
    """Return the error of an image whose outputs are those of another."""
    cause = f"its outputs would overwrite those of {owner}"
    return CxrsegError(source, cause, "rename it, or run it with another -o folder")
