"""Drawing, with matplotlib only where something is drawn: without it, pictures are left out and said to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from glot.errors import UsageError
from glot.report.styles import colour_of
from glot.report.svg import spread
from glot.store.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = {"length": (0, (5, 2)), "bag-of-words": (0, (2, 1.5))}


def check_drawing(out: Path) -> None:
    """Refuse a picture before anything is computed: where matplotlib is missing, or `out` is a folder."""
    if find_spec("matplotlib") is None:
        raise UsageError("--png draws with matplotlib, which is missing: pip install 'glot-pipeline[plots]'")
    if out.is_dir():
        raise UsageError(f"{out} is a folder: name another file with --out")


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


def draw_line(
    panel: Axes,
    method: str,
    label: str,
    points: Sequence[tuple[float, float, float | None]],
    bounds: tuple[float, float],
) -> None:
    """A method's curve of (x, mean, std) into a panel, its whiskers within the bounds of the scores.

    The baselines that see no backbone are dashed, and have neither markers nor whiskers.
    """
    values, means, _ = zip(*points, strict=True)
    colour = colour_of(method)
    if method in _DASHES and len(points) > 1:
        panel.plot(values, means, color=colour, ls=_DASHES[method], label=label)
    elif method in _DASHES:
        panel.plot(values, means, "_", color=colour, markersize=12, markeredgewidth=2, label=label)
    else:
        bars = whiskers(points, bounds) if any(std for _, _, std in points) else None
        panel.errorbar(values, means, bars, color=colour, marker="o", markersize=4, capsize=2, label=label)


def whiskers(
    points: Sequence[tuple[float, float, float | None]], bounds: tuple[float, float]
) -> tuple[list[float], list[float]]:
    """The lengths of the whiskers of (x, mean, std), downwards and upwards, as `errorbar` takes them."""
    ends = [(mean, *spread(mean, std, bounds)) for _, mean, std in points]
    return [mean - low for mean, low, _ in ends], [high - mean for mean, _, high in ends]


def legend_below(figure: Figure, columns: int) -> None:
    """One legend for all panels, below them; each label once, however many panels show it."""
    lines = {}
    for panel in figure.axes:
        handles, labels = panel.get_legend_handles_labels()
        lines = dict(zip(labels, handles, strict=True)) | lines  # as the first panel shows it
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=columns, frameon=False)
