"""From an X-ray to its lungs."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrseg.runtime.core.borders import Box, inside_borders
from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.core.labels import BACKGROUND, PROTOCOLS, Label, Protocol, labels_of
from cxrseg.runtime.core.orientation import UPRIGHT
from cxrseg.runtime.core.preprocess import preprocess
from cxrseg.runtime.core.radiograph import Radiograph, check_size, to_unit
from cxrseg.runtime.core.segmentation import Segmentation
from cxrseg.runtime.inference.devices import AUTO, PROVIDERS
from cxrseg.runtime.inference.loading import LoadedModel, Loading
from cxrseg.runtime.inference.postprocess import clean_components, native_mask
from cxrseg.runtime.inference.running import run_model
from cxrseg.runtime.models.shipped import default_model
from cxrseg.runtime.quality.assess import assess, not_assessed
from cxrseg.runtime.quality.prediction import Prediction
from cxrseg.runtime.quality.reference import read_reference
from cxrseg.runtime.readers.reading import read


class Segmenter:
    """A loaded model that segments one radiograph after another, or several in threads at once.

    It can be pickled: another process or machine loads the model anew, from the same path and once,
    however often it receives it.

    Args:
        model: ONNX file of cxrseg, or one that is being loaded, device and threads with it; None =
            the one that ships with the package.
        device: One of `cxrseg.runtime.inference.devices.DEVICES`.
        threads: Threads of one inference; None = the physical cores available.
        protocol: ``fields`` for the visible lung fields, ``whole`` to include the lung behind the
            heart.

    Attributes:
        path: The model file.
        model: The loaded model.
        labels: The labels of the masks, right before left.
        reference: The quality reference in the model file, or None.
        not_assessed: Codes of the flags that cannot be judged without one; empty if all can.

    Raises:
        CxrsegError: The model cannot be loaded, the device is not available, or the model has no
            channels for the protocol, or a quality reference that is damaged.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Loading | None = None,
        device: str = AUTO,
        threads: int | None = None,
        protocol: Protocol = "fields",
    ) -> None:
        path = default_model() if model is None else model
        loading = path if isinstance(path, Loading) else Loading(path, device, threads)
        self.path = loading.path
        self.model: LoadedModel = loading.model()
        names = self.model.card.labels
        self.labels: tuple[Label, ...] = tuple(
            label for label in labels_of(protocol) if label.name in names
        )
        if not self.labels:
            offered = [name for name in PROTOCOLS if {x.name for x in labels_of(name)} & {*names}]
            cause = f"the model {self.path} was not trained for this protocol"
            raise CxrsegError(f"--protocol {protocol}", cause, f"it offers {', '.join(offered)}")
        self.reference = read_reference(self.model.reference, self.path)
        self.not_assessed = not_assessed(self.reference, self.labels)
        self._channels = [names.index(label.name) for label in self.labels]
        self._others: dict[Protocol, list[int]] = {
            other: [names.index(label.name) for label in labels_of(other)]
            for other in PROTOCOLS
            if other != protocol and {x.name for x in labels_of(other)} <= {*names}
        }
        # An accelerator does one image at a time; some may not be asked for two at once.
        on_cpu = self.model.provider == PROVIDERS["cpu"]
        self._turn: AbstractContextManager[object] = nullcontext() if on_cpu else Lock()
        name = None if model is None else str(self.path.absolute())
        self._loaded_from = (name, loading.device, loading.threads, protocol)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _shared, (*self._loaded_from, self.model.sha256)

    def segment(
        self, image: str | os.PathLike[str] | Radiograph | NDArray[Any], name: str = ""
    ) -> Segmentation:
        """Segment the lungs of one image.

        Args:
            image: A file, a radiograph, or gray values [H, W], dense tissue bright: uint8 in
                0..255, uint16 in 0..65535, other types on any linear scale. A radiograph that is
                mirrored or turned, by its file, is turned upright for the network alone.
            name: How messages call an image that is not a file.

        Returns:
            The segmentation at the image's native size, its mask laid as the image's pixels are
            and its sides the patient's. Its timings are in ms.

        Raises:
            CxrsegError: The image cannot be read, is too large or small, or the model fails on it.
        """
        if isinstance(image, (str, os.PathLike)):
            start = perf_counter()
            radiograph = read(image)
            read_ms = _since(start)
            result = self._segment(radiograph, str(image))
            return replace(result, timings={"read": read_ms, **result.timings})
        if isinstance(image, Radiograph):
            return self._segment(image, name or "radiograph")
        return self._segment(_from_array(image), name or "array")

    def _segment(self, radiograph: Radiograph, subject: str) -> Segmentation:
        check_size(*radiograph.size, subject)
        timings = {}

        start = perf_counter()
        # Sides are learned from where a lung stands, so the network sees every chest upright.
        orientation = radiograph.orientation or UPRIGHT
        upright = radiograph.upright
        box = inside_borders(upright)
        content = upright[box]
        batch = preprocess(content, self.model.card.preprocessing)[None, None]
        timings["preprocess"] = _since(start)

        start = perf_counter()
        with self._turn:
            logits = run_model(self.model, batch, subject)
        timings["inference"] = _since(start)

        start = perf_counter()
        cleaned = clean_components(logits[self._channels], self.labels)
        mask = np.full(upright.shape, BACKGROUND, dtype=np.uint8)
        mask[box], probability = native_mask([*cleaned], self.labels, content.shape)
        area = {x.name: int(np.count_nonzero(mask == x.value)) for x in self.labels}
        shares = {name: pixels / content.size for name, pixels in area.items()}
        others = {
            protocol: clean_components(logits[channels], labels_of(protocol))
            for protocol, channels in self._others.items()
        }
        prediction = Prediction(cleaned, self.labels, shares, others)
        known = radiograph.flags
        flags = known + assess(content, prediction, self.reference, known)
        raised = {flag.code for flag in flags}
        timings["postprocess"] = _since(start)

        spacing = radiograph.spacing
        pixel = None if spacing is None else spacing.row * spacing.column
        return Segmentation(
            mask=np.ascontiguousarray(orientation.stored(mask)),
            labels=self.labels,
            probability=probability,
            area_px=area,
            area_mm2=None if pixel is None else {name: n * pixel for name, n in area.items()},
            flags=flags,
            not_assessed=tuple(code for code in self.not_assessed if code not in raised),
            model=self.model.card.name,
            model_version=self.model.card.version,
            model_sha256=self.model.sha256,
            provider=self.model.provider,
            spacing=spacing,
            timings=timings,
            provenance={**radiograph.provenance, **_cropped(box, upright.shape)},
        )


