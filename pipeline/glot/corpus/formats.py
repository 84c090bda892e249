"""The file formats of anybody's own data: delimited text, JSON lines and Parquet, read row by row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glot.corpus.delimited import read_rows
from glot.corpus.dialect import DELIMITERS, FoundDialect, TableFormat, is_delimited
from glot.corpus.examples import UnfitRow
from glot.corpus.lines import check_file, read_file
from glot.corpus.text_folder import check_text_folder
from glot.errors import UsageError
from glot.registry.tasks import Columns

JSON_LINES = {".jsonl", ".json", ".ndjson"}
_PARQUET = {".parquet", ".pq"}
A_TABLE = "a CSV, TSV, JSON lines or Parquet file, or a folder of texts"  # for messages
_SPREADSHEETS = {".xlsx", ".xls", ".ods"}
_COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z"}
_PARQUET_BUFFER = 1 << 20  # without one, pyarrow reads a row group's columns whole
_PARQUET_ROWS = 4096  # turned into Python objects at a time


def is_table(path: Path, form: TableFormat) -> bool:
    """Whether it is a folder of texts, the suffix is one of a table, or a delimiter makes it one."""
    return path.is_dir() or path.suffix.lower() in {*JSON_LINES, *_PARQUET} or is_delimited(path, form)


def check_table(path: Path, form: TableFormat) -> None:
    """Raise UsageError where there is no such file, its format is unknown, or is not one that the options are for."""
    if path.is_dir():
        if form.asked:
            raise UsageError(f"{form.asked} is for delimited text, and {path} is a folder of texts: leave it out")
        check_text_folder(path)
        return
    check_file(path, A_TABLE)
    suffix = path.suffix.lower()
    if not is_table(path, form):
        if suffix in _SPREADSHEETS:
            raise UsageError(f"{path} is a spreadsheet: save it as CSV, and pass that")
        if suffix in _COMPRESSED:
            raise UsageError(f"{path} is compressed: unpack it, and pass what was in it")
        known = ", ".join([*DELIMITERS, *sorted(JSON_LINES), *sorted(_PARQUET)])
        raise UsageError(
            f"{path}: unknown kind of table {path.suffix!r}: the suffix must be one of {known}; --delimiter makes any "
            "file delimited text"
        )
    if suffix in {*JSON_LINES, *_PARQUET} and form.asked:
        raise UsageError(f"{form.asked} is for delimited text, and {path.name} is none: leave it out")
    if suffix in _PARQUET and form.encoding is not None:
        raise UsageError(f"--encoding is for text, and {path.name} is none: leave it out")


def json_columns(path: Path, encoding: str | None = None) -> dict[str, type]:
    """The names in the objects of JSON lines, each with the type of all its values; str where they have no one type."""
    kinds: dict[str, set[type]] = {}
    for _, cells in read_json_lines(path, encoding):
        if isinstance(cells, dict):
            for name, value in cells.items():
                kinds.setdefault(name, set()).update([] if value is None else [_type_of(value)])
    return {name: _one_type(found) for name, found in kinds.items()}


def _type_of(value: Any) -> type:
    return str if isinstance(value, int) and value.bit_length() > 63 else type(value)  # no column holds such a number


def _one_type(kinds: set[type]) -> type:
    if kinds in ({int}, {float}, {bool}):
        return kinds.pop()
    return float if kinds == {int, float} else str


def is_parquet(path: Path) -> bool:
    """Whether the suffix says so."""
    return path.suffix.lower() in _PARQUET


def read_delimited(path: Path, found: FoundDialect) -> Iterator[tuple[str, dict[str, str] | UnfitRow]]:
    """Pairs of (where, cells by column name or what is wrong with the row)."""
    name = path.name
    rows = read_rows(read_file(path, found.dialect.encoding), found.dialect, name)
    if found.dialect.header:
        next(rows, None)
    for number, cells in rows:
        where = f"{name} line {number}"
        if isinstance(cells, UnfitRow):
            yield where, cells
        elif len(cells) != found.least and (misfit := found.dialect.misfit(len(cells), found.least)):
            yield where, UnfitRow(f"{where}: {misfit}")
        else:
            yield where, dict(zip(found.header, cells, strict=False))


def is_json_array(path: Path, encoding: str | None = None) -> bool:
    """Whether a file `.json` is one array, as pandas writes records; else it has an object a line."""
    if path.suffix.lower() != ".json":
        return False
    return next((line for line in read_file(path, encoding) if line.strip()), "").lstrip().startswith("[")


def read_json_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[str, dict[str, Any] | UnfitRow]]:
    """Pairs of (where, a row's object or what is wrong with it), of an object a line or of one array of objects.

    Raises UsageError for an array that is damaged. An array is read whole; lines are read one by one.
    """
    is_array = is_json_array(path, encoding)
    pairs = _json_array(path, encoding) if is_array else json_values(read_file(path, encoding), path.name, "object")
    for where, cells in pairs:
        if isinstance(cells, (dict, UnfitRow)):
            yield where, cells
        else:
            expected = "an object" if is_array else "one JSON object a line"
            yield where, UnfitRow(f"{where}: a {type(cells).__name__} where {expected} is expected")


def _json_array(path: Path, encoding: str | None) -> Iterator[tuple[str, Any]]:
    try:
        values = json.loads("".join(read_file(path, encoding)), parse_int=_whole)
    except (json.JSONDecodeError, RecursionError) as error:
        place = f" line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = getattr(error, "msg", str(error))
        raise UsageError(
            f"{path.name}{place}: {reason}: one array of objects is expected, or one JSON object a line"
        ) from error
    return ((f"{path.name} row {number}", value) for number, value in enumerate(values, start=1))


def json_values(lines: Iterable[str], name: str, expected: str) -> Iterator[tuple[str, Any]]:
    """Pairs of (where, the JSON value of a line or what is wrong with it) of a file `name`; empty lines are passed by.

    `expected` says in messages what a line should hold, "object" or "value".
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            value = json.loads(line, parse_int=_whole)
        except (ValueError, RecursionError) as error:  # the last for deep nesting
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            value = UnfitRow(f"{where}: {reason}: one JSON {expected} a line is expected")
        yield where, value


def _whole(digits: str) -> int | str:
    """A whole number; its digits, where they are more than Python turns into one."""
    try:
        return int(digits)
    except ValueError:
        return digits


def read_parquet(path: Path, columns: Columns, whole: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pairs of (where, cells by column name), those of all columns where rows are wanted `whole`.

    Raises UsageError without pyarrow, or where the file is damaged.
    """
    number = 0
    with _opened(path) as file:
        names = file.schema_arrow.names
        others = dict.fromkeys(names)  # named in the message about a missing column, not read
        wanted = [name for name in names if whole or name in (columns.text, columns.text_b, *columns.labels)]
        for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield f"{path.name} row {number}", others | row


def parquet_columns(path: Path) -> dict[str, Any]:
    """The names of a Parquet file's columns, each with its type as pyarrow has it; raises as `read_parquet`."""
    with _opened(path) as file:
        return {field.name: field.type for field in file.schema_arrow}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """pyarrow's reader of a Parquet file; raises UsageError without pyarrow, or where the file is damaged."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(f"reading {path.name} needs pyarrow: pip install 'glot-pipeline[parquet]'") from error
    try:
        with parquet.ParquetFile(path, buffer_size=_PARQUET_BUFFER) as file:
            yield file
    except PermissionError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path.name} is no readable Parquet file ({reason})") from error
