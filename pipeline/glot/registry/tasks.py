"""The table of known tasks: an entry says all that is known of one, from where its data lies to how a head is trained.

A task of your own is one `TASKS.add(Task(...))` in a module that GLOT_PLUGINS names.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Any

from glot.errors import UsageError
from glot.registry import Registry
from glot.store.task_spec import TaskSpec

GLUE_HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class Columns:
    """The names of the columns that hold the text, the second text (pairs only) and the label.

    Attributes:
        label: several columns of yes and no, one a label, stand with commas between them: "billing,login".
        separator: between the names of several labels in one column; None: a text has one label.
    """

    text: str
    text_b: str | None
    label: str
    separator: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns of labels."""
        if "," not in self.label:
            return (self.label,) if self.label else ()
        return tuple(name.strip() for name in self.label.split(",") if name.strip())

    @property
    def has_several(self) -> bool:
        """Whether a text may have several labels, or none."""
        return self.separator is not None or "," in self.label


NO_COLUMNS = Columns("", None, "")


@dataclass(frozen=True)
class SplitSource:
    """Where one split is read: the hub's name for it, and its file in the GLUE folder ("" where there is none)."""

    hub: str
    file: str = ""


@dataclass(frozen=True)
class Task:
    """One entry of the table.

    Attributes:
        spec: what the cache must know: name, texts, target, classes, metrics.
        max_tokens: the default length at which texts are cut.
        train_limit: the default cap on training rows (the published runs used the first 20,000 of the large
            tasks); None means all.
        hub: the hub dataset, "" for made data.
        hub_config: its configuration, None where it has only one.
        hub_columns: the column names there.
        folder: the task's folder in the GLUE download, "" for tasks that are not GLUE's.
        file_columns: the column names in its files' header lines.
        labels_as_names: the files write "entailment", not "0".
        splits: split name -> where it is read.
        train_rows: how many training rows the source has; None where nobody has said.
        sorted_by_label: the source lists one class after the other, so "the first N" must be a random N.
        head: the settings of stage two that differ from their general defaults, by the names that `glot fit` has.
        symmetric: whether its pairs know no first and second text.
        corpora: a regular expression of the names that its corpora have, where that is not the task's own.
    """

    spec: TaskSpec
    max_tokens: int = 128
    train_limit: int | None = None
    hub: str = ""
    hub_config: str | None = None
    hub_columns: Columns = NO_COLUMNS
    folder: str = ""
    file_columns: Columns = NO_COLUMNS
    labels_as_names: bool = False
    splits: dict[str, SplitSource] = field(default_factory=dict)
    train_rows: int | None = None
    sorted_by_label: bool = False
    head: dict[str, Any] = field(default_factory=dict)
    symmetric: bool = False
    corpora: str = ""

    @property
    def name(self) -> str:
        """Its name, by which `find_task` has it."""
        return self.spec.name

    @property
    def usual_rows(self) -> int | None:
        """How many training rows are read unless fewer are asked for; None where nobody has said."""
        return self.train_rows if self.train_limit is None else self.train_limit

    @property
    def default_splits(self) -> list[str]:
        """The training split and every validation split."""
        return [split for split in self.splits if not split.startswith("test")]


_SPLITS = {
    "train": SplitSource("train", "train.tsv"),
    "validation": SplitSource("validation", "dev.tsv"),
    "test": SplitSource("test", "test.tsv"),
}
_MNLI_SPLITS = {
    "train": SplitSource("train", "train.tsv"),
    "validation": SplitSource("validation_matched", "dev_matched.tsv"),
    "validation_mismatched": SplitSource("validation_mismatched", "dev_mismatched.tsv"),
    "test": SplitSource("test_matched", "test_matched.tsv"),
    "test_mismatched": SplitSource("test_mismatched", "test_mismatched.tsv"),
}
_LARGE = 20_000  # the published runs' cap for QQP, MNLI and QNLI


def _glue(spec: TaskSpec, folder: str, hub_columns: Columns, file_columns: Columns | None = None, **other: Any) -> Task:
    """A GLUE entry; most tasks name their columns alike on the hub and in the files."""
    return Task(
        spec=spec,
        hub=GLUE_HUB,
        hub_config=spec.name,
        hub_columns=hub_columns,
        folder=folder,
        file_columns=file_columns or hub_columns,
        **{"splits": _SPLITS, **other},
    )


_ENTAILMENT = ("entailment", "not_entailment")
_SENTENCE = Columns("sentence", None, "label")
_SENTENCES = Columns("sentence1", "sentence2", "label")

