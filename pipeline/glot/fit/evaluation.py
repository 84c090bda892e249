"""All that is said of a head's answers to labelled examples: how good, how sure, which classes, which errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from glot.fit.calibration import Calibration, Scaling, calibrate, fit_temperature, scale
from glot.fit.curve import LearningCurve
from glot.fit.ensemble import answers_of
from glot.fit.yardsticks import Judgement, Yardstick, judge
from glot.store.label_sets import to_indicator
from glot.store.task_spec import TaskSpec, label_in_words

FIFTHS = 5  # parts of the scored examples, where a temperature must come from them
MOST_MISTAKES = 20  # of a page and of `--json`; whoever wants all has `glot predict`


@dataclass(frozen=True)
class ClassScore:
    """One class against all others, as fractions.

    `support` is how many examples have the label, `answers` how many got it for an answer; `threshold` is the
    probability above which a text gets it, where one may have several.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    answers: int
    threshold: float | None = None


@dataclass(frozen=True)
class Residuals:
    """Of scores, in the task's units: the mean absolute and the root mean squared error, and the mean of the errors."""

    mae: float
    rmse: float
    bias: float


@dataclass(frozen=True)
class TokenWeights:
    """What the readout weighs the tokens of one text by: the tokenizer's strings, which are its own, and the weights.

    The weights sum to 1; a token that the head does not see has 0.
    """

    tokens: tuple[str, ...]
    special: tuple[bool, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Mistake:
    """An example that the head got wrong, or of scores one that it is far off.

    Attributes:
        row: its row in the source, from 0. texts: one, or the two of a pair; none where nobody knows them.
        label, answer: in words.
        sure: the probability of the answer, of several labels that of the surest wrong one; of scores how far off it
            is, in the task's units.
        label_share: the probability of the label; None of scores.
        weights: of each text, of a head that weighs tokens; empty where they were not asked for.
    """

    row: int
    texts: tuple[str, ...]
    label: str
    answer: str
    sure: float
    label_share: float | None = None
    weights: tuple[TokenWeights, ...] = ()


@dataclass(frozen=True)
class Scored:
    """Labelled examples and what a head answered.

    Attributes:
        source: where they come from, for people: "held.csv".
        task: what is asked. labels: (m,) class indices, codes of several labels, or scores.
        estimates: (m, C) probabilities of the classes or labels, or (m,) scores.
        rows: (m,) each example's row in the source; None: they are counted.
        texts: of each example, as in `Mistake`; None where nobody knows them.
        thresholds: (C,) of several labels a text, see `answers_of`; None of all else.
    """

    source: str
    task: TaskSpec
    labels: np.ndarray
    estimates: np.ndarray
    rows: np.ndarray | None = None
    texts: Sequence[tuple[str, ...]] | None = None
    thresholds: np.ndarray | None = None

    @property
    def answers(self) -> np.ndarray:
        """(m,) class indices, or scores."""
        return answers_of(self.task, self.estimates, self.thresholds)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a head is worth on labelled examples.

    Attributes:
        scored: what was scored.
        judgements: of each metric of the task the score with its interval, beside the yardsticks; the task's own
            metric first.
        classes: of each class its scores. confusion: (C, C) counts, a row a label, a column an answer.
        calibration: of the probabilities as they are. scaling: with a temperature; None where there was too
            little to fit one on.
        residuals: of scores; None of classes.
        mistakes: the worst first. wrong: how many there are in all; None of scores.
        curve: the scores of the regression over the number of training examples; None where it was not asked for.
    """

    scored: Scored
    judgements: tuple[Judgement, ...]
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    calibration: Calibration | None = None
    scaling: Scaling | None = None
    residuals: Residuals | None = None
    mistakes: tuple[Mistake, ...] = ()
    wrong: int | None = None
    curve: LearningCurve | None = None

    @property
    def examples(self) -> int:
        """How many were scored."""
        return len(self.scored.labels)

    def to_json(self) -> dict[str, Any]:
        """The numbers, without the answers one by one."""
        found = {name: value for name, value in vars(self).items() if name != "scored"}
        plain = {name: _plain(value) for name, value in found.items()}
        scored = self.scored
        classes = {"task": scored.task.name, "target": scored.task.target, "classes_order": list(scored.task.classes)}
        return {"source": scored.source, "examples": self.examples, **classes, **plain}


def evaluate(
    scored: Scored,
    yardsticks: list[Yardstick] | None = None,
    held_out: Scored | None = None,
    chose: bool = False,
    most_mistakes: int = MOST_MISTAKES,
) -> Evaluation:
    """Evaluate a head's answers.

    Args:
        scored: at least one example.
        yardsticks: whose predictions of the set `scored.source` the head is compared with, pair by pair: the
            regression that scores best is the rival.
        held_out: other examples than the scored ones, none of which was trained on: the temperature is fitted there;
            of None or too few: on the scored ones, crosswise.
        chose: whether the head's epoch was chosen on the scored examples.
    """
    task, labels = scored.task, scored.labels
    judgements = tuple(judge(scored.source, scored.answers, labels, task.metrics, yardsticks, chose, task.classes))
    if task.target == "score":
        return Evaluation(scored, judgements, residuals=_residuals(scored), mistakes=_farthest(scored, most_mistakes))
    if task.target == "labels":
        wrong = int((scored.answers != labels).sum())
        return Evaluation(
            scored,
            judgements,
            classes=_class_scores(scored),
            mistakes=_surest_wrong(scored, most_mistakes),
            wrong=wrong,
        )
    return Evaluation(
        scored,
        judgements,
        classes=_class_scores(scored),
        confusion=_confusion(scored),
        calibration=calibrate(scored.estimates, labels),
        scaling=_scaling(scored, held_out),
        mistakes=_most_confident(scored, most_mistakes),
        wrong=int((scored.answers != labels).sum()),
    )


def _class_scores(scored: Scored) -> tuple[ClassScore, ...]:
    """Of each class, or label, of the task."""
    from sklearn.metrics import precision_recall_fscore_support

    names, real, given = scored.task.classes, scored.labels, scored.answers
    if scored.task.target == "labels":
        real, given = (to_indicator(codes, len(names)) for codes in (real, given))
        answers = given.sum(axis=0)
    else:
        answers = np.bincount(given, minlength=len(names))
    places = np.arange(len(names))
    found = precision_recall_fscore_support(real, given, labels=places, average=None, zero_division=0)
    thresholds = [None] * len(names) if scored.thresholds is None else scored.thresholds.tolist()
    columns = zip(names, *(some.tolist() for some in (*found, answers)), thresholds, strict=True)
    return tuple(ClassScore(*column) for column in columns)


def _surest_wrong(scored: Scored, most: int) -> tuple[Mistake, ...]:
    """Of texts with several labels: those with the label that is wrong most surely first."""
    wrong = to_indicator(scored.labels ^ scored.answers, len(scored.task.classes)).astype(bool)
    sure = np.where(wrong, np.maximum(scored.estimates, 1 - scored.estimates), 0).max(axis=1)
    order = np.argsort(-sure, kind="stable")[: min(most, int(wrong.any(axis=1).sum()))]
    return _mistakes(scored, order, sure)


def _confusion(scored: Scored) -> tuple[tuple[int, ...], ...]:
    from sklearn.metrics import confusion_matrix

    places = np.arange(len(scored.task.classes))
    return tuple(map(tuple, confusion_matrix(scored.labels, scored.answers, labels=places).tolist()))


def _scaling(scored: Scored, held_out: Scored | None) -> Scaling | None:
    temperature = None if held_out is None else fit_temperature(held_out.estimates, held_out.labels)
    if held_out is None or temperature is None:
        return _crosswise(scored)
    after = calibrate(scale(scored.estimates, temperature), scored.labels)
    return Scaling(temperature, held_out.source, len(held_out.labels), after)


def _crosswise(scored: Scored) -> Scaling | None:
    """Each fifth of the scored examples at the temperature of the others; None where these are too few."""
    estimates, labels = scored.estimates, scored.labels
    shares = np.empty(estimates.shape)
    for part in np.array_split(np.random.default_rng(0).permutation(len(labels)), FIFTHS):
        temperature = fit_temperature(np.delete(estimates, part, axis=0), np.delete(labels, part))
        if temperature is None:
            return None
        shares[part] = scale(estimates[part], temperature)
    temperature = fit_temperature(estimates, labels)
    assert temperature is not None  # it was for fewer
    return Scaling(temperature, scored.source, len(labels), calibrate(shares, labels), crosswise=True)


def _residuals(scored: Scored) -> Residuals:
    from sklearn.metrics import mean_absolute_error, root_mean_squared_error

    labels, answers = scored.labels, scored.answers.astype(float)
    mae, rmse = mean_absolute_error(labels, answers), root_mean_squared_error(labels, answers)
    return Residuals(float(mae), float(rmse), float((answers - labels).mean()))


def _most_confident(scored: Scored, most: int) -> tuple[Mistake, ...]:
    answers, rows = scored.answers, np.arange(len(scored.labels))
    sure = scored.estimates[rows, answers]
    wrong = np.flatnonzero(answers != scored.labels)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    return _mistakes(scored, order, sure, scored.estimates[rows, scored.labels])


def _farthest(scored: Scored, most: int) -> tuple[Mistake, ...]:
    off = np.abs(scored.answers - scored.labels)
    return _mistakes(scored, np.argsort(-off, kind="stable")[:most], off)


def _mistakes(
    scored: Scored, order: np.ndarray, sure: np.ndarray, label_shares: np.ndarray | None = None
) -> tuple[Mistake, ...]:
    """The examples of these places as mistakes; `sure` and `label_shares` (m,) are of all examples."""
    task, labels, answers = scored.task, scored.labels, scored.answers
    return tuple(
        Mistake(
            *_place(scored, index),
            label_in_words(task, labels[index]),
            label_in_words(task, answers[index]),
            float(sure[index]),
            None if label_shares is None else float(label_shares[index]),
        )
        for index in order.tolist()
    )


def _place(scored: Scored, index: int) -> tuple[int, tuple[str, ...]]:
    """An example's row in its source, and its texts."""
    row = index if scored.rows is None else int(scored.rows[index])
    return row, () if scored.texts is None else tuple(scored.texts[index])


def _plain(value: Any) -> Any:
    """What JSON holds of a part of an evaluation."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if not hasattr(value, "__dataclass_fields__"):
        return value
    return {name: item for name, item in asdict(value).items() if name != "weights"}
