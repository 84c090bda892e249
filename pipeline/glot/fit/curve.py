"""Whether more labels would help: the score over the number of training examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from glot.fit.config import FitOptions
from glot.fit.ensemble_run import predict_heads
from glot.fit.run import make_configs
from glot.fit.run_folder import RunConfig
from glot.fit.statistics import Difference, Interval, paired_bootstrap, score_interval
from glot.fit.train import fit_head
from glot.fit.training_data import labels_of, sample_of
from glot.fit.yardsticks import MOST_ROWS, RESAMPLES, FittedRegression, Means
from glot.store.example_set import ExampleSet, split_of
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
        points: by method, and within it ascending.
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
    """The curve of (method, training examples, answers (m,)) to labels (m,), ascending within a method."""
    points: list[CurvePoint] = []
    for place, (method, count, found) in enumerate(answers):
        gain = None
        if place and answers[place - 1][0] == method and len(labels) >= FEWEST_SCORED:
            gain = paired_bootstrap(found, answers[place - 1][2], labels, metric, RESAMPLES)
        points.append(CurvePoint(method, count, score_interval(found, labels, metric, RESAMPLES), gain))
    return LearningCurve(metric, set_name, tuple(points))


def fit_samples(means: Means, train: ExampleSet, layer: int, shares: Sequence[float]) -> list[FittedRegression]:
    """The regression of a layer on each share of the training examples, ascending."""
    fitted = []
    for some in take_samples(train, shares):
        regression = means.regress(sample_of(some, MOST_ROWS), layer)
        fitted.append(FittedRegression(method_of(means.task), layer, regression, len(some), len(train)))
    return fitted


def method_of(task: TaskSpec) -> str:
    """What the regression of a task is called."""
    return f"{'ridge' if task.target == 'score' else 'logistic'} regression"


def learning_curve(
    cache: Cache,
    config: RunConfig,
    set_name: str | None = None,
    shares: Sequence[float] = SHARES,
    options: FitOptions | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> LearningCurve:
    """Train on nested samples of a run's training examples, and score a set that nothing is trained on.

    The regression on the mean costs next to nothing; the head costs a fit a share.

    Args:
        cache: what the run was trained on. config: of the run.
        set_name: the example set that is scored; None: the run's first validation set.
        options: what the head was asked to be trained with, to train it on each share too; None: the regression alone.
        should_stop: see `fit_head`.

    Raises Stopped after `should_stop` said so.
    """
    training = next(name for name in config.data if split_of(name) == "train")
    scored = set_name or next(name for name in config.data if name != training)
    train, held = cache.examples(training), cache.examples(scored)
    metric = config.task.metrics[0]
    means = Means(cache, config.task, config.pooler.tokens, config.train.class_weights)
    layer, answers = cache.resolve_layer(config.layer), []
    for fitted in fit_samples(means, train, layer, shares):
        answers.append((fitted.name, fitted.rows, means.predict(fitted.regression, held, layer)))
    if options is not None:
        for some in take_samples(train, shares):
            found = _head_predictions(cache, config, training, scored, some, options, should_stop)
            answers.append(("head", len(some), found))
    return make_curve(metric, scored, labels_of(held), answers)


def take_samples(train: ExampleSet, shares: Sequence[float]) -> list[ExampleSet]:
    """Nested random samples, each share of the examples once; none that is too small or has one label alone."""
    order = np.random.default_rng(0).permutation(len(train))
    sizes = sorted({round(share * len(train)) for share in shares})
    samples = [train.subset(np.sort(order[:size])) for size in sizes if size >= FEWEST]
    return [some for some in samples if len(np.unique(labels_of(some))) > 1]


def _head_predictions(
    cache: Cache,
    config: RunConfig,
    training: str,
    scored: str,
    some: ExampleSet,
    options: FitOptions,
    should_stop: Callable[[], bool],
) -> np.ndarray:
    """(m,) what a head that was trained on some of the examples answers to the scored ones."""
    with TemporaryDirectory() as folder:
        opened = Cache(cache.folder)
        opened.add_examples(training, some, config.task)
        made = make_configs(opened, options.but(seeds=options["seeds"][:1]))[0]
        fit_head(opened, made, Path(folder), should_stop=should_stop)
        predicted, _ = predict_heads([Path(folder)], opened, scored, made.train.device, made.train.backend)
        opened.close()
    return predicted
