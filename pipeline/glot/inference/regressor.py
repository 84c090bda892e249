"""A scikit-learn regressor over both stages: texts and scores in, a trained head out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import check_array, check_consistent_length, column_or_1d

from glot.inference.estimator import GlotEstimator, weighted_rows
from glot.store.task_spec import TaskSpec


class GlotRegressor(RegressorMixin, GlotEstimator):
    """Score texts, or pairs of them, by a head trained over a frozen language model's token states.

    What `GlotClassifier` is for labels, this is for numbers: it goes wherever a regressor of scikit-learn goes. X and
    the parameters: see `GlotEstimator`. The head learns scores scaled to those of the fit; with a `validation_fraction`
    Spearman's correlation chooses the epoch.

    Raises what `GlotClassifier` does.
    """

    def fit(self, X: Iterable, y: Iterable, sample_weight: Iterable | None = None) -> GlotRegressor:
        """Train the head on n samples and their n scores; the texts that `cache` lacks go through the backbone first.

        `sample_weight` (n,) are what the samples count in the loss; one of 0 is as if it were not there.
        """
        samples, scores = self._read(X), _check_scores(y)
        check_consistent_length(samples.first, scores)
        rows, weight = weighted_rows(sample_weight, len(samples))
        scores = scores[rows]
        low, high = float(scores.min()), float(scores.max())
        score_range = (low, high if high > low else low + 1)  # of equal scores the regression learns that one
        task = TaskSpec("texts", samples.num_texts, "score", score_range=score_range, metrics=("spearman", "pearson"))
        self._train(samples.take(rows), scores, task, weight)
        return self

    def predict(self, X: Iterable) -> np.ndarray:
        """(n,) float32 scores."""
        raw, head = self._raw(X)
        return head.head.predict(raw).numpy()


def _check_scores(y: Iterable) -> np.ndarray:
    """(n,) float64 scores; raises ValueError for missing ones, and what is no number."""
    if y is None:
        raise ValueError("GlotRegressor requires y to be passed, but the target y is None")
    scores = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
    return column_or_1d(scores, warn=True).astype(np.float64)
