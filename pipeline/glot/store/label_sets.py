"""The labels of a text that may have several, or none, as one number: bit c is set where it has the label c."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

LABELS_JOINT = ";"  # between the labels of a text where they are written
HALF = 0.5  # the probability above which a label is given, where nothing says otherwise
MOST_LABELS = 53  # a table of examples keeps labels as float64, which is exact to so many bits


def to_codes(indicator: ArrayLike) -> np.ndarray:
    """(n,) int64 codes of (n, C) zeros and ones, or booleans."""
    bits = np.asarray(indicator, dtype=np.int64)
    return bits @ (np.int64(1) << np.arange(bits.shape[1], dtype=np.int64))


def to_indicator(codes: ArrayLike, count: int = MOST_LABELS) -> np.ndarray:
    """(n, C) int64 zeros and ones of (n,) codes of `count` labels."""
    return (np.asarray(codes, dtype=np.int64)[:, None] >> np.arange(count)) & 1


def to_names(code: int, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the labels in a code, in their order."""
    return tuple(name for place, name in enumerate(classes) if code >> place & 1)


def in_words(code: int, classes: tuple[str, ...]) -> str:
    """The labels in a code for people: "billing, login", or "none"."""
    return ", ".join(to_names(code, classes)) or "none"
