"""The file formats of anybody's own data: CSV, TSV, JSON lines and Parquet, read row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.corpus.examples import UnfitRow
from pipeline.corpus.tasks import Columns
from pipeline.errors import UsageError

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = {".jsonl", ".json", ".ndjson"}
_PARQUET = {".parquet", ".pq"}
_FIELD_BYTES = 2**31 - 1  # csv's default of 128 KiB is shorter than some documents
_PARQUET_BUFFER = 1 << 20  # without one, pyarrow reads a row group's columns whole
_PARQUET_ROWS = 4096  # turned into Python objects at a time


def is_table(path: Path) -> bool:
    """Whether the suffix is one of a table."""
    return path.suffix.lower() in {*_DELIMITERS, *JSON_LINES, *_PARQUET}


def read_cells(path: Path, columns: Columns) -> Iterator[tuple[str, dict[str, Any] | UnfitRow]]:
    """Pairs of (place, cells by column name or what is wrong with the row), from the format that the suffix says."""
    if not path.is_file():
        raise UsageError(f"no file {path}: pass a CSV, TSV, JSON lines or Parquet file")
    suffix = path.suffix.lower()
    if suffix in _DELIMITERS:
        return _read_csv(path, _DELIMITERS[suffix])
    if suffix in JSON_LINES:
        return _read_json_lines(path)
    if suffix in _PARQUET:
        return _read_parquet(path, columns)
    known = ", ".join([*_DELIMITERS, *sorted(JSON_LINES), *sorted(_PARQUET)])
    raise UsageError(f"{path}: unknown kind of table {path.suffix!r}: the suffix must be one of {known}")


def _read_csv(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, str] | UnfitRow]]:
    name = path.name
    csv.field_size_limit(_FIELD_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise UsageError(f"{name}: a column name occurs twice in the header: {', '.join(header)}")
            for row in filter(None, reader):  # a blank line is no row
                where = f"{name} line {reader.line_num}"
                if len(row) == len(header):
                    yield where, dict(zip(header, row, strict=True))
                else:
                    yield where, UnfitRow(f"{where}: {len(row)} columns where the header has {len(header)}")
        except csv.Error as error:
            raise UsageError(f"{name} line {reader.line_num}: {error}: mind the quotes") from error


def _read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | UnfitRow]]:
    with path.open(encoding="utf-8-sig") as file:
        for where, cells in json_values(file, path.name, "object"):
            if isinstance(cells, (dict, UnfitRow)):
                yield where, cells
            else:
                kind = type(cells).__name__
                yield where, UnfitRow(f"{where}: a {kind} where one JSON object a line is expected")


def json_values(lines: Iterable[str], name: str, expected: str) -> Iterator[tuple[str, Any]]:
    """Pairs of (place, the JSON value of a line or what is wrong with it) of a file `name`; empty lines are passed by.

    `expected` says in messages what a line should hold, "object" or "value".
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:  # the latter two for huge numbers and deep nesting
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            value = UnfitRow(f"{where}: {reason}: one JSON {expected} a line is expected")
        yield where, value


def _read_parquet(path: Path, columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(f"reading {path.name} needs pyarrow: pip install 'glot-pipeline[parquet]'") from error
    number = 0
    try:
        with parquet.ParquetFile(path, buffer_size=_PARQUET_BUFFER) as file:
            names = file.schema_arrow.names
            others = dict.fromkeys(names)  # named in the message about a missing column, not read
            wanted = [name for name in (columns.text, columns.text_b, columns.label) if name in names]
            for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name} row {number}", others | row
    except PermissionError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path.name} is no readable Parquet file ({reason})") from error
