"""Anybody's own data: CSV, TSV, JSON lines and Parquet files, or folders, with a text, a second text and a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glot.corpus.dialect import FIND_OUT, FoundDialect, TableFormat, find_dialect, is_delimited
from glot.corpus.examples import BadRows, Example, ExampleTable, Reading, Split, UnfitRow
from glot.corpus.formats import (
    JSON_LINES,
    check_table,
    is_json_array,
    is_parquet,
    json_columns,
    parquet_columns,
    read_delimited,
    read_json_lines,
    read_parquet,
)
from glot.corpus.labels import LabelEncoder, check_columns, classes_spec, in_order, labels_spec
from glot.corpus.lines import encoding_name, encoding_of, readable
from glot.corpus.rows import Row, Rows
from glot.corpus.text_folder import folder_columns, read_folder
from glot.corpus.training_labels import LabelTally, NamedLabels
from glot.errors import UsageError
from glot.registry.tasks import Columns
from glot.store.task_spec import TaskSpec


@dataclass(frozen=True)
class Table(Rows):
    """A file of rows, read anew, row by row, each time it is iterated; the file's suffix says its format.

    A folder of texts (see `glot.corpus.text_folder`) is a table, too, with the columns file, text and label.

    How delimited text is written is found out by a look through the file (see `glot.corpus.dialect`) but for what
    `form` says; `.json` means one object a line, like `.jsonl`, or one array of objects. An empty
    string is a text; a null is not. For labels see `glot.corpus.labels`.

    Attributes:
        path: the file.
        columns: the names of its columns.
        label_needed: a row without a label is unfit.
        bad_rows: what becomes of a row that is unfit on its own (too few columns, broken JSON, no text, no label):
            "stop" or "skip".
        form: what the user says of how it is written.
        whole: rows bring the cells of all columns; else those of a Parquet file that go unread are None.

    Raises UsageError where a column is named for two things.

    Iteration raises:
        UsageError: the file or a column is missing, the format is unknown, the file is damaged, or it is empty or
            without a fit row; with "stop" also the first unfit row. The message names the file and the line or row.
    """

    path: Path
    columns: Columns
    label_needed: bool = True
    bad_rows: str = "stop"
    form: TableFormat = FIND_OUT
    whole: bool = False

    def __post_init__(self) -> None:
        named = [name for name in (self.columns.text, self.columns.text_b, *self.columns.labels) if name]
        for place, name in enumerate(named):
            if name in named[:place]:
                raise UsageError(
                    f"{self.source}: the column {name!r} is named twice: the text, the second text of pairs and each "
                    "label need one of their own"
                )

    @property
    def source(self) -> str:  # type: ignore[override]  # a table tells it by its path, a stream is given it
        """The file's name."""
        return self.path.name

    @property
    def same_columns(self) -> bool:  # type: ignore[override]  # likewise
        """Whether the file has one header for all rows."""
        return self.path.suffix.lower() not in JSON_LINES

    @property
    def described(self) -> str:
        """See `Rows`."""
        check_table(self.path, self.form)
        if self.path.is_dir():
            return f"texts in folders, {encoding_name(self.form.encoding)}"
        if is_parquet(self.path):
            return "Parquet"
        if self._found is None:
            kind = "JSON" if is_json_array(self.path, self.form.encoding) else "JSON lines"
            return f"{kind}, {encoding_of(self.path, self.form.encoding)}"
        return self._found.described

    @property
    def spanning(self) -> int:
        """See `Rows`."""
        return self._found.spanning if self._found else 0

    @property
    def is_headless(self) -> bool:
        """Whether delimited text does not begin as if it had a header line, though it should have one."""
        return self._found is not None and self._found.dialect.header and self._found.headless

    def cells(self) -> Iterator[tuple[str, dict[str, Any] | UnfitRow]]:
        """See `Rows`."""
        check_table(self.path, self.form)
        if self.path.is_dir():
            yield from read_folder(self.path, self.form.encoding)
            return
        if is_parquet(self.path):
            yield from read_parquet(self.path, self.columns, self.whole)
            return
        with readable(self.path, self.form.encoding):
            if self._found is None:
                yield from read_json_lines(self.path, self.form.encoding)
            else:
                self._check_header(self._found)
                yield from read_delimited(self.path, self._found)

    def check(self) -> None:
        """Raise UsageError where the file, or a column in its header line, is missing; no row is read."""
        check_table(self.path, self.form)
        if self._found is not None:
            self._check_header(self._found)

    def column_types(self) -> dict[str, Any]:
        """The names of its columns in their order, each with a Python type, or that of pyarrow for a Parquet file.

        JSON lines are looked through whole. Raises UsageError where it cannot be read.
        """
        check_table(self.path, self.form)
        if self.path.is_dir():
            return folder_columns(self.path)
        if is_parquet(self.path):
            return parquet_columns(self.path)
        with readable(self.path, self.form.encoding):
            if self._found is None:
                return json_columns(self.path, self.form.encoding)
            return dict.fromkeys(self._found.header, str)

    @cached_property
    def _found(self) -> FoundDialect | None:
        """How delimited text is written; None for other formats."""
        if is_parquet(self.path) or not is_delimited(self.path, self.form) or not self.same_columns:
            return None
        self.form.check_columns(self.columns)
        with readable(self.path, self.form.encoding):
            return find_dialect(self.path, self.form, self.columns, self.label_needed)

    def _check_header(self, found: FoundDialect) -> None:
        if not found.header or not found.dialect.header:  # an empty file, or columns that go by their numbers
            return
        columns = self.columns
        for name in filter(None, (columns.text, columns.text_b, *columns.labels)):
            count = found.header.count(name)
            if count > 1:
                raise UsageError(f"{self.source}: {count} columns are called {name!r}: give each a name of its own")
            if count or (name in columns.labels and not self.label_needed):
                continue
            if found.headless:  # then its first line is somebody's text, and not for a message
                raise UsageError(
                    f"{self.source} seems to have no header line (columns are found by name, and none is {name!r}): "
                    "pass --no-header and column numbers, as in --label 1 --text 2"
                )
            raise UsageError(f"{self.source}: no column {name!r}; the columns are: {', '.join(found.header)}")


