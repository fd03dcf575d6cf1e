"""An empty figure to draw on, without a display and without matplotlib's global state."""

from __future__ import annotations

from typing import Any

from monai.utils import optional_import

__all__ = ["blank_figure"]


def blank_figure(width: float, height: float, shows: str) -> Any:
    """A matplotlib figure of so many inches.

    Args:
        width, height: in inches, at 120 dots each.
        shows: what the picture is of, for the error.

    Raises:
        ImportError: matplotlib is not installed.
    """
    advice = f'pictures of {shows} need matplotlib: pip install "monai_plan[bundle]"'
    figure_class, _ = optional_import("matplotlib.figure", name="Figure", descriptor=advice)
    canvas, _ = optional_import("matplotlib.backends.backend_agg", name="FigureCanvasAgg", descriptor=advice)
    figure = figure_class(figsize=(width, height), dpi=120, layout="constrained")
    canvas(figure)
    return figure
