"""Pictures, drawn once by matplotlib: as SVG inside the page, and as PNG beside the tables.

Panels are described without matplotlib, which is imported where something is drawn. A colour never stands alone: dashes
and markers tell methods apart too.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from xml.etree import ElementTree

from glot.errors import UsageError
from glot.report.methods import INK, PAPER, Method
from glot.store.files import atomic_path

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INSTALL = "pip install 'glot-pipeline[report]'"
LINE = "#d5d9df"  # of grids; the page's own in the page
WIDTH, HEIGHT, ROW = 2.9, 2.7, 0.36  # inches of a panel, and of a line of dots or bars
TITLE_LETTERS, TITLE_LINE = 12, 0.17  # of a title: letters an inch, wide ones too, and inches a line
BETWEEN = 0.09  # inches on either side of a panel: names and numbers of neighbours do not run into each other
TITLE = "picture-title"  # of the drawn title: a file has it, a page has its own heading and leaves it out
MOST_DOTS = 40  # of a panel; a longer list is a table's business
DPI = 120
RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.titlesize": 10,
    "font.size": 8,
    "grid.color": LINE,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "glot",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
Point = tuple[float, float, "float | None"]  # (x, mean, std)
Tips = dict[str, list[str]]  # the name of a drawn series -> what a reader is told who points at each of its marks


def check_extra() -> None:
    """Refuse a report before anything is computed where what it is made with is missing."""
    missing = [name for name in ("jinja2", "matplotlib", "pandas") if find_spec(name) is None]
    if missing:
        raise UsageError(f"reports are made with {', '.join(missing)}, not installed here: {INSTALL}")


def check_drawing(out: Path) -> None:
    """Refuse a picture before anything is computed: where matplotlib is missing, or `out` is a folder."""
    if find_spec("matplotlib") is None:
        raise UsageError(f"--png draws with matplotlib, which is missing: {INSTALL}")
    if out.is_dir():
        raise UsageError(f"{out} is a folder: name another file with --out")


def spread(value: float, std: float | None, bounds: tuple[float, float]) -> tuple[float, float]:
    """The ends of value ± std, kept within the bounds (where the value itself is)."""
    low, high = min(bounds[0], value), max(bounds[1], value)
    return max(low, value - (std or 0.0)), min(high, value + (std or 0.0))


@dataclass(frozen=True)
class Line:
    """One method's curve: (x, mean, std or None) by ascending x; no band leaves the `bounds` of its scores."""

    label: str
    look: Method
    points: Sequence[Point]
    bounds: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class Curves:
    """A panel of curves with bands of ± one deviation; `guide` is a level marked across it."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    y_range: tuple[float, float]
    guide: float
    height: float = HEIGHT

    @property
    def description(self) -> str:
        """The panel in words."""
        return f"{self.title}: {self.y_label} over {self.x_label}: {', '.join(line.label for line in self.lines)}"

    def draw(self, axes: Axes, tips: Tips) -> None:
        """Draw the lines, each with its band."""
        for line in self.lines:
            xs, ys, _ = zip(*line.points, strict=True)
            if len(xs) > 1 and any(std for _, _, std in line.points):
                low, high = zip(*(spread(y, std, line.bounds) for _, y, std in line.points), strict=True)
                axes.fill_between(xs, low, high, color=line.look.colour, alpha=0.16, lw=0, gid="band")
            name = f"tips-{len(tips)}"
            tips[name] = [f"{line.label}, {x:g}: {_with_std(y, std)}" for x, y, std in line.points]
            dashes: Any = (0, line.look.dash) if line.look.dash else "-"
            axes.plot(xs, ys, lw=1.5, ls=dashes, label=line.label, gid=name, **_mark(line.look))
        axes.axhline(self.guide, color=INK, lw=0.6, ls=":")
        axes.set(xlabel=self.x_label, ylabel=self.y_label, ylim=(self.y_range[0], self.y_range[1] * 1.02))
        ticks = sorted({x for line in self.lines for x, _, _ in line.points})
        if all(right - left > 0.1 * (ticks[-1] - ticks[0]) for left, right in pairwise(ticks)):  # labels have room
            axes.set_xticks(ticks)
        axes.grid(lw=0.6)


@dataclass(frozen=True)
class Dot:
    """One row: the value with its deviation, what is printed of them, and the number that it is compared with.

    The whisker does not leave the `bounds` of the score.
    """

    label: str
    look: Method
    value: float
    std: float | None
    text: str
    reference: float | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def ends(self) -> tuple[float, float]:
        """Of the whisker."""
        return spread(self.value, self.std, self.bounds)


@dataclass(frozen=True)
class Dots:
    """A panel with a row a method: its name and number, below them the dot, its whisker, a diamond for the paper's."""

    title: str
    x_label: str
    dots: Sequence[Dot]

    @property
    def height(self) -> float:
        """Inches."""
        return 0.8 + ROW * len(self.dots)

    @property
    def description(self) -> str:
        """The panel in words."""
        return f"{self.title}: {', '.join(f'{dot.label} {dot.text}' for dot in self.dots)}"

    def draw(self, axes: Axes, tips: Tips) -> None:
        """Draw the rows from the top."""
        for row, dot in enumerate(self.dots):
            row_text(axes, row, dot.label, dot.text)
            if dot.std:
                ends = [[abs(dot.value - end)] for end in dot.ends]
                axes.errorbar(dot.value, row, xerr=ends, color=dot.look.colour, capsize=2, lw=1.2)
            marks = [(dot.look, dot.value, f"{dot.label}: {dot.text}")]
            if dot.reference is not None:
                marks.append((PAPER, dot.reference, f"the paper: {dot.reference:.1f}"))
            for look, x, tip in marks:
                name = f"tips-{len(tips)}"
                tips[name] = [tip]
                axes.plot([x], [row], ls="", gid=name, **_mark(look))
        _set_rows(axes, len(self.dots), self.x_label)