def read_split(name: str, spec: TaskSpec, table: Rows) -> Split:
    """Read rows as a split whose labels are class indices or scores; a missing label stays None.

    Raises:
        UsageError: what iterating the table raises, or a label that is not among the task's classes; with "stop"
            also a score that is no finite number. The message names the row.
    """
    bad, encode = BadRows(table.bad_rows), LabelEncoder(spec)
    rows = bad.fit(table.rows(bad), lambda row: Example(row.index, row.text, row.text_b, encode(row)))
    return _split_of(name, ExampleTable(rows), table, bad)


def read_training(task: str, table: Rows, target: str | None = None) -> tuple[TaskSpec, Split]:
    """Read training rows and tell from their labels what the task is.

    They are read once, but twice where labels look like scores at first and are classes after all.

    Args:
        target: "classes" or "score" whatever the labels look like.

    Raises:
        UsageError: what iterating the table raises, all labels are the same, or columns and target do not go together;
            with "stop" also a label that is no finite number among scores, or no text, number, boolean or date among
            classes.
    """
    columns = table.columns
    num_texts: Literal[1, 2] = 2 if columns.text_b else 1
    check_columns(columns, target)
    if table.classes:
        spec = classes_spec(task, table.classes, num_texts)
    elif not columns.has_several:
        return _read_tallied(task, num_texts, table, target)
    elif columns.separator is not None:
        return _read_named(task, num_texts, table)
    else:
        spec = labels_spec(task, columns.labels, num_texts)
    return spec, read_split("train", spec, table)


def _read_tallied(task: str, num_texts: Literal[1, 2], table: Rows, target: str | None) -> tuple[TaskSpec, Split]:
    """As `read_training` where each row has one label."""
    labels, bad = LabelTally(target), BadRows(table.bad_rows)
    examples = _read_texts(table, bad, labels.add)
    if labels.look_again:
        del examples, labels  # a second table of all texts may be too much
        return _read_tallied(task, num_texts, table, "classes")
    if labels.unfit and (bad.choice == "stop" or not labels.fit):
        raise labels.unfit
    spec = labels.spec(task, num_texts, table.source)
    encoded = labels.encoded(spec)
    examples.set_labels(encoded, are_classes=spec.target == "classes")
    unfit = np.isnan(encoded)
    if not unfit.any():
        return spec, _split_of("train", examples, table, bad)
    first = int(unfit.argmax())
    if examples[first].index == first:  # no row before it was left out
        bad.first = str(labels.unfit)
    bad.count += int(unfit.sum())
    return spec, _split_of("train", examples.take(np.flatnonzero(~unfit)), table, bad)


def _read_named(task: str, num_texts: Literal[1, 2], table: Rows) -> tuple[TaskSpec, Split]:
    """As `read_training` where a row names its labels in one cell."""
    labels, bad = NamedLabels(), BadRows(table.bad_rows)
    examples = _read_texts(table, bad, lambda row: labels.add(row.label or ()))
    spec = labels_spec(task, in_order(set(labels.names)), num_texts)
    examples.set_labels(labels.encoded(spec.classes), are_classes=True)
    return spec, _split_of("train", examples, table, bad)


def _read_texts(table: Rows, bad: BadRows, take: Callable[[Row], None]) -> ExampleTable:
    """The fit rows without their labels; each of them is given to `take`, too."""
    examples = ExampleTable()
    for row in table.rows(bad):
        take(row)
        examples.append(Example(row.index, row.text, row.text_b, None))
    return examples


def _split_of(name: str, examples: Sequence[Example], table: Rows, bad: BadRows) -> Split:
    reading = Reading(table.source, table.described, len(examples) + bad.count, bad.count, table.spanning)
    return Split(name, examples, table.source, bad.count, bad.first, reading=reading)
