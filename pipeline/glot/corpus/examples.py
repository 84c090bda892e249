"""What every source of this room hands on: examples in splits, and the task they belong to."""

from __future__ import annotations

import json
import math
import operator
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from glot.corpus.spool import Spool
from glot.errors import UsageError
from glot.store.task_spec import TaskSpec, describe_labels

BAD_ROWS = ("stop", "skip")
_BLOCK_ROWS = 1024
_BLOCK_BYTES = 4 << 20  # rows within such a stretch of the spool are read at once
_NO_TEXT = -1


class Example(NamedTuple):
    """One labelled text or pair of texts.

    Attributes:
        index: the row in the source, counted from 0; in GLUE's test files this is their `index` column.
        text: the (first) text.
        text_b: the second text of a pair, else None.
        label: an int index into the task's classes, a float score, or None where the source has no label.
        negatives: where the second text answers the first, texts that do not.
    """

    index: int
    text: str
    text_b: str | None
    label: int | float | None
    negatives: tuple[str, ...] = ()


class _Examples(Sequence[Example]):
    """What a table and a view of it share: they compare and add up like lists of examples."""

    __hash__ = None  # type: ignore[assignment]  # the usual way to say that it has none

    @property
    def labels(self) -> np.ndarray:
        """(n,) float64 labels, NaN where there is none."""
        raise NotImplementedError

    def take(self, positions: np.ndarray | Sequence[int]) -> ExampleView:
        """A view of the examples at (m,) positions, each at least 0, in the order given; texts are not copied."""
        raise NotImplementedError

    def _example(self, position: int) -> Example:
        raise NotImplementedError

    def __getitem__(self, position: int | slice) -> Example | ExampleView:
        if isinstance(position, slice):
            return self.take(np.arange(*position.indices(len(self))))
        position = operator.index(position)
        if not -len(self) <= position < len(self):
            raise IndexError(f"example {position} of {len(self)}")
        return self._example(position % len(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    def __add__(self, other: Sequence[Example]) -> list[Example]:
        return [*self, *other]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} examples>"


class ExampleTable(_Examples):
    """Examples without their weight in memory: texts lie in a spool, the rest in columns of 8 bytes a row.

    Texts come back as they were, lone surrogates included. Labels come back as ints while every label of the table
    was one (up to 2**53), else as floats; a NaN label comes back as None.
    """

    def __init__(self, examples: Iterable[Example] = (), spool: Spool | None = None):
        self._spool = Spool() if spool is None else spool
        self._ends = array("Q")  # where each row's bytes end in the spool
        self._seconds: array | None = None  # where its second text begins; None as long as no row has one
        self._thirds: array | None = None  # likewise its negatives, which lie there as a JSON list
        self._indices: array | None = None  # None as long as each index is the row's position
        self._labels = array("d")
        self._whole = True
        self.extend(examples)

    def append(self, example: Example) -> None:
        """Add an example at the end. Raises FaultError where there is no room for its texts."""
        index, text, text_b, label, negatives = example
        position = len(self._ends)
        data = text.encode("utf-8", "surrogatepass")
        data_b = b"" if text_b is None else text_b.encode("utf-8", "surrogatepass")
        data_c = json.dumps(negatives).encode() if negatives else b""
        end = self._spool.append(data + data_b + data_c)
        if self._seconds is None and text_b is not None:
            self._seconds = array("q", [_NO_TEXT]) * position
        if self._seconds is not None:
            self._seconds.append(_NO_TEXT if text_b is None else end - len(data_c) - len(data_b))
        if self._thirds is None and negatives:
            self._thirds = array("q", [_NO_TEXT]) * position
        if self._thirds is not None:
            self._thirds.append(end - len(data_c) if negatives else _NO_TEXT)
        if self._indices is None and index != position:
            self._indices = array("q", range(position))
        if self._indices is not None:
            self._indices.append(index)
        self._whole = self._whole and (label is None or hasattr(label, "__index__"))
        self._labels.append(math.nan if label is None else label)
        self._ends.append(end)

    def extend(self, examples: Iterable[Example]) -> None:
        """Append one example after the other."""
        for example in examples:
            self.append(example)

    @property
    def labels(self) -> np.ndarray:
        """(n,) float64 labels, NaN where there is none; a copy."""
        return np.array(self._labels)

    def take(self, positions: np.ndarray | Sequence[int]) -> ExampleView:
        """A view of the examples at (m,) positions, each at least 0, in the order given; texts are not copied."""
        return ExampleView(self, np.asarray(positions, dtype=np.min_scalar_type(len(self))))

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), _BLOCK_ROWS):
            yield from self._read(range(start, min(start + _BLOCK_ROWS, len(self))))

    def _example(self, position: int) -> Example:
        start = self._start(position)
        return self._decode(position, self._spool.read(start, self._ends[position]), start)

    def _read(self, positions: Sequence[int]) -> Iterator[Example]:
        """The examples at some positions, by one read if they lie close together."""
        low, high = self._start(min(positions)), self._ends[max(positions)]
        if high - low > _BLOCK_BYTES:
            yield from map(self._example, positions)
            return
        data = self._spool.read(low, high)
        for position in positions:
            yield self._decode(position, data, low)

    def _start(self, position: int) -> int:
        return self._ends[position - 1] if position else 0

    def _decode(self, position: int, data: bytes, base: int) -> Example:
        """The example at a position, from bytes that begin at `base` in the spool and hold its texts."""
        start, end = (self._ends[position - 1] if position else 0) - base, self._ends[position] - base
        negatives, text_b = (), None
        if self._thirds is not None and self._thirds[position] != _NO_TEXT:
            third = self._thirds[position] - base
            negatives, end = tuple(json.loads(data[third:end])), third
        if self._seconds is not None and self._seconds[position] != _NO_TEXT:
            second = self._seconds[position] - base
            text_b, end = data[second:end].decode("utf-8", "surrogatepass"), second
        text = data[start:end].decode("utf-8", "surrogatepass")
        index = position if self._indices is None else self._indices[position]
        label = self._labels[position]
        if label != label:  # NaN
            return Example(index, text, text_b, None, negatives)
        return Example(index, text, text_b, int(label) if self._whole else label, negatives)