_loading = Lock()


def _shared(*made_from: Any) -> Segmenter:
    """Return the segmenter that this process has of a model file; the arguments of `_load`."""
    with _loading:
        return _load(*made_from)


@lru_cache(maxsize=4)
def _load(
    model: str | None, device: str, threads: int | None, protocol: Protocol, sha256: str
) -> Segmenter:
    """Load a model file, which must have this hash."""
    segmenter = Segmenter(model, device, threads, protocol)
    if segmenter.model.sha256 != sha256:
        cause = "is not the model file that the segmenter was made from"
        raise CxrsegError(segmenter.path, cause, "give every machine the same file")
    return segmenter


def _since(start: float) -> float:
    return (perf_counter() - start) * 1000


def _cropped(box: Box, size: tuple[int, ...]) -> dict[str, str]:
    """Tell for the result which part of an upright image was looked at, if not all of it."""
    rows, columns = box
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if (height, width) == size:
        return {}
    return {"content": f"{width} x {height} pixels from column {columns.start}, row {rows.start}"}


def _from_array(pixels: NDArray[Any]) -> Radiograph:
    pixels = np.asarray(pixels)
    if pixels.ndim != 2 or pixels.dtype.kind not in "buif":
        cause = f"is {pixels.dtype} {list(pixels.shape)}, not gray values [height, width]"
        raise CxrsegError("array", cause, "convert it to gray first")
    height, width = pixels.shape
    check_size(height, width, "array")
    return Radiograph(to_unit(pixels), provenance={"format": "array", "mode": str(pixels.dtype)})
