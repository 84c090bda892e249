"""Anybody's own data: CSV, TSV, JSON lines and Parquet files with a text, a second text and a label column."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.corpus.examples import BadRows, Example, ExampleTable, Split, UnfitRow
from pipeline.corpus.formats import JSON_LINES, read_cells
from pipeline.corpus.tasks import Columns
from pipeline.errors import UsageError
from pipeline.store.task_spec import TaskSpec

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

ONE_LABEL = (
    "for several labels a text, write a column of yes and no for each, and add them one by one "
    "with `glot extract --examples`"
)


class Row(NamedTuple):
    """A row as it was read.

    Attributes:
        index: its number among the file's rows, from 0, unfit ones included.
        where: for messages: "a.csv line 3".
        text, text_b: its texts.
        label: its label as the file has it (None: none).
    """

    index: int
    where: str
    text: str
    text_b: str | None
    label: Any


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
    """

    source: str
    columns: Columns
    label_needed: bool
    bad_rows: str
    same_columns: bool
    classes: tuple[str, ...] = ()

    def cells(self) -> Iterator[tuple[str, dict[str, Any] | UnfitRow]]:
        """Pairs of (place, cells by column name or what is wrong with the row)."""
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
                bad.meet(error)
            else:
                yield row
        if index < 0:
            raise UsageError(f"{self.source} has no rows: pass data that has some")
        if bad.count > index:
            raise UsageError(f"{self.source}: none of its {index + 1} rows is fit; the first: {bad.first}")


@dataclass(frozen=True)
class Table(Rows):
    """A file of rows, read anew, row by row, each time it is iterated; the file's suffix says its format.

    CSV and TSV obey CSV's quoting and have a header line; `.json` means one object a line, like `.jsonl`.
    An empty string is a text; a null is not. A NaN or empty label counts as missing.

    Attributes:
        path: the file.
        columns: the names of its columns.
        label_needed: a row without a label is unfit.
        bad_rows: what becomes of a row that is unfit on its own (too few columns, broken JSON, no text, no label):
            "stop" or "skip".

    Iteration raises:
        UsageError: the file or a column is missing, the format is unknown, the file is damaged, or it is empty or
            without a fit row; with "stop" also the first unfit row. The message names the file and the line or row.
    """

    path: Path
    columns: Columns
    label_needed: bool = True
    bad_rows: str = "stop"

    @property
    def source(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def same_columns(self) -> bool:
        """Whether the file has one header for all rows."""
        return self.path.suffix.lower() not in JSON_LINES

    def cells(self) -> Iterator[tuple[str, dict[str, Any] | UnfitRow]]:
        """See `Rows`."""
        try:
            yield from read_cells(self.path, self.columns)
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error


def read_split(name: str, spec: TaskSpec, table: Rows) -> Split:
    """Read rows as a split whose labels are class indices or scores; a missing label stays None.

    Raises:
        UsageError: what iterating the table raises, or a label that is not among the task's classes; with "stop"
            also a score that is no finite number. The message names the row.
    """
    bad, examples, encode = BadRows(table.bad_rows), ExampleTable(), _Encoder(spec)
    for row in table.rows(bad):
        try:
            label = encode(row)
        except UnfitRow as error:
            bad.meet(error)
        else:
            examples.append(Example(row.index, row.text, row.text_b, label))
    return Split(name, examples, table.source, bad.count, bad.first)


def infer_spec(name: str, table: Rows, num_texts: int) -> TaskSpec:
    """Tell from the training labels, read once, what the task is.

    Decimal numbers (with a point, or typed as floats) make it a score task, their range the score range. Everything
    else makes classes: whole numbers in their order, strings sorted, booleans as "false" and "true".

    Raises:
        UsageError: what iterating the table raises, or all labels are the same; with "stop" also a label that is
            no finite number among scores, or no text, number or boolean among classes.
    """
    labels = _Labels()
    for row in table:
        labels.add(row)
    unfit = labels.no_score if labels.decimal else labels.no_class
    if unfit and (table.bad_rows == "stop" or not labels.fit):
        raise unfit
    if labels.decimal:
        if labels.low == labels.high:
            raise UsageError(f"{name}: every score is {labels.low:g}: there is nothing to learn")
        score_range = (labels.low, labels.high)
        return TaskSpec(name, num_texts, "score", score_range=score_range, metrics=("spearman", "pearson"))
    return classes_spec(name, labels.classes, num_texts)


def classes_spec(name: str, classes: tuple[str, ...], num_texts: int) -> TaskSpec:
    """The task of telling classes apart; raises UsageError where there are fewer than two."""
    if len(classes) < 2:
        raise UsageError(f"{name}: every label is {classes[0]!r}: training needs at least two classes")
    metrics = ("accuracy", "f1") if len(classes) == 2 else ("accuracy", "macro_f1")
    return TaskSpec(name, num_texts, "classes", classes, metrics=metrics)


class _Labels:
    """What the labels seen so far can be: the range they span as scores, the names they have as classes.

    Whether an unfit label is an error shows only when all were seen, so the first of either kind is kept.
    """

    def __init__(self) -> None:
        self.decimal = False
        self.low, self.high = math.inf, -math.inf
        self.no_score: UnfitRow | None = None
        self.no_class: UnfitRow | None = None
        self._seen: set[tuple] = set()
        self._names: set[str] = set()
        self._numbers: set[int | float | None] = set()

    def add(self, row: Row) -> None:
        key = _label_key(row.label)
        if key in self._seen:
            return
        self.decimal = self.decimal or _is_decimal(row.label)
        try:
            score = _score(row)
            self.low, self.high = min(self.low, score), max(self.high, score)
        except UnfitRow as error:
            self.no_score = self.no_score or error
        if self.decimal:  # no classes any more, and scores may all be different
            for seen in (self._seen, self._names, self._numbers):
                seen.clear()
            return
        self._seen.add(key)
        try:
            self._names.add(_label_text(row))
            self._numbers.add(_number(row.label))
        except UnfitRow as error:
            self.no_class = self.no_class or error

    @property
    def fit(self) -> bool:
        return self.low <= self.high if self.decimal else bool(self._names)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(self._names) if None in self._numbers else map(str, sorted(self._numbers)))


