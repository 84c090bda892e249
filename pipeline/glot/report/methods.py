"""How each method is called and drawn: the one place that says it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from glot.nn.registry import GREY, POOLERS, PoolerEntry


@dataclass(frozen=True)
class Method:
    """How a method is told from the others: its name for people, colour, dashes (lengths on and off) and marker."""

    title: str
    colour: str
    dash: tuple[float, ...]
    marker: str  # as matplotlib has it; "ring" and "hollow" are a circle and a diamond without a filling


INK = "#0b0c0d"  # becomes the colour of the text around a picture that lies in a page
PAPER = Method("the paper", INK, (1, 3), "hollow")


def _of_pooler(entry: PoolerEntry) -> Method:
    return Method(entry.title, entry.colour, entry.dash, entry.marker)


# Poolers as their entries have them, and variants of GLOT and baselines; colours never stand alone.
_POOLERS = ("cls", "mean", "max", "adapool", "glot")  # in the paper's order
METHODS = {
    **{name: _of_pooler(POOLERS[name]) for name in _POOLERS},
    "adapool-wide": Method("AdaPool, scorer as wide as GLOT's", "#A6761D", (6, 2, 1, 2), "s"),
    "glot-loops": Method("GLOT, self-loops only", "#CC79A7", (8, 2), "x"),
    "glot-complete": Method("GLOT, complete graph", "#B5416E", (5, 2), "s"),
    "glot-random": Method("GLOT, as many random edges", "#6A5ACD", (1, 2), "^"),
    "glot-chain": Method("GLOT, chain of neighbours", "#3B8F3B", (7, 2), "D"),
    "glot-knn": Method("GLOT, 5 nearest neighbours", "#44AA99", (3, 2), "v"),
    "glot-mean-readout": Method("GLOT, mean for its readout", "#A66BBE", (5, 1), "+"),
    "glot-content": Method("GLOT, without special tokens", "#999933", (2, 1), "x"),
    "logreg-cls": Method("logistic regression on CLS", "#5B7FA6", (3, 1), "ring"),
    "logreg-mean": Method("logistic regression on mean", "#7F6B5D", (3, 1), "+"),
    "ridge-cls": Method("ridge regression on CLS", "#4F9BA8", (3, 1), "ring"),
    "ridge-mean": Method("ridge regression on mean", "#9C8A5A", (3, 1), "+"),
    "length": Method("length alone", "#6B6B6B", (1, 3), "+"),
    "bag-of-words": Method("bag of words", "#A0A0A0", (5, 3), "ring"),
}
_ORDER = {name: index for index, name in enumerate(METHODS)}
_OTHER_DASHES: tuple[tuple[float, ...], ...] = ((), (4, 2), (1, 2))
_OTHER_MARKERS = ("o", "s", "^", "D", "x", "v", "+")


def _fixed(method: str) -> Method | None:
    """How a method is drawn wherever it stands: those above, and poolers from outside that have a colour."""
    if method not in METHODS and method in POOLERS and POOLERS[method].colour != GREY:
        return _of_pooler(POOLERS[method])
    return METHODS.get(method)


def looks_of(methods: Sequence[str]) -> dict[str, Method]:
    """A look a method: the fixed ones, and for others colours that are free here, each its own while there are any."""
    fixed = {method: look for method in methods if (look := _fixed(method))}
    taken = {look.colour for look in fixed.values()}
    free = list(product(_OTHER_DASHES, [look.colour for look in METHODS.values() if look.colour not in taken]))
    others = [method for method in methods if method not in fixed]
    made = {}
    for index, method in enumerate(others):
        dash, colour = free[index % len(free)] if free else ((), GREY)
        made[method] = Method(method, colour, dash, _OTHER_MARKERS[index % len(_OTHER_MARKERS)])
    return {method: fixed.get(method) or made[method] for method in methods}


def method_name(method: str, kind: str | None) -> str:
    """A method's name for people; backbones of the kind decoder read their last token, so there CLS is EOS."""
    method, *settings = (part.strip() for part in method.split(","))
    look = _fixed(method)
    name = ", ".join([look.title if look else method, *settings])
    return name.replace("CLS", "EOS") if kind == "decoder" else name


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods, each once, in the paper's order, ours and the baselines after them."""
    return sorted(set(methods), key=method_order)


def method_order(method: str) -> tuple[int, str, float]:
    """Sorts methods as the tables have them; those whose names end in a number by that. Different for each."""
    number = number_of(method)
    base = method.partition(",")[0]
    name = method if number is None else method.rpartition("=")[0]
    return _ORDER.get(base, len(_ORDER)), name, number or 0.0


def number_of(method: str) -> float | None:
    """The number at the end of "glot,tau=0.3"; None where there is none."""
    try:
        return float(method.rpartition("=")[2])
    except ValueError:
        return None
