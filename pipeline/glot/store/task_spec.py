"""What a cache must know of its task, so that `fit` needs neither the corpus nor the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from glot.store.label_sets import LABELS_JOINT, in_words, to_indicator, to_names

Target = Literal["classes", "labels", "score", "contrastive"]
TARGETS = get_args(Target)
F1_CLASS = 1  # the class that the metric "f1" is of, against all others
_CLASSES_SHOWN, _NAME_CHARACTERS = 6, 40


@dataclass(frozen=True)
class TaskSpec:
    """The shape of a task: how many texts an example has, what its label is, how it is scored.

    Attributes:
        name: "mrpc", or the stem of the user's file.
        num_texts: 1, or 2 for pairs.
        target: "classes" (labels are int indices into `classes`), "labels" (a text has several of `classes`, or none:
            an int code of them, see `glot.store.label_sets`), "score" (labels are floats), or "contrastive" (none: of
            a pair the second text answers the first, and negatives do not).
        classes: the names of the classes, or labels, in their order; empty for scores.
        score_range: (low, high) of the scores, mapped to [0, 1] for the loss; None for classes.
        metrics: names of the metrics; the first is the one printed and selected by.
    """

    name: str
    num_texts: Literal[1, 2]
    target: Target
    classes: tuple[str, ...] = ()
    score_range: tuple[float, float] | None = None
    metrics: tuple[str, ...] = ("accuracy",)

    def to_json(self) -> dict[str, Any]:
        """A plain dict that `from_json` turns back into an equal spec.

        `recipe` held defaults of training, which are looked up now (`glot.registry.tasks`); it stays, empty, for
        readers that want it.
        """
        return {**asdict(self), "recipe": {}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TaskSpec:
        """Rebuild a spec from `to_json`'s dict (lists become tuples again); a `recipe` is not looked at."""
        score_range = data["score_range"]
        return cls(
            name=data["name"],
            num_texts=data["num_texts"],
            target=data["target"],
            classes=tuple(data["classes"]),
            score_range=tuple(score_range) if score_range is not None else None,
            metrics=tuple(data["metrics"]),
        )


def describe_labels(spec: TaskSpec, labels: np.ndarray | None) -> str:
    """What (n,) labels of a task are, for people: "4 classes (eng 12, deu 8, …)" or "scores 0 to 5".

    The commonest classes come first. NaN is no label. None: there are none.
    """
    found = np.empty(0) if labels is None else np.asarray(labels, dtype=np.float64)
    missing = int(np.isnan(found).sum())
    found = found[~np.isnan(found)]
    if not len(found):
        return "none"
    if spec.target == "score":
        what = f"scores {found.min():g} to {found.max():g}"
    elif spec.target == "labels":
        bits = to_indicator(found, len(spec.classes))
        counts = _counts(spec.classes, bits.nonzero()[1])
        what = f"{len(spec.classes):,} labels ({counts}; {int((bits.sum(axis=1) == 0).sum()):,} with none)"
    else:
        what = f"{len(spec.classes):,} classes ({_counts(spec.classes, found)})"
    return f"{what}, {missing:,} without" if missing else what


def label_text(spec: TaskSpec, label: float) -> str:
    """A label as files have it: the class's name, the names of several labels with ";" between them, or the score."""
    if spec.target == "labels":
        return LABELS_JOINT.join(to_names(int(label), spec.classes))
    return spec.classes[int(label)] if spec.target == "classes" else f"{label:.4g}"


def label_in_words(spec: TaskSpec, label: float) -> str:
    """A label as people read it: the class's name, the score, or of several labels "billing, login", or "none"."""
    return in_words(int(label), spec.classes) if spec.target == "labels" else label_text(spec, label)


def metric_in_words(metric: str, classes: Sequence[str], name: str | None = None) -> str:
    """A metric for people, by the name given or its own: of "f1" also the class whose it is, as in "f1 of spam"."""
    name = name or metric
    return f"{name} of {_quoted(classes[F1_CLASS])}" if metric == "f1" and len(classes) > F1_CLASS else name


def _counts(classes: tuple[str, ...], labels: np.ndarray) -> str:
    counts = np.bincount(labels.astype(np.int64), minlength=len(classes))
    order = np.argsort(-counts, kind="stable")[:_CLASSES_SHOWN].tolist()
    shown = [f"{_quoted(classes[index])} {counts[index]:,}" for index in order]
    return ", ".join([*shown, "…"] if len(classes) > len(shown) else shown)


def _quoted(name: str) -> str:
    """A class's name as people read it: in quotes where blanks would not be seen, and cut where it is long."""
    cut = name if len(name) <= _NAME_CHARACTERS else name[: _NAME_CHARACTERS - 1] + "…"
    return repr(cut) if cut != cut.strip() or not cut else cut
