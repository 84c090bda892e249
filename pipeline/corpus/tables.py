"""Anybody's own data: CSV, TSV, JSON lines and Parquet files with a text, a second text and a label column."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.corpus.examples import Example
from pipeline.corpus.tasks import Columns
from pipeline.errors import UsageError
from pipeline.store.task_spec import TaskSpec

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_JSON_LINES = {".jsonl", ".json", ".ndjson"}
_PARQUET = {".parquet", ".pq"}
_FIELD_BYTES = 2**31 - 1  # csv's default of 128 KiB is shorter than some documents
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Row(NamedTuple):
    """A row as it was read: where ("a.csv line 3"), its texts, and its label as the file has it (None: none)."""

    where: str
    text: str
    text_b: str | None
    label: Any


def read_rows(path: Path, columns: Columns, label_needed: bool = True) -> list[Row]:
    """Read a table; its format follows from the file's suffix.

    CSV and TSV obey CSV's quoting and have a header line; `.json` means one object a line, like `.jsonl`.
    An empty string is a text; a null is not. A NaN or empty label counts as missing.

    Raises:
        UsageError: the file or a column is missing, the format is unknown, the file is damaged or empty, a text
            is null, or a label is missing while `label_needed`; the message names the file and the line or row.
    """
    try:
        rows = [_row(where, cells, columns, label_needed) for where, cells in _read_cells(path, columns)]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    if not rows:
        raise UsageError(f"{path} has no rows: pass a file that has some")
    return rows


def infer_spec(name: str, rows: list[Row], num_texts: int) -> TaskSpec:
    """Tell from the training labels what the task is.

    Decimal numbers (with a point, or typed as floats) make it a score task, their range the score range. Everything
    else makes classes: whole numbers in their order, strings sorted, booleans as "false" and "true".

    Raises:
        UsageError: all labels are the same, or among scores one is no finite number.
    """
    numbers = [_number(row.label) for row in rows]
    if any(_is_decimal(row.label) for row in rows):
        scores = [_score(row) for row in rows]
        score_range = (min(scores), max(scores))
        if score_range[0] == score_range[1]:
            raise UsageError(f"{name}: every score is {score_range[0]:g}: there is nothing to learn")
        return TaskSpec(name, num_texts, "score", score_range=score_range, metrics=("spearman", "pearson"))
    if None in numbers:
        classes = tuple(sorted({_label_text(row) for row in rows}))
    else:
        classes = tuple(str(number) for number in sorted(set(numbers)))
    if len(classes) < 2:
        raise UsageError(f"{name}: every label is {classes[0]!r}: training needs at least two classes")
    metrics = ("accuracy", "f1") if len(classes) == 2 else ("accuracy", "macro_f1")
    return TaskSpec(name, num_texts, "classes", classes, metrics=metrics)


def to_examples(spec: TaskSpec, rows: list[Row]) -> list[Example]:
    """Turn rows into examples whose labels are class indices or scores; a missing label stays None.

    Raises:
        UsageError: a label is not among the task's classes, or not a finite number; the message names the row.
    """
    class_index = {name: i for i, name in enumerate(spec.classes)}
    numeric = all(_number(name) is not None for name in spec.classes)  # then "01" and 1.0 are class "1"
    return [Example(i, row.text, row.text_b, _encode(row, spec, class_index, numeric)) for i, row in enumerate(rows)]


def _encode(row: Row, spec: TaskSpec, class_index: dict[str, int], numeric: bool) -> int | float | None:
    if row.label is None:
        return None
    if spec.target == "score":
        return _score(row)
    number = _number(row.label)
    name = str(number) if numeric and number is not None else _label_text(row)
    if name not in class_index:
        raise UsageError(f"{row.where}: label {name!r} is not among the training labels: {', '.join(class_index)}")
    return class_index[name]


def _row(where: str, cells: dict[str, Any], columns: Columns, label_needed: bool) -> Row:
    text = _text_cell(where, cells, columns.text)
    text_b = _text_cell(where, cells, columns.text_b) if columns.text_b else None
    if columns.label not in cells and label_needed:
        raise _no_column(where, cells, columns.label)
    label = cells.get(columns.label)
    if _is_missing(label):
        if label_needed:
            raise UsageError(f"{where}: no label in column {columns.label!r}: fill it in or leave the row out")
        label = None
    return Row(where, text, text_b, label)


def _text_cell(where: str, cells: dict[str, Any], column: str) -> str:
    if column not in cells:
        raise _no_column(where, cells, column)
    if not isinstance(cells[column], str):
        kind = "null" if cells[column] is None else type(cells[column]).__name__
        raise UsageError(f"{where}: column {column!r} holds {kind} where a text belongs")
    return cells[column]


def _no_column(where: str, cells: dict[str, Any], column: str) -> UsageError:
    return UsageError(f"{where}: no column {column!r}; the columns are: {', '.join(cells)}")


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


def _label_text(row: Row) -> str:
    if isinstance(row.label, bool):
        return str(row.label).lower()
    if isinstance(row.label, str | int | float):
        return str(row.label)
    raise UsageError(f"{row.where}: label {row.label!r} is neither a text, a number nor a boolean")


def _score(row: Row) -> float:
    number = _number(row.label)
    if number is None or not math.isfinite(number):
        raise UsageError(f"{row.where}: label {row.label!r} is not a finite number, but the labels are scores")
    return float(number)


def _read_cells(path: Path, columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pairs of (place, cells by column name), from whatever format the suffix says."""
    if not path.is_file():
        raise UsageError(f"no file {path}: pass a CSV, TSV, JSON lines or Parquet file")
    suffix = path.suffix.lower()
    if suffix in _DELIMITERS:
        return _read_csv(path, _DELIMITERS[suffix])
    if suffix in _JSON_LINES:
        return _read_json_lines(path)
    if suffix in _PARQUET:
        return _read_parquet(path, columns)
    known = ", ".join([*_DELIMITERS, *sorted(_JSON_LINES), *sorted(_PARQUET)])
    raise UsageError(f"{path}: unknown kind of table {path.suffix!r}: the suffix must be one of {known}")


def _read_csv(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    csv.field_size_limit(_FIELD_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise UsageError(f"{path.name}: a column name occurs twice in the header: {', '.join(header)}")
            for row in filter(None, reader):  # a blank line is no row
                where = f"{path.name} line {reader.line_num}"
                if len(row) != len(header):
                    raise UsageError(f"{where}: {len(row)} columns where the header has {len(header)}")
                yield where, dict(zip(header, row, strict=True))
        except csv.Error as error:
            raise UsageError(f"{path.name} line {reader.line_num}: {error}: mind the quotes") from error


def _read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path.name} line {number}"
            try:
                cells = json.loads(line)
            except json.JSONDecodeError as error:
                raise UsageError(f"{where}: {error.msg}: one JSON object a line is expected") from error
            if not isinstance(cells, dict):
                raise UsageError(f"{where}: a {type(cells).__name__} where one JSON object a line is expected")
            yield where, cells


def _read_parquet(path: Path, columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(f"reading {path.name} needs pyarrow: pip install 'glot-pipeline[parquet]'") from error
    try:
        names = parquet.read_schema(path).names
        wanted = [name for name in (columns.text, columns.text_b, columns.label) if name in names]
        rows = parquet.read_table(path, columns=wanted).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path.name} is no readable Parquet file ({reason})") from error
    others = dict.fromkeys(names)  # named in the message about a missing column, not read
    for number, row in enumerate(rows, start=1):
        yield f"{path.name} row {number}", others | row
