"""The labels of training rows, which decide what the task is: each is taken in once, before that is known.

Until then a label is kept as the number of its spelling. Scores may all be spelt differently: from the first label on
that makes them scores they are kept as what they are.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Hashable
from typing import Literal, Protocol

import numpy as np

from glot.corpus.examples import UnfitRow
from glot.corpus.labels import Kind, class_name, classes_spec, in_order, key_of, kind_of, labels_spec, score
from glot.corpus.rows import Row
from glot.errors import UsageError
from glot.registry.tasks import Columns
from glot.store.task_spec import TaskSpec


class TrainingLabels(Protocol):
    """The labels of n rows."""

    @property
    def look_again(self) -> bool:
        """Whether what was kept does not tell: then the rows are to be taken in anew, as classes."""
        ...

    @property
    def unfit(self) -> UnfitRow | None:
        """What is wrong with the first label that is none of the task's kind."""
        ...

    @property
    def fit(self) -> bool:
        """Whether any label is of the task's kind."""
        ...

    def add(self, row: Row) -> None:
        """Take a row's label in."""
        ...

    def spec(self, name: str, num_texts: Literal[1, 2], source: str) -> TaskSpec:
        """What the task is, whose rows are from `source`. Raises UsageError where nothing can be learnt from them."""
        ...

    def encoded(self, spec: TaskSpec) -> np.ndarray:
        """(n,) float64 labels as examples have them; NaN for unfit ones."""
        ...


def training_labels(columns: Columns, target: str | None) -> TrainingLabels:
    """For the rows of a table with such columns; `target` "classes" or "score" overrides what labels look like."""
    return NamedLabels() if columns.has_several else LabelTally(target)


class LabelTally:
    """Labels of which each row has one: classes, or scores. See `TrainingLabels`, and `glot.corpus.labels`.

    Whether an unfit label is an error shows only when all were seen, so the first of either kind is kept.

    Attributes:
        low, high: the range of those that are numbers.
        names: the class of each spelling, None where it is unfit; none once they were scores.
    """

    def __init__(self, target: str | None = None) -> None:
        self.low, self.high = math.inf, -math.inf
        self.names: list[str | None] = []
        self._asked = target
        self._kinds: set[Kind] = set()
        self._spellings: dict[Hashable, int] = {}
        self._scores: list[float] = []  # of each spelling
        self._kept = array("d")
        self._spelt: int | None = 0 if target == "score" else None  # how many were kept as numbers of spellings
        self._no_score: UnfitRow | None = None
        self._no_class: UnfitRow | None = None

    @property
    def target(self) -> str:
        """What the labels are: "classes" or "score"."""
        if self._asked is not None:
            return self._asked
        is_score = "float" in self._kinds or ("fraction" in self._kinds and "word" not in self._kinds)
        return "score" if is_score else "classes"

    @property
    def look_again(self) -> bool:
        """See `TrainingLabels`: they were scores, and then were not."""
        return self._spelt is not None and self.target == "classes"

    @property
    def unfit(self) -> UnfitRow | None:
        """See `TrainingLabels`."""
        return self._no_score if self.target == "score" else self._no_class

    @property
    def fit(self) -> bool:
        """See `TrainingLabels`."""
        return self.low <= self.high if self.target == "score" else any(name is not None for name in self.names)

    def add(self, row: Row) -> None:
        """See `TrainingLabels`."""
        if self._spelt is not None:
            self._kinds.add(kind_of(row.label))
            self._kept.append(self._score(row))
            return
        key = key_of(row.label)
        number = self._spellings.get(key)
        self._kept.append(self._first_of(row, key) if number is None else number)

    def spec(self, name: str, num_texts: Literal[1, 2], source: str) -> TaskSpec:
        """See `TrainingLabels`. Whole numbers are classes in their order, others sorted; scores have their range."""
        if self.target == "classes":
            return classes_spec(name, in_order({one for one in self.names if one is not None}), num_texts, source)
        if self.low == self.high:
            raise UsageError(f"{source}: every score is {self.low:g}: there is nothing to learn")
        return TaskSpec(name, num_texts, "score", score_range=(self.low, self.high), metrics=("spearman", "pearson"))

    def encoded(self, spec: TaskSpec) -> np.ndarray:
        """See `TrainingLabels`."""
        places = {name: place for place, name in enumerate(spec.classes)}
        codes = [math.nan if name is None else places[name] for name in self.names]
        values = np.asarray(self._scores if spec.target == "score" else codes, dtype=np.float64)
        found = np.array(self._kept)
        spelt = found[: self._spelt]
        spelt[:] = values[spelt.astype(np.int64)]
        return found

    def _first_of(self, row: Row, key: Hashable) -> float:
        """How the label of a spelling that is met for the first time is kept."""
        self._kinds.add(kind_of(row.label))
        value = self._score(row)
        if self.target == "score":
            self._spelt = len(self._kept)
            self._spellings.clear()
            self.names.clear()
            return value
        self._scores.append(value)
        self.names.append(self._class(row))
        return self._spellings.setdefault(key, len(self._spellings))

    def _score(self, row: Row) -> float:
        try:
            number = score(row)
        except UnfitRow as error:
            self._no_score = self._no_score or error
            return math.nan
        self.low, self.high = min(self.low, number), max(self.high, number)
        return number

    def _class(self, row: Row) -> str | None:
        try:
            return class_name(row)
        except UnfitRow as error:
            self._no_class = self._no_class or error
            return None


class NamedLabels:
    """Labels of which a row has several, by their names. See `TrainingLabels`."""

    look_again, unfit, fit = False, None, True

    def __init__(self) -> None:
        self._sets: dict[tuple[str, ...], int] = {}
        self._kept = array("L")

    def add(self, row: Row) -> None:
        """See `TrainingLabels`."""
        self._kept.append(self._sets.setdefault(row.label or (), len(self._sets)))

    def spec(self, name: str, num_texts: Literal[1, 2], source: str) -> TaskSpec:
        """See `TrainingLabels`."""
        return labels_spec(name, in_order({one for names in self._sets for one in names}), num_texts)

    def encoded(self, spec: TaskSpec) -> np.ndarray:
        """See `TrainingLabels`; a label's bit is set where a row has it."""
        bits = {name: 1 << place for place, name in enumerate(spec.classes)}
        codes = [sum(bits[name] for name in names) for names in self._sets]
        return np.asarray(codes, dtype=np.float64)[np.array(self._kept)]