class ExampleView(_Examples):
    """Some of a table's examples, in an order of their own; made by `take`."""

    def __init__(self, table: ExampleTable, positions: np.ndarray):
        self._table = table
        self._positions = positions

    @property
    def labels(self) -> np.ndarray:
        """(m,) float64 labels, NaN where there is none; a copy."""
        return np.asarray(self._table._labels)[self._positions]

    def take(self, positions: np.ndarray | Sequence[int]) -> ExampleView:
        """A view of the examples at (m,) positions of this one, each at least 0, in the order given."""
        return ExampleView(self._table, self._positions[np.asarray(positions, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), _BLOCK_ROWS):
            yield from self._table._read(self._positions[start : start + _BLOCK_ROWS].tolist())

    def _example(self, position: int) -> Example:
        return self._table._example(int(self._positions[position]))


def labels_of(examples: Sequence[Example]) -> np.ndarray:
    """(n,) float64 labels, NaN where there is none."""
    if isinstance(examples, _Examples):
        return examples.labels
    return np.asarray([np.nan if example.label is None else example.label for example in examples], dtype=np.float64)


def take(examples: Sequence[Example], positions: np.ndarray) -> Sequence[Example]:
    """The examples at (m,) positions, in the order given."""
    return examples.take(positions) if isinstance(examples, _Examples) else [examples[i] for i in positions.tolist()]


@dataclass(frozen=True)
class Reading:
    """How a file or a split of the hub was read.

    Attributes:
        source: which, for people.
        described: how it is written: "tab-separated, quotes are text, UTF-8".
        rows: how many it has, unfit ones included.
        skipped: how many of them were unfit and left out.
        spanning: how many span several lines.
    """

    source: str
    described: str
    rows: int
    skipped: int
    spanning: int

    @property
    def facts(self) -> str:
        """All but the source in words."""
        skipped = f", {self.skipped:,} of them skipped" if self.skipped else ""
        spanning = f", {self.spanning:,} over several lines" if self.spanning else ""
        return f"{self.described}, {self.rows:,} rows{skipped}{spanning}".removeprefix(", ")


@dataclass
class Split:
    """The examples of one split, in the order of their source.

    Attributes:
        name: "train", "validation", "test", and for MNLI "validation_mismatched" and "test_mismatched".
        examples: the examples.
        source: where they come from, for people to read: "MRPC/train.tsv", "nyu-mll/glue mrpc train".
        negatives: how many an example has at most.
        skipped: how many unfit rows of the source were left out, as was asked; where a file is parted into train
            and validation, train has the number.
        first_skipped: what was wrong with the first of them, and where: "data.csv line 7: ...".
        reading: how the source was read, where it is somebody's own.
    """

    name: str
    examples: Sequence[Example]
    source: str
    skipped: int = 0
    first_skipped: str = ""
    negatives: int = 0
    reading: Reading | None = None

    @property
    def provenance(self) -> str:
        """The source, and how it was read."""
        return f"{self.source}; {self.reading.facts}" if self.reading else self.source


@dataclass
class Corpus:
    """A task's spec and its splits by name.

    Attributes:
        remarks: what a user should look at.
    """

    spec: TaskSpec
    splits: dict[str, Split]
    remarks: Sequence[str] = ()

    def understood(self) -> list[str]:
        """What was read, a line each: the files, and what the label is taken for."""
        readings = dict.fromkeys(split.reading for split in self.splits.values() if split.reading is not None)
        lines = [f"{reading.source}: {reading.facts}" for reading in readings]
        if self.spec.target == "contrastive":
            return lines
        labels = np.concatenate([labels_of(split.examples) for split in self.splits.values()])
        return [*lines, f"label: {describe_labels(self.spec, labels)}"]


class UnfitRow(UsageError):
    """A row is unfit on its own; the rows behind it can be read."""


@dataclass
class BadRows:
    """What becomes of unfit rows: with "stop" the first is an error, with "skip" all are left out and counted.

    Attributes:
        choice: "stop" or "skip"; anything else raises UsageError.
        count: how many were left out.
        first: the message of the first.
    """

    choice: str = "stop"
    count: int = 0
    first: str = ""

    def __post_init__(self) -> None:
        if self.choice not in BAD_ROWS:
            raise UsageError(f"unknown way with bad rows {self.choice!r}: choose --on-bad-row {'|'.join(BAD_ROWS)}")

    def meet(self, row: UnfitRow) -> None:
        """Count an unfit row, or raise it."""
        if self.choice == "stop":
            raise row
        self.count += 1
        self.first = self.first or str(row)
