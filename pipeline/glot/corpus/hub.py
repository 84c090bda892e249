"""Streaming from the Hugging Face hub, and the known tasks so; `datasets` is imported when something is read."""

from __future__ import annotations

import math
import os
import socket
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import IO, Any
from urllib.parse import urlsplit

from glot.corpus.examples import BadRows, Example, ExampleTable, Split, UnfitRow, check_text
from glot.errors import UsageError
from glot.registry.tasks import Task

UNLABELLED = -1  # what the hub has in place of a class's number where there is no label
_CONNECT_SECONDS = 5


def read_split(task: Task, split: str, limit: int | None = None, bad_rows: str = "stop") -> Split:
    """Stream one split of a hub dataset, or its first `limit` rows. The hub's label -1 (no label) becomes None.

    Raises:
        UsageError: `datasets` is not installed, the hub cannot be reached, it has no such data or columns, or the
            stream breaks; with `bad_rows` "stop" also a row whose text is none or whose label is no class or score
            of the task.
    """
    source = " ".join(filter(None, [task.hub, task.hub_config, task.splits[split].hub]))
    bad = BadRows(bad_rows)
    rows = stream_rows(task.hub, task.hub_config, task.splits[split].hub, source, _elsewhere(task))
    examples = ExampleTable(islice(bad.fit(enumerate(rows), lambda row: _example(task, source, *row)), limit))
    return Split(split, examples, source, bad.count, bad.first)


def stream_rows(name: str, config: str | None, split: str, source: str, elsewhere: str) -> Iterator[dict]:
    """The rows of a hub dataset; whatever goes wrong below is one line that says after how many of them.

    `source` is what people know it by, `elsewhere` what else they can do.
    """
    return each_row(load_dataset(source, elsewhere, name, config, split=split), source, elsewhere)


def load_dataset(source: str, elsewhere: str, *arguments: Any, **options: Any) -> Any:
    """`datasets.load_dataset`, streaming; what goes wrong is one line that names `source` and ends in `elsewhere`."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"reading {source} from the hub needs datasets: pip install 'glot-pipeline[hub]' or {elsewhere}"
        ) from error
    with _one_line(source, elsewhere):
        _check_reachable()
        return datasets.load_dataset(*arguments, streaming=True, **options)


def each_row(stream: Iterable[dict], source: str, elsewhere: str) -> Iterator[dict]:
    """The rows of what `load_dataset` gave; where it breaks, the line says after how many of them."""
    rows, count = iter(stream), 0
    while True:
        with _one_line(source, elsewhere, count):
            row = next(rows, None)
        if row is None:
            return
        yield row
        count += 1


@contextmanager
def _one_line(source: str, elsewhere: str, rows: int = 0) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # datasets lets through the exceptions of every library below it
        reason, _, more = str(error).partition("\n")
        if "available configs" in more:
            reason = f"{reason} {more.partition(chr(10))[0]}"
        after = f"after {rows:,} row{'s' * (rows > 1)}: " if rows else ""
        raise UsageError(
            f"{after}cannot read {source} from the hub ({type(error).__name__}: {reason}): {elsewhere}"
        ) from error


def open_file(name: str, path: str, source: str) -> IO[bytes]:
    """A file of a hub dataset's repository, read block by block as it is asked for; raises UsageError."""
    from huggingface_hub import HfFileSystem

    with _one_line(source, "pass a file with --pairs"):
        _check_reachable()
        return HfFileSystem().open(f"datasets/{name}/{path}", "rb")


def _example(task: Task, source: str, index: int, row: dict) -> Example:
    names, where = task.hub_columns, f"{source} row {index + 1}"
    texts = [name for name in (names.text, names.text_b) if name]
    for name in (*texts, names.label):
        if name not in row:
            raise UsageError(f"{source}: no column {name!r}; the columns are: {', '.join(row)}")
    text, *text_b = (check_text(row[name], where, f"column {name!r}") for name in texts)
    return Example(index, text, text_b[0] if text_b else None, _label(task, row[names.label], where))


def _label(task: Task, value: Any, where: str) -> int | float | None:
    if task.spec.classes:
        return class_index(value, task.spec.classes, where)
    if value is None or value == UNLABELLED:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UnfitRow(f"{where}: label {value!r} is not a finite number")
    return value


def class_index(label: Any, classes: Sequence[str], where: str) -> int | None:
    """A class's number, None where there is no label; raises UnfitRow for what is neither."""
    if label is None or label == UNLABELLED:
        return None
    if not (isinstance(label, int) and 0 <= label < len(classes)):
        raise UnfitRow(f"{where}: label {label!r} is no class from 0 to {len(classes) - 1}")
    return label


def _elsewhere(task: Task) -> str:
    if not task.folder:
        return "pass your own file with --data"
    return f"pass --data-dir (or set GLUE_DIR to) a GLUE folder that holds {task.folder}/"


def _check_reachable() -> None:
    """Raise OSError at once where no hub is: `datasets` would retry for half a minute, with a log line each time."""
    if os.environ.get("HF_HUB_OFFLINE") or urllib.request.getproxies():
        return  # datasets itself refuses at once; behind a proxy a direct connection proves nothing
    from huggingface_hub.constants import ENDPOINT

    url = urlsplit(os.environ.get("HF_ENDPOINT") or ENDPOINT)
    port = url.port or (80 if url.scheme == "http" else 443)
    socket.create_connection((url.hostname, port), timeout=_CONNECT_SECONDS).close()
