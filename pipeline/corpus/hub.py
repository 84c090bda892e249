"""Tasks streamed from the Hugging Face hub; `datasets` is imported only when something is read."""

from __future__ import annotations

import os
import socket
import urllib.request
from itertools import islice
from urllib.parse import urlsplit

from pipeline.corpus.examples import Example, Split
from pipeline.corpus.tasks import Task
from pipeline.errors import UsageError

_CONNECT_SECONDS = 5


def read_split(task: Task, split: str, limit: int | None = None) -> Split:
    """Stream one split of a hub dataset, or its first `limit` rows. The hub's label -1 (no label) becomes None.

    Raises:
        UsageError: `datasets` is not installed, the hub cannot be reached, or it has no such data.
    """
    source = " ".join(filter(None, [task.hub, task.hub_config, task.splits[split].hub]))
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"reading {source} from the hub needs datasets: pip install 'glot-pipeline[hub]' or {_elsewhere(task)}"
        ) from error
    try:
        _check_reachable()
        stream = datasets.load_dataset(task.hub, task.hub_config, split=task.splits[split].hub, streaming=True)
        rows = list(islice(stream, limit))
    except Exception as error:  # datasets lets through the exceptions of every library below it
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"cannot read {source} from the hub ({type(error).__name__}: {reason}): {_elsewhere(task)}"
        ) from error
    return Split(split, [_example(task, index, row) for index, row in enumerate(rows)], source)


def _example(task: Task, index: int, row: dict) -> Example:
    names = task.hub_columns
    label = None if row[names.label] == -1 else row[names.label]
    return Example(index, row[names.text], row[names.text_b] if names.text_b else None, label)


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
