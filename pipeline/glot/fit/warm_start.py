"""Where training may begin: at the regression on the mean, chosen by cross-validation, which it can only depart from.

The readout weighs all tokens alike, the head reads the mean as the regression does, and what the graph adds counts
nothing yet. So the first outputs are those of the regression, and the gradient is that of what it leaves unexplained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glot.fit.head_model import HeadModel, PooledTexts, Source, pool_texts
from glot.fit.regression import Regression, fit_logistic, fit_one_vs_rest, fit_ridge, rows_to_choose_a_layer
from glot.fit.training_data import labels_of, loss_labels, sample_of
from glot.nn.config import PoolerConfig
from glot.nn.heads import ClassHead, LabelsHead, RegressionHead, ScoreHead, SimilarityHead, features_of
from glot.nn.poolers import MixedPooler, make_pooler
from glot.nn.readout import AttentionReadout
from glot.nn.tokens import TokenBatch
from glot.store.example_set import ExampleSet

FAVOURED = 0.9  # the share that the best layer of a mix begins with, where one is favoured
RegressedHead = ClassHead | LabelsHead | RegressionHead
ROWS_UNDER_A_COSINE = 500  # examples that choose it there
FEWEST = 400  # examples; of fewer, cross-validation tells the layers apart by chance


@dataclass(frozen=True, eq=False)
class Start:
    """What heads over the same states begin with.

    Attributes:
        mix: (n,) weights of the layers, before the softmax; None where there is one layer.
        regression: on the mean of the texts; None under a cosine.
    """

    mix: Tensor | None
    regression: Regression | None


@torch.no_grad()
def start_at_regression(
    model: HeadModel, source: Source, train: ExampleSet, class_weights: str, known: dict[tuple, Start]
) -> float:
    """Set the weights of a new model so that its outputs are the regression's; returns the mean loss on `train`.

    For pairs with a score under the cosine head the map begins as the identity: the cosine of both means. How a mix of
    layers begins, `choose_mix` says. What other models over the same states `known` already is taken from there.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, AttentionReadout):
            module.score.weight.zero_()
            module.score.bias.zero_()
    head, pooler = model.head, model.pooler
    assert isinstance(head, SimilarityHead | RegressedHead)  # every other head is of pairs without labels
    features = None if isinstance(head, SimilarityHead) else head.features  # under a cosine there is no regression
    key = (features, class_weights, isinstance(pooler, MixedPooler))
    start = known.get(key)
    mix = start.mix if start else None
    if isinstance(pooler, MixedPooler):
        if mix is None:
            mix = choose_mix(pooler, head, source, train, class_weights)
        pooler.mix.weight.copy_(mix)
    vectors, rows = _vectors(pooler, source, train)
    if start is None:
        means = [vectors[some, : model.mean_columns] for some in rows]
        regressed = None if isinstance(head, SimilarityHead) else _regress_on(means, head, train, class_weights)
        start = known[key] = Start(mix, regressed)
    _set_map(head, model, start.regression)
    raw = head(*(vectors[some] for some in rows))
    several = head.linear.out_features if isinstance(head, LabelsHead) else None
    return float(head.loss(raw, loss_labels(train, several).to(raw.device)))


def _set_map(head: SimilarityHead | RegressedHead, model: HeadModel, regression: Regression | None) -> None:
    """Let a head read the mean, the first of a vector's numbers, as the regression does; a cosine as it is."""
    columns = model.mean_columns
    if regression is None:
        head.linear.weight.copy_(torch.eye(model.width) * (torch.arange(model.width) < columns))
        head.linear.bias.zero_()
        return
    weight, bias = map(torch.from_numpy, regression.line)
    by_part = weight.view(len(weight), -1, columns)  # one part of the features after the other
    spread = torch.zeros(*by_part.shape[:2], model.width)
    spread[:, :, :columns] = by_part
    head.linear.weight.copy_(spread.flatten(1))
    head.linear.bias.copy_(bias)
    if isinstance(head, LabelsHead):
        head.thresholds.copy_(torch.from_numpy(regression.thresholds))