@dataclass(frozen=True)
class Bars:
    """A panel of bars on a logarithmic axis: (name, value, what is printed of it, colour) each."""

    title: str
    x_label: str
    bars: Sequence[tuple[str, float, str, str]]

    @property
    def height(self) -> float:
        """Inches."""
        return 0.8 + ROW * len(self.bars)

    @property
    def description(self) -> str:
        """The panel in words."""
        return f"{self.title}: {', '.join(f'{name} {text}' for name, _, text, _ in self.bars)}"

    def draw(self, axes: Axes, tips: Tips) -> None:
        """Draw the bars from the top."""
        for row, (name, value, text, colour) in enumerate(self.bars):
            row_text(axes, row, name, text)
            axes.barh(row, value, height=0.3, color=colour)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_formatter("")
        _set_rows(axes, len(self.bars), self.x_label)


class Panel(Protocol):
    """What a picture is made of: a title, the height in inches, itself in words, and how it is drawn."""

    @property
    def title(self) -> str:
        """Above it."""

    @property
    def height(self) -> float:
        """Inches."""

    @property
    def description(self) -> str:
        """The panel in words."""

    def draw(self, axes: Axes, tips: Tips) -> None:
        """Draw it."""


@dataclass(frozen=True)
class Picture:
    """Some panels.

    Attributes:
        title: what it shows, for those who do not see it. caption: what stands below it, with a little Markdown.
        columns: panels a row at most; rows are as even as they can be. file: the name of the PNG file, which pictures
            of one name share, one below the other; "" where there is none.
        titled: whether the titles are drawn; a page may say them itself.
    """

    title: str
    panels: Sequence[Panel]
    caption: str = ""
    columns: int = 4
    file: str = ""
    width: float = WIDTH
    titled: bool = True
    kind: str = field(default="picture", init=False)


@dataclass(frozen=True)
class Drawn:
    """A picture as an `svg` element, and as (height, width, 4) pixels."""

    svg: str
    pixels: np.ndarray


def draw_picture(picture: Picture) -> tuple[Figure, Tips]:
    """The figure, and what is told of its marks."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = -(-len(picture.panels) // -(-len(picture.panels) // picture.columns))
    rows = [picture.panels[start : start + columns] for start in range(0, len(picture.panels), columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    curves = [panel for panel in picture.panels if isinstance(panel, Curves)]
    names = list(dict.fromkeys(line.label for panel in curves for line in panel.lines))
    many = max(1, min(len(names), int(columns * picture.width / 2.2)))
    legend = 0.2 * -(-len(names) // many) + 0.15 if names else 0.0
    width = picture.width * columns
    title = _title_lines(picture, width)
    height = sum(heights) + legend + 0.08 + TITLE_LINE * len(title)
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=BETWEEN))
    if title:
        figure.suptitle("\n".join(title), x=0.005, ha="left", gid=TITLE)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    tips: Tips = {}
    panels = iter(picture.panels)
    for axes in grid.flat:
        panel = next(panels, None)
        if panel is None:
            axes.set_axis_off()
            continue
        panel.draw(axes, tips)
        if picture.titled:
            axes.set_title(panel.title)
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        found, labels = axes.get_legend_handles_labels()
        handles = dict(zip(labels, found, strict=True)) | handles  # as the first panel shows it
    if names:
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=many, frameon=False)
    return figure, tips


def render(picture: Picture, number: int) -> Drawn:
    """Draw a picture once, in both formats; `number` tells it from the others of a page."""
    import matplotlib
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a browser finds another font
        figure, tips = draw_picture(picture)
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        figure.set_layout_engine("none")  # it has been laid out, which takes long
        pixels = np.asarray(canvas.buffer_rgba()).copy()
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return Drawn(_inline(text.getvalue(), picture, tips, number), pixels)


def write_png(path: Path, parts: Sequence[np.ndarray]) -> None:
    """Write pictures one below the other into a PNG file, atomically."""
    import numpy as np
    from matplotlib.image import imsave

    widest = max(part.shape[1] for part in parts)
    white = 255
    padded = [np.pad(part, ((0, 0), (0, widest - part.shape[1]), (0, 0)), constant_values=white) for part in parts]
    with atomic_path(path) as temporary:
        imsave(temporary, np.vstack(padded), format="png", dpi=DPI)


def save_picture(path: Path, size: tuple[float, float], draw: Callable[[Figure], None]) -> bool:
    """Draw a figure of `size` inches into a PNG file, atomically; False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    return True


