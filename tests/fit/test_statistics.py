from __future__ import annotations

import itertools

import numpy as np
import pytest

from glot.errors import UsageError
from glot.fit.metrics import compute_metrics
from glot.fit.statistics import _SCORES, paired_bootstrap

CLASS_METRICS = ("accuracy", "f1", "macro_f1", "mcc")


def made(metric: str, m: int = 60, seeds: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two methods' (seeds, m) predictions and (m,) labels: three classes, or scores with ties."""
    rng = np.random.default_rng(3)
    if metric in CLASS_METRICS:
        labels = rng.integers(0, 3, m)
        return *(
            np.where(rng.random((seeds, m)) < p, labels, rng.integers(0, 3, (seeds, m))) for p in (0.7, 0.4)
        ), labels
    labels = rng.integers(0, 8, m) / 2
    return *((labels + rng.normal(0, s, (seeds, m))).round(1) for s in (1, 3)), labels


@pytest.mark.parametrize("metric", [*CLASS_METRICS, "spearman", "pearson"])
def test_each_resample_scores_as_the_repeated_examples_do(metric: str) -> None:
    ours, _, labels = made(metric, 40)
    weights = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), 25)
    found = _SCORES[metric](weights.astype(float), ours[0], labels)
    for row, score in zip(weights, found, strict=True):
        expected = compute_metrics([metric], np.repeat(ours[0], row), np.repeat(labels, row))[metric]
        assert score == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore:A single label was found")  # of the reference
@pytest.mark.parametrize("metric", [*CLASS_METRICS, "spearman", "pearson"])
def test_what_is_undefined_is_scored_as_in_training(metric: str) -> None:
    labels = np.array([0, 0, 1, 2])
    for predictions in (np.zeros(4, int), np.array([0, 0, 2, 2])):
        for row in ([4, 0, 0, 0], [2, 2, 0, 0], [0, 0, 4, 0], [1, 1, 1, 1], [0, 0, 2, 2]):
            (found,) = _SCORES[metric](np.array([row], float), predictions, labels)
            with np.errstate(all="ignore"):
                expected = compute_metrics([metric], np.repeat(predictions, row), np.repeat(labels, row))[metric]
            assert found == pytest.approx(expected, abs=1e-9), (predictions, row)


def test_every_resample_of_a_few_examples_by_hand() -> None:
    labels, ours, theirs = np.array([1, 0, 1, 0, 1]), np.array([1, 0, 1, 1, 1]), np.array([1, 1, 0, 0, 1])
    gains = (ours == labels).astype(int) - (theirs == labels)
    every = np.array([gains[list(draw)].mean() for draw in itertools.product(range(5), repeat=5)])
    found = paired_bootstrap(ours, theirs, labels, "accuracy", resamples=40_000)
    assert found.value == pytest.approx(0.2)
    assert found.above == pytest.approx((every > 0).mean(), abs=0.01)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(every, (0.025, 0.975))), abs=1e-12)
    assert (found.examples, found.resamples) == (5, 40_000)


def test_the_interval_is_the_one_that_scipy_finds() -> None:
    from scipy.stats import bootstrap

    ours, theirs, labels = made("pearson", 200, seeds=1)
    found = paired_bootstrap(ours, theirs, labels, "spearman")

    def statistic(first: np.ndarray, second: np.ndarray, truth: np.ndarray) -> float:
        scores = [compute_metrics(["spearman"], values, truth)["spearman"] for values in (first, second)]
        return scores[0] - scores[1]

    data = (ours[0], theirs[0], labels)
    options = {"paired": True, "vectorized": False, "n_resamples": 2000, "method": "percentile", "rng": 0}
    expected = bootstrap(data, statistic, **options).confidence_interval
    assert found.value == pytest.approx(statistic(*data))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_seeds_are_averaged_within_a_resample() -> None:
    ours, theirs, labels = made("accuracy", 300, seeds=3)
    found = paired_bootstrap(ours, theirs[:2], labels, "mcc")
    mean = [np.mean([compute_metrics(["mcc"], row, labels)["mcc"] for row in rows]) for rows in (ours, theirs[:2])]
    assert found.value == pytest.approx(mean[0] - mean[1])
    assert found.low < found.value < found.high
    assert found.above == 1.0
    twice = paired_bootstrap(np.repeat(ours, 2, axis=0), theirs[:2], labels, "mcc")
    assert twice == found  # a seed that says nothing new makes nothing surer
    assert paired_bootstrap(ours, ours[::-1], labels, "mcc").low == pytest.approx(0, abs=1e-12)


def test_the_same_seed_gives_the_same_interval() -> None:
    data = made("f1")
    assert paired_bootstrap(*data, "f1") == paired_bootstrap(*data, "f1")
    assert paired_bootstrap(*data, "f1") != paired_bootstrap(*data, "f1", seed=1)


def test_wrong_use_is_said() -> None:
    ones = np.ones(3)
    with pytest.raises(UsageError, match="metric must be one of accuracy"):
        paired_bootstrap(ones, ones, ones, "loss")
    for ours, labels in ((np.ones(4), ones), (np.ones((2, 0)), np.ones(0)), (ones, np.ones((3, 1)))):
        with pytest.raises(UsageError, match="do not fit labels"):
            paired_bootstrap(ours, ours, labels, "accuracy")