class _Encoder:
    """Turns rows' labels into class indices or scores, looking at each spelling of a class once."""

    def __init__(self, spec: TaskSpec):
        self._is_score = spec.target == "score"
        self._classes = {name: i for i, name in enumerate(spec.classes)}
        self._numeric = all(_number(name) is not None for name in spec.classes)  # then "01" and 1.0 are class "1"
        self._known: dict[tuple, int] = {}

    def __call__(self, row: Row) -> int | float | None:
        if row.label is None:
            return None
        if self._is_score:
            return _score(row)
        key = _label_key(row.label)
        if key not in self._known:
            self._known[key] = self._class_index(row)
        return self._known[key]

    def _class_index(self, row: Row) -> int:
        name, number = _label_text(row), _number(row.label)
        if name not in self._classes and self._numeric and number is not None:
            name = str(number)
        if name not in self._classes:
            known = ", ".join(self._classes)
            raise UsageError(f"{row.where}: label {name!r} is not among the training labels: {known}")
        return self._classes[name]


def _label_key(label: Any) -> tuple:
    """Equal for equal labels of the same type; 1, 1.0 and True differ."""
    return type(label), label if isinstance(label, str | int | float) else repr(label)


def _row(index: int, where: str, cells: dict[str, Any] | UnfitRow, columns: Columns, label_needed: bool) -> Row:
    if isinstance(cells, UnfitRow):
        raise cells
    text = _text_cell(where, cells, columns.text)
    text_b = _text_cell(where, cells, columns.text_b) if columns.text_b else None
    if columns.label not in cells and label_needed:
        raise _no_column(where, cells, columns.label)
    label = cells.get(columns.label)
    if _is_missing(label):
        if label_needed:
            raise UnfitRow(f"{where}: no label in column {columns.label!r}: fill it in or leave the row out")
        label = None
    return Row(index, where, text, text_b, label)


def _text_cell(where: str, cells: dict[str, Any], column: str) -> str:
    if column not in cells:
        raise _no_column(where, cells, column)
    if not isinstance(cells[column], str):
        kind = "null" if cells[column] is None else type(cells[column]).__name__
        raise UnfitRow(f"{where}: column {column!r} holds {kind} where a text belongs")
    return cells[column]


def _no_column(where: str, cells: dict[str, Any], column: str) -> _NoColumn:
    return _NoColumn(f"{where}: no column {column!r}; the columns are: {', '.join(cells)}")


def _is_missing(label: Any) -> bool:
    if isinstance(label, str):
        return label.strip().lower() in {"", "nan"}
    return label is None or (isinstance(label, float) and math.isnan(label))


def _number(label: Any) -> int | float | None:
    """The label as a number, an int wherever it is whole; None if it is none (a bool is none)."""
    if isinstance(label, str):
        label = label.strip()
        if not _NUMBER.fullmatch(label):
            return None
        label = int(label) if label.lstrip("+-").isdigit() else float(label)
    if isinstance(label, bool) or not isinstance(label, int | float):
        return None
    return int(label) if isinstance(label, float) and label.is_integer() else label


def _is_decimal(label: Any) -> bool:
    """Whether a label is written as a decimal number: 0.5, and 2.0 too, for who writes so means a score."""
    if isinstance(label, str):
        return _NUMBER.fullmatch(label.strip()) is not None and not label.strip().lstrip("+-").isdigit()
    return isinstance(label, float)


def _refuse_several(row: Row) -> None:
    if isinstance(row.label, list | tuple):
        raise UnfitRow(f"{row.where}: label {row.label!r} is a list, and an example has one label: {ONE_LABEL}")


def _label_text(row: Row) -> str:
    _refuse_several(row)
    if isinstance(row.label, bool):
        return str(row.label).lower()
    if isinstance(row.label, str | int | float):
        return str(row.label)
    raise UnfitRow(f"{row.where}: label {row.label!r} is neither a text, a number nor a boolean")


def _score(row: Row) -> float:
    _refuse_several(row)
    number = _number(row.label)
    try:
        score = math.nan if number is None else float(number)
    except OverflowError:
        score = math.inf
    if not math.isfinite(score):
        raise UnfitRow(f"{row.where}: label {row.label!r} is not a finite number, but the labels are scores")
    return score
