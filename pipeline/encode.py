"""Joins the rooms for `glot encode` and `glot predict --input`: texts of a file or stdin, window after window."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.corpus.dialect import FIND_OUT, TableFormat
from pipeline.corpus.formats import is_table
from pipeline.corpus.lines import bare, read_file, read_stdin, readable
from pipeline.corpus.tables import Table
from pipeline.corpus.tasks import Columns
from pipeline.errors import UsageError
from pipeline.model import WINDOW, GlotModel
from pipeline.store.files import atomic_path, make_folder

STDIN = "-"
VECTOR_FORMATS = (".npy", ".parquet", ".jsonl")
Report = Callable[[int], None]  # texts done
Window = tuple[list[str], list[str] | None]  # first texts, and the second ones of pairs


@dataclass(frozen=True)
class Input:
    """Where new texts come from.

    Attributes:
        path: a table (CSV, TSV, JSON lines, Parquet), any other file with a text a line, or "-": stdin, likewise.
        text, text_b: the columns of a table; `text_b` that of the second text of pairs.
        form: what is known of how the file is written.
    """

    path: str
    text: str = "text"
    text_b: str | None = None
    form: TableFormat = FIND_OUT

    @property
    def is_table(self) -> bool:
        """Whether the texts are a column of a table, and not lines."""
        return self.path != STDIN and is_table(Path(self.path), self.form)

    def describe(self) -> str:
        """How a table is written, "" for lines; raises UsageError where the table or its columns are missing."""
        if not self.is_table:
            return ""
        table = self._open_table()
        table.check()
        return f"{table.source}: {table.described}"

    def windows(self) -> Iterator[Window]:
        """The texts, `WINDOW` at a time; raises UsageError where the file or a column is missing or damaged."""
        rows = self._table() if self.is_table else ((line, None) for line in self._lines())
        while window := list(islice(rows, WINDOW)):
            texts, seconds = zip(*window, strict=True)
            yield list(texts), list(seconds) if self.text_b is not None else None

    def _table(self) -> Iterator[tuple[str, str | None]]:
        return ((row.text, row.text_b) for row in self._open_table())

    def _open_table(self) -> Table:
        return Table(Path(self.path), Columns(self.text, self.text_b, ""), label_needed=False, form=self.form)

    def _lines(self) -> Iterator[str]:
        if self.text_b is not None:
            raise UsageError("pairs come in a table: pass a CSV, TSV, JSON lines or Parquet file with --input")
        if self.form.asked:
            raise UsageError(f"{self.form.asked} is for a table, and {self.path} has a text a line: leave it out")
        if self.path != STDIN and not Path(self.path).is_file():
            raise UsageError(f"no file {self.path}: pass a file of texts, or - for stdin, with --input")
        encoding = self.form.encoding
        with readable("standard input" if self.path == STDIN else self.path, encoding):
            yield from map(bare, read_stdin(encoding) if self.path == STDIN else read_file(Path(self.path), encoding))


def encode_file(model: GlotModel, texts: Input, out: Path, report: Report = lambda done: None) -> int:
    """Write the vectors of all texts, in their order, as (n, D) float32; returns n.

    `.npy` holds the array; `.parquet` a column `vector` of lists of D numbers; `.jsonl` an object a line with `index`
    and `vector`. The file is there whole or not at all; memory is that of one window.

    Raises UsageError for another suffix, pairs, or texts that cannot be read; FaultError where it cannot be written.
    """
    if out.suffix not in VECTOR_FORMATS:
        raise UsageError(f"--output {out}: the suffix must be one of {', '.join(VECTOR_FORMATS)}")
    if texts.text_b is not None:
        raise UsageError("a vector is one text's: leave out --text-b")
    done = 0
    with _new_file(out) as temporary, _WRITERS[out.suffix](temporary, model.width) as write:
        for window, _ in texts.windows():
            write(model.encode(window))
            done += len(window)
            report(done)
    return done


def predict_file(model: GlotModel, texts: Input, out: Path | None, report: Report = lambda done: None) -> int:
    """Write a JSON object a line: `index`, and `label` with its `probability`, or `score`; returns how many.

    None as `out` writes to stdout as the lines come; a file is there whole or not at all.

    Raises UsageError where the texts cannot be read or are not what the head was trained on.
    """
    if out is None:
        return _predict_lines(model, texts, sys.stdout, report)
    with _new_file(out) as temporary, open(temporary, "w", encoding="utf-8", errors="replace") as file:
        return _predict_lines(model, texts, file, report)


def _predict_lines(model: GlotModel, texts: Input, file: IO[str], report: Report) -> int:
    done = 0
    for window, seconds in texts.windows():
        for answer in _answers(model, window, seconds):
            file.write(json.dumps({"index": done, **answer}, ensure_ascii=False) + "\n")
            done += 1
        file.flush()
        report(done)
    return done


def _answers(model: GlotModel, texts: list[str], seconds: list[str] | None) -> Iterator[dict[str, Any]]:
    task = model.config.task
    if task.target != "classes":
        yield from ({"score": round(float(value), 6)} for value in model.predict(texts, seconds))
        return
    for row in model.predict_proba(texts, seconds):
        best = int(row.argmax())
        yield {"label": task.classes[best], "probability": round(float(row[best]), 6)}


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file with --output")
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        yield temporary


Write = Callable[[np.ndarray], None]


@contextmanager
def _npy(path: Path, width: int) -> Iterator[Write]:
    """An array that grows: its header leaves room for the number of rows, which is known in the end."""
    count = 0

    def header() -> dict[str, Any]:
        return {"descr": "<f4", "fortran_order": False, "shape": (count, width)}

    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header())
        start = file.tell()

        def write(vectors: np.ndarray) -> None:
            nonlocal count
            file.write(vectors.astype("<f4").tobytes())
            count += len(vectors)

        yield write
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header())
        assert file.tell() == start


@contextmanager
def _jsonl(path: Path, width: int) -> Iterator[Write]:
    with open(path, "w", encoding="utf-8") as file:
        count = 0

        def write(vectors: np.ndarray) -> None:
            nonlocal count
            for vector in vectors:
                file.write(json.dumps({"index": count, "vector": [float(f"{value:.8g}") for value in vector]}) + "\n")
                count += 1

        yield write


@contextmanager
def _parquet(path: Path, width: int) -> Iterator[Write]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("writing Parquet needs pyarrow: pip install 'glot-pipeline[parquet]'") from error
    kind = pyarrow.list_(pyarrow.float32(), width)
    with parquet.ParquetWriter(path, pyarrow.schema([("vector", kind)])) as file:

        def write(vectors: np.ndarray) -> None:
            column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), width)
            file.write_table(pyarrow.table({"vector": column}))

        yield write


_WRITERS = {".npy": _npy, ".jsonl": _jsonl, ".parquet": _parquet}
