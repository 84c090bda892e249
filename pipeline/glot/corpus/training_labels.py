"""The labels of training rows, which decide what the task is, taken in row by row before that is known.

Until then a label is kept as the number of its spelling. Scores may all be spelt differently: from the row on that
makes labels scores they are kept as what they are.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Hashable, Iterable
from typing import Literal

import numpy as np

from glot.corpus.examples import UnfitRow
from glot.corpus.labels import Kind, class_name, classes_spec, in_order, key_of, kind_of, score
from glot.corpus.rows import Row
from glot.errors import UsageError
from glot.store.label_sets import MOST_LABELS
from glot.store.task_spec import TaskSpec


class LabelTally:
    """Labels of which each row has one: classes, or scores; see `glot.corpus.labels` for which.

    Whether an unfit label is an error shows only when all were seen, so the first of either kind is kept.

    Attributes:
        low, high: the range of those that are numbers.
        names: the class of each spelling, None where it is unfit; none once labels are kept as scores.
    """

    def __init__(self, target: str | None = None) -> None:
        self.low, self.high = math.inf, -math.inf
        self.names: list[str | None] = []
        self._asked = target
        self._kinds: set[Kind] = set()
        self._spellings: dict[Hashable, int] = {}
        self._scores: list[float] = []  # of each spelling
        self._kept = array("d")
        self._scores_from: int | None = 0 if target == "score" else None  # the row from which on they are kept so
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
        """Whether they were scores, and then were not: what was kept does not tell; take all in anew, as classes."""
        return self._scores_from is not None and self.target == "classes"

    @property
    def unfit(self) -> UnfitRow | None:
        """What is wrong with the first label that is none of the task's kind."""
        return self._no_score if self.target == "score" else self._no_class

    @property
    def fit(self) -> bool:
        """Whether any label is of the task's kind."""
        return self.low <= self.high if self.target == "score" else any(name is not None for name in self.names)

    def add(self, row: Row) -> None:
        """Take a row's label in."""
        if self._scores_from is not None:
            self._kinds.add(kind_of(row.label))
            self._kept.append(self._score(row))
            return
        key = key_of(row.label)
        number = self._spellings.get(key)
        self._kept.append(self._first_of(row, key) if number is None else number)

    def spec(self, name: str, num_texts: Literal[1, 2], source: str) -> TaskSpec:
        """What the task is: whole numbers are classes in their order, others sorted; scores have their range.

        Raises UsageError, which names the `source` of the rows, where all labels are the same.
        """
        if self.target == "classes":
            return classes_spec(name, in_order({one for one in self.names if one is not None}), num_texts, source)
        if self.low == self.high:
            raise UsageError(f"{source}: every score is {self.low:g}: there is nothing to learn")
        return TaskSpec(name, num_texts, "score", score_range=(self.low, self.high), metrics=("spearman", "pearson"))

    def encoded(self, spec: TaskSpec) -> np.ndarray:
        """(n,) float64 labels as examples have them; NaN for unfit ones."""
        places = {name: place for place, name in enumerate(spec.classes)}
        codes = [math.nan if name is None else places[name] for name in self.names]
        values = np.asarray(self._scores if spec.target == "score" else codes, dtype=np.float64)
        found = np.array(self._kept)
        numbers = found[: self._scores_from]
        numbers[:] = values[numbers.astype(np.int64)]
        return found

    def _first_of(self, row: Row, key: Hashable) -> float:
        """The number of a spelling that is met first; the score itself, if this one makes labels scores."""
        self._kinds.add(kind_of(row.label))
        value = self._score(row)
        if self.target == "score":
            self._scores_from = len(self._kept)
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
    """Labels of which a row has several, by their names.

    Attributes:
        names: all that were met, in that order.
    """

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self._kept = array("Q")  # of each row a bit for every name that it has

    def add(self, names: Iterable[str]) -> None:
        """Take a row's labels in; with more names than a task may have only these are kept."""
        numbers = {self.names.setdefault(name, len(self.names)) for name in names}
        if len(self.names) <= MOST_LABELS:
            self._kept.append(sum(1 << number for number in numbers))

    def encoded(self, classes: tuple[str, ...]) -> np.ndarray:
        """(n,) float64 labels as examples have them: the bits are in the order of the task's classes."""
        kept, codes = np.array(self._kept), np.zeros(len(self._kept), dtype=np.uint64)
        for place, name in enumerate(classes):
            codes |= ((kept >> np.uint64(self.names[name])) & np.uint64(1)) << np.uint64(place)
        return codes.astype(np.float64)
