"""Calibration, beside scikit-learn's curve and log loss, and temperatures of made probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from glot.fit.calibration import calibrate, fit_temperature, scale


def made(count: int, temperature: float, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right at a temperature, and labels that are drawn by them there."""
    random = np.random.default_rng(0)
    raw = random.normal(0, 2, (count, classes)) * temperature
    shares = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    true = scale(shares, temperature)
    return shares, np.array([random.choice(classes, p=row) for row in true])


def test_bins_are_scikit_learns() -> None:
    shares, labels = made(500, 1.7)
    found = calibrate(shares, labels)
    right, sure = calibration_curve(shares.argmax(axis=1) == labels, shares.max(axis=1), n_bins=10)
    there = [one for one in found.bins if one.count]
    np.testing.assert_allclose([one.accuracy for one in there], right)
    np.testing.assert_allclose([one.confidence for one in there], sure)
    assert sum(one.count for one in found.bins) == 500
    assert found.log_loss == pytest.approx(log_loss(labels, shares))
    by_hand = sum(one.count / 500 * abs(one.accuracy - one.confidence) for one in there)
    assert found.error == pytest.approx(by_hand)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_is_found_again(temperature: float) -> None:
    shares, labels = made(4000, temperature)
    found = fit_temperature(shares, labels)
    assert found == pytest.approx(temperature, rel=0.1)
    after = scale(shares, found)
    np.testing.assert_allclose(after.sum(axis=1), 1)
    assert (after.argmax(axis=1) == shares.argmax(axis=1)).all()
    assert log_loss(labels, after) <= log_loss(labels, shares) + 1e-9


def test_few_examples_and_certain_answers() -> None:
    assert fit_temperature(*made(19, 1.0)) is None
    shares, labels = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32), np.array([1, 1])
    found = calibrate(shares, labels)  # a probability of 0 that came true has no logarithm
    assert np.isfinite(found.log_loss)
    assert (found.bins[-1].count, found.bins[-1].accuracy) == (2, 0.5)
