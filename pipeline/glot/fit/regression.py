"""The regression that a head is measured by, and may begin at: penalised, its strength chosen by cross-validation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from glot.store.label_sets import HALF, to_indicator

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

STRENGTHS = tuple(10.0**power for power in range(-4, 2))  # of the penalty, as scikit-learn's C: small is strong
PENALTIES = tuple(10.0**power for power in range(-1, 7))  # of ridge
FOLDS, MOST_ROWS, FEW = 4, 3000, 500  # of the examples that choose the strength; all of them fit the regression
LEAST_ROWS, MOST_NUMBERS = 500, 2**25  # of the examples that choose a layer; of their features, of all layers together
LEAST_GAIN = 0.15  # of the way from the F1 of a label given to all to 1; labels that are chance stay below it

Line = tuple[np.ndarray, np.ndarray]  # (C, f) weights of features and (C,) biases; one row where scores are estimated


@dataclass(frozen=True)
class Regression:
    """A fitted regression.

    Attributes:
        line: its map of features as they are.
        strength: of the penalty, C of the logistic regression, alpha of ridge; chosen by cross-validation.
        error: there, an example: log loss, or squared error; NaN where there are too few examples for it.
        thresholds: (C,) of several labels a text the probability above which each is given; None of all else.
    """

    line: Line
    strength: float
    error: float
    thresholds: np.ndarray | None = None

    def raw(self, features: np.ndarray) -> np.ndarray:
        """(m, C) logits of features (m, f), or (m, 1) estimates."""
        weight, bias = self.line
        return features @ weight.T + bias


def rows_to_choose_a_layer(numbers: int) -> int:
    """How many examples tell layers apart by their regressions, of so many features an example in all layers."""
    return min(MOST_ROWS, max(LEAST_ROWS, MOST_NUMBERS // numbers))


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
    return Regression(_as_they_are(weight, bias, centre, scale), chosen.strength, chosen.error)


def fit_one_vs_rest(
    features: np.ndarray, codes: np.ndarray, count: int, class_weights: str, weights: np.ndarray | None = None
) -> Regression:
    """A logistic regression of each of `count` labels against its absence, the strength and threshold each its own.

    `codes` (m,) are the labels of each example, see `glot.store.label_sets`. With balanced `class_weights` the texts
    that have a label count as much as those that do not. The strength told is the geometric mean.
    """
    x, centre, scale = _standardised(features)
    columns = to_indicator(codes, count).T
    fitted = [_logistic(x, has, 2, class_weights, None, weights) for has in columns]
    weight = np.stack([line[0][1] - line[0][0] for _, line in fitted])
    bias = np.stack([line[1][1] - line[1][0] for _, line in fitted])
    strength = float(np.exp(np.mean([math.log(chosen.strength) for chosen, _ in fitted])))
    error = float(np.mean([chosen.error for chosen, _ in fitted]))
    if class_weights == "none":
        thresholds = [chosen.threshold() for chosen, _ in fitted]
    else:
        favours = [_favour(has, weights) for has in columns]
        thresholds = [chosen.balanced_threshold(favour) for (chosen, _), favour in zip(fitted, favours, strict=True)]
    return Regression(_as_they_are(weight, bias, centre, scale), strength, error, np.asarray(thresholds, np.float32))


def _favour(has: np.ndarray, weights: np.ndarray | None) -> float:
    """What a text with a label counts, one without it 1, for both kinds to count alike; 1 where there is one kind."""
    without, with_it = np.bincount(has, weights, minlength=2)
    return without / with_it if without and with_it else 1.0


def best_threshold(shares: np.ndarray, has: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The probability above which a label should be given, for the F1 of texts like these, by held-out ones.

    It lies midway between two estimates: the threshold with the best F1 on these texts, and half that F1, which is the
    best threshold of true probabilities (Lipton et al. 2014). A half where the probabilities tell little: where the
    best F1 is hardly above that of giving the label to all.

    Args:
        shares: (m,) probabilities of the label by a model that has not seen the text. has: (m,) whether it has it.
        weights: (m,) of the texts; None: all alike.
    """
    order = np.argsort(-shares, kind="stable")
    counts = np.ones(len(shares)) if weights is None else weights[order]
    shares, real = shares[order], counts * has[order]
    f1 = 2 * real.cumsum() / (counts.cumsum() + real.sum())  # of giving it to the first, the first two, ...
    ends = np.flatnonzero(np.append(np.diff(shares) < 0, True))  # a threshold tells equals not apart
    last = ends[f1[ends].argmax()]
    best, to_all = f1[last], f1[-1]
    if best - to_all < LEAST_GAIN * (1 - to_all):
        return HALF
    below = shares[last + 1] if last + 1 < len(shares) else 0.0
    return float(((shares[last] + below) / 2 + best / 2) / 2)


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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products by one thread: a solver's are short, and OpenBLAS' threads spin while they wait for one another.

    On two idle cores two threads took 2 to 8 times as long as one.
    """
    with _blas().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas() -> ThreadpoolController:
    """The libraries of products that are loaded: NumPy's and SciPy's, which scikit-learn uses."""
    import sklearn.linear_model  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@_one_thread()
def _logistic(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    class_weights: str,
    strength: float | None,
    weights: np.ndarray | None,
) -> tuple[_Chosen, Line]:
    """The strength, and the map; a class that does not occur gets no weight and the rarest's bias."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    there, counts = np.unique(y, return_counts=True)
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, np.log(counts.min() / len(y)))
    if len(there) < 2:
        bias[:], bias[there] = -np.log(1 + len(y)), 0.0
        return _Chosen(STRENGTHS[0]), (weight, bias)
    options = {"class_weight": None if class_weights == "none" else class_weights, "max_iter": 200}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a strength that needs longer is not the one sought
        chosen = _choose_strength(x, y, options, weights) if strength is None else _Chosen(strength)
        fitted = LogisticRegression(C=chosen.strength, **options).fit(x, y, weights)
    if len(there) == 2:  # scikit-learn has one row then: what speaks for the second class
        weight[there] = np.concatenate([-fitted.coef_, fitted.coef_]) / 2
        bias[there] = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
    else:
        weight[there], bias[there] = fitted.coef_, fitted.intercept_
    return chosen, (weight, bias)


