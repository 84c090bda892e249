"""Readers of the official GLUE download: a folder a task, tab-separated files in it.

The files are not CSV: a quote character is text, and only a newline ends a row (sentences may hold U+0085 or
U+2028, at which `str.splitlines` would cut them). Columns are found by the names in the header line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pipeline.corpus.examples import Example, Split
from pipeline.corpus.tasks import Task
from pipeline.errors import UsageError

_COLA_COLUMNS = ["source", "label", "mark", "sentence"]  # CoLA's train and dev have no header line


def read_split(task: Task, data_dir: Path, split: str, limit: int | None = None) -> Split:
    """Read one split of a GLUE task, or its first `limit` rows.

    Test files have no label column: their labels are None. QQP's train.tsv has a few questions that hold a line
    break and so fall into rows that are too short; they are left out, as the official loaders do, and counted in
    the split's `source`. In any other task such a row is an error.

    Raises:
        UsageError: the folder, the file or a column is missing, or a row is too short, too long, or has a bad
            label; the message names the file and the line (counted from 1, the header included).
    """
    path = _find_file(task, data_dir, split)
    source = f"{task.folder}/{path.name}"
    try:
        columns, rows = _read_rows(path, has_header=task.folder != "CoLA" or split == "test")
        skipped: list[int] | None = [] if task.folder == "QQP" else None
        examples = list(islice(_read_examples(task, source, split, columns, rows, skipped), limit))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason}): download it anew") from error
    if skipped:
        source += f" ({len(skipped)} broken rows left out)"
    return Split(split, examples, source)


def _find_file(task: Task, data_dir: Path, split: str) -> Path:
    file = task.splits[split].file
    advice = f"pass --data-dir (or set GLUE_DIR to) the folder that holds {task.folder}/{file}"
    for path in (data_dir, data_dir / task.folder):
        if not path.is_dir():
            raise UsageError(f"no folder {path}: {advice}, or neither to read from the hub")
    path = data_dir / task.folder / file
    if not path.is_file():
        raise UsageError(f"no file {path}: {advice}, or neither to read from the hub")
    return path


def _read_rows(path: Path, has_header: bool) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The column names, and an iterator over (line number, cells); wholly empty lines are no rows."""
    rows = ((number, line.split("\t")) for number, line in enumerate(_read_lines(path), start=1) if line)
    return (next(rows, (0, []))[1] if has_header else _COLA_COLUMNS), rows


def _read_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n").removesuffix("\r")


def _read_examples(
    task: Task,
    source: str,
    split: str,
    columns: list[str],
    rows: Iterator[tuple[int, list[str]]],
    skipped: list[int] | None,
) -> Iterator[Example]:
    """Turn rows into examples; rows that are too short go to `skipped` if there is such a list."""
    names = task.file_columns
    text = _find_column(names.text, columns, source)
    text_b = _find_column(names.text_b, columns, source) if names.text_b else None
    label = None if split.startswith("test") else _find_column(names.label, columns, source)
    for index, (number, cells) in enumerate(rows):
        if len(cells) < len(columns) and skipped is not None:
            skipped.append(number)
            continue
        where = f"{source} line {number}"
        if len(cells) != len(columns):
            raise UsageError(f"{where}: {len(cells)} columns where {len(columns)} belong: download the file anew")
        yield Example(
            index,
            cells[text],
            cells[text_b] if text_b is not None else None,
            _parse_label(task, cells[label], where) if label is not None else None,
        )


def _find_column(name: str, columns: list[str], source: str) -> int:
    if name not in columns:
        raise UsageError(f"{source}: no column {name!r} in the header line, which has: {', '.join(columns)}")
    return columns.index(name)


def _parse_label(task: Task, cell: str, where: str) -> int | float:
    spec = task.spec
    if spec.target == "score":
        low, high = spec.score_range
        try:
            score = float(cell)
        except ValueError:
            score = math.nan
        if not low <= score <= high:  # true for NaN, too
            raise UsageError(f"{where}: score {cell!r} is not a number from {low:g} to {high:g}")
        return score
    known = spec.classes if task.labels_as_names else [str(i) for i in range(len(spec.classes))]
    if cell not in known:
        raise UsageError(f"{where}: label {cell!r} is none of {', '.join(known)}")
    return known.index(cell)
