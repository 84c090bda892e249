"""What every source of this room hands on: examples in splits, and the task they belong to."""

from __future__ import annotations

import marshal
import math
import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar, overload

import numpy as np

from glot.corpus.spool import Spool
from glot.errors import UsageError
from glot.store.task_spec import TaskSpec, describe_labels
from glot.store.template import check_pairs, join_pair, takes_pair

Read = TypeVar("Read")
Made = TypeVar("Made")
BAD_ROWS = ("stop", "skip")
# Our name for a split -> what others call it, the usual name first.
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_BLOCK_ROWS = 1024
_BLOCK_BYTES = 4 << 20  # rows within such a stretch of the spool are read at once
_BLOCK_WASTE = 2  # a stretch that is read at once is at most so many times as long as the rows wanted of it


class Example(NamedTuple):
    """One labelled text or pair of texts.

    Attributes:
        index: the row in the source, counted from 0; in GLUE's test files this is their `index` column.
        text: the (first) text.
        text_b: the second text of a pair, else None.
        label: an int index into the task's classes, a float score, or None where the source has no label.
        negatives: where the second text answers the first, texts that do not.
    """

    index: int  # type: ignore[assignment]  # the name of its column; the method of tuples is not used
    text: str
    text_b: str | None
    label: int | float | None
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class PackedTexts:
    """The texts of some examples as bytes, on their way to whoever reads them, maybe another process.

    Attributes:
        data: holds each example's marshalled (index, text, text_b, negatives), and maybe others'.
        starts: (k,) int64, where those of the k examples begin.
    """

    data: bytes
    starts: np.ndarray

    def __iter__(self) -> Iterator[tuple[int, str, str | None, tuple[str, ...]]]:
        view = memoryview(self.data)
        return (marshal.loads(view[start:]) for start in self.starts.tolist())

    @classmethod
    def of(cls, rows: Sequence[bytes]) -> PackedTexts:
        """Of each example's own bytes."""
        return cls(b"".join(rows), np.cumsum([0, *map(len, rows[:-1])], dtype=np.int64)[: len(rows)])


