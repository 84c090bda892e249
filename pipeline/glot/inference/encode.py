"""Joins the rooms for `glot encode` and `glot predict --input`: texts of a file or stdin, window after window."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from glot.corpus.dialect import FIND_OUT, TableFormat
from glot.corpus.formats import is_table
from glot.corpus.guess import guess_texts
from glot.corpus.lines import bare, check_file, read_file, read_stdin, readable
from glot.corpus.tables import Table
from glot.corpus.text_folder import files_below
from glot.errors import UsageError
from glot.inference.run_checks import answer_columns, check_vector_texts
from glot.registry.tasks import Columns
from glot.store.files import atomic_path, check_output, make_folder
from glot.store.rows import JSON_LINES, PARQUET, Row, check_parquet, json_line, rows_file
from glot.store.task_spec import label_text

if TYPE_CHECKING:
    from glot.inference.model import GlotModel
    from glot.store.task_spec import TaskSpec

STDIN = "-"
BYTES_A_TOKEN = 4  # about, of English text
Report = Callable[[int], None]  # texts done
Piece = tuple[list[str], list[str] | None, list[Mapping[str, Any]]]  # first texts, second ones of pairs, cells
ALL, NONE = "all", "none"  # of the input's columns that go with its predictions
LINE = "text"  # the column that a line is, where it goes with its prediction
TAKEN = "predicted_"  # before the name of a column of predictions that the input has too


@dataclass(frozen=True)
class Input:
    """Where new texts come from.

    Attributes:
        path: a table (CSV, TSV, JSON lines, Parquet, or a folder of texts), any other file with a text a line, or "-":
            stdin, likewise.
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

    @property
    def about_tokens(self) -> int:
        """About how many tokens its texts have; 0 for stdin, where somebody may wait for one line."""
        path = Path(self.path)
        if self.path == STDIN:
            return 0
        files = [path / name for name in files_below(path)] if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files) // BYTES_A_TOKEN

    def with_columns(self, texts_each: int, trained: Columns | None) -> tuple[Input, str]:
        """A table with the columns that nobody named (see `guess_texts`), and which those are, for people.

        That is "" where there is nothing to say.
        """
        guess = guess_texts(Path(self.path), texts_each, self.form, trained)
        columns = guess.columns
        found = replace(self, text=columns.text, text_b=columns.text_b, form=guess.form)
        return found, guess.found and f"{Path(self.path).name}: {guess.found}"

    def check_stays(self, out: Path) -> None:
        """Raise UsageError where `out` is the file of the texts itself, which answers would replace."""
        if self.path != STDIN and out.exists() and Path(self.path).exists() and out.samefile(self.path):
            raise UsageError(f"{out} is the file of the texts, and would be lost: name another with --output")

    def describe(self) -> str:
        """How a table is written, "" for lines; stdin stays untouched.

        Raises UsageError where the file or a column is missing.
        """
        if not self.is_table:
            self._check_lines()
            return ""
        table = self._open_table()
        table.check()
        return f"{table.source}: {table.described}"

    def pieces(self, whole: bool = False) -> Iterator[Piece]:
        """The texts, `WINDOW` at a time, with the cells of each row: all, where rows are wanted `whole`.

        Raises UsageError where the file or a column is missing or damaged.
        """
        from glot.inference.model import WINDOW

        rows: Iterator[tuple[str, str | None, Mapping[str, Any]]]
        if self.is_table:
            rows = ((row.text, row.text_b, row.cells) for row in self._open_table(whole))
        else:
            rows = ((line, None, {LINE: line}) for line in self._lines())
        while window := list(islice(rows, WINDOW)):
            texts, seconds, cells = zip(*window, strict=True)
            yield list(texts), list(seconds) if self.text_b is not None else None, list(cells)

    def kept(self, keep: str = ALL) -> dict[str, Any]:
        """The columns that are to go with predictions, by name, each with its type as `rows_file` takes it.

        Args:
            keep: "all", "none", or names with commas between them. A file with a text a line has the column "text".

        Raises UsageError for a name that is none of the columns, or where the file cannot be read.
        """
        if keep == NONE:
            return {}
        there = self._open_table().column_types() if self.is_table else {LINE: str}
        names = list(there) if keep == ALL else [name.strip() for name in keep.split(",") if name.strip()]
        unknown = [name for name in names if name not in there]
        if unknown or (not names and keep != ALL):
            raise UsageError(
                f"--keep {keep}: {self.path} has no column {(unknown or [''])[0]!r}: pass {ALL}, {NONE}, or some of "
                f"{', '.join(there)}"
            )
        return {name: there[name] for name in names}

    def _open_table(self, whole: bool = False) -> Table:
        columns = Columns(self.text, self.text_b, "")
        return Table(Path(self.path), columns, label_needed=False, form=self.form, whole=whole)

    def _lines(self) -> Iterator[str]:
        self._check_lines()
        encoding = self.form.encoding
        with readable("standard input" if self.path == STDIN else self.path, encoding):
            yield from map(bare, read_stdin(encoding) if self.path == STDIN else read_file(Path(self.path), encoding))

    def _check_lines(self) -> None:
        if self.text_b is not None:
            raise UsageError("pairs come in a table: pass a CSV, TSV, JSON lines or Parquet file with --input")
        if self.form.asked:
            raise UsageError(f"{self.form.asked} is for a table, and {self.path} has a text a line: leave it out")
        if self.path != STDIN:
            check_file(Path(self.path), "a file of texts, or - for stdin, with --input")


