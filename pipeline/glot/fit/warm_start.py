"""Where training may begin: at the regression on the mean, chosen by cross-validation, which it can only depart from.

The readout weighs all tokens alike, the head reads the mean as the regression does, and what the graph adds counts
nothing yet. So the first outputs are those of the regression, and the gradient is that of what it leaves unexplained.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glot.fit.head_model import HeadModel, PooledTexts, Source, pool_texts
from glot.fit.regression import Regression, fit_logistic, fit_one_vs_rest, fit_ridge
from glot.fit.training_data import labels_of, loss_labels, sample_of
from glot.nn.heads import ClassHead, LabelsHead, RegressionHead, ScoreHead, SimilarityHead, features_of
from glot.nn.poolers import MixedPooler
from glot.nn.readout import AttentionReadout
from glot.store.example_set import ExampleSet

FAVOURED = 0.9  # the share that the best layer of a mix begins with, where one is favoured
FEW_SCORED = 500  # examples that choose it


@torch.no_grad()
def start_at_regression(
    model: HeadModel, source: Source, train: ExampleSet, class_weights: str, known: dict[tuple, Regression]
) -> float:
    """Set the weights of a new model so that its outputs are the regression's; returns the mean loss on `train`.

    For pairs with a score under the cosine head the map begins as the identity: the cosine of both means, of that layer
    of a mix whose cosines follow the scores best. What other models over the same states `known` already is taken from
    there.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, AttentionReadout):
            module.score.weight.zero_()
            module.score.bias.zero_()
    if isinstance(model.head, SimilarityHead) and isinstance(model.pooler, MixedPooler):
        _favour_a_layer(model.pooler.mix.weight, model, source, train)
    vectors, rows = _vectors(model, source, train)
    head, columns = model.head, model.mean_columns
    labels = labels_of(train)
    if isinstance(head, SimilarityHead):
        head.linear.weight.copy_(torch.eye(model.width) * (torch.arange(model.width) < columns))
        head.linear.bias.zero_()
    else:
        assert isinstance(head, ClassHead | LabelsHead | RegressionHead)  # every other head is of pairs without labels
        key = (head.features, class_weights)
        if key not in known:
            given = [vectors[some, :columns] for some in rows]
            features = features_of(head.features, *given).cpu().numpy()
            known[key] = regress(features, labels, head, class_weights, train.weight)
        regression = known[key]
        weight, bias = map(torch.from_numpy, regression.line)
        by_part = weight.view(len(weight), -1, columns)  # one part of the features after the other
        spread = torch.zeros(*by_part.shape[:2], model.width)
        spread[:, :, :columns] = by_part
        head.linear.weight.copy_(spread.flatten(1))
        head.linear.bias.copy_(bias)
        if isinstance(head, LabelsHead):
            head.thresholds.copy_(torch.from_numpy(regression.thresholds))
    raw = head(*(vectors[some] for some in rows))
    several = head.linear.out_features if isinstance(head, LabelsHead) else None
    return float(head.loss(raw, loss_labels(train, several).to(raw.device)))


def _favour_a_layer(weight: Tensor, model: HeadModel, source: Source, train: ExampleSet) -> None:
    """Let a mix begin near the layer whose cosines follow the scores best, unless those of all layers alike do.

    A regression weighs the numbers of a mix; a cosine takes them as they are, and layers that are poor at it spoil it.
    Some hundred examples tell the layers apart.
    """
    train = sample_of(train, FEW_SCORED)
    labels, layers = labels_of(train), len(weight)
    rise = math.log(FAVOURED / (1 - FAVOURED) * (layers - 1))

    def agreement(begin: Tensor) -> float:
        weight.copy_(begin)
        vectors, rows = _vectors(model, source, train)
        first, second = (vectors[some, : model.mean_columns] for some in rows)
        cosines = F.cosine_similarity(first, second).cpu().numpy()
        with np.errstate(invalid="ignore"):
            return float(np.nan_to_num(np.corrcoef(cosines, labels)[0, 1], nan=-1))

    weight.copy_(max([torch.zeros(layers), *(rise * torch.eye(layers))], key=agreement))


def _vectors(model: HeadModel, source: Source, examples: ExampleSet) -> tuple[Tensor, list[Tensor]]:
    """(texts, D) vectors of the examples' texts, each once, and for each text column (m,) the row of each example."""
    ids, index = np.unique(np.concatenate(examples.text_columns), return_inverse=True)
    if isinstance(source, PooledTexts):
        vectors: Tensor = source.fetch(ids).values
    else:
        vectors = pool_texts(model.pooler, source, ids)
    return vectors.float(), list(torch.from_numpy(index).to(vectors.device).chunk(len(examples.text_columns)))


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
