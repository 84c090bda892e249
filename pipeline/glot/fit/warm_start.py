"""Where training may begin: at the regression on the mean, chosen by cross-validation, which it can only depart from.

The readout weighs all tokens alike, the head reads the mean as the regression does, and what the graph adds counts
nothing yet. So the first outputs are those of the regression, and the gradient is that of what it leaves unexplained.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glot.fit.head_model import HeadModel, PooledTexts, Source, pool_texts
from glot.fit.training_data import labels_of
from glot.nn.heads import ClassHead, RegressionHead, ScoreHead, SimilarityHead, features_of
from glot.nn.readout import AttentionReadout
from glot.store.example_set import ExampleSet

STRENGTHS = tuple(10.0**power for power in range(-4, 2))  # of the penalty, as scikit-learn's C: small is strong
PENALTIES = tuple(10.0**power for power in range(-1, 7))  # of ridge
FOLDS, MOST_ROWS = 4, 3000  # of the examples that choose the strength; all of them fit the regression


Line = tuple[np.ndarray, np.ndarray]  # (C, f) weights of features and (C,) biases; one row where scores are estimated


@torch.no_grad()
def start_at_regression(
    model: HeadModel, source: Source, train: ExampleSet, class_weights: str, known: dict[tuple, Line]
) -> float:
    """Set the weights of a new model so that its outputs are the regression's; returns the mean loss on `train`.

    For pairs with a score under the cosine head the map begins as the identity: the cosine of both means. What other
    models over the same states `known` already is taken from there.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, AttentionReadout):
            module.score.weight.zero_()
            module.score.bias.zero_()
    vectors, rows = _vectors(model, source, train)
    head, columns = model.head, model.mean_columns
    labels = labels_of(train)
    if isinstance(head, SimilarityHead):
        head.linear.weight.copy_(torch.eye(model.width) * (torch.arange(model.width) < columns))
        head.linear.bias.zero_()
    else:
        assert isinstance(head, ClassHead | RegressionHead)  # every other head is of pairs without labels
        key = (head.features, class_weights)
        if key not in known:
            given = [vectors[some, :columns] for some in rows]
            known[key] = regress(features_of(head.features, *given).cpu().numpy(), labels, head, class_weights)
        weight, bias = map(torch.from_numpy, known[key])
        by_part = weight.view(len(weight), -1, columns)  # one part of the features after the other
        spread = torch.zeros(*by_part.shape[:2], model.width)
        spread[:, :, :columns] = by_part
        head.linear.weight.copy_(spread.flatten(1))
        head.linear.bias.copy_(bias)
    raw = head(*(vectors[some] for some in rows))
    return float(head.loss(raw, torch.from_numpy(labels).to(raw.device)))


def _vectors(model: HeadModel, source: Source, examples: ExampleSet) -> tuple[Tensor, list[Tensor]]:
    """(texts, D) vectors of the examples' texts, each once, and for each text column (m,) the row of each example."""
    ids, index = np.unique(np.concatenate(examples.text_columns), return_inverse=True)
    if isinstance(source, PooledTexts):
        vectors: Tensor = source.fetch(ids).values
    else:
        vectors = pool_texts(model.pooler, source, ids)
    return vectors.float(), list(torch.from_numpy(index).to(vectors.device).chunk(len(examples.text_columns)))


def regress(features: np.ndarray, labels: np.ndarray, head: ScoreHead | ClassHead, class_weights: str) -> Line:
    """The penalised regression of labels (m,) on features (m, f), its strength chosen by cross-validation.

    Features are standardised for it; the map that is returned takes them as they are. Logistic for classes, ridge for
    scores, which are scaled to 0..1 as the head does.
    """
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-6 * max(scale.max(), 1e-30), scale, np.inf)  # a constant column says nothing
    x = (features - centre) / scale
    if isinstance(head, ClassHead):
        weight, bias = _logistic(x, labels, head.linear.out_features, class_weights)
    else:
        weight, bias = _ridge(x, (labels - head.low) / (head.high - head.low))
    weight = weight / scale
    return weight.astype(np.float32), (bias - weight @ centre).astype(np.float32)


def _ridge(x: np.ndarray, y: np.ndarray) -> Line:
    from sklearn.linear_model import RidgeCV

    fitted = RidgeCV(PENALTIES).fit(x, y)
    return fitted.coef_[None], np.asarray([fitted.intercept_])


def _logistic(x: np.ndarray, y: np.ndarray, classes: int, class_weights: str) -> Line:
    """Weights (C, f) and biases (C,); a class that does not occur gets no weight and the bias of the rarest."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    there, counts = np.unique(y, return_counts=True)
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, np.log(counts.min() / len(y)))
    if len(there) < 2:
        bias[there] = 0.0
        return weight, bias
    options = {"class_weight": None if class_weights == "none" else class_weights, "max_iter": 200}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a strength that needs longer is not the one sought
        fitted = LogisticRegression(C=_choose_strength(x, y, options), **options).fit(x, y)
    if len(there) == 2:  # scikit-learn has one row then: what speaks for the second class
        weight[there] = np.concatenate([-fitted.coef_, fitted.coef_]) / 2
        bias[there] = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
    else:
        weight[there], bias[there] = fitted.coef_, fitted.intercept_
    return weight, bias


def _choose_strength(x: np.ndarray, y: np.ndarray, options: dict[str, Any]) -> float:
    """The strength with the least log loss in cross-validation; the middle one where a class has one example only."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    sample = np.random.default_rng(0).permutation(len(y))[:MOST_ROWS]
    x, y = x[sample], y[sample]
    folds = min(FOLDS, np.unique(y, return_counts=True)[1].min())
    if folds < 2:
        return STRENGTHS[len(STRENGTHS) // 2]
    loss = np.zeros(len(STRENGTHS))
    for fit, held in StratifiedKFold(folds, shuffle=True, random_state=0).split(x, y):
        path = LogisticRegression(warm_start=True, **options)
        for number, strength in enumerate(STRENGTHS):  # from strong to weak: each begins where the last ended
            path.set_params(C=strength).fit(x[fit], y[fit])
            loss[number] += log_loss(y[held], path.predict_proba(x[held]), labels=path.classes_, normalize=False)
    return STRENGTHS[int(loss.argmin())]
