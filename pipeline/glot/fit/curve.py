"""Whether more labels would help: the score over the number of training examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glot.fit.run_folder import RunConfig
from glot.fit.statistics import Difference, Interval, paired_bootstrap, score_interval
from glot.fit.training_data import labels_of, sample_of, training_set
from glot.fit.yardsticks import MOST_ROWS, RESAMPLES, FittedRegression, Means
from glot.store.example_set import ExampleSet
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
FEWEST = 8  # training examples of a point
FEWEST_SCORED = 20  # examples; of fewer a difference says next to nothing
WORTH = 1.0  # points a doubling, below which more labels are said to bring little


@dataclass(frozen=True)
class CurvePoint:
    """What one method scores after so many training examples; `gain` is what it has above its point before."""

    method: str
    examples: int
    score: Interval
    gain: Difference | None = None


@dataclass(frozen=True)
class LearningCurve:
    """Scores over the number of training examples.

    Attributes:
        metric: the score's name. set_name: what is scored, which nothing was trained on.
        points: ascending.
    """

    metric: str
    set_name: str
    points: tuple[CurvePoint, ...]

    @property
    def verdict(self) -> str:
        """Whether more labels would help, in one sentence; "" where that cannot be asked."""
        last = self.points[-1] if self.points else None
        if last is None or last.gain is None:
            return ""
        gain = last.gain
        value, low, high = (
            f"{round(100 * some, 1) + 0.0:+.1f}".replace("-", "−") for some in (gain.value, gain.low, gain.high)
        )
        step = f"The last step, to {last.examples:,} labels, brought the {last.method} {value} points"
        found = f"{step} [{low}, {high}]: "
        if gain.low > 0:
            return found + "the curve still rises, and more labels are likely worth it."
        if 100 * gain.high < WORTH:
            return found + "the curve is flat, and more labels of this kind bring little."
        return found + "too few rows are scored to tell whether more labels would help."


def make_curve(
    metric: str, set_name: str, labels: np.ndarray, answers: Sequence[tuple[str, int, np.ndarray]]
) -> LearningCurve:
    """The curve of (method, training examples, answers (m,)) to labels (m,), ascending."""
    points: list[CurvePoint] = []
    for place, (method, count, found) in enumerate(answers):
        gain = None
        if place and len(labels) >= FEWEST_SCORED:
            gain = paired_bootstrap(found, answers[place - 1][2], labels, metric, RESAMPLES)
        points.append(CurvePoint(method, count, score_interval(found, labels, metric, RESAMPLES), gain))
    return LearningCurve(metric, set_name, tuple(points))


def fit_samples(means: Means, train: ExampleSet, layer: int) -> list[FittedRegression]:
    """The regression of a layer on each of `SHARES` of the training examples, ascending."""
    fitted = []
    for some in take_samples(train):
        regression = means.regress(sample_of(some, MOST_ROWS), layer)
        fitted.append(FittedRegression(method_of(means.task), layer, regression, len(some), len(train)))
    return fitted


def method_of(task: TaskSpec) -> str:
    """What the regression of a task is called."""
    return f"{'ridge' if task.target == 'score' else 'logistic'} regression"


def learning_curve(cache: Cache, config: RunConfig, set_name: str | None = None) -> LearningCurve:
    """Fit the regression on the mean to nested samples of a run's training examples, and score a set beside them.

    Args:
        cache: what the run was trained on. config: of the run.
        set_name: the example set that is scored; None: the run's first validation set.
    """
    training = training_set(config)
    scored = set_name or next(name for name in config.data if name != training)
    train, held = cache.examples(training), cache.examples(scored)
    metric = config.task.metrics[0]
    means = Means(cache, config.task, config.pooler.tokens, config.train.class_weights)
    layer = cache.resolve_layer(config.layer)
    answers = [
        (fitted.name, fitted.rows, means.predict(fitted.regression, held, layer))
        for fitted in fit_samples(means, train, layer)
    ]
    return make_curve(metric, scored, labels_of(held), answers)


def take_samples(train: ExampleSet) -> list[ExampleSet]:
    """Nested random samples, each of `SHARES` of the examples once; none that is too small or has one label alone."""
    order = np.random.default_rng(0).permutation(len(train))
    sizes = sorted({round(share * len(train)) for share in SHARES})
    samples = [train.subset(np.sort(order[:size])) for size in sizes if size >= FEWEST]
    return [some for some in samples if len(np.unique(labels_of(some))) > 1]
