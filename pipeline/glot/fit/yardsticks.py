"""What a head is to be measured by: the commonest class, and the regression on the mean of the same states.

Everything here is chosen on the training examples alone. It costs seconds: of many examples a sample is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from glot.fit.head_model import pool_texts
from glot.fit.metrics import compute_metrics
from glot.fit.predictions_file import read_predictions
from glot.fit.regression import Regression, fit_logistic, fit_one_vs_rest, fit_ridge, rows_to_choose_a_layer
from glot.fit.run import open_cache
from glot.fit.run_folder import RunConfig
from glot.fit.states import StreamedStates
from glot.fit.statistics import FEWEST, Difference, Interval, paired_bootstrap, score_interval
from glot.fit.training_data import labels_of, sample_of, training_set
from glot.nn.config import PoolerConfig, TokenChoice
from glot.nn.heads import features_of, features_width
from glot.nn.poolers import make_pooler
from glot.store.example_set import ExampleSet, split_of
from glot.store.label_sets import to_codes
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec, label_in_words, metric_in_words

MOST_ROWS, MOST_NUMBERS = 10_000, 2**26  # training examples that fit the regression; of their features
RESAMPLES, LEAST_RESAMPLES = 2000, 500  # enough for an interval that is printed to a tenth of a point
RESAMPLED = 5_000_000  # examples in all: of large sets there are fewer resamples, and less is left to chance
VALIDATION = "validation"


@dataclass(frozen=True)
class Yardstick:
    """A method of no effort, and what it predicts.

    Attributes:
        name: "majority", or the regression's.
        predictions: example set -> (m,) in the labels' own units.
        layer: whose states it reads; None where it reads none. strength: logistic C, or ridge's alpha.
        rows: how many training examples it is made of, out of `of_rows`.
    """

    name: str
    predictions: dict[str, np.ndarray]
    rows: int
    of_rows: int
    layer: int | None = None
    strength: float | None = None


@dataclass(frozen=True)
class Judgement:
    """A score on a set that nothing was trained on, by one metric, beside those of the yardsticks. All are fractions.

    Attributes:
        score: of the head, the mean of its seeds. yardsticks: name -> score.
        rival: the regression that the head is compared with: the one that scores best on this set.
        difference: the head's score less the rival's; None where there is no rival, or too few examples to tell.
        rows: training examples that the rival is made of, and how many there are.
        chose: whether the head's epoch is the one that scored best on this very set.
        title: the metric for people; "" where it is its name.
    """

    set_name: str
    metric: str
    score: Interval
    yardsticks: dict[str, float] = field(default_factory=dict)
    rival: str | None = None
    difference: Difference | None = None
    rows: tuple[int, int] = (0, 0)
    chose: bool = False
    title: str = ""

    @property
    def line(self) -> str:
        """The score and its interval, and the yardsticks' scores, in percent."""
        count = f"{self.score.examples:,} example{'s' if self.score.examples > 1 else ''}"
        line = f"{self.set_name} ({count}): {self.title or self.metric} {describe_interval(self.score)}"
        before = ""
        for name, value in self.yardsticks.items():  # "regression on the mean 82.0, of layer 3 84.9"
            is_other_layer = before and name.startswith(before)
            line += f", {name[len(before) + 1 :]}" if is_other_layer else f"; {name}"
            line += f" {100 * value:.1f}"
            before = name
        sampled = f" (on {self.rows[0]:,} of {self.rows[1]:,} training examples)" if self.rows[0] < self.rows[1] else ""
        return line + sampled

    @property
    def verdict(self) -> str | None:
        """Whether the head is clearly better than the rival, in one line; None where that cannot be told."""
        found = self.difference
        if self.rival is None or found is None:
            return None
        clear = "clearly better" if found.low > 0 else "clearly worse" if found.high < 0 else "not clearly better"
        value, low, high = (f"{round(100 * some, 1) + 0.0:+.1f}" for some in (found.value, found.low, found.high))
        flattered = "; its epoch was chosen on these very examples, which flatters it" if self.chose else ""
        said = f"{clear} than the {self.rival}: {value} [{low}, {high}]"
        ahead = f"; the {self.ahead[0]} has {100 * self.ahead[1]:.1f}" if self.ahead else ""
        return said + (flattered if found.low > 0 else "") + ahead

    @property
    def ahead(self) -> tuple[str, float] | None:
        """The name and the score of a yardstick that is no regression, and better than the rival and the head here."""
        if self.rival is None:
            return None
        name, score = max(self.yardsticks.items(), key=lambda item: item[1])
        return (name, score) if score >= self.score.value and score > self.yardsticks[self.rival] else None


