"""Anybody's rows, whatever they are read from: two texts and a label, and what is wrong with those that are unfit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from glot.corpus.examples import BadRows, UnfitRow, check_text
from glot.errors import UsageError
from glot.registry.tasks import Columns

SKIP = "; --on-bad-row skip leaves such rows out"  # said where labels are read: those commands have the option
YES_NO = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}


class Row(NamedTuple):
    """A row as it was read.

    Attributes:
        index: its number among the file's rows, from 0, unfit ones included.
        where: for messages: "a.csv line 3".
        text, text_b: its texts.
        label: its label as the file has it (None: none); the tuple of their names where a text may have several.
        cells: all its cells by column name, as the file has them.
    """

    index: int  # type: ignore[assignment]  # as in `Example`
    where: str
    text: str
    text_b: str | None
    label: Any
    cells: Mapping[str, Any] = MappingProxyType({})


class _NoColumn(UnfitRow):
    """A row lacks a column."""


class Rows:
    """Anybody's rows, read anew each time they are iterated: what a file and a split of the hub have in common.

    Attributes:
        source: where they come from, for people.
        columns: the names of the columns.
        label_needed: a row without a label is unfit.
        bad_rows: what becomes of a row that is unfit on its own: "stop" or "skip".
        same_columns: every row has the columns of the first, so one that is missing is missing for good.
        classes: the names that the source itself gives its classes; none where only the labels can tell.
        skippable: whether whoever names the source may ask for unfit rows to be skipped.
    """

    source: str
    columns: Columns
    label_needed: bool
    bad_rows: str
    same_columns: bool
    classes: tuple[str, ...] = ()
    skippable: bool = True

    @property
    def described(self) -> str:
        """How they are written, for people: "tab-separated, quotes are text, UTF-8"; "" if there is nothing to say."""
        return ""

    @property
    def spanning(self) -> int:
        """How many rows span several lines."""
        return 0

    def cells(self) -> Iterator[tuple[str, dict[str, Any] | UnfitRow]]:
        """Pairs of (where, cells by column name or what is wrong with the row)."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Row]:
        return self.rows(BadRows(self.bad_rows))

    def rows(self, bad: BadRows) -> Iterator[Row]:
        """The fit rows; unfit ones are met by `bad`."""
        index = -1
        for index, (where, cells) in enumerate(self.cells()):
            try:
                row = _row(index, where, cells, self.columns, self.label_needed)
            except UnfitRow as error:
                if isinstance(error, _NoColumn) and self.same_columns:
                    raise
                bad.meet(error, SKIP if self.label_needed and self.skippable else "")
            else:
                yield row
        if index < 0:
            raise UsageError(f"{self.source} has no rows: pass data that has some")
        if bad.count > index:
            raise UsageError(f"{self.source}: none of its {index + 1} rows is fit; the first: {bad.first}")


def _row(index: int, where: str, cells: dict[str, Any] | UnfitRow, columns: Columns, label_needed: bool) -> Row:
    if isinstance(cells, UnfitRow):
        raise cells
    text = _text_cell(where, cells, columns.text)
    text_b = _text_cell(where, cells, columns.text_b) if columns.text_b else None
    if columns.has_several:
        missing = [name for name in columns.labels or (columns.label,) if name not in cells]
        if missing and label_needed:
            raise _no_column(where, cells, missing[0])
        blank = columns.separator is None and all(plain_label(cells.get(name)) is None for name in columns.labels)
        names = None if missing or (blank and not label_needed) else _several(where, cells, columns)
        return Row(index, where, text, text_b, names, cells)
    if columns.label not in cells and label_needed:
        raise _no_column(where, cells, columns.label)
    label = plain_label(cells.get(columns.label))
    if label is None and label_needed:
        raise UnfitRow(f"{where}: no label in column {columns.label!r}: fill it in")
    return Row(index, where, text, text_b, label, cells)


def _several(where: str, cells: dict[str, Any], columns: Columns) -> tuple[str, ...]:
    """The names of a row's labels; raises UnfitRow for a cell that is neither yes nor no, or no list of names."""
    if columns.separator is None:
        return tuple(name for name in columns.labels if _is_yes(where, name, plain_label(cells[name])))
    cell = plain_label(cells[columns.label])
    found = cell.split(columns.separator) if isinstance(cell, str) else [] if cell is None else cell
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise UnfitRow(f"{where}: {columns.label} {cell!r} is neither a text nor a list of labels")
    return tuple(dict.fromkeys(name.strip() for name in found if name.strip()))


def _is_yes(where: str, column: str, cell: Any) -> bool:
    word = YES_NO.get(str(cell).strip().lower())
    if word is None:
        said = "empty" if cell is None else repr(cell)
        raise UnfitRow(
            f"{where}: {column} is {said}: a column of several labels holds 0 or 1, yes or no, true or false"
        )
    return word


def _text_cell(where: str, cells: dict[str, Any], column: str) -> str:
    cell = cells.get(column)
    if isinstance(cell, str):  # the usual case first: what the last line builds for its message takes longer
        return cell
    if column not in cells:
        raise _no_column(where, cells, column)
    return check_text(cell, where, f"column {column!r}")


def _no_column(where: str, cells: dict[str, Any], column: str) -> _NoColumn:
    return _NoColumn(f"{where}: no column {column!r}; the columns are: {', '.join(cells)}")


def plain_label(label: Any) -> Any:
    """A cell as a label: a NumPy number as Python's own, and None where it is missing.

    Missing are an empty cell (blanks alone are none), null and a NaN; never a word, "nan" and "NA" included.
    """
    if isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, str):
        return label if label.strip() else None
    if isinstance(label, float | Decimal) and label != label:
        return None
    return label
