"""Scores, intervals and the regression of texts that may have several labels, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from glot.fit import regression
from glot.fit.metrics import compute_metrics
from glot.fit.statistics import score_interval
from glot.nn.heads import LabelsHead
from glot.store.label_sets import MOST_LABELS, to_codes, to_indicator

METRICS = ("micro_f1", "macro_label_f1", "exact_match")


def test_codes_and_back() -> None:
    indicator = np.random.default_rng(0).random((50, MOST_LABELS)) < 0.5
    codes = to_codes(indicator)
    np.testing.assert_array_equal(to_indicator(codes), indicator)
    np.testing.assert_array_equal(codes.astype(np.float64).astype(np.int64), codes)  # as tables of examples keep them


def test_metrics_are_those_of_scikit_learn() -> None:
    real, found = np.random.default_rng(0).random((2, 300, 5)) < 0.4
    expected = [f1_score(real, found, average="micro"), f1_score(real, found, average="macro")]
    expected.append(accuracy_score(real, found))
    given = to_codes(found), to_codes(real)
    np.testing.assert_allclose(list(compute_metrics(METRICS, *given).values()), expected)
    for metric, value in zip(METRICS, expected, strict=True):
        interval = score_interval(*given, metric)
        assert interval.value == pytest.approx(value)
        assert interval.low < value < interval.high


def test_the_regression_is_one_versus_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, 3)) + rng.normal(size=(200, 3)) > 0.5).astype(int)
    monkeypatch.setattr(regression, "STRENGTHS", (0.1,))
    weight, bias = map(torch.from_numpy, regression.fit_one_vs_rest(x, to_codes(y), 3).line)
    head = LabelsHead(6, 1, 3)
    head.load_state_dict({"linear.weight": weight, "linear.bias": bias})
    scaler = StandardScaler().fit(x)
    theirs = OneVsRestClassifier(LogisticRegression(C=0.1, max_iter=200)).fit(scaler.transform(x), y)
    shares = head.estimate(head(torch.from_numpy(x))).numpy()
    np.testing.assert_allclose(shares, theirs.predict_proba(scaler.transform(x)), atol=1e-4)
    np.testing.assert_array_equal(
        to_indicator(head.predict(head(torch.from_numpy(x))), 3), theirs.predict(scaler.transform(x))
    )
