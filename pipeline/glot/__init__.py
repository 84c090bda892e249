"""GLOT: one good vector or label a text from a frozen language model, in two stages.

Stage one runs the frozen backbone once over each distinct text and keeps its token states on
disk; stage two trains a small head over them. Text flows one way through five rooms:

    corpus -> extract -> store -> fit -> report

`import glot` is light: each room imports what it needs when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glot.version import __version__ as __version__

if TYPE_CHECKING:
    from glot.extract.run import extract_states
    from glot.fit.train import fit_head
    from glot.inference.classifier import GlotClassifier
    from glot.inference.model import GlotModel
    from glot.inference.regressor import GlotRegressor
    from glot.inference.stages import extract_texts, fit_cache
    from glot.nn.poolers import Glot
    from glot.store.reader import Cache

__all__ = [
    "Cache",
    "Glot",
    "GlotClassifier",
    "GlotModel",
    "GlotRegressor",
    "extract_states",
    "extract_texts",
    "fit_cache",
    "fit_head",
]

_HOMES = {
    "extract_states": "glot.extract.run",
    "extract_texts": "glot.inference.stages",
    "fit_cache": "glot.inference.stages",
    "Cache": "glot.store.reader",
    "Glot": "glot.nn.poolers",
    "fit_head": "glot.fit.train",
    "GlotModel": "glot.inference.model",
    "GlotClassifier": "glot.inference.classifier",
    "GlotRegressor": "glot.inference.regressor",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
