"""Readers of the official GLUE download: a folder a task, tab-separated files in it.

The files are not CSV: in their dialect a quote character is text. Columns are found by the names in the header line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from glot.corpus.delimited import plain_rows
from glot.corpus.examples import BadRows, Example, ExampleTable, Split, UnfitRow
from glot.corpus.lines import read_file, readable
from glot.errors import UsageError
from glot.registry.tasks import Task

_COLA_COLUMNS = ["source", "label", "mark", "sentence"]  # CoLA's train and dev have no header line


def read_split(task: Task, data_dir: Path, split: str, limit: int | None = None, bad_rows: str = "stop") -> Split:
    """Read one split of a GLUE task, or its first `limit` rows.

    Test files have no label column: their labels are None. QQP's train.tsv has a few questions that hold a line
    break and so fall into rows that are too short; they are left out, as the official loaders do, and counted in
    the split's `source`. Any other unfit row is an error with `bad_rows` "stop", left out with "skip".

    Raises:
        UsageError: the folder, the file or a column is missing, or a row is too short, too long, or has a bad
            label; the message names the file and the line (counted from 1, the header included).
    """
    path = _find_file(task, data_dir, split)
    source = f"{task.folder}/{path.name}"
    with readable(path, advice="download it anew"):
        rows = plain_rows(read_file(path), "\t")
        has_header = task.folder != "CoLA" or split == "test"
        columns = next(rows, (0, []))[1] if has_header else _COLA_COLUMNS
        broken: list[int] = []
        bad = BadRows(bad_rows)
        examples = ExampleTable(islice(_read_examples(task, source, split, columns, rows, broken, bad), limit))
    if broken:
        source += f" ({len(broken)} broken rows left out)"
    return Split(split, examples, source, bad.count, bad.first)


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


def _read_examples(
    task: Task,
    source: str,
    split: str,
    columns: list[str],
    rows: Iterator[tuple[int, list[str]]],
    broken: list[int],
    bad: BadRows,
) -> Iterator[Example]:
    """Turn rows into examples; the lines of QQP's rows that are too short go to `broken`, other unfit rows to `bad`."""
    names = task.file_columns
    text = _find_column(names.text, columns, source)
    text_b = _find_column(names.text_b, columns, source) if names.text_b else None
    label = None if split.startswith("test") else _find_column(names.label, columns, source)
    for index, (number, cells) in enumerate(rows):
        if len(cells) < len(columns) and task.folder == "QQP":
            broken.append(number)
            continue
        where = f"{source} line {number}"
        try:
            if len(cells) != len(columns):
                raise UnfitRow(f"{where}: {len(cells)} columns where {len(columns)} belong: download the file anew")
            value = _parse_label(task, cells[label], where) if label is not None else None
        except UnfitRow as error:
            bad.meet(error)
            continue
        yield Example(index, cells[text], cells[text_b] if text_b is not None else None, value)


def _find_column(name: str, columns: list[str], source: str) -> int:
    if name not in columns:
        raise UsageError(f"{source}: no column {name!r} in the header line, which has: {', '.join(columns)}")
    return columns.index(name)


def _parse_label(task: Task, cell: str, where: str) -> int | float:
    spec = task.spec
    if spec.target == "score":
        low, high = spec.score_range or (0.0, 1.0)
        try:
            score = float(cell)
        except ValueError:
            score = math.nan
        if not low <= score <= high:  # true for NaN, too
            raise UnfitRow(f"{where}: score {cell!r} is not a number from {low:g} to {high:g}")
        return score
    known = spec.classes if task.labels_as_names else [str(i) for i in range(len(spec.classes))]
    if cell not in known:
        raise UnfitRow(f"{where}: label {cell!r} is none of {', '.join(known)}")
    return known.index(cell)
