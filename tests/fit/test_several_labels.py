"""Scores, intervals and the regression of texts that may have several labels, against scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, precision_recall_curve
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from glot.fit import regression
from glot.fit.metrics import compute_metrics
from glot.fit.statistics import score_interval
from glot.fit.yardsticks import Means
from glot.nn.heads import LabelsHead
from glot.store.label_sets import MOST_LABELS, to_codes, to_indicator
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

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


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_the_regression_is_one_versus_the_rest(monkeypatch: pytest.MonkeyPatch, class_weights: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, 3)) + rng.normal(size=(200, 3)) > 0.5).astype(int)
    monkeypatch.setattr(regression, "STRENGTHS", (0.1,))
    found = regression.fit_one_vs_rest(x, to_codes(y), 3, class_weights)
    weight, bias = map(torch.from_numpy, found.line)
    head = LabelsHead(6, 1, 3)
    head.load_state_dict({"linear.weight": weight, "linear.bias": bias, "thresholds": torch.full((3,), 0.5)})
    scaler = StandardScaler().fit(x)
    one = LogisticRegression(C=0.1, max_iter=200, class_weight=None if class_weights == "none" else class_weights)
    theirs = OneVsRestClassifier(one).fit(scaler.transform(x), y)
    shares = head.estimate(head(torch.from_numpy(x))).numpy()
    np.testing.assert_allclose(shares, theirs.predict_proba(scaler.transform(x)), atol=1e-4)
    np.testing.assert_array_equal(
        to_indicator(head.predict(head(torch.from_numpy(x))), 3), theirs.predict(scaler.transform(x))
    )
    folds, order = StratifiedKFold(4, shuffle=True, random_state=0), np.random.default_rng(0).permutation(200)
    for has, threshold in zip(y.T, found.thresholds, strict=True):
        held = cross_val_predict(one, scaler.transform(x[order]), has[order], cv=folds, method="predict_proba")[:, 1]
        without, with_it = compute_class_weight("balanced", classes=np.array([0, 1]), y=has)
        favour = 1.0 if class_weights == "none" else with_it / without  # of the odds, which are not the real ones then
        odds = held / (1 - held) / favour
        expected = regression.best_threshold(odds / (1 + odds), has[order])
        assert threshold / (1 - threshold) == pytest.approx(favour * expected / (1 - expected), rel=5e-3)


def test_a_label_that_is_chance_is_not_given_to_half_of_the_texts_by_balanced_weights() -> None:
    rng = np.random.default_rng(1)
    x, has = rng.normal(size=(400, 4)).astype(np.float32), np.arange(400) < 40
    found = regression.fit_one_vs_rest(x, to_codes(has[:, None]), 1, "balanced")
    assert found.thresholds == pytest.approx([0.9])  # where it is as likely as not: nine texts of ten lack it
    assert np.median(expit(found.raw(x))) == pytest.approx(0.5, abs=0.1)


def test_a_threshold_lies_between_the_best_on_held_out_texts_and_half_its_f1() -> None:
    rng = np.random.default_rng(0)
    has = rng.random(400) < 0.15
    shares = np.round(np.clip(rng.beta(1.2, 8, 400) + 0.3 * has * rng.random(400), 0, 1), 2)  # many are equal
    precision, recall, above = precision_recall_curve(has, shares)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-9))[:-1]
    best = int(f1.argmax())  # gives the label from `above[best]` on
    below = shares[shares < above[best]].max()
    expected = ((above[best] + below) / 2 + f1[best] / 2) / 2
    assert regression.best_threshold(shares, has) == pytest.approx(expected)
    assert f1_score(has, shares > expected) > f1_score(has, shares > 0.5)


@pytest.mark.parametrize("share", [0.03, 0.1, 0.4])
def test_a_label_that_is_chance_is_given_above_a_half(share: float) -> None:
    rng = np.random.default_rng(1)
    has = np.arange(1000) < 1000 * share
    assert regression.best_threshold(share + 0.1 * rng.random(1000), has) == 0.5


def test_thresholds_count_texts_by_their_weight() -> None:
    rng = np.random.default_rng(2)
    has = rng.random(60) < 0.4
    shares = np.clip(0.2 + 0.3 * has + 0.3 * rng.random(60), 0, 1)
    weights = rng.integers(1, 4, 60)
    each = regression.best_threshold(np.repeat(shares, weights), np.repeat(has, weights))
    assert regression.best_threshold(shares, has, weights.astype(float)) == pytest.approx(each)


def test_the_yardstick_has_balanced_weights_where_the_head_has_them(make_fit_cache: Callable[..., Path]) -> None:
    cache, task = Cache(make_fit_cache()), TaskSpec("made", 1, "labels", ("yes", "rare"), metrics=METRICS)
    train = cache.examples("train")
    train = replace(train, label=train.label + 2 * (np.arange(len(train)) % 7 == 0))
    lines = []
    for class_weights in ("none", "balanced"):
        means = Means(cache, task, "all", class_weights)
        expected = regression.fit_one_vs_rest(means.features(train, 2), train.label, 2, class_weights)
        lines.append(means.regress(train, 2).line)
        for ours, theirs in zip(lines[-1], expected.line, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert lines[1][1][1] > lines[0][1][1] + 0.5  # what is rare became likelier
