"""Texts that belong together, without labels: JSON lines of queries, positives and negatives, from a file or the hub.

Rows are read as a stream into an `ExampleTable`, so half a million of them need little memory.
"""

from __future__ import annotations

import gzip
import re
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from glot.corpus import hub
from glot.corpus.examples import BadRows, Corpus, Example, ExampleTable, Split, UnfitRow, check_text, take
from glot.corpus.formats import json_values
from glot.corpus.lines import check_file, read_lines
from glot.corpus.request import HUB, check_name
from glot.errors import UsageError
from glot.store.plan import text_hash
from glot.store.task_spec import TaskSpec

METRICS = ("mrr@10", "accuracy")
HELD_OUT = 2000  # queries at most: enough to tell epochs apart, few enough to be ranked against one another
_JSON_LINES = re.compile(r".+\.(jsonl|json|ndjson)(\.gz)?", re.IGNORECASE)
_QUERY, _POSITIVE = ("query", "anchor"), ("positive", "pos")
_NEGATIVE = re.compile(r"neg|negatives?(_\d+)?")
_SHAPES = (
    'a row is {"query" or "anchor": ..., "positive" or "pos": ..., "negative", "negatives" or "neg": ...} '
    'or ["anchor", "positive", "negative", ...]'
)


class Triplet(NamedTuple):
    """A row: a query, the texts that answer it (one or more), and texts that do not (perhaps none)."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


def load_pairs(
    pairs: str,
    eval_pairs: str | None = None,
    name: str = "pairs",
    negatives: int = 1,
    limit: int | None = None,
    bad_rows: str = "stop",
) -> Corpus:
    """Read pairs or triplets into splits train and validation; each positive of a row makes an example of its own.

    Rows are of the formats that sentence-transformers' data have: objects with `query` or `anchor`, `positive` or
    `pos`, and perhaps `negative`, `negatives`, `neg` or `negative_1`, ...; each a text or, but for the query, a list of
    texts. Or arrays: the anchor, the positive, and perhaps negatives.

    Args:
        pairs: a JSON lines file, plain or gzipped; "hub:owner/name/path/to/file.jsonl.gz", such a file of a data set on
            the hub; or "hub:owner/name" and "hub:owner/name/config", the rows of its train split.
        eval_pairs: likewise, for validation; None holds out the pairs of a tenth of the queries, of 2,000 at most.
        name: what to call the task.
        negatives: how many of a row's negatives to keep, the first ones. Each is a text to forward.
        limit: rows to take, the first ones.
        bad_rows: "stop" at a row that is unfit on its own, or "skip" it.

    Raises:
        UsageError: a file or the data on the hub is missing, damaged or without rows; a name that names no folder;
            with "stop" also an unfit row, with its line.
    """
    check_name(name)
    for value, option, least in ((limit, "--limit", 1), (negatives, "--negatives", 0)):
        if value is not None and value < least:
            raise UsageError(f"{option} must be at least {least}; got {value}")
    train, queries = _read_split("train", pairs, negatives, limit, bad_rows)
    if eval_pairs is None:
        splits = _hold_out(train, queries)
    else:
        splits = [train, _read_split("validation", eval_pairs, negatives, limit, bad_rows)[0]]
    spec = TaskSpec(name, 2, "contrastive", metrics=METRICS)
    return Corpus(spec, {split.name: split for split in splits})


def _read_split(name: str, source: str, negatives: int, limit: int | None, bad_rows: str) -> tuple[Split, np.ndarray]:
    """A split, and for each example (m,) uint64 bits that stand for its query."""
    bad, table, queries, most = BadRows(bad_rows), ExampleTable(), array("Q"), 0
    for row, triplet in islice(_triplets(source, bad), limit):
        some = triplet.negatives[:negatives]
        most = max(most, len(some))
        for positive in triplet.positives:
            table.append(Example(row, triplet.query, positive, None, some))
            queries.append(int.from_bytes(text_hash(triplet.query.encode("utf-8", "replace").decode())[:8], "little"))
    if not len(table):
        left_out = f": all {bad.count:,} were left out, the first: {bad.first}" if bad.count else ""
        raise UsageError(f"{source} has no rows{left_out}: pass a file that has some")
    shown = source if source.startswith(HUB) else Path(source).name
    return Split(name, table, shown, bad.count, bad.first, most), np.array(queries)


def _hold_out(train: Split, queries: np.ndarray) -> list[Split]:
    """Train and validation: the queries with the smallest hashes are held out, with all of their positives."""
    distinct = np.unique(queries)
    if len(distinct) < 2:
        raise UsageError(f"{train.source} has one query only: pass data with more")
    count = min(HELD_OUT, max(1, len(distinct) // 10))
    held = queries <= distinct[count - 1]
    kept, out = (take(train.examples, np.flatnonzero(mask)) for mask in (~held, held))
    return [
        replace(train, examples=kept, source=f"{train.source}, but for {count:,} queries held out"),
        Split("validation", out, f"{train.source}, {count:,} queries held out", negatives=train.negatives),
    ]


def _triplets(source: str, bad: BadRows) -> Iterator[tuple[int, Triplet]]:
    """The fit rows of a file or of the hub, each with its number from 0; unfit ones are met by `bad`."""

    def numbered(row: tuple[int, tuple[str, Any]]) -> tuple[int, Triplet]:
        index, (where, value) = row
        return index, parse_triplet(value, where)

    return bad.fit(enumerate(_rows(source)), numbered)


def _rows(source: str) -> Iterator[tuple[str, Any]]:
    """Pairs of (where, JSON value or what is wrong with the line)."""
    if not source.startswith(HUB):
        return _file_rows(source)
    owner, _, rest = source.removeprefix(HUB).partition("/")
    name, _, rest = rest.partition("/")
    if not (owner and name):
        raise UsageError(f"{source}: name a data set of the hub as in hub:owner/name or hub:owner/name/file.jsonl.gz")
    if _JSON_LINES.fullmatch(rest):
        return _lines(hub.open_file(f"{owner}/{name}", rest, source), source, rest)
    rows = hub.stream_rows(f"{owner}/{name}", rest or None, "train", source, "pass a file with --pairs")
    return ((f"{source} row {number}", row) for number, row in enumerate(rows, start=1))


def _file_rows(source: str) -> Iterator[tuple[str, Any]]:
    path = Path(source)
    check_file(path, "JSON lines (.jsonl, .jsonl.gz), or hub:owner/name/file.jsonl.gz")
    if not _JSON_LINES.fullmatch(path.name):
        raise UsageError(f"{path}: pairs are JSON lines: the suffix must be .jsonl, .json or .ndjson, perhaps with .gz")
    return _lines(path.open("rb"), str(path), path.name)


def _lines(raw: IO[bytes], source: str, name: str) -> Iterator[tuple[str, Any]]:
    """The JSON values of a file, line by line."""
    with raw, _readable(source):
        lines = read_lines(gzip.GzipFile(fileobj=raw)) if name.lower().endswith(".gz") else read_lines(raw)
        yield from json_values(lines, Path(name).name, "value")


@contextmanager
def _readable(source: str) -> Iterator[None]:
    """Turn what goes wrong in reading a file into one line."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot read {source} ({str(error) or type(error).__name__}): get a whole copy") from error