class _Examples(Sequence[Example]):
    """What a table and a view of it share: they compare and add up like lists of examples."""

    __hash__ = None  # type: ignore[assignment]  # the usual way to say that it has none

    @property
    def labels(self) -> np.ndarray:
        raise NotImplementedError

    def take(self, positions: np.ndarray | Sequence[int]) -> ExampleView:
        raise NotImplementedError

    @property
    def are_classes(self) -> bool:
        """Whether every label is a class, as far as it has one."""
        raise NotImplementedError

    def pack(self, positions: Sequence[int]) -> PackedTexts:
        """The texts of the examples at some positions; by one read where they lie close together."""
        raise NotImplementedError

    def _read(self, positions: range) -> Iterator[Example]:
        raise NotImplementedError

    @overload
    def __getitem__(self, position: int) -> Example: ...

    @overload
    def __getitem__(self, position: slice) -> ExampleView: ...

    def __getitem__(self, position: int | slice) -> Example | ExampleView:
        if isinstance(position, slice):
            return self.take(np.arange(*position.indices(len(self))))
        position = operator.index(position)
        if not -len(self) <= position < len(self):
            raise IndexError(f"example {position} of {len(self)}")
        position %= len(self)
        return next(self._read(range(position, position + 1)))

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), _BLOCK_ROWS):
            yield from self._read(range(start, min(start + _BLOCK_ROWS, len(self))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    def __add__(self, other: Sequence[Example]) -> list[Example]:
        return [*self, *other]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} examples>"


class ExampleTable(_Examples):
    """Examples without their weight in memory: all but their labels lie in a spool.

    They are marshalled there, which is fast and keeps lone surrogates; nobody else can write into a nameless file.
    Labels come back as ints while every label of the table was one (up to 2**53), else as floats; NaN as None.
    """

    def __init__(self, examples: Iterable[Example] = (), spool: Spool | None = None):
        self._spool = Spool() if spool is None else spool
        self._ends = array("Q")  # where each row's bytes end in the spool
        self._labels = array("d")
        self._whole = True
        for example in examples:
            self.append(example)

    def append(self, example: Example) -> None:
        """Add an example at the end. Raises FaultError where there is no room for its texts."""
        label = example.label
        self._ends.append(self._spool.append(_texts_as_bytes(example)))
        self._whole = self._whole and (label is None or hasattr(label, "__index__"))
        self._labels.append(math.nan if label is None else label)

    def set_labels(self, labels: np.ndarray, are_classes: bool) -> None:
        """Replace the labels by (n,) float64 others, NaN where there is none."""
        self._labels, self._whole = array("d"), are_classes
        self._labels.frombytes(labels.view(np.uint8).data)

    @property
    def labels(self) -> np.ndarray:
        """(n,) float64 labels, NaN where there is none; a copy."""
        return np.array(self._labels)

    @property
    def are_classes(self) -> bool:
        """See `_Examples`."""
        return self._whole

    def pack(self, positions: Sequence[int]) -> PackedTexts:
        """See `_Examples`."""
        starts = np.asarray([self._start(one) for one in positions], dtype=np.int64)
        ends = np.asarray([self._ends[one] for one in positions], dtype=np.int64)
        if len(starts) and ends.max() - starts.min() <= min(_BLOCK_BYTES, _BLOCK_WASTE * (ends - starts).sum()):
            low = int(starts.min())
            return PackedTexts(self._spool.read(low, int(ends.max())), starts - low)
        rows = [self._spool.read(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        return PackedTexts.of(rows)

    def take(self, positions: np.ndarray | Sequence[int]) -> ExampleView:
        """A view of the examples at (m,) positions, each at least 0, in the order given; texts are not copied."""
        return ExampleView(self, np.asarray(positions, dtype=np.min_scalar_type(len(self))))

    def __len__(self) -> int:
        return len(self._ends)

    def _read(self, positions: Sequence[int]) -> Iterator[Example]:
        """The examples at some positions, by one read if they lie close together."""
        low, high = self._start(min(positions)), self._ends[max(positions)]
        data = self._spool.read(low, high) if high - low <= _BLOCK_BYTES else None
        for position in positions:
            start, end = self._start(position), self._ends[position]
            row = self._spool.read(start, end) if data is None else data[start - low : end - low]
            yield self._decode(position, row)

    def _start(self, position: int) -> int:
        return self._ends[position - 1] if position else 0

    def _decode(self, position: int, row: bytes) -> Example:
        index, text, text_b, negatives = marshal.loads(row)
        label = self._labels[position]
        if math.isnan(label):
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

    @property
    def are_classes(self) -> bool:
        """See `_Examples`."""
        return self._table.are_classes

    def pack(self, positions: Sequence[int]) -> PackedTexts:
        """See `_Examples`."""
        return self._table.pack(self._positions[np.asarray(positions, dtype=np.int64)].tolist())

    def take(self, positions: np.ndarray | Sequence[int]) -> ExampleView:
        """A view of the examples at (m,) positions of this one, each at least 0, in the order given."""
        return ExampleView(self._table, self._positions[np.asarray(positions, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self._positions)

    def _read(self, positions: range) -> Iterator[Example]:
        return self._table._read(self._positions[positions.start : positions.stop].tolist())


def labels_or_nan(examples: Sequence[Example]) -> np.ndarray:
    """(n,) float64 labels, NaN where there is none."""
    if isinstance(examples, _Examples):
        return examples.labels
    return np.asarray([np.nan if example.label is None else example.label for example in examples], dtype=np.float64)


def label_column(examples: Sequence[Example]) -> np.ndarray | None:
    """(n,) int64 classes, or float64 scores where any label is a float; None where an example has none."""
    labels = labels_or_nan(examples)
    if np.isnan(labels).any():
        return None
    if isinstance(examples, _Examples):
        are_classes = examples.are_classes
    else:
        are_classes = not any(isinstance(example.label, float) for example in examples)
    return labels.astype(np.int64) if are_classes else labels


def pack(examples: Sequence[Example], positions: Sequence[int]) -> PackedTexts:
    """The texts of the examples at some positions."""
    if isinstance(examples, _Examples):
        return examples.pack(positions)
    return PackedTexts.of([_texts_as_bytes(examples[one]) for one in positions])


def _texts_as_bytes(example: Example) -> bytes:
    """All but the label, as `PackedTexts` holds it."""
    return marshal.dumps((example.index, example.text, example.text_b, example.negatives))


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
        labels = np.concatenate([labels_or_nan(split.examples) for split in self.splits.values()])
        return [*lines, f"label: {describe_labels(self.spec, labels)}"]


def in_template(corpus: Corpus, template: str) -> Corpus:
    """The corpus as the backbone reads it: in a template of pairs the two texts of an example are one.

    Raises UsageError where such a template is given for examples that are no labelled pairs.
    """
    spec = corpus.spec
    check_pairs(template, spec.name, spec.num_texts, spec.target != "contrastive")
    if not takes_pair(template):
        return corpus
    splits = {
        name: replace(split, examples=ExampleTable(map(_joined, split.examples)))
        for name, split in corpus.splits.items()
    }
    return replace(corpus, spec=replace(spec, num_texts=1), splits=splits)


def _joined(example: Example) -> Example:
    assert example.text_b is not None  # as of every example of pairs
    return example._replace(text=join_pair(example.text, example.text_b), text_b=None)


class UnfitRow(UsageError):
    """A row is unfit on its own; the rows behind it can be read."""


def check_text(value: object, where: str, what: str) -> str:
    """The value, if it is a text; raises UnfitRow that names the row and `what` holds the value."""
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise UnfitRow(f"{where}: {what} holds {kind} where a text belongs")
    return value


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

    def meet(self, row: UnfitRow, advice: str = "") -> None:
        """Count an unfit row, or raise it with some advice behind it."""
        if self.choice == "stop":
            raise UnfitRow(f"{row}{advice}") from row
        self.count += 1
        self.first = self.first or str(row)

    def fit(self, rows: Iterable[Read], make: Callable[[Read], Made]) -> Iterator[Made]:
        """What `make` makes of each row; the rows for which it raises UnfitRow are met."""
        for row in rows:
            try:
                made = make(row)
            except UnfitRow as error:
                self.meet(error)
            else:
                yield made
