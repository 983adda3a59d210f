"""Running a loaded model, and refusing what is no answer: a wrong shape or type, no numbers."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.inference.devices import PROVIDERS
from cxrseg.runtime.inference.loading import LoadedModel
from cxrseg.runtime.inference.model_file import EXPORT_AGAIN


def run_model(
    model: LoadedModel, batch: NDArray[np.float32], subject: str | os.PathLike[str]
) -> NDArray[np.float32]:
    """Run the network on one image.

    Args:
        model: The model.
        batch: float32 [1, 1, S, S] in [0, 1].
        subject: The image, or whatever an error message shall name.

    Returns:
        Logits float32 [C, S/4, S/4], C = number of the card's labels; all finite.

    Raises:
        CxrsegError: The model failed, or gave something else. That its file promises the right
            shape does not mean that it keeps to it.
    """
    try:
        (output,) = model.session.run([model.output_name], {model.input_name: batch})
    # ONNX Runtime's exceptions share no base class below Exception.
    except Exception as error:
        raise CxrsegError(subject, _failure(error), _remedy(model)) from error
    cells = model.card.preprocessing.size // 4
    shape = (1, len(model.card.labels), cells, cells)
    if not isinstance(output, np.ndarray) or (output.dtype, output.shape) != (np.float32, shape):
        cause = f"the model gave {_describe(output)} instead of float32 {list(shape)}"
        raise CxrsegError(subject, cause, EXPORT_AGAIN)
    logits: NDArray[np.float32] = output[0]
    require_finite(logits, subject, _remedy(model))
    return logits


def require_finite(
    logits: NDArray[np.floating],
    subject: str | os.PathLike[str],
    remedy: str = "use another model",
) -> None:
    """Refuse logits of which no mask may be made.

    Args:
        logits: Floats of any shape.
        subject: What an error message shall name.
        remedy: What it shall advise.

    Raises:
        CxrsegError: One is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        cause = "the model gave values that are not numbers"
        raise CxrsegError(subject, cause, remedy)


def _failure(error: Exception) -> str:
    """Return the cause of a failure without ONNX Runtime's own words: places in its source."""
    if isinstance(error, MemoryError) or re.search(
        "alloc|out of memory", str(error), re.IGNORECASE
    ):
        return "the model needs more memory for this image than there is"
    node = re.search(r"while running (\w{1,40}) node", str(error))
    return "the model failed on this image" + (f" (in one of its {node[1]} nodes)" if node else "")


def _remedy(model: LoadedModel) -> str:
    if model.provider == PROVIDERS["cpu"]:
        return "use another model"
    return "try --device cpu, or another model"


def _describe(output: Any) -> str:
    if isinstance(output, np.ndarray):
        return f"{output.dtype} {list(output.shape)}"
    return f"a {type(output).__name__}"
