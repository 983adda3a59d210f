"""Images are observed as the runtime sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cxrseg.export.reference.images import SourceImage
from cxrseg.export.reference.observe import observe
from cxrseg.runtime.inference.loading import load_model
from cxrseg.runtime.models.shipped import default_model
from helpers.dicom.patient import xray
from helpers.drawing.phantoms import draw


def test_mirrored_file_is_turned_upright(tmp_path: Path) -> None:
    model = load_model(default_model(), "cpu", 1)
    phantom = draw(0, (512, 480)).image
    cells = []
    for row, pixels in (("L", phantom), ("R", np.ascontiguousarray(phantom[:, ::-1]))):
        path = xray(tmp_path / f"{row}.dcm", pixels, PatientOrientation=[row, "F"])
        (seen,) = observe(model, [SourceImage(path.name, path, "x", "p")])
        cells.append(seen.cells)
    np.testing.assert_allclose(cells[0], cells[1], atol=1e-5)
