"""What labels mean: classes under the names that are written, or scores.

Whole numbers that are typed as such (JSON lines, Parquet, the hub) are classes, typed floats are scores. A column of
text is scores only if every value is a plain decimal, as 4, -0.5 or .25 but not 01, 1E2 or 1_0, and one at least has
digits behind its point. All else are classes, and two labels that are written differently are two of them.
"""

from __future__ import annotations

import datetime
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from glot.corpus.examples import UnfitRow
from glot.corpus.rows import Row
from glot.errors import UsageError
from glot.registry.tasks import Columns
from glot.store.label_sets import LABELS_JOINT, MOST_LABELS, to_indicator
from glot.store.task_spec import TaskSpec

OWN_TARGETS = ("classes", "score")
LABELS_METRICS = ("micro_f1", "macro_label_f1", "exact_match")
ONE_LABEL = (
    "for several labels a text pass --label-separator, or a column of 0 and 1 for each, as in --label billing,login"
)
_PLAIN_DECIMAL = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)")
_FRACTION = re.compile(r".*\.[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NAMES_SHOWN, _NAME_CHARACTERS = 20, 40
_FEW_SCORES = 5  # so few different ones may be classes

# "word": a class's name, "whole" and "fraction": plain decimals written in text, "integer" and "float": so typed.
Kind = Literal["word", "whole", "fraction", "integer", "float", "unfit"]


def check_target(target: str | None) -> None:
    """Raise UsageError for what is not a kind of target that a user may ask for."""
    if target is not None and target not in OWN_TARGETS:
        raise UsageError(f"unknown --target {target!r}: choose {' or '.join(OWN_TARGETS)}")


def class_name(row: Row) -> str:
    """The name under which a row's label is a class: as written; booleans are true and false, dates as in 2020-12-31.

    Raises UnfitRow for a list, and for what is no text, number, boolean or date.
    """
    label = row.label
    _refuse_several(row)
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, Decimal):
        return format(label, "f")
    if isinstance(label, str | int | float):
        return str(label)
    if isinstance(label, datetime.date | datetime.time):
        return label.isoformat()
    raise UnfitRow(f"{row.where}: label {label!r} is neither a text, a number nor a boolean")


def score(row: Row) -> float:
    """A row's label as a score; raises UnfitRow where it is no finite number."""
    _refuse_several(row)
    label, number = row.label, math.nan
    if isinstance(label, str):
        number = float(label) if _NUMBER.fullmatch(label.strip()) else math.nan
    elif isinstance(label, int | float | Decimal) and not isinstance(label, bool):
        try:
            number = float(label)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number):
        raise UnfitRow(f"{row.where}: label {_short(label)!r} is not a finite number, but the labels are scores")
    return number


def classes_spec(name: str, classes: tuple[str, ...], num_texts: Literal[1, 2], source: str | None = None) -> TaskSpec:
    """The task of telling classes apart; raises UsageError, which names the source, where there are fewer than two."""
    if len(classes) < 2:
        raise UsageError(
            f"{source or name}: every label is {_short(classes[0])!r}: training needs at least two classes"
        )
    metrics = ("accuracy", "f1") if len(classes) == 2 else ("accuracy", "macro_f1")
    return TaskSpec(name, num_texts, "classes", classes, metrics=metrics)


def check_columns(columns: Columns, target: str | None = None) -> None:
    """Raise UsageError for a target beside several labels, and a separator that is blank or beside several columns."""
    if columns.has_several and target is not None:
        raise UsageError(f"--target {target} does not go with several labels a text: leave it out")
    if columns.separator is None:
        return
    if len(columns.labels) > 1:
        raise UsageError(
            f"--label-separator is for one column that names the labels, and --label has {len(columns.labels)}: "
            "leave one of them out"
        )
    if not columns.separator.strip():
        raise UsageError("--label-separator is blank: pass what stands between two labels, as in ';'")


def labels_spec(name: str, labels: tuple[str, ...], num_texts: Literal[1, 2]) -> TaskSpec:
    """The task of telling which of some labels a text has; raises UsageError for fewer than two, or too many."""
    if len(set(labels)) < max(2, len(labels)) or len(labels) > MOST_LABELS:
        raise UsageError(
            f"{name}: several labels a text need 2 to {MOST_LABELS} different labels, and there are {len(set(labels))}"
        )
    joined = next((label for label in labels if LABELS_JOINT in label), None)
    if joined is not None:
        raise UsageError(
            f"{name}: the label {_short(joined)!r} has a {LABELS_JOINT!r}, which stands between labels where they are "
            "written: give it another name"
        )
    return TaskSpec(name, num_texts, "labels", labels, metrics=LABELS_METRICS)


def check_spread(spec: TaskSpec, codes: np.ndarray, whose: str) -> None:
    """Raise UsageError, which names it, for a label that all or none of some training examples have."""
    counts = to_indicator(codes, len(spec.classes)).sum(axis=0)
    for label, count in zip(spec.classes, counts.tolist(), strict=True):
        if count in (0, len(codes)):
            how = "no" if not count else "every"
            raise UsageError(f"{whose}: {how} training row has the label {_short(label)!r}: leave it out, or add rows")