@dataclass(frozen=True, eq=False)
class _Chosen:
    """A strength, and of cross-validation the log loss an example and what was said of the texts held out.

    Attributes:
        labels: (m,) of those texts. shares: (m, classes) their probabilities. weights: (m,) of the texts, or None.
    """

    strength: float
    error: float = math.nan
    labels: np.ndarray | None = None
    shares: np.ndarray | None = None
    weights: np.ndarray | None = None

    def threshold(self) -> float:
        """Where a text has a label (1) or not (0): above which probability; a half without cross-validation."""
        if self.labels is None or self.shares is None:
            return HALF
        return best_threshold(self.shares[:, 1], self.labels == 1, self.weights)

    def balanced_threshold(self, favour: float) -> float:
        """As `threshold`, where a text with the label counted `favour` times one without it.

        The odds are so much higher than they really are. The threshold is sought, and the half meant, of the real ones.
        """
        if self.labels is None or self.shares is None:
            return float(_favoured(HALF, favour))
        real = _favoured(self.shares[:, 1], 1 / _favour(self.labels, self.weights))  # as the folds had them
        return float(_favoured(best_threshold(real, self.labels == 1, self.weights), favour))


def _favoured(shares: Any, favour: float) -> Any:
    """Probabilities with odds that are `favour` times those of the given ones."""
    return shares / (shares + (1 - shares) / favour)


def _choose_strength(x: np.ndarray, y: np.ndarray, options: dict[str, Any], weights: np.ndarray | None) -> _Chosen:
    """The strength with the least log loss in cross-validation; where a class has one example only, the middle one."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    sample = np.random.default_rng(0).permutation(len(y))[:MOST_ROWS]
    x, y, w = x[sample], y[sample], None if weights is None else weights[sample]
    counts = np.unique(y, return_counts=True)[1]
    folds = min(FOLDS, counts.min())
    if folds < 2:
        return _Chosen(STRENGTHS[len(STRENGTHS) // 2])
    parts = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(x, y))
    paths = [LogisticRegression(warm_start=True, **options) for _ in parts]
    losses: list[float] = []
    best = _Chosen(STRENGTHS[0], math.inf)
    for strength in STRENGTHS:  # from strong to weak: each begins where the last ended
        loss, said = 0.0, np.zeros((len(y), len(counts)))
        for path, (fit, held) in zip(paths, parts, strict=True):
            fit_w, held_w = (None, None) if w is None else (w[fit], w[held])
            path.set_params(C=strength).fit(x[fit], y[fit], fit_w)
            shares = path.predict_proba(x[held])
            loss += log_loss(y[held], shares, labels=path.classes_, normalize=False, sample_weight=held_w)
            said[held] = shares
        losses.append(loss)
        if loss / len(y) < best.error:
            best = _Chosen(strength, loss / len(y), y, said, w)
        # Of many examples the loss has one minimum, and what is weaker still takes longest; of few there may be two.
        if len(y) > FEW and len(losses) > 1 and losses[-1] > losses[-2]:
            break
    return best
