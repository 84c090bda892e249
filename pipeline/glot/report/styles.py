"""How each method is drawn, in every picture and plot: the one place that says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Style:
    """How a method is told from the others: colour, dashes (SVG's `stroke-dasharray`) and marker."""

    colour: str
    dash: str
    marker: str


GREY = "#777777"  # of what is no method, or one of many
PAPER = Style("currentColor", "1 4", "hollow")
# Okabe and Ito's colours, which colour-blind readers can tell apart, for the methods that stand in every table; colours
# never stand alone.
STYLES = {
    "cls": Style("#009E73", "8 3", "triangle"),
    "mean": Style("#0072B2", "5 3", "square"),
    "max": Style("#56B4E9", "3 3", "fall"),
    "adapool": Style("#E69F00", "9 3 2 3", "diamond"),
    "glot": Style("#D55E00", "", "circle"),
    "adapool-wide": Style("#A6761D", "9 3 2 3", "square"),
    "glot-loops": Style("#CC79A7", "12 3", "cross"),
    "glot-complete": Style("#B5416E", "6 3", "square"),
    "glot-random": Style("#6A5ACD", "2 3", "triangle"),
    "glot-chain": Style("#3B8F3B", "10 3", "diamond"),
    "glot-knn": Style("#44AA99", "4 3", "fall"),
    "glot-mean-readout": Style("#A66BBE", "6 2", "plus"),
    "glot-content": Style("#999933", "3 2", "cross"),
    "logreg-cls": Style("#5B7FA6", "4 2", "ring"),
    "logreg-mean": Style("#7F6B5D", "4 2", "plus"),
    "ridge-cls": Style("#4F9BA8", "4 2", "ring"),
    "ridge-mean": Style("#9C8A5A", "4 2", "plus"),
    "length": Style("#6B6B6B", "2 4", "plus"),
    "bag-of-words": Style("#A0A0A0", "7 4", "ring"),
}
_OTHER_DASHES = ("", "6 3", "2 3")
_OTHER_MARKERS = ("circle", "square", "triangle", "diamond", "cross", "fall", "plus")


def styles_for(methods: Sequence[str]) -> dict[str, Style]:
    """A style a method: the fixed ones, and for others colours that are free here, each its own while there are any."""
    taken = {STYLES[method].colour for method in methods if method in STYLES}
    free = list(product(_OTHER_DASHES, [style.colour for style in STYLES.values() if style.colour not in taken]))
    styles: dict[str, Style] = {}
    for place, method in enumerate(method for method in methods if method not in STYLES):
        dash, colour = free[place % len(free)] if free else ("", GREY)
        styles[method] = Style(colour, dash, _OTHER_MARKERS[place % len(_OTHER_MARKERS)])
    return {method: STYLES.get(method) or styles[method] for method in methods}


def colour_of(method: str) -> str:
    """The colour of a method; grey for those that have none of their own."""
    return STYLES[method].colour if method in STYLES else GREY
