"""Plots as inline SVG, drawn by hand: lines with bands, and rows of dots with whiskers. Colours never stand alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from glot.report.styles import PAPER, Style

WIDTH = 360  # user units of every plot, one CSS pixel each where the page has room
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 46, 350, 30, 208, 250
_ROW, _DOTS_LEFT, _DOTS_RIGHT = 34, 12, 348
_LETTER = 8  # at most, of a number's digit
_LONGEST = 50  # letters of a label that have room


@dataclass(frozen=True)
class Line:
    """One method's curve: (x, y, the deviation or None) by ascending x; no band leaves the `bounds` of its scores."""

    label: str
    style: Style
    points: list[tuple[float, float, float | None]]
    bounds: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class Dot:
    """One row: the value with its deviation, what is printed of them, and the number that it is compared with.

    The whisker does not leave the `bounds` of the score.
    """

    label: str
    style: Style
    value: float
    std: float | None
    text: str
    reference: float | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def ends(self) -> tuple[float, float]:
        """Of the whisker."""
        return spread(self.value, self.std, self.bounds)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two others, about so many; one number where the two are equal."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def spread(value: float, std: float | None, bounds: tuple[float, float]) -> tuple[float, float]:
    """The ends of value ± std, kept within the bounds (where the value itself is)."""
    low, high = min(bounds[0], value), max(bounds[1], value)
    return max(low, value - (std or 0.0)), min(high, value + (std or 0.0))


def with_room(values: Sequence[float], place: Callable[[float], float]) -> list[float]:
    """The ascending values whose labels have room beside each other: the last, the first, and what fits between."""
    kept: list[float] = []
    for value in [values[-1], *values[:-1]]:
        if all(abs(place(value) - place(other)) > _room(value, other) for other in kept):
            kept.append(value)
    return sorted(kept)


def _room(*values: float) -> float:
    """Between the middles of two labels: half of each, and a gap."""
    return _LETTER * sum(len(f"{value:g}") for value in values) / 2 + _LETTER / 2


def line_plot(
    title: str, x_label: str, y_label: str, lines: Sequence[Line], y_range: tuple[float, float], guide: float
) -> str:
    """Curves over x with bands of ± one deviation, as an `svg` element; `guide` is a level marked across the plot."""
    xs = sorted({x for line in lines for x, _, _ in line.points})
    margin = 0.06 * ((xs[-1] - xs[0]) or 1)
    x_at = _scale(xs[0] - margin, xs[-1] + margin, _LEFT, _RIGHT)
    y_at = _scale(*y_range, _BOTTOM, _TOP)
    parts = [_text(_LEFT, 16, title, "start", "title")]
    for value in ticks(*y_range):
        parts.append(f'<path class="grid" d="M{_LEFT} {y_at(value):.1f}H{_RIGHT}"/>')
        parts.append(_text(_LEFT - 6, y_at(value) + 4, f"{value:g}", "end"))
    for x in xs:
        parts.append(f'<path class="axis" d="M{x_at(x):.1f} {_BOTTOM}v4"/>')
    parts += [_text(x_at(x), _BOTTOM + 17, f"{x:g}") for x in with_room(xs, x_at)]
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"/>')
    parts.append(_text((_LEFT + _RIGHT) / 2, _HEIGHT - 6, x_label))
    parts.append(f'<path class="guide" d="M{_LEFT} {y_at(guide):.1f}H{_RIGHT}"/>')
    middle = (_TOP + _BOTTOM) / 2
    parts.append(f'<g transform="rotate(-90 12 {middle})">{_text(12, middle, y_label)}</g>')
    parts += [_band(line, x_at, y_at, y_range) for line in lines]
    parts += [_curve(line, x_at, y_at) for line in lines]
    return _svg(title, f"{y_label} over {x_label}: " + ", ".join(line.label for line in lines), _HEIGHT, parts)


def dot_plot(title: str, x_label: str, dots: Sequence[Dot]) -> str:
    """A row a method: its name and number, and below them the dot with its whisker and a diamond for the reference."""
    reach = [value for dot in dots for value in _reach(dot)]
    low, high = min(reach), max(reach)
    margin = 0.06 * (high - low) or 1
    low, high = low - margin, high + margin
    x_at = _scale(low, high, _DOTS_LEFT, _DOTS_RIGHT)
    bottom = 26 + _ROW * len(dots)
    parts = [_text(_DOTS_LEFT, 16, title, "start", "title")]
    for value in ticks(low, high):
        parts.append(f'<path class="grid" d="M{x_at(value):.1f} 26V{bottom}"/>')
        parts.append(_text(x_at(value), bottom + 16, f"{value:g}".replace("-", "−")))
    parts.append(f'<path class="axis" d="M{_DOTS_LEFT} {bottom}H{_DOTS_RIGHT}"/>')
    parts.append(_text((_DOTS_LEFT + _DOTS_RIGHT) / 2, bottom + 33, x_label))
    for place, dot in enumerate(dots):
        y = 26 + _ROW * place + 24
        parts.append(_text(_DOTS_LEFT, y - 10, dot.label, "start"))
        parts.append(_text(_DOTS_RIGHT, y - 10, dot.text, "end"))
        parts.append(_dot(dot, x_at, y))
    return _svg(title, x_label + ": " + ", ".join(f"{dot.label} {dot.text}" for dot in dots), bottom + 42, parts)


