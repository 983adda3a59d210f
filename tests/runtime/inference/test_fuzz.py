"""Model files of any contents segment an image, or are refused."""

from __future__ import annotations

from pathlib import Path

from cxrseg.runtime import Segmenter
from helpers.drawing.phantoms import blocks
from helpers.fuzz.models import model_files
from helpers.trials.answers import asked, check_segmentation
from helpers.trials.trial import fuzzed

_IMAGE = blocks(80, 70)


@fuzzed(model_files())
def test_model_files(case: bytes, home: Path) -> bool:
    path = home / "x.onnx"
    path.write_bytes(case)
    segmenter = asked(lambda: Segmenter(path, device="cpu", threads=1))
    if segmenter is None:
        return False
    result = asked(lambda: segmenter.segment(_IMAGE))
    if result is not None:
        check_segmentation(result, (80, 70))
    return True
