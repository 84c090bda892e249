"""Whether probabilities are what they say: of answers given with 80 % four in five should be right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from glot.fit.statistics import FEWEST

BINS = 10
LEAST_SHARE = 1e-12  # a probability of 0 has no logarithm
HOTTEST = 20.0  # a temperature, and its inverse; what lies beyond says that there is nothing to scale


@dataclass(frozen=True)
class Bin:
    """The answers whose probability lies in (low, high]: how many, their mean probability, and how many are right.

    `confidence` and `accuracy` are fractions, both 0 where there is none.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far probabilities are from what comes true.

    Attributes:
        error: the expected calibration error: Σ n_b / n |accuracy_b − confidence_b| over bins of one width.
        log_loss: mean −log of the probability of the label, in nats.
        bins: of the answers' probabilities, from 0 to 1.
    """

    error: float
    log_loss: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Scaling:
    """Temperature scaling, p_c^(1/T) / Σ p^(1/T), which changes no answer.

    Attributes:
        temperature: T, above 1 where the head is too sure of itself.
        source: what it was fitted on, in words. examples: how many.
        after: the calibration of the scored examples with it.
        crosswise: it was fitted on the scored examples themselves; `after` has each fifth of them at the temperature
            that the others give.
    """

    temperature: float
    source: str
    examples: int
    after: Calibration
    crosswise: bool = False


def calibrate(shares: np.ndarray, labels: np.ndarray) -> Calibration:
    """The calibration of probabilities (n, C) of classes against labels (n,)."""
    sure, right = shares.max(axis=1).astype(float), shares.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)  # (low, high], as the docstring says
    counts = np.bincount(place, minlength=BINS)
    least = np.maximum(counts, 1)
    confidence = np.bincount(place, sure, BINS) / least
    accuracy = np.bincount(place, right, BINS) / least
    error = float(counts @ np.abs(accuracy - confidence) / len(labels))
    columns = [some.tolist() for some in (edges[:-1], edges[1:], counts, confidence, accuracy)]
    return Calibration(error, _log_loss(shares, labels, 1.0), tuple(map(Bin, *columns)))


def scale(shares: np.ndarray, temperature: float) -> np.ndarray:
    """(n, C) probabilities at a temperature."""
    return softmax(np.log(np.maximum(shares.astype(float), LEAST_SHARE)) / temperature, axis=1)


def fit_temperature(shares: np.ndarray, labels: np.ndarray) -> float | None:
    """The temperature with the least log loss on probabilities (n, C) and labels (n,); None of too few examples."""
    from scipy.optimize import minimize_scalar

    if len(labels) < FEWEST:
        return None
    bounds = (-math.log(HOTTEST), math.log(HOTTEST))
    found = minimize_scalar(lambda log: _log_loss(shares, labels, math.exp(log)), bounds=bounds, method="bounded")
    return float(math.exp(found.x))


def _log_loss(shares: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    own = scale(shares, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, LEAST_SHARE)).mean())
