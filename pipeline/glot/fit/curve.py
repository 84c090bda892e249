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
from glot.fit.statistics import Interval, score_interval
from glot.fit.train import fit_head
from glot.fit.training_data import labels_of
from glot.fit.yardsticks import MOST_ROWS, RESAMPLES, Means, sample_of
from glot.store.example_set import ExampleSet, split_of
from glot.store.reader import Cache

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
FEWEST = 8  # training examples of a point
SLOPE = 1.0  # points a doubling, from which on more labels are said to be worth it


@dataclass(frozen=True)
class CurvePoint:
    """What one method scores after so many training examples."""

    method: str
    examples: int
    score: Interval


@dataclass(frozen=True)
class LearningCurve:
    """Scores over the number of training examples.

    Attributes:
        metric: the score's name. set_name: the set that is scored, which nothing was trained on.
        points: by method, and within it ascending.
    """

    metric: str
    set_name: str
    points: tuple[CurvePoint, ...]

    @property
    def verdict(self) -> str:
        """Whether more labels would help, in one sentence; "" where there are fewer than two points."""
        for method in dict.fromkeys(point.method for point in reversed(self.points)):
            own = [point for point in self.points if point.method == method]
            if len(own) < 2 or own[-1].examples <= own[-2].examples:
                continue
            doublings = np.log2(own[-1].examples / own[-2].examples)
            gain = 100 * (own[-1].score.value - own[-2].score.value) / doublings
            rises, flat = "still rises: more labels are likely worth it", "is flat: more of such labels bring little"
            brought = f"The last doubling of the labels brought the {method} {gain + 0.0:+.1f} points"
            return f"{brought}; the curve {rises if gain >= SLOPE else flat}."
        return ""


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
    samples = _samples(train, shares)
    means = Means(cache, config.task, config.pooler.tokens, config.train.class_weights)
    layer, labels = cache.resolve_layer(config.layer), labels_of(held)
    points = []
    name = f"{'ridge' if config.task.target == 'score' else 'logistic'} regression"
    for some in samples:
        predicted = means.predict(means.regress(sample_of(some, MOST_ROWS), layer), held, layer)
        points.append(CurvePoint(name, len(some), score_interval(predicted, labels, metric, RESAMPLES)))
    if options is not None:
        for some in samples:
            predicted = _head_predictions(cache, config, training, scored, some, options, should_stop)
            points.append(CurvePoint("head", len(some), score_interval(predicted, labels, metric, RESAMPLES)))
    return LearningCurve(metric, scored, tuple(points))


def _samples(train: ExampleSet, shares: Sequence[float]) -> list[ExampleSet]:
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
