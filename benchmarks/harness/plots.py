"""Plots of the benchmarks: one look, as PNG, the same bytes for the same data."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrseg.benchmarks.harness.result import Plot
from cxrseg.runtime.core.version import package_version
from cxrseg.runtime.files.own_files import MARK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Given = ParamSpec("Given")
Drawn = TypeVar("Drawn")

BLUE, ORANGE, GREEN, RED, GRAY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"
"""Colors that color-blind readers can tell apart (Okabe and Ito 2008)."""

DPI = 150
"""Resolution of the PNG."""

_STYLE: Any = {  # names of settings are a type of matplotlib's own
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
}


def styled(draw: Callable[Given, Drawn]) -> Callable[Given, Drawn]:
    """Decorate a function that draws plots: it draws in the look that all of them have."""

    @wraps(draw)
    def inside(*args: Given.args, **kwargs: Given.kwargs) -> Drawn:
        import matplotlib as mpl

        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return inside


def blank(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """Return a figure and its axes [rows, columns].

    Args:
        width: Inches.
        height: Inches.
        rows: Rows of axes.
        columns: Columns of axes.
    """
    # Not pyplot, which keeps every figure and looks for a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def plot(name: str, figure: Figure, caption: str, shows_patients: bool = False) -> Plot:
    """Render a figure made by `blank`; arguments as in `Plot`."""
    program = f"{MARK} {package_version()}"
    png = io.BytesIO()
    # How earlier results are told from files of others.
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": program})
    small = png.getvalue() if shows_patients else _of_few_colors(png, program)
    return Plot(name, small, caption, shows_patients)


def _of_few_colors(png: io.BytesIO, program: str) -> bytes:
    """Return a PNG with 256 colors, a third as large."""
    mark, out = PngInfo(), io.BytesIO()
    mark.add_text("Software", program)
    with Image.open(png) as picture:
        flat = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        flat.save(out, "PNG", optimize=True, pnginfo=mark)
    return out.getvalue()
