"""Tasks streamed from the Hugging Face hub; `datasets` is imported only when something is read."""

from __future__ import annotations

import math
import os
import socket
import urllib.request
from collections.abc import Iterator
from itertools import islice
from typing import IO
from urllib.parse import urlsplit

from pipeline.corpus.examples import BadRows, Example, ExampleTable, Split, UnfitRow
from pipeline.corpus.tasks import Task
from pipeline.errors import UsageError

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
    examples = ExampleTable(islice(_read_examples(task, source, _stream(task, split, source), bad), limit))
    return Split(split, examples, source, bad.count, bad.first)


def _stream(task: Task, split: str, source: str) -> Iterator[dict]:
    return stream_rows(task.hub, task.hub_config, task.splits[split].hub, source, _elsewhere(task))


def stream_rows(name: str, config: str | None, split: str, source: str, elsewhere: str) -> Iterator[dict]:
    """The rows of a hub dataset; whatever goes wrong below is one line that says after how many of them.

    `source` is what people know it by, `elsewhere` what else they can do.
    """
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"reading {source} from the hub needs datasets: pip install 'glot-pipeline[hub]' or {elsewhere}"
        ) from error
    count = 0
    try:
        _check_reachable()
        stream = datasets.load_dataset(name, config, split=split, streaming=True)
        for row in stream:
            yield row
            count += 1
    except Exception as error:  # datasets lets through the exceptions of every library below it
        reason = str(error).partition("\n")[0]
        after = f"after {count:,} row{'s' * (count > 1)}: " if count else ""
        raise UsageError(
            f"{after}cannot read {source} from the hub ({type(error).__name__}: {reason}): {elsewhere}"
        ) from error


def open_file(name: str, path: str, source: str) -> IO[bytes]:
    """A file of a hub dataset's repository, read block by block as it is asked for; raises UsageError."""
    from huggingface_hub import HfFileSystem

    try:
        _check_reachable()
        return HfFileSystem().open(f"datasets/{name}/{path}", "rb")
    except Exception as error:  # that of any library below it
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"cannot read {source} from the hub ({type(error).__name__}: {reason}): pass a file with --pairs"
        ) from error


def _read_examples(task: Task, source: str, rows: Iterator[dict], bad: BadRows) -> Iterator[Example]:
    names = task.hub_columns
    for index, row in enumerate(rows):
        for name in filter(None, (names.text, names.text_b, names.label)):
            if name not in row:
                raise UsageError(f"{source}: no column {name!r}; the columns are: {', '.join(row)}")
        where = f"{source} row {index + 1}"
        try:
            texts = [_text(row[name], name, where) if name else None for name in (names.text, names.text_b)]
            label = _label(task, row[names.label], where)
        except UnfitRow as error:
            bad.meet(error)
        else:
            yield Example(index, *texts, label)


def _text(value: object, name: str, where: str) -> str:
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise UnfitRow(f"{where}: column {name!r} holds {kind} where a text belongs")
    return value


def _label(task: Task, value: object, where: str) -> int | float | None:
    if value is None or value == -1:
        return None
    classes = task.spec.classes
    if classes and not (isinstance(value, int) and 0 <= value < len(classes)):
        raise UnfitRow(f"{where}: label {value!r} is no class from 0 to {len(classes) - 1}")
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UnfitRow(f"{where}: label {value!r} is not a finite number")
    return value


def _elsewhere(task: Task) -> str:
    if task.folder is None:
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
