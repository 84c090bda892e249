"""How sure a difference between two methods is: a paired bootstrap over the examples that both were scored on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from glot.errors import UsageError

RESAMPLES = 10_000
_ELEMENTS = 4_000_000  # numbers of a chunk's largest array: tens of megabytes

# (weights (b, k), predictions (k,), labels (k,)) -> scores (b,)
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


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
        metric: accuracy, f1 (of class 1), macro_f1, mcc, spearman or pearson, as in `glot.fit.metrics`; a
            correlation with something constant counts as 0 there and here.

    Raises:
        UsageError: an unknown metric, no example, or shapes that do not fit.
    """
    ours, theirs, labels = np.atleast_2d(ours), np.atleast_2d(theirs), np.asarray(labels)
    if metric not in _SCORES:
        raise UsageError(f"metric must be one of {', '.join(_SCORES)}; got {metric!r}")
    if labels.ndim != 1 or not labels.size or any(found.shape[1:] != labels.shape for found in (ours, theirs)):
        raise UsageError(f"predictions {ours.shape} and {theirs.shape} do not fit labels {labels.shape}")
    # Examples alike in label and every prediction are one kind: how often each kind is drawn is all that scores see.
    kinds, counts = np.unique(np.vstack([labels, ours, theirs]), axis=1, return_counts=True)
    label, first, second = kinds[0], kinds[1 : 1 + len(ours)], kinds[1 + len(ours) :]

    def difference(weights: np.ndarray) -> np.ndarray:
        scores = [np.mean([_SCORES[metric](weights, row, label) for row in rows], axis=0) for rows in (first, second)]
        return scores[0] - scores[1]

    random = np.random.default_rng(seed)
    size = max(1, _ELEMENTS // len(counts))
    drawn = [
        difference(random.multinomial(labels.size, counts / labels.size, min(size, resamples - start)).astype(float))
        for start in range(0, resamples, size)
    ]
    found = np.concatenate(drawn)
    low, high = np.quantile(found, (0.025, 0.975))
    value = float(difference(counts[None].astype(float))[0])
    return Difference(value, float(low), float(high), float((found > 0).mean()), labels.size, resamples)


def _accuracy(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return weights @ (predictions == labels) / weights.sum(axis=1)


def _f1(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    both = weights @ ((predictions == 1) & (labels == 1))
    return _ratio(2 * both, weights @ (predictions == 1) + weights @ (labels == 1))


def _macro_f1(weights: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    both, predicted, real = _contingency(weights, predictions, labels)
    there = predicted + real > 0  # a class that a resample does not have counts neither for nor against
    return _ratio(2 * both, predicted + real).sum(axis=1) / there.sum(axis=1)


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
    "mcc": _mcc,
    "spearman": _spearman,
    "pearson": _pearson,
}