def describe_interval(score: Interval) -> str:
    """A score in percent, with its 95 % interval if it has one: "84.2 [79.1, 88.9]"."""
    shown = f"{100 * score.value:.1f}"
    if score.low is None or score.high is None:
        return shown
    return f"{shown} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def measure_yardsticks(
    cache: Cache,
    task: TaskSpec,
    train: ExampleSet,
    sets: dict[str, ExampleSet],
    layer: int | None = None,
    tokens: TokenChoice = "all",
    class_weights: str = "none",
) -> list[Yardstick]:
    """The yardsticks of a task, made of `train` alone: their predictions for `sets`, whose labels are not looked at.

    The commonest class (none for scores, of which a constant tells nothing); the logistic or ridge regression on the
    mean of the states, its strength cross-validated; and the same of that layer of the cache which cross-validation
    likes best, if that is another. Of pairs the features are `[a, b, |a - b|, a * b]`.

    Args:
        layer: one that the cache keeps; None: the last of them. tokens: which of a text's tokens the mean is of.
        class_weights: none or balanced, as the head has them.
    """
    means = Means(cache, task, tokens, class_weights)
    found: list[Yardstick] = []
    if task.target != "score":
        found.append(majority(task, labels_of(train), {name: len(some) for name, some in sets.items()}))
    for fitted in fit_regressions(means, train, cache.resolve_layer(layer)):
        predictions = {key: means.predict(fitted.regression, some, fitted.layer) for key, some in sets.items()}
        found.append(fitted.yardstick(predictions))
    return found


@dataclass(frozen=True)
class FittedRegression:
    """A regression on the mean of one layer's states.

    Attributes:
        name: for people. layer: whose states it reads. regression: of their features, see `Means`.
        rows: how many training examples it is made of, out of `of_rows`.
    """

    name: str
    layer: int
    regression: Regression
    rows: int
    of_rows: int

    def yardstick(self, predictions: dict[str, np.ndarray]) -> Yardstick:
        """Itself with what it predicts for some sets."""
        return Yardstick(self.name, predictions, self.rows, self.of_rows, self.layer, self.regression.strength)


