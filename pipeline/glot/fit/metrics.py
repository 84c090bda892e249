"""The scores of the tasks, as fractions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from glot.errors import UsageError
from glot.store.label_sets import to_indicator
from glot.store.task_spec import F1_CLASS


def compute_metrics(names: Iterable[str], predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Score predictions (n,) against labels (n,): each name with its value, in the order given.

    Names: accuracy, mcc (Matthews), f1 (of class 1 against all others), macro_f1 (mean over the classes), for class
    indices; micro_f1 (of all labels counted together), macro_label_f1 (mean over the labels that occur) and
    exact_match (the share of texts whose labels are all right) for codes of several labels (`glot.store.label_sets`);
    spearman and pearson for scores. Values are fractions or correlations, never percent. A correlation with
    something constant is undefined; it is given as 0.0, since a constant prediction tells nothing.

    Raises:
        UsageError: an unknown name.
    """
    predictions, labels, found = np.asarray(predictions), np.asarray(labels), {}
    for name in names:
        if name not in _METRICS:
            raise UsageError(f"metric must be one of {', '.join(_METRICS)}; got {name!r}")
        found[name] = float(_METRICS[name](labels, predictions))
    return found


def _f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    return f1_score(labels == F1_CLASS, predictions == F1_CLASS, zero_division=0)


def _micro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    return f1_score(to_indicator(labels), to_indicator(predictions), average="micro", zero_division=0)


def _macro_label_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    real, predicted = to_indicator(labels), to_indicator(predictions)
    there = (real | predicted).any(axis=0)
    each = f1_score(real, predicted, average=None, zero_division=0)
    return each[there].mean() if there.any() else 0.0


def _spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    return 0.0 if _any_constant(labels, predictions) else spearmanr(labels, predictions).statistic


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    return 0.0 if _any_constant(labels, predictions) else pearsonr(labels, predictions).statistic


def _any_constant(*arrays: np.ndarray) -> bool:
    return any((array == array[0]).all() for array in arrays)


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "mcc": matthews_corrcoef,
    "f1": _f1,
    "macro_f1": partial(f1_score, average="macro", zero_division=0),
    "micro_f1": _micro_f1,
    "macro_label_f1": _macro_label_f1,
    "exact_match": accuracy_score,
    "spearman": _spearman,
    "pearson": _pearson,
}
