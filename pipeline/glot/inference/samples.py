"""What people hand to an estimator as X: texts or pairs of texts, in a list, an array, a Series, a frame, a Dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from glot.store.template import join_pair

KINDS = "a list, 1-D array or Series of texts, a list of pairs of texts, or a table of one or two columns of texts"


@dataclass(frozen=True)
class Samples:
    """n texts, or n pairs of them: `second` are the second texts of pairs, else None."""

    first: list[str]
    second: list[str] | None = None

    def __len__(self) -> int:
        return len(self.first)

    @property
    def num_texts(self) -> Literal[1, 2]:
        """1, or 2 for pairs."""
        return 1 if self.second is None else 2

    @property
    def columns(self) -> list[list[str]]:
        """The first texts, and the second ones of pairs."""
        return [self.first] if self.second is None else [self.first, self.second]

    def take(self, rows: np.ndarray) -> Samples:
        """The samples at (m,) positions."""
        columns = [[column[row] for row in rows.tolist()] for column in self.columns]
        return Samples(*columns)

    def joined(self) -> Samples:
        """The one text that a template of pairs makes of each pair; raises ValueError for single texts."""
        if self.second is None:
            raise ValueError("the prompt takes pairs, so X must hold pairs of texts, (text, text_b), not single ones")
        return Samples([join_pair(*pair) for pair in zip(self.first, self.second, strict=True)])


def read_samples(X: Any) -> Samples:
    """The texts or pairs that X holds.

    A table (2-D array, pandas or polars DataFrame, Hugging Face Dataset) of one column holds texts, of two pairs.

    Raises ValueError for another shape, or no sample; TypeError for what is no text.
    """
    if X is None or isinstance(X, str | bytes | Mapping | Set) or not isinstance(X, Iterable):
        raise ValueError(f"X must be {KINDS} (or of pairs); got {type(X).__name__}")
    table: Any = X
    if isinstance(getattr(table, "column_names", None), list):  # a Dataset; its `shape` is no array's
        return _of_columns([list(table[name]) for name in _few(table.column_names)], table.column_names)
    shape: tuple[int, ...] = getattr(X, "shape", (0,))
    if len(shape) == 2:
        names = list(map(str, getattr(X, "columns", range(shape[1]))))
        _few(names)
        return _of_columns(list(map(list, np.asarray(X, dtype=object).T)), names)
    if len(shape) != 1:
        raise ValueError(f"X must be {KINDS} (or of pairs); got the shape {shape}")
    rows = list(X)
    if not rows:
        raise ValueError("X holds no text and no pair: found 0 samples, and at least 1 is needed")
    if isinstance(rows[0], tuple | list):
        for index, row in enumerate(rows):
            if not isinstance(row, tuple | list) or len(row) != 2:
                raise ValueError(f"X must hold pairs of texts, (text, text_b); at index {index} it holds {row!r:.40}")
        return _of_columns([list(column) for column in zip(*rows, strict=True)], ["the first", "the second"])
    return _of_columns([rows], [""])


def check_no_labels(samples: Samples, labels: Sequence[Any] | np.ndarray) -> None:
    """Raise ValueError where a column of pairs is y itself: a table of texts and labels was passed as X."""
    if samples.second is None:
        return
    for place, column in enumerate(samples.columns):
        if column == list(map(str, labels)):
            raise ValueError(
                f"X holds pairs, whose {('first', 'second')[place]} texts are y itself: leave the column of the labels "
                "out of X, as in X[['text']]"
            )


def _few(names: Sequence[str]) -> Sequence[str]:
    """The names of one or two columns; raises ValueError for more: which of them hold the texts is not guessed."""
    if len(names) not in (1, 2):
        shown = ", ".join(map(str, names[:8])) + (", …" if len(names) > 8 else "")
        raise ValueError(
            f"X must have one column of texts, or two of pairs; it has {len(names)} ({shown}): "
            "select them, as in X[['text']] or dataset.select_columns(['text'])"
        )
    return names


def _of_columns(columns: list[list[Any]], names: Sequence[str]) -> Samples:
    if not columns[0]:
        raise ValueError("X holds no text and no pair: found 0 samples, and at least 1 is needed")
    what = "pairs of texts" if len(columns) == 2 else "texts"
    for name, column in zip(names, columns, strict=True):
        for index, text in enumerate(column):
            if not isinstance(text, str):
                where = f" of {name}" if name else ""
                raise TypeError(
                    f"X must hold {what} (str); at index {index}{where} it holds {type(text).__name__} {text!r:.40}"
                )
    return Samples(*([str(text) for text in column] for column in columns))