def parse_triplet(value: object, where: str) -> Triplet:
    """A row as query, positives and negatives; raises UnfitRow where it is of none of the formats, or unfit already."""
    if isinstance(value, UnfitRow):
        raise value
    if isinstance(value, list):
        if len(value) < 2:
            raise UnfitRow(f"{where}: an array of {len(value)} where an anchor and a positive belong")
        texts = _texts(value, "the array", where)
        return Triplet(texts[0], texts[1:2], texts[2:])
    if not isinstance(value, dict):
        raise UnfitRow(f"{where}: a {type(value).__name__} where an object or an array belongs: {_SHAPES}")
    query = next((name for name in _QUERY if name in value), None)
    positive = next((name for name in _POSITIVE if name in value), None)
    if query is None or positive is None:
        raise UnfitRow(f"{where}: it has the names {', '.join(map(str, value)) or '(none)'}; {_SHAPES}")
    negatives = [name for name in value if _NEGATIVE.fullmatch(name) and value[name] is not None]
    found = [text for name in negatives for text in _texts(value[name], name, where)]
    positives = _texts(value[positive], positive, where)
    if not positives:
        raise UnfitRow(f"{where}: {positive!r} is an empty list where at least one text belongs")
    return Triplet(check_text(value[query], where, repr(query)), positives, tuple(found))


def _texts(value: object, name: str, where: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(check_text(item, where, repr(name)) for item in values)