def check_vectors_file(out: Path) -> None:
    """Raise UsageError where vectors cannot be written to `out`: before anything slow, and without making it."""
    check_output(out, tuple(_WRITERS))
    if out.suffix.lower() == PARQUET:
        check_parquet()


def encode_file(model: GlotModel, texts: Input, out: Path, report: Report = lambda done: None) -> int:
    """Write the vectors of all texts, in their order, as (n, D) float32; returns n.

    `.npy` holds the array; `.parquet` a column `vector` of lists of D numbers; `.jsonl` (or `.ndjson`) an object a line
    with `index` and `vector`. The file is there whole or not at all; memory is that of one window.

    Raises UsageError for another suffix, the file of the texts itself, pairs or single texts where the run's vectors
    are of the other, or texts that cannot be read; FaultError where it cannot be written.
    """
    check_vectors_file(out)
    texts.check_stays(out)
    check_vector_texts(model.config, texts.text_b)
    done = 0
    make_folder(out.parent)
    with atomic_path(out) as temporary, _WRITERS[out.suffix.lower()](temporary, model.width) as write:
        for window, seconds, _ in texts.pieces():
            write(model.encode(window, seconds))
            done += len(window)
            report(done)
    return done


def predict_file(
    model: GlotModel,
    texts: Input,
    out: Path,
    report: Report = lambda done: None,
    kept: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Write a row a text: its `index`, the `kept` columns of the input, and the prediction; returns how many.

    A prediction is `label`, its `probability`, and of every class `probability_CLASS`; or `score`. Where the input has
    a column of such a name, the prediction's begins with "predicted_"; its own `index` stands in the place of ours.
    The suffix says how rows are written (see `glot.store.rows`). The file is there whole or not at all.

    Raises UsageError where the texts cannot be read or are not what the head was trained on, or the suffix is unknown,
    or `out` is the file of the texts itself.
    """
    texts.check_stays(out)
    done = 0
    names = answer_names(model.config.task, kept)
    types = answer_columns(model.config.task, with_probabilities=True)
    columns = {"index": int, **kept, **{names[name]: kind for name, kind in types.items() if name != "index"}}
    with rows_file(out, columns) as write:
        for rows in predict_rows(model, texts, report, kept):
            write(rows)
            done += len(rows)
    return done


def predict_rows(
    model: GlotModel,
    texts: Input,
    report: Report = lambda done: None,
    kept: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[list[Row]]:
    """The rows of `predict_file`, as they come: those of a window of texts at a time."""
    done, task = 0, model.config.task
    names = answer_names(task, kept)
    for window, seconds, cells in texts.pieces(whole=bool(kept)):
        found = (model.predict_proba if task.classes else model.predict)(window, seconds)
        yield [
            {"index": done + number, **{name: row.get(name) for name in kept}, **answer_of(task, answer, value, names)}
            for number, (row, answer, value) in enumerate(zip(cells, model.answers(found), found, strict=True))
        ]
        done += len(window)
        report(done)


def answer_names(task: TaskSpec, kept: Mapping[str, Any]) -> dict[str, str]:
    """What the columns of predictions are called beside the input's."""
    names = {}
    for name in answer_columns(task, with_probabilities=True):
        shown = name
        while shown in kept and name != "index":
            shown = TAKEN + shown
        names[name] = shown
    return names


def answer_of(task: TaskSpec, answer: float, estimate: np.ndarray, names: Mapping[str, str]) -> Row:
    """What a head says of an example: its answer in words, and its (C,) probabilities; or the score.

    Of several labels those that the text has are joined.
    """
    if not task.classes:
        return {names["score"]: round(float(answer), 6)}
    shown = [round(float(value), 6) for value in estimate]
    each = {names[f"probability_{name}"]: value for name, value in zip(task.classes, shown, strict=True)}
    if task.target == "classes":
        each = {names["probability"]: shown[int(answer)], **each}
    return {names["label"]: label_text(task, int(answer)), **each}


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
        index = itertools.count()

        def write(vectors: np.ndarray) -> None:
            for vector in vectors:
                file.write(json_line({"index": next(index), "vector": [float(f"{value:.8g}") for value in vector]}))

        yield write


@contextmanager
def _parquet(path: Path, width: int) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    kind = pyarrow.list_(pyarrow.float32(), width)
    with parquet.ParquetWriter(path, pyarrow.schema([("vector", kind)])) as file:

        def write(vectors: np.ndarray) -> None:
            column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), width)
            file.write_table(pyarrow.table({"vector": column}))

        yield write


_WRITERS = {".npy": _npy, PARQUET: _parquet, **dict.fromkeys(JSON_LINES, _jsonl)}
