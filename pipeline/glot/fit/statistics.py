"""How sure a score is, or a difference between two methods: a bootstrap over the examples that were scored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from glot.errors import UsageError
from glot.store.label_sets import to_indicator
from glot.store.task_spec import F1_CLASS

RESAMPLES = 10_000
FEWEST = 20  # examples; of fewer a bootstrap knows next to nothing
_ELEMENTS = 4_000_000  # numbers of a chunk's largest array: tens of megabytes

# (weights (b, k), predictions (k,), labels (k,)) -> scores (b,)
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval, as fractions; `low` and `high` are None where there is nothing to go by."""

    value: float
    low: float | None
    high: float | None
    examples: int


@dataclass(frozen=True)
class Difference:
    """A difference of two methods' scores, as fractions.

    Attributes:
        value: ours less theirs, on the examples as they are, each averaged over its seeds.
        low, high: the 95 % percentile interval over the resamples.
        above: the share of resamples in which the difference is above 0.
        examples: how many were resampled. resamples: how often.
    """

    value: float
    low: float
    high: float
    above: float
    examples: int
    resamples: int


def paired_bootstrap(
    ours: np.ndarray,
    theirs: np.ndarray,
    labels: np.ndarray,
    metric: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Resample the examples with replacement, score both methods on each resample, and look at the differences.

    Only the choice of examples is random here. The seeds of a method are averaged within each resample, so what
    another seed would have given is not in the interval.

    Args:
        ours, theirs: (m,) predictions, or (s, m) for s seeds; the two may have different numbers of seeds.
        labels: (m,) labels; class indices, or scores for a correlation.
        metric: accuracy, f1 (of class 1), macro_f1, mcc, micro_f1, spearman and so on, as in `glot.fit.metrics`; a
            correlation with something constant counts as 0 there and here.

    Raises:
        UsageError: an unknown metric, no example, or shapes that do not fit.
    """
    value, drawn = _resample([ours, theirs], labels, metric, resamples, seed)
    found = drawn[:, 0] - drawn[:, 1]
    low, high = np.quantile(found, (0.025, 0.975))
    above = float((found > 0).mean())
    return Difference(float(value[0] - value[1]), float(low), float(high), above, len(labels), resamples)


def score_interval(
    predictions: np.ndarray, labels: np.ndarray, metric: str, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The score of predictions (m,), or the mean of (s, m) for s seeds, and what other examples might have given.

    Of an accuracy it is Wilson's interval, which is right for few examples too, and where all are right. Of any other
    metric it is the bootstrap's; none below `FEWEST` examples, and none where all resamples score the same.

    Raises UsageError as `paired_bootstrap` does.
    """
    is_share = metric in ("accuracy", "exact_match")
    value, drawn = _resample([predictions], labels, metric, 0 if is_share else resamples, seed)
    score, count = float(value[0]), len(labels)
    if is_share:
        return Interval(score, *_wilson(score, count), count)
    low, high = np.quantile(drawn[:, 0], (0.025, 0.975))
    if count < FEWEST or low == high:
        return Interval(score, None, None, count)
    return Interval(score, float(low), float(high), count)


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` examples."""
    z = 1.959964 / math.sqrt(count)
    middle = share + z**2 / 2
    half = z * math.sqrt(share * (1 - share) + z**2 / 4)
    return max(0.0, (middle - half) / (1 + z**2)), min(1.0, (middle + half) / (1 + z**2))


def _resample(
    methods: Sequence[np.ndarray], labels: np.ndarray, metric: str, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of k methods, each the mean of its seeds: (k,) on the examples as they are, (resamples, k) redrawn."""
    given, labels = [np.atleast_2d(rows) for rows in methods], np.asarray(labels)
    if metric not in _SCORES:
        raise UsageError(f"metric must be one of {', '.join(_SCORES)}; got {metric!r}")
    if labels.ndim != 1 or not labels.size or any(rows.shape[1:] != labels.shape for rows in given):
        shapes = " and ".join(str(rows.shape) for rows in given)
        raise UsageError(f"predictions {shapes} do not fit labels {labels.shape}")
    # Examples alike in label and every prediction are one kind: how often each kind is drawn is all that scores see.
    kinds, counts = np.unique(np.vstack([labels, *given]), axis=1, return_counts=True)
    ends = np.cumsum([1, *map(len, given)])
    rows_of = [kinds[start:end] for start, end in itertools.pairwise(ends)]

    def scores(weights: np.ndarray) -> np.ndarray:
        found = [np.mean([_SCORES[metric](weights, row, kinds[0]) for row in rows], axis=0) for rows in rows_of]
        return np.stack(found, axis=1)

    random = np.random.default_rng(seed)
    size = max(1, _ELEMENTS // len(counts))
    drawn = [
        scores(random.multinomial(labels.size, counts / labels.size, min(size, resamples - start)).astype(float))
        for start in range(0, resamples, size)
    ]
    return scores(counts[None].astype(float))[0], np.concatenate([np.empty((0, len(given))), *drawn])


def _accuracy(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return weights @ (predictions == labels) / weights.sum(axis=1)


def _f1(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    predicted, real = predictions == F1_CLASS, labels == F1_CLASS
    return _ratio(2 * (weights @ (predicted & real)), weights @ predicted + weights @ real)


def _macro_f1(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    both, predicted, real = _contingency(weights, predictions, labels)
    there = predicted + real > 0  # a class that a resample does not have counts neither for nor against
    return _ratio(2 * both, predicted + real).sum(axis=1) / there.sum(axis=1)


def _micro_f1(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    both, predicted, real = _label_counts(weights, predictions, labels)
    return _ratio(2 * both.sum(axis=1), predicted.sum(axis=1) + real.sum(axis=1))


def _macro_label_f1(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    both, predicted, real = _label_counts(weights, predictions, labels)
    there = predicted + real > 0  # as in `_macro_f1`
    return _ratio(_ratio(2 * both, predicted + real).sum(axis=1), there.sum(axis=1))


def _label_counts(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """(b, labels) weights of right predictions, of predictions, and of labels, by label, of codes of several."""
    is_predicted, is_real = to_indicator(predictions), to_indicator(labels)
    return weights @ (is_predicted & is_real), weights @ is_predicted, weights @ is_real


def _mcc(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    both, predicted, real = _contingency(weights, predictions, labels)
    total = weights.sum(axis=1)
    covariance = both.sum(axis=1) * total - (predicted * real).sum(axis=1)
    variances = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (real**2).sum(axis=1))
    return _ratio(covariance, np.sqrt(variances))


def _contingency(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """(b, classes) weights of right predictions, of predictions, and of labels, by class."""
    classes = np.union1d(predictions, labels)
    is_predicted, is_real = predictions[:, None] == classes, labels[:, None] == classes
    return weights @ (is_predicted & is_real), weights @ is_predicted, weights @ is_real


def _pearson(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    x, y = _standard(predictions), _standard(labels)
    total = weights.sum(axis=1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    covariance = weights @ (x * y) / total - mean_x * mean_y
    return _correlation(covariance, weights @ (x * x) / total - mean_x**2, weights @ (y * y) / total - mean_y**2)


def _standard(values: np.ndarray) -> np.ndarray:
    """Shifted and scaled to the order of 1, which changes no correlation and keeps rounding small."""
    values = values.astype(float)
    return (values - values.mean()) / (np.abs(values - values.mean()).max() or 1)


def _spearman(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    x, y = _ranks(weights, predictions), _ranks(weights, labels)
    covariance = np.einsum("bk,bk,bk->b", weights, x, y)
    return _correlation(covariance, np.einsum("bk,bk,bk->b", weights, x, x), np.einsum("bk,bk,bk->b", weights, y, y))


def _ranks(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(b, k) mean ranks in each resample, less their mean, in (-1/2, 1/2); ties share the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    _, starts, group = np.unique(values[order], return_index=True, return_inverse=True)
    tied = np.add.reduceat(weights[:, order], starts, axis=1)  # (b, distinct values)
    total = weights.sum(axis=1, keepdims=True)
    middle = (np.cumsum(tied, axis=1) - tied / 2) / total - 0.5
    place = np.empty(len(values), dtype=int)
    place[order] = group
    return middle[:, place]


def _correlation(covariance: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # What rounding leaves of the variance of a constant resample is no variance.
    varies = (x > 1e-13) & (y > 1e-13)
    return np.where(varies, _ratio(covariance, np.sqrt(np.where(varies, x * y, 1.0))), 0.0)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros_like(above, dtype=float), where=below > 0)


_SCORES: dict[str, Score] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "macro_label_f1": _macro_label_f1,
    "exact_match": _accuracy,
    "mcc": _mcc,
    "spearman": _spearman,
    "pearson": _pearson,
}