@torch.no_grad()
def choose_mix(
    pooler: MixedPooler, head: SimilarityHead | RegressedHead, source: Source, train: ExampleSet, class_weights: str
) -> Tensor:
    """(n,) what the weights of a mix begin with: all layers alike, or one far above the others where that is better.

    Better is, of the means of some of the texts, a smaller error of the regression in cross-validation. Under a cosine,
    which takes the numbers as they are so that layers poor at it spoil it, a higher correlation with the scores.
    """
    count, width = len(pooler.mix.weight), pooler.in_width
    rise = math.log(FAVOURED / (1 - FAVOURED) * (count - 1))
    alike, *others = torch.zeros(count), *(rise * torch.eye(count))
    if isinstance(head, SimilarityHead):
        some = sample_of(train, ROWS_UNDER_A_COSINE)
    elif len(train) < FEWEST:
        return alike
    else:
        parts = head.linear.in_features // pooler.out_width
        some = sample_of(train, rows_to_choose_a_layer(parts * width * count))
    mean = make_pooler(PoolerConfig(pooler="mean"), count * width, "dense")
    means, rows = _vectors(lambda batch: mean(batch.with_states(batch.normal_layers(count).flatten(1))), source, some)
    by_layer = means.unflatten(1, (count, width))

    def error(begin: Tensor) -> float:
        mixed = torch.einsum("tnd,n->td", by_layer, begin.softmax(dim=0).to(by_layer.device))
        given = [mixed[columns] for columns in rows]
        if not isinstance(head, SimilarityHead):
            return _regress_on(given, head, some, class_weights).error
        with np.errstate(invalid="ignore"):
            first, second = given
            agreement = np.corrcoef(F.cosine_similarity(first, second).cpu().numpy(), labels_of(some))[0, 1]
        return -float(np.nan_to_num(agreement, nan=-1))

    errors = [error(begin) for begin in (alike, *others)]
    return alike if np.isnan(errors).any() else (alike, *others)[int(np.argmin(errors))]


def _vectors(
    pooler: Callable[[TokenBatch], Tensor], source: Source, examples: ExampleSet
) -> tuple[Tensor, list[Tensor]]:
    """(texts, D) vectors of the examples' texts, each once, and for each text column (m,) the row of each example."""
    ids, index = np.unique(np.concatenate(examples.text_columns), return_inverse=True)
    if isinstance(source, PooledTexts):
        vectors: Tensor = source.fetch(ids).values
    else:
        vectors = pool_texts(pooler, source, ids)
    return vectors.float(), list(torch.from_numpy(index).to(vectors.device).chunk(len(examples.text_columns)))


def _regress_on(means: list[Tensor], head: RegressedHead, examples: ExampleSet, class_weights: str) -> Regression:
    """The regression of the examples' labels on the means (m, d) of their texts."""
    features = features_of(head.features, *means).cpu().numpy()
    return regress(features, labels_of(examples), head, class_weights, examples.weight)


def regress(
    features: np.ndarray,
    labels: np.ndarray,
    head: ScoreHead | ClassHead | LabelsHead,
    class_weights: str,
    weights: np.ndarray | None = None,
) -> Regression:
    """Of labels (m,) on features (m, f): logistic of classes and of each label, ridge of scores as the head has them.

    `weights` (m,) are what the examples count; None: all alike.
    """
    if isinstance(head, ClassHead):
        return fit_logistic(features, labels, head.linear.out_features, class_weights, weights=weights)
    if isinstance(head, LabelsHead):
        return fit_one_vs_rest(features, labels, head.linear.out_features, class_weights, weights)
    return fit_ridge(features, (labels - head.low) / (head.high - head.low), weights)