# Class names are in the label order of the hub's GLUE.
_ROWS = [
    _glue(
        TaskSpec("cola", 1, "classes", ("unacceptable", "acceptable"), metrics=("mcc", "accuracy")),
        "CoLA",
        _SENTENCE,
        train_rows=8551,
    ),
    _glue(TaskSpec("sst2", 1, "classes", ("negative", "positive")), "SST-2", _SENTENCE, train_rows=67_349),
    _glue(
        TaskSpec("stsb", 2, "score", score_range=(0.0, 5.0), metrics=("spearman", "pearson")),
        "STS-B",
        _SENTENCES,
        Columns("sentence1", "sentence2", "score"),
        train_rows=5749,
        symmetric=True,
    ),
    _glue(
        TaskSpec("mrpc", 2, "classes", ("not_equivalent", "equivalent"), metrics=("f1", "accuracy")),
        "MRPC",
        _SENTENCES,
        Columns("#1 String", "#2 String", "Quality"),
        train_rows=3668,
        symmetric=True,
    ),
    _glue(
        TaskSpec("qqp", 2, "classes", ("not_duplicate", "duplicate"), metrics=("f1", "accuracy")),
        "QQP",
        Columns("question1", "question2", "label"),
        Columns("question1", "question2", "is_duplicate"),
        symmetric=True,
        train_limit=_LARGE,
    ),
    _glue(
        TaskSpec("mnli", 2, "classes", ("entailment", "neutral", "contradiction")),
        "MNLI",
        Columns("premise", "hypothesis", "label"),
        Columns("sentence1", "sentence2", "gold_label"),
        train_limit=_LARGE,
        labels_as_names=True,
        splits=_MNLI_SPLITS,
    ),
    _glue(
        TaskSpec("qnli", 2, "classes", _ENTAILMENT),
        "QNLI",
        Columns("question", "sentence", "label"),
        train_limit=_LARGE,
        labels_as_names=True,
    ),
    _glue(TaskSpec("rte", 2, "classes", _ENTAILMENT), "RTE", _SENTENCES, labels_as_names=True, train_rows=2490),
    _glue(TaskSpec("wnli", 2, "classes", ("not_entailment", "entailment")), "WNLI", _SENTENCES, train_rows=635),
    Task(
        TaskSpec("imdb", 1, "classes", ("neg", "pos")),
        max_tokens=512,
        hub="stanfordnlp/imdb",
        hub_columns=Columns("text", None, "label"),
        splits={"train": SplitSource("train"), "validation": SplitSource("test")},
        train_rows=25_000,
        sorted_by_label=True,
    ),
    Task(
        TaskSpec("stress", 1, "classes", ("negative", "positive")),
        head={"gnn_layers": 4, "hidden": 64, "lr": 1e-4, "adapool_hidden": 256},
        corpora=r"stress-(published|balanced|paired)-.+",
    ),
]
TASKS: Registry[Task] = Registry("task")
for _row in _ROWS:
    TASKS.add(_row)

PAIRS_HEAD = {"gnn_layers": 4, "tau": 0.3, "lr": 2e-5}  # of pairs without labels: the published run on MS MARCO


def find_task(name: str) -> Task:
    """The entry of `name`; case, "-" and "_" do not count, so "SST-2" is "sst2".

    Raises:
        UsageError: no such task; the message names the nearest one and lists all.
    """
    known = {_key(task.name): task for task in TASKS}
    if _key(name) in known:
        return known[_key(name)]
    near = difflib.get_close_matches(_key(name), known, n=1)
    hint = f"did you mean {known[near[0]].name!r}? " if near else ""
    names = ", ".join(TASKS.names())
    raise UsageError(f"unknown task {name!r}: {hint}known tasks are {names}; for your own data pass --data")


def known_name(name: str) -> str:
    """The name of a known task however it is spelt; any other name as it is."""
    return next((task.name for task in TASKS if _key(task.name) == _key(name)), name)


def _key(name: str) -> str:
    return re.sub("[-_]", "", name.lower())


def head_defaults(spec: TaskSpec) -> dict[str, Any]:
    """The settings of a head on this task's data that differ from their general defaults; empty for anybody's own."""
    if spec.target == "contrastive":
        return dict(PAIRS_HEAD)
    task = _task_of(spec)
    return dict(task.head) if task else {}


def is_known(spec: TaskSpec) -> bool:
    """Whether it is one of `TASKS`, and not anybody's own data."""
    return _task_of(spec) is not None


def is_symmetric(spec: TaskSpec) -> bool:
    """Whether a pair of this task means the same whichever text comes first; of anybody's own data nobody knows."""
    task = _task_of(spec)
    return task is not None and task.symmetric


def _task_of(spec: TaskSpec) -> Task | None:
    return next((task for task in TASKS if re.fullmatch(task.corpora or re.escape(task.name), spec.name)), None)
