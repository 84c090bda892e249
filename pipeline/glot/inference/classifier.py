"""A scikit-learn classifier over both stages: texts and labels in, a trained head out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import Tags, check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, is_multilabel

from glot.corpus.labels import LABELS_METRICS
from glot.errors import UsageError
from glot.fit.config import FitOptions
from glot.inference.estimator import GlotEstimator, adding_settings, weighted_rows
from glot.store.label_sets import MOST_LABELS, to_codes, to_indicator
from glot.store.task_spec import TaskSpec


class GlotClassifier(ClassifierMixin, GlotEstimator):
    """Classify texts by a head trained over a frozen language model's token states.

    As any scikit-learn classifier it goes into `Pipeline`, `cross_val_score` and `GridSearchCV`; as a transformer
    (`transform`: one vector a text) it may stand before another estimator. What is not given takes the same default as
    `glot fit`. X and the parameters that are not here: see `GlotEstimator`.

    A fitted estimator can be pickled: it holds the head, not the backbone that a name finds, which is loaded when it is
    needed (once a process, the last one used is kept) and must be the one that the head was trained on.

    Args:
        class_weight: None, or "balanced": in the loss, rare classes count as much as frequent ones; of several labels
            the samples with each as much as those without it.

    Attributes:
        classes_: (C,) the labels, sorted; where a sample may have several, the columns of y by their numbers.
        thresholds_: (C,) float32 probabilities above which `predict` gives each of several labels.

    Raises UsageError for settings out of range, or a backbone that is not there or not the one of the fit; ValueError
    and TypeError for texts and labels that are none; NotFittedError before `fit`.
    """

    @adding_settings
    def __init__(self, *, class_weight: str | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        self.class_weight = class_weight

    def fit(self, X: Iterable, y: Iterable, sample_weight: Iterable | None = None) -> GlotClassifier:
        """Train the head on n samples and their n labels; the texts that `cache` lacks go through the backbone first.

        Where a sample may have several labels, or none, y is (n, C) of zeros and ones, as `MultiLabelBinarizer` makes.

        `sample_weight` (n,) are what the samples count in the loss; one of 0 is as if it were not there.
        """
        labels = _check_labels(y)
        samples = self._read(X, labels)
        check_consistent_length(samples.first, labels)
        rows, weight = weighted_rows(sample_weight, len(samples))
        if labels.ndim == 2:
            names = tuple(map(str, range(labels.shape[1])))
            task = TaskSpec("texts", samples.num_texts, "labels", names, metrics=LABELS_METRICS)
            self._train(samples.take(rows), to_codes(_check_indicator(labels[rows])), task, weight)
            self.classes_ = np.arange(len(names))
            self.thresholds_ = self.weights_["head.thresholds"]
            return self
        encoder = LabelEncoder().fit(labels[rows])
        classes = encoder.classes_
        if len(classes) < 2:
            raise ValueError(f"y holds one class only ({classes.tolist()[0]!r}): a classifier needs two or more")
        names = tuple(map(str, classes.tolist()))
        task = TaskSpec("texts", samples.num_texts, "classes", names)
        self._train(samples.take(rows), encoder.transform(labels[rows]).astype(np.int64), task, weight)
        self.classes_ = classes
        return self

    def decision_function(self, X: Iterable) -> np.ndarray:
        """(n, C) float32 logits; for two classes (n,), that of the second less that of the first."""
        logits = self._raw(X)[0].numpy()
        if self.config_.task.target == "labels":
            return logits
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Iterable) -> np.ndarray:
        """(n, C) float32 probabilities, in the order of `classes_`; of several labels each its own, not 1 in all."""
        raw, model = self._raw(X)
        return model.head.estimate(raw).numpy()

    def predict(self, X: Iterable) -> np.ndarray:
        """(n,) labels; where a sample may have several (n, C) int64 zeros and ones."""
        raw, model = self._raw(X)  # raises before `classes_` is looked for
        found = model.head.predict(raw).numpy()
        if self.config_.task.target == "labels":
            return to_indicator(found, len(self.classes_))
        return self.classes_[found]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _options(self, seed: int) -> FitOptions:
        if self.class_weight not in (None, "balanced"):
            raise UsageError(f'class_weight must be None or "balanced"; got {self.class_weight!r}')
        return super()._options(seed).but(class_weights=self.class_weight or "none")


def _check_labels(y: Any) -> np.ndarray:
    """(n,) labels of classes, or (n, C) zeros and ones; raises ValueError for missing or continuous ones."""
    if y is None:
        raise ValueError("GlotClassifier requires y to be passed, but the target y is None")
    if is_multilabel(y):
        labels = y.toarray() if issparse(y) else np.asarray(y)
        return labels.astype(np.int64)
    labels = check_array(y, ensure_2d=False, dtype=None, input_name="y")
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise ValueError("y should be a 1d array of labels, or for several labels a sample (n, C) of zeros and ones")
    labels = column_or_1d(labels, warn=True)
    if labels.dtype == object and any(label is None for label in labels):
        raise ValueError("y holds None: every sample needs a label")
    check_classification_targets(labels)
    return labels


def _check_indicator(labels: np.ndarray) -> np.ndarray:
    """(n, C) zeros and ones; raises ValueError for other values, too many columns, and one that is all alike."""
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("y has two or more columns, and values other than 0 and 1: it is no indicator of labels")
    if labels.shape[1] > MOST_LABELS:
        raise ValueError(f"y has {labels.shape[1]} labels: a classifier of several takes {MOST_LABELS} at most")
    for column, share in enumerate(labels.mean(axis=0).tolist()):
        if share in (0, 1):
            raise ValueError(f"y: {'every' if share else 'no'} sample has the label of column {column}: leave it out")
    return labels