def _inline(text: str, picture: Picture, tips: Tips, number: int) -> str:
    """An SVG file as an element of a page: without what belongs to a file, its names its own, the page's colours."""
    root = ElementTree.fromstring(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", text))  # no XML holds these
    width, height = (float(root.get(name, "0pt").removesuffix("pt")) / 72 for name in ("width", "height"))
    cut = TITLE_LINE * len(_title_lines(picture, width))
    used = {value for node in root.iter() for name, value in node.attrib.items() if name.endswith("href")}
    for node in list(root.iter()):
        for child in list(node):
            if child.tag.endswith(("metadata", "style", "clipPath")) or child.get("id") == TITLE:
                node.remove(child)
        series = node.get("id", "")
        marks = [child for child in node.iter() if child.tag.endswith("use")]
        for mark, tip in zip(marks, tips.get(series, ()), strict=False):
            ElementTree.SubElement(mark, "title").text = tip
        if series == "band":
            node.set("class", "series band")
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        kept = {name.rpartition("}")[2]: value for name, value in node.attrib.items() if name != "clip-path"}
        if f"#{kept.get('id')}" in used:
            kept["id"] = f"picture-{number}-{kept['id']}"
        else:
            kept.pop("id", None)
        if "href" in kept:
            kept["href"] = f"#picture-{number}-{kept['href'].removeprefix('#')}"
        node.attrib.clear()
        node.attrib.update(kept)
    box = f"0 {72 * cut:.2f} {72 * width:.2f} {72 * (height - cut):.2f}"
    root.attrib = {"class": "plot", "role": "img", "viewBox": box, "style": f"width:{width:.2f}in"}
    description = "; ".join(panel.description for panel in picture.panels)
    for index, (tag, words) in enumerate((("title", picture.title), ("desc", description))):
        element = ElementTree.Element(tag)
        element.text = words
        root.insert(index, element)
    drawn = re.sub(r"(\.\d\d)\d+|\n *", r"\1", ElementTree.tostring(root, encoding="unicode"))
    return drawn.replace(INK, "currentColor").replace(LINE, "var(--line)")


def _title_lines(picture: Picture, width: float) -> list[str]:
    """The title as it is drawn in a picture so many inches wide."""
    return textwrap.wrap(picture.title, max(20, int(width * TITLE_LETTERS))) if picture.titled else []


def _with_std(value: float, std: float | None) -> str:
    return f"{value:.1f}" + (f" ± {std:.1f}" if std is not None else "")


def _mark(look: Method) -> dict[str, Any]:
    """What `plot` needs of a method's look, but for its dashes."""
    mark: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 5}
    if look.marker in ("ring", "hollow"):
        mark |= {"marker": "o" if look.marker == "ring" else "D", "markerfacecolor": "none"}
    return mark


def row_text(axes: Axes, row: int, left: str, right: str, above: int = 4) -> None:
    """A row's name and number, so many points above what is drawn of it."""
    where: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "va": "bottom"}
    axes.annotate(left, (0, row), (0, above), ha="left", **where)
    axes.annotate(right, (1, row), (0, above), ha="right", **where)


def _set_rows(axes: Axes, rows: int, x_label: str) -> None:
    axes.set(xlabel=x_label, ylim=(rows - 0.6, -0.75), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.grid(axis="x", lw=0.6)
    axes.hlines(range(rows), 0, 1, transform=axes.get_yaxis_transform(), color=LINE, lw=0.6, ls=":", zorder=0)