def swatch(style: Style) -> str:
    """The sample of a style that stands in a legend."""
    line = f'<path class="series" d="M1 7H39" fill="none" stroke="{style.colour}"{_dash(style)} stroke-width="2"/>'
    return f'<svg class="swatch" viewBox="0 0 40 14" aria-hidden="true">{line}{marker(style, 20, 7)}</svg>'


def marker(style: Style, x: float, y: float, tip: str = "") -> str:
    """A mark at a point; `tip` is shown by browsers that are pointed at it."""
    r = 4.0
    shapes = {
        "square": f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        "triangle": f"M{x:.1f} {y - r - 1:.1f}l{r + 1} {2 * r}h{-2 * r - 2}z",
        "fall": f"M{x:.1f} {y + r + 1:.1f}l{r + 1} {-2 * r}h{-2 * r - 2}z",
        "diamond": f"M{x:.1f} {y - r - 1:.1f}l{r + 1} {r + 1} {-r - 1} {r + 1} {-r - 1} {-r - 1}z",
        "hollow": f"M{x:.1f} {y - r - 1:.1f}l{r + 1} {r + 1} {-r - 1} {r + 1} {-r - 1} {-r - 1}z",
        "cross": f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}",
        "plus": f"M{x - r - 1:.1f} {y:.1f}h{2 * r + 2}m{-r - 1} {-r - 1}v{2 * r + 2}",
    }
    # A full circle in two arcs.
    around = f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    is_open = style.marker in ("hollow", "ring", "cross", "plus")
    paint = f'fill="{"none" if is_open else style.colour}" stroke="{style.colour}" stroke-width="{2 if is_open else 1}"'
    title = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<path class="series" d="{shapes.get(style.marker, around)}" {paint}>{title}</path>'


def _reach(dot: Dot) -> list[float]:
    return [*dot.ends, *([] if dot.reference is None else [dot.reference])]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / ((high - low) or 1) * (end - start)


def _dash(style: Style) -> str:
    return f' stroke-dasharray="{style.dash}"' if style.dash else ""


def _band(
    line: Line, x_at: Callable[[float], float], y_at: Callable[[float], float], y_range: tuple[float, float]
) -> str:
    """The area of ± one deviation, cut to the bounds and the plot; nothing where there is none."""
    if len(line.points) < 2 or not any(std for _, _, std in line.points):
        return ""

    def place(x: float, y: float) -> str:
        return f"{x_at(x):.1f} {y_at(min(max(y, y_range[0]), y_range[1])):.1f}"

    ends = [(x, *spread(y, std, line.bounds)) for x, y, std in line.points]
    above, below = [place(x, high) for x, _, high in ends], [place(x, low) for x, low, _ in reversed(ends)]
    return f'<path class="series band" d="M{"L".join(above + below)}z" fill="{line.style.colour}"/>'


def _curve(line: Line, x_at: Callable[[float], float], y_at: Callable[[float], float]) -> str:
    path = "L".join(f"{x_at(x):.1f} {y_at(y):.1f}" for x, y, _ in line.points)
    paint = f'fill="none" stroke="{line.style.colour}"{_dash(line.style)} stroke-width="2"'
    tips = [f"{line.label}, {x:g}: {y:.1f}" + (f" ± {std:.1f}" if std is not None else "") for x, y, std in line.points]
    marks = [marker(line.style, x_at(x), y_at(y), tip) for (x, y, _), tip in zip(line.points, tips, strict=True)]
    return f'<path class="series" d="M{path}" {paint}/>' + "".join(marks)


def _dot(dot: Dot, x_at: Callable[[float], float], y: float) -> str:
    parts = [f'<path class="track" d="M{_DOTS_LEFT} {y:.1f}H{_DOTS_RIGHT}"/>']
    if dot.std:
        left, right = map(x_at, dot.ends)
        whisker = f"M{left:.1f} {y:.1f}H{right:.1f}M{left:.1f} {y - 4:.1f}v8M{right:.1f} {y - 4:.1f}v8"
        parts.append(f'<path class="series" d="{whisker}" stroke="{dot.style.colour}" stroke-width="1.5"/>')
    parts.append(marker(dot.style, x_at(dot.value), y, f"{dot.label}: {dot.text}"))
    if dot.reference is not None:
        parts.append(marker(PAPER, x_at(dot.reference), y, f"the paper: {dot.reference:.1f}"))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "") -> str:
    shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    of_class = f' class="{kind}"' if kind else ""
    return f'<text{of_class} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(shown)}</text>'


def _svg(title: str, description: str, height: float, parts: Sequence[str]) -> str:
    inside = "".join(parts)
    head = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
    return f'<svg class="plot" role="img" viewBox="0 0 {WIDTH} {height:g}">{head}{inside}</svg>'
