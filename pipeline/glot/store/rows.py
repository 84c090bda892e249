"""Rows of a table in a file that others read: JSON lines, CSV, TSV or Parquet, as its suffix says."""

from __future__ import annotations

import csv
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


def check_rows_file(path: Path, option: str = "--output") -> None:
    """Raise UsageError where rows cannot be written to `path`: before anything slow, and without making it."""
    check_output(path, ROW_FORMATS, option)
    if path.suffix.lower() == PARQUET:
        check_parquet()


def check_parquet() -> None:
    """Raise UsageError where pyarrow is missing."""
    if find_spec("pyarrow") is None:
        raise UsageError("writing Parquet needs pyarrow: pip install 'glot-pipeline[parquet]'")


def json_line(row: Row) -> str:
    """A row as a line of JSON, its end included."""
    return json.dumps(row, ensure_ascii=False) + "\n"


@contextmanager
def rows_file(path: Path, columns: dict[str, type]) -> Iterator[Write]:
    """Gives what writes some rows more; the file is there whole at the end of the block, or not at all.

    Args:
        columns: name -> int, float or str, in their order; each row has a value of each.

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
                    yield table.writerows


@contextmanager
def _parquet(path: Path, columns: dict[str, type]) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(path, schema) as file:
        yield lambda rows: file.write_table(pyarrow.Table.from_pylist(list(rows), schema))
