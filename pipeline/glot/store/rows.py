"""Rows of a table in a file that others read: JSON lines, CSV, TSV or Parquet, as its suffix says."""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from glot.errors import UsageError
from glot.store.files import atomic_path, check_output, make_folder

Row = dict[str, Any]
Write = Callable[[Sequence[Row]], None]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
ROW_FORMATS = (*JSON_LINES, *DELIMITERS, PARQUET)


def check_rows_file(path: Path) -> None:
    """Raise UsageError where rows cannot be written to `path`: before anything slow, and without making it."""
    check_output(path, ROW_FORMATS)
    if path.suffix.lower() == PARQUET:
        check_parquet()


def check_parquet() -> None:
    """Raise UsageError where pyarrow is missing."""
    if find_spec("pyarrow") is None:
        raise UsageError("writing Parquet needs pyarrow: pip install 'glot-pipeline[parquet]'")


def json_line(row: Row) -> str:
    """A row as a line of JSON, its end included; dates, decimals and bytes become texts."""
    return json.dumps(row, ensure_ascii=False, default=_text) + "\n"


def _text(value: object) -> str:
    """What JSON has no word for, as a Parquet file may hold it."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _cell(value: object) -> object:
    """A value as a cell of text: what is neither text nor number as JSON has it, nothing where it is missing."""
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    if isinstance(value, bool | list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=_text)
    return _text(value)


@contextmanager
def rows_file(path: Path, columns: dict[str, Any]) -> Iterator[Write]:
    """Gives what writes some rows more; the file is there whole at the end of the block, or not at all.

    Args:
        columns: name -> int, float, bool or str, or a type of pyarrow's, in their order; a row has a value of each or
            None. A column of str takes any value: as JSON where it is no text, but for JSON lines, which keep it.

    Raises UsageError as `check_rows_file`, FaultError where it cannot be written.
    """
    check_rows_file(path)
    make_folder(path.parent)
    suffix = path.suffix.lower()
    with atomic_path(path) as temporary:
        if suffix == PARQUET:
            with _parquet(temporary, columns) as write:
                yield write
        else:
            # Half of a surrogate pair has no UTF-8.
            with open(temporary, "w", encoding="utf-8", errors="replace", newline="") as file:
                if suffix in JSON_LINES:
                    yield lambda rows: file.writelines(map(json_line, rows))
                else:
                    table = csv.DictWriter(file, list(columns), delimiter=DELIMITERS[suffix], lineterminator="\n")
                    table.writeheader()
                    yield lambda rows: table.writerows({name: _cell(row[name]) for name in columns} for row in rows)


@contextmanager
def _parquet(path: Path, columns: dict[str, Any]) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, kinds.get(kind, kind)) for name, kind in columns.items()])
    texts = [name for name, kind in columns.items() if kind is str]
    with parquet.ParquetWriter(path, schema) as file:

        def write(rows: Sequence[Row]) -> None:
            plain = [row | {name: _string(row[name]) for name in texts} for row in rows]
            file.write_table(pyarrow.Table.from_pylist(plain, schema))

        yield write


def _string(value: object) -> str | None:
    """A value as Parquet's text, which has no half of a surrogate pair."""
    cell = _cell(value)
    return None if cell is None else str(cell).encode("utf-8", "replace").decode()