def fit_regressions(means: Means, train: ExampleSet, own: int) -> list[FittedRegression]:
    """The regression of the layer `own`, and after it that of the layer which cross-validation likes best, if another.

    Of many training examples they have a sample.
    """
    sample = sample_of(train, min(MOST_ROWS, MOST_NUMBERS // means.width))
    best = own if len(means.layers) == 1 else _best_layer(means, own, sample)
    kind = {"score": "ridge", "labels": "one-vs-rest logistic"}.get(means.task.target, "logistic")
    found = []
    for number in dict.fromkeys((own, best)):
        name = f"{kind} regression on the mean" + (f" of layer {number}" if number != own else "")
        found.append(FittedRegression(name, number, means.regress(sample, number), len(sample), len(train)))
    return found


def resamples_for(examples: int) -> int:
    """How often so many examples are redrawn for an interval that is printed."""
    return max(LEAST_RESAMPLES, min(RESAMPLES, RESAMPLED // max(1, examples)))


def judge(
    set_name: str,
    predictions: np.ndarray,
    labels: np.ndarray,
    metrics: tuple[str, ...],
    yardsticks: list[Yardstick] | None = None,
    chose: bool = False,
    classes: tuple[str, ...] = (),
) -> list[Judgement]:
    """What to make of predictions (m,), or (s, m) of s seeds, for a set of a task: a judgement a metric.

    Args:
        yardsticks: those of `measure_yardsticks`, of which the best regression is the rival.
        chose: see `Judgement`. classes: the names of the task's, where it has some.
    """
    beside = {some.name: some for some in yardsticks or [] if set_name in some.predictions}
    regressions = [name for name, some in beside.items() if some.layer is not None]
    rows = (beside[regressions[0]].rows, beside[regressions[0]].of_rows) if regressions else (0, 0)
    resamples = resamples_for(len(labels))
    found = []
    for metric in metrics:
        interval = score_interval(predictions, labels, metric, resamples)
        answers = {name: some.predictions[set_name] for name, some in beside.items()}
        scores = {name: compute_metrics([metric], given, labels)[metric] for name, given in answers.items()}
        rival = max(regressions, key=lambda name: scores[name], default=None)
        difference = None
        if rival is not None and len(labels) >= FEWEST:
            difference = paired_bootstrap(predictions, answers[rival], labels, metric, resamples)
        title = metric_in_words(metric, classes)
        found.append(Judgement(set_name, metric, interval, scores, rival, difference, rows, chose, title))
    return found


def judge_each(groups: list[list[Path]], cache: Cache | None = None) -> list[list[Judgement]]:
    """Judge groups of finished runs that differ in their seeds alone, on every validation set that they predicted.

    All by the yardsticks of the first run, measured once. Nothing where there is no such set, or no labels. The
    regression has all training examples, what `--select holdout` keeps aside too, for it needs none to choose by.

    Args:
        groups: a folder after those of the first group needs no config of its own: an ensemble's predictions are
            enough.
        cache: what the runs were trained on; None opens the one that their config names.

    Raises UsageError where the cache is gone or holds other examples, FaultError where it is damaged.
    """
    runs = groups[0]
    config = RunConfig.load(runs[0])
    if config.contrastive is not None:
        return [[] for _ in groups]
    names = [name for name in config.data if split_of(name).startswith(VALIDATION)]
    predicted = {name: found for name in names if (found := read_predictions(runs, name)) is not None}
    if not predicted:
        return [[] for _ in groups]
    opened = open_cache(config, cache, runs[0])
    train = opened.examples(training_set(config))
    sets = {name: opened.examples(name) for name in predicted}
    settings = (config.layer, config.pooler.tokens, config.train.class_weights)
    yardsticks = measure_yardsticks(opened, config.task, train, sets, *settings)
    chooses = names[0] if config.train.select == "validation" else None
    task = config.task
    judged: list[list[Judgement]] = []
    for group in groups:
        read = {name: predictions for name in predicted if (predictions := read_predictions(group, name)) is not None}
        each = [
            judge(name, *found, task.metrics, yardsticks, name == chooses, task.classes) for name, found in read.items()
        ]
        judged.append([one for found in each for one in found])
    return judged


def majority(task: TaskSpec, labels: np.ndarray, sizes: dict[str, int]) -> Yardstick:
    """The commonest of the training labels (m,) for every example of sets of some sizes.

    Where a text may have several labels it is the commonest set of them, which the name tells.
    """
    values, counts = np.unique(labels, return_counts=True)
    commonest = int(values[counts.argmax()])
    name = "majority" if task.target == "classes" else f"majority ({label_in_words(task, commonest)})"
    predictions = {name: np.full(size, commonest, dtype=np.int64) for name, size in sizes.items()}
    return Yardstick(name, predictions, len(labels), len(labels))


def _best_layer(means: Means, own: int, train: ExampleSet) -> int:
    """The layer whose regression errs least in cross-validation on (a sample of) train; `own` where there is none."""
    some = sample_of(train, rows_to_choose_a_layer(means.width * len(means.layers)))
    layers = dict.fromkeys((own, *means.layers))  # of equals it is `own`
    errors = {layer: means.regress(some, layer).error for layer in layers}
    return min(errors, key=lambda layer: errors[layer]) if np.isfinite(list(errors.values())).all() else own


class Means:
    """The regressions of a task on the means of the states of a cache; of pairs on `[a, b, |a - b|, a * b]`.

    Attributes:
        layers: those of the cache. width: f, columns of the features.
    """

    def __init__(self, cache: Cache, task: TaskSpec, tokens: TokenChoice, class_weights: str) -> None:
        self.cache, self.task, self.tokens, self.class_weights = cache, task, tokens, class_weights
        self.layers = cache.manifest.states.layers
        self.width = features_width("full", cache.manifest.states.width, task.num_texts)
        self._known: dict[int, tuple[ExampleSet, Regression]] = {}  # by layer, that of the examples asked for last

    def features(self, examples: ExampleSet, layer: int) -> np.ndarray:
        """(m, f) float32: the means of the examples' texts, of pairs `[a, b, |a - b|, a * b]`."""
        columns = examples.text_columns
        ids, index = np.unique(np.concatenate(columns), return_inverse=True)
        states = StreamedStates(self.cache, (layer,), torch.device("cpu"), self.tokens)
        pooler = make_pooler(PoolerConfig(pooler="mean"), states.width, "dense")
        vectors = pool_texts(pooler, states, ids)
        rows = torch.from_numpy(index).chunk(len(columns))
        return features_of("full", *(vectors[some] for some in rows)).numpy()

    def regress(self, train: ExampleSet, layer: int) -> Regression:
        """The regression of the labels, the strength chosen by cross-validation."""
        known = self._known.get(layer)
        if known is not None and known[0] is train:
            return known[1]
        features, labels = self.features(train, layer), labels_of(train)
        if self.task.target == "score":
            fitted = fit_ridge(features, labels)
        elif self.task.target == "labels":
            fitted = fit_one_vs_rest(features, labels, len(self.task.classes), self.class_weights)
        else:
            fitted = fit_logistic(features, labels, len(self.task.classes), self.class_weights)
        self._known[layer] = train, fitted
        return fitted

    def predict(self, regression: Regression, examples: ExampleSet, layer: int) -> np.ndarray:
        """(m,) in the labels' own units."""
        raw = regression.raw(self.features(examples, layer))
        if self.task.target == "labels":
            from scipy.special import expit

            assert regression.thresholds is not None  # of one of several labels
            return to_codes(expit(raw) > regression.thresholds)
        return raw[:, 0] if self.task.target == "score" else raw.argmax(axis=1)
