"""Joins the rooms for `glot evaluate --mteb`: heads and plain poolers of one backbone on mteb's tasks.

The modules here import mteb; look with `check_installed` first.
"""

from __future__ import annotations

from importlib.util import find_spec

from glot.errors import UsageError


def check_installed() -> None:
    """Raise UsageError where mteb is not installed."""
    if find_spec("mteb") is None:
        raise UsageError("--mteb needs mteb, which is not installed: pip install 'glot-pipeline[mteb]'")