def in_order(names: set[str]) -> tuple[str, ...]:
    """Names of classes in their order: by number where all are whole numbers, else sorted."""
    if all(_WHOLE.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (Decimal(name), name)))
    return tuple(sorted(names))


def is_number(value: str) -> bool:
    """Whether Python reads a text as a number."""
    try:
        float(value)
    except ValueError:
        return False
    return True


class LabelEncoder:
    """Turns rows' labels into class indices or scores, looking at each spelling of a class once."""

    def __init__(self, spec: TaskSpec) -> None:
        self._is_score = spec.target == "score"
        self._has_several = spec.target == "labels"
        self._classes = {name: i for i, name in enumerate(spec.classes)}
        self._known: dict[tuple, int] = {}

    def __call__(self, row: Row) -> int | float | None:
        """Raises UnfitRow for a label that is none of the kind, UsageError for a class that training does not know."""
        if row.label is None:
            return None
        if self._is_score:
            return score(row)
        if self._has_several:
            return sum(1 << self._place(row, name) for name in row.label)
        key = key_of(row.label)
        if key not in self._known:
            self._known[key] = self._place(row, class_name(row))
        return self._known[key]

    def _place(self, row: Row, name: str) -> int:
        if name not in self._classes:
            raise UsageError(
                f"{row.where}: label {_short(name)!r} is not among the training labels: {_listed(self._classes)}; "
                "train on rows of it too, or leave such rows out"
            )
        return self._classes[name]


def remarks(spec: TaskSpec, values: np.ndarray | None = None) -> list[str]:
    """What a user should look at: classes that are perhaps one, numbers among which a word made classes, and scores
    that are perhaps classes: few (n,) `values`, all whole, as tools write classes with decimals where a cell is empty.
    """
    if spec.target == "score" and values is not None:
        there = np.unique(values[~np.isnan(values)])
        if len(there) <= _FEW_SCORES and (there == np.rint(there)).all():
            listed = ", ".join(f"{value:g}" for value in there)
            return [
                f"label: scores, for they are written as decimals, but there are only {listed}: if these are "
                "classes, pass --target classes"
            ]
    if spec.target != "classes":
        return []
    alike: dict[Any, list[str]] = defaultdict(list)
    for name in spec.classes:
        alike[_gist(name)].append(name)
    found = [
        f"label: {_listed(names, repr)} are {len(names)} classes, for they are written differently: make them one in "
        "the file if they are"
        for names in alike.values()
        if len(names) > 1
    ]
    decimals = [name for name in spec.classes if kind_of(name) == "fraction"]
    others = [name for name in spec.classes if kind_of(name) == "word"]
    if len(decimals) > len(others) > 0:
        found.append(
            f"label: classes, for {_listed(others, repr)} is no plain decimal, but {len(decimals):,} others are: "
            "if these are scores, pass --target score"
        )
    return found


def _gist(name: str) -> Any:
    """Equal for names that differ in case and blanks alone, and for spellings of one number."""
    number = name.strip()
    if _NUMBER.fullmatch(number) and "e" not in number.lower():
        return Decimal(number)
    return " ".join(name.split()).casefold()


def kind_of(label: Any) -> Kind:
    """What a label looks like by itself."""
    if isinstance(label, str):
        text = label.strip()
        if not _PLAIN_DECIMAL.fullmatch(text):
            return "word"
        return "fraction" if _FRACTION.fullmatch(text) else "whole"
    if isinstance(label, bool | datetime.date | datetime.time):
        return "word"
    if isinstance(label, Decimal):
        exponent = label.as_tuple().exponent  # a letter for what is not finite
        return "integer" if isinstance(exponent, int) and exponent >= 0 else "float"
    if isinstance(label, int):
        return "integer"
    return "float" if isinstance(label, float) else "unfit"


def key_of(label: Any) -> tuple:
    """Equal for equal labels of the same type; 1, 1.0 and True differ, and so do Decimals of 1.0 and 1.00."""
    return type(label), label if isinstance(label, str | int | float) else repr(label)


def _refuse_several(row: Row) -> None:
    if isinstance(row.label, list | tuple):
        raise UnfitRow(f"{row.where}: label {row.label!r} is a list, and an example has one label: {ONE_LABEL}")


def _short(label: Any) -> Any:
    """A label as messages show it: a long text is cut."""
    if not isinstance(label, str) or len(label) <= _NAME_CHARACTERS:
        return label
    return label[: _NAME_CHARACTERS - 1] + "…"


def _listed(names: Sequence[str] | dict[str, int], show: Any = str) -> str:
    shown = [show(_short(name)) for name in list(names)[:_NAMES_SHOWN]]
    return ", ".join([*shown, f"and {len(names) - len(shown):,} more"] if len(names) > len(shown) else shown)
