"""What a head is measured by: scikit-learn's own regression on the means of train, and how sure a score is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression, RidgeCV

from glot.fit import regression, yardsticks
from glot.fit.regression import PENALTIES, fit_logistic
from glot.fit.statistics import score_interval
from glot.fit.yardsticks import Yardstick, judge, measure_yardsticks
from glot.store.example_set import ExampleSet
from glot.store.reader import Cache

MakeCache = Callable[..., Path]


def measured(folder: Path, train: ExampleSet | None = None, **more: object) -> tuple[Cache, list[Yardstick]]:
    cache = Cache(folder)
    task = cache.examples_entry("train").task
    sets = {"validation": cache.examples("validation")}
    return cache, measure_yardsticks(cache, task, train or cache.examples("train"), sets, **more)


def features(cache: Cache, examples: ExampleSet) -> np.ndarray:
    """The means of the examples' texts by a loop, of pairs [a, b, |a - b|, a b]."""
    columns = [
        np.stack([cache.read_texts(2, np.array([text])).values.astype(float).mean(axis=0) for text in column])
        for column in examples.text_columns
    ]
    if len(columns) == 1:
        return columns[0]
    a, b = columns
    return np.concatenate([a, b, abs(a - b), a * b], axis=1)


@pytest.mark.parametrize("num_texts", [1, 2])
def test_the_regression_is_scikit_learns_on_the_same_means(
    make_fit_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, num_texts: int
) -> None:
    monkeypatch.setattr(regression, "STRENGTHS", (1e-2,))  # at which two solvers' stops differ by less than a hundredth
    cache, (majority, found) = measured(make_fit_cache(num_texts=num_texts))
    assert (majority.name, found.name, found.layer) == ("majority", "logistic regression on the mean", 2)
    train, validation = cache.examples("train"), cache.examples("validation")
    x = features(cache, train)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    expected = LogisticRegression(C=found.strength, max_iter=2000, tol=1e-8).fit((x - centre) / scale, train.label)
    z = (features(cache, validation) - centre) / scale
    raw = fit_logistic(x, train.label, 2, "none").raw(features(cache, validation))
    np.testing.assert_allclose(raw[:, 1] - raw[:, 0], expected.decision_function(z), atol=1e-2)
    assert (found.predictions["validation"] == expected.predict(z)).all()
    assert (majority.predictions["validation"] == np.bincount(train.label).argmax()).all()


def test_scores_are_estimated_by_ridge(make_fit_cache: MakeCache) -> None:
    cache, (found,) = measured(make_fit_cache(target="score", num_texts=2))
    assert found.name == "ridge regression on the mean"
    train = cache.examples("train")
    x = features(cache, train)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    expected = RidgeCV(PENALTIES).fit((x - centre) / scale, train.label)
    z = (features(cache, cache.examples("validation")) - centre) / scale
    np.testing.assert_allclose(found.predictions["validation"], expected.predict(z), atol=1e-3)
    assert found.strength == expected.alpha_


def spoil(monkeypatch: pytest.MonkeyPatch, layer: int, only: int | None = None) -> None:
    """Make noise of the means of a layer; with `only`, of the example set that has so many examples."""
    real = yardsticks._Means.features

    def spoilt(self: yardsticks._Means, examples: ExampleSet, number: int) -> np.ndarray:
        found = real(self, examples, number)
        if number == layer and only in (None, len(examples)):
            return np.random.default_rng(0).normal(size=found.shape).astype(np.float32)
        return found

    monkeypatch.setattr(yardsticks._Means, "features", spoilt)


def test_the_better_layer_is_chosen_on_train_alone(make_fit_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in the last layer makes the other the rival; noise in its validation set, or no labels, change nothing."""
    folder = make_fit_cache()
    spoil(monkeypatch, layer=2)
    cache, found = measured(folder)
    assert [some.name for some in found[1:]] == [f"logistic regression on the mean{end}" for end in ("", " of layer 1")]
    assert found[-1].layer == 1
    spoil(monkeypatch, layer=1, only=48)  # the validation set's
    assert measured(folder)[1][-1].layer == 1
    train, unlabelled = cache.examples("train"), replace(cache.examples("validation"), label=None)
    task = cache.examples_entry("train").task
    again = measure_yardsticks(cache, task, train, {"validation": unlabelled})
    assert [some.strength for some in again] == [some.strength for some in found]


def test_of_many_examples_a_sample_is_taken_and_said(
    make_fit_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yardsticks, "MOST_ROWS", 40)
    cache, found = measured(make_fit_cache())
    assert (found[-1].rows, found[-1].of_rows) == (40, 96)
    labels = cache.examples("validation").label
    line = judge("validation", labels, labels, ("accuracy",), found)[0].line
    assert "logistic regression on the mean (of 40 of 96 examples) " in line


def test_train_of_one_class_or_with_a_class_of_one_example(make_fit_cache: MakeCache) -> None:
    folder = make_fit_cache()
    train = Cache(folder).examples("train")
    for label in (np.ones(96, dtype=np.int64), (np.arange(96) != 3).astype(np.int64)):
        _, found = measured(folder, train=replace(train, label=label))
        assert (found[-1].predictions["validation"] == 1).mean() > 0.9
        assert found[-1].layer == 2


def test_an_accuracys_interval_is_wilsons() -> None:
    for right, count in ((0, 3), (3, 3), (40, 40), (171, 203)):
        predictions = (np.arange(count) < right).astype(int)
        found = score_interval(predictions, np.ones(count, dtype=int), "accuracy")
        expected = binomtest(right, count).proportion_ci(method="wilson")
        assert (found.value, found.examples) == (right / count, count)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_interval_covers_the_true_f1_about_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), []
    for _ in range(150):
        labels = rng.integers(0, 2, 200)
        found = score_interval(np.where(rng.random(200) < 0.8, labels, 1 - labels), labels, "f1", 500)
        covered.append(found.low <= 0.8 <= found.high)
    assert 0.88 <= np.mean(covered) <= 1.0


def test_nothing_is_claimed_of_three_examples() -> None:
    labels = np.array([0, 1, 1])
    rival = Yardstick("logistic regression on the mean", {"validation": 1 - labels}, 9, 9, 2)
    accuracy, f1 = judge("validation", labels, labels, ("accuracy", "f1"), [rival])
    assert accuracy.line == (
        "validation (3 examples): accuracy 100.0 [43.9, 100.0]; logistic regression on the mean 0.0"
    )
    assert f1.line == "validation (3 examples): f1 100.0; logistic regression on the mean 0.0"
    assert accuracy.verdict is None
    (one,) = judge("validation", labels[:1], labels[:1], ("f1",))
    assert one.line == "validation (1 example): f1 0.0"


@pytest.mark.parametrize(
    ("wrong", "theirs", "words"),
    [
        (0, 60, "clearly better than the logistic regression on the mean: +60.0 ["),
        (30, 33, "not clearly better than the logistic regression on the mean: +3.0 [+0.0, +7.0]"),
        (60, 0, "clearly worse than the logistic regression on the mean: -60.0 ["),
    ],
)
def test_the_verdict_is_as_clear_as_the_paired_interval(wrong: int, theirs: int, words: str) -> None:
    labels = np.arange(100) % 2
    flip = np.arange(100)
    rival = Yardstick("logistic regression on the mean", {"validation": labels ^ (flip < theirs)}, 9, 9, 2)
    found = judge("validation", labels ^ (flip < wrong), labels, ("accuracy",), [rival], chose=True)[0]
    assert found.verdict is not None
    assert found.verdict.startswith(words)
    assert ("chosen on these very examples" in found.verdict) == words.startswith("clearly better")
