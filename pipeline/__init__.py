"""GLOT: one good vector or label a text from a frozen language model, in two stages.

Stage one runs the frozen backbone once over each distinct text and keeps its token states on
disk; stage two trains a small head over them. Text flows one way through five rooms:

    corpus -> extract -> store -> fit -> report

`import pipeline` is light: each room imports what it needs when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.classifier import GlotClassifier
    from pipeline.extract.run import extract_states
    from pipeline.fit.poolers import Glot
    from pipeline.fit.train import fit_head
    from pipeline.model import GlotModel
    from pipeline.store.reader import Cache

__version__ = "0.1.0"
__all__ = ["Cache", "Glot", "GlotClassifier", "GlotModel", "extract_states", "fit_head"]

_HOMES = {
    "extract_states": "pipeline.extract.run",
    "Cache": "pipeline.store.reader",
    "Glot": "pipeline.fit.poolers",
    "fit_head": "pipeline.fit.train",
    "GlotModel": "pipeline.model",
    "GlotClassifier": "pipeline.classifier",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
