"""Drawing, with matplotlib only where something is drawn: without it, pictures are left out and said to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.store.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {
    "cls": "#009E73",
    "mean": "#0072B2",
    "max": "#56B4E9",
    "adapool": "#E69F00",
    "glot": "#D55E00",
    "glot-loops": "#CC79A7",
}
OTHER_COLOUR = "#777777"


def save_picture(path: Path, size: tuple[float, float], draw: Callable[[Figure], None]) -> bool:
    """Draw a figure of `size` inches into a PNG file, atomically; False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True


def picture_line(path: Path, alt: str, drawn: bool) -> str:
    """The Markdown line that shows a picture, or says how to get it."""
    if drawn:
        return f"![{alt}]({path.name})"
    return f"*{path.name} is left out: matplotlib is missing. `pip install 'glot-pipeline[plots]'` and report again.*"
