"""The regression that a head is measured by, and may begin at: penalised, its strength chosen by cross-validation."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from glot.store.label_sets import to_indicator

STRENGTHS = tuple(10.0**power for power in range(-4, 2))  # of the penalty, as scikit-learn's C: small is strong
PENALTIES = tuple(10.0**power for power in range(-1, 7))  # of ridge
FOLDS, MOST_ROWS, FEW = 4, 3000, 500  # of the examples that choose the strength; all of them fit the regression

Line = tuple[np.ndarray, np.ndarray]  # (C, f) weights of features and (C,) biases; one row where scores are estimated


@dataclass(frozen=True)
class Regression:
    """A fitted regression.

    Attributes:
        line: its map of features as they are.
        strength: of the penalty, C of the logistic regression, alpha of ridge; chosen by cross-validation.
        error: there, an example: log loss, or squared error; NaN where there are too few examples for it.
    """

    line: Line
    strength: float
    error: float

    def raw(self, features: np.ndarray) -> np.ndarray:
        """(m, C) logits of features (m, f), or (m, 1) estimates."""
        weight, bias = self.line
        return features @ weight.T + bias


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    class_weights: str,
    strength: float | None = None,
    weights: np.ndarray | None = None,
) -> Regression:
    """The logistic regression of labels (m,) on features (m, f), which are standardised for it.

    `class_weights` is none or balanced, `weights` (m,) are the examples' own; None: all alike. A class that does not
    occur is the least likely. The strength is chosen by cross-validation where none is given.
    """
    x, centre, scale = _standardised(features)
    chosen, (weight, bias) = _logistic(x, labels, classes, class_weights, strength, weights)
    return Regression(_as_they_are(weight, bias, centre, scale), *chosen)


def fit_one_vs_rest(
    features: np.ndarray, codes: np.ndarray, count: int, weights: np.ndarray | None = None
) -> Regression:
    """A logistic regression of each of `count` labels against its absence, the strength of each its own.

    `codes` (m,) are the labels of each example, see `glot.store.label_sets`. The strength told is the geometric mean.
    """
    x, centre, scale = _standardised(features)
    fitted = [_logistic(x, has, 2, "none", None, weights) for has in to_indicator(codes, count).T]
    weight = np.stack([line[0][1] - line[0][0] for _, line in fitted])
    bias = np.stack([line[1][1] - line[1][0] for _, line in fitted])
    strengths, errors = zip(*(chosen for chosen, _ in fitted), strict=True)
    strength = float(np.exp(np.log(strengths).mean()))
    return Regression(_as_they_are(weight, bias, centre, scale), strength, float(np.mean(errors)))


def fit_ridge(features: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None) -> Regression:
    """The ridge regression of values (m,) on features (m, f), which are standardised for it; see `fit_logistic`."""
    from sklearn.linear_model import RidgeCV

    x, centre, scale = _standardised(features)
    fitted = RidgeCV(PENALTIES).fit(x, values, sample_weight=weights)
    line = _as_they_are(fitted.coef_[None], np.asarray([fitted.intercept_]), centre, scale)
    return Regression(line, float(fitted.alpha_), -float(fitted.best_score_))


def _standardised(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (m, f) with mean 0 and deviation 1, and the centre and scale (f,) that make them so."""
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-6 * max(scale.max(), 1e-30), scale, np.inf)  # a constant column says nothing
    return (features - centre) / scale, centre, scale


def _as_they_are(weight: np.ndarray, bias: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> Line:
    """The map of standardised features as one of the features themselves."""
    weight = weight / scale
    return weight.astype(np.float32), (bias - weight @ centre).astype(np.float32)


def _logistic(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    class_weights: str,
    strength: float | None,
    weights: np.ndarray | None,
) -> tuple[tuple[float, float], Line]:
    """The strength and its error, and the map; a class that does not occur gets no weight and the rarest's bias."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    there, counts = np.unique(y, return_counts=True)
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, np.log(counts.min() / len(y)))
    if len(there) < 2:
        bias[:], bias[there] = -np.log(1 + len(y)), 0.0
        return (STRENGTHS[0], math.nan), (weight, bias)
    options = {"class_weight": None if class_weights == "none" else class_weights, "max_iter": 200}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a strength that needs longer is not the one sought
        chosen = _choose_strength(x, y, options, weights) if strength is None else (strength, math.nan)
        fitted = LogisticRegression(C=chosen[0], **options).fit(x, y, weights)
    if len(there) == 2:  # scikit-learn has one row then: what speaks for the second class
        weight[there] = np.concatenate([-fitted.coef_, fitted.coef_]) / 2
        bias[there] = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
    else:
        weight[there], bias[there] = fitted.coef_, fitted.intercept_
    return chosen, (weight, bias)


def _choose_strength(
    x: np.ndarray, y: np.ndarray, options: dict[str, Any], weights: np.ndarray | None
) -> tuple[float, float]:
    """The strength with the least log loss in cross-validation, and that loss.

    Where a class has one example only, it is the middle one, and NaN.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    sample = np.random.default_rng(0).permutation(len(y))[:MOST_ROWS]
    x, y, w = x[sample], y[sample], None if weights is None else weights[sample]
    folds = min(FOLDS, np.unique(y, return_counts=True)[1].min())
    if folds < 2:
        return STRENGTHS[len(STRENGTHS) // 2], math.nan
    parts = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(x, y))
    paths = [LogisticRegression(warm_start=True, **options) for _ in parts]
    losses: list[float] = []
    for strength in STRENGTHS:  # from strong to weak: each begins where the last ended
        loss = 0.0
        for path, (fit, held) in zip(paths, parts, strict=True):
            fit_w, held_w = (None, None) if w is None else (w[fit], w[held])
            path.set_params(C=strength).fit(x[fit], y[fit], fit_w)
            shares = path.predict_proba(x[held])
            loss += log_loss(y[held], shares, labels=path.classes_, normalize=False, sample_weight=held_w)
        losses.append(loss)
        # Of many examples the loss has one minimum, and what is weaker still takes longest; of few there may be two.
        if len(y) > FEW and len(losses) > 1 and losses[-1] > losses[-2]:
            break
    best = int(np.argmin(losses))
    return STRENGTHS[best], losses[best] / len(y)
