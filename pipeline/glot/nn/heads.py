"""Heads: pooled vectors to class scores or a score, with the loss each is trained by."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glot.nn.config import PairFeatures
from glot.store.label_sets import HALF, to_codes, to_indicator
from glot.store.task_spec import TaskSpec


class Head(nn.Module):
    """Base of all heads: `forward` gives raw outputs; `loss`, `predict` and `estimate` read them."""

    def forward(self, z: Tensor, z_b: Tensor | None = None) -> Tensor:
        """Raw outputs for vectors z (B, D), with z_b (B, D) the second texts of pairs."""
        raise NotImplementedError

    def embed(self, z: Tensor) -> Tensor:
        """The vectors that `encode` writes, of pooled ones (B, D): the same, unless the head projects them."""
        return z

    def loss(self, raw: Tensor, labels: Tensor) -> Tensor:
        """The scalar to minimise, a mean over the batch; labels (B,), or (B, 2) as `with_weights` makes them."""
        raise NotImplementedError

    def predict(self, raw: Tensor) -> Tensor:
        """Predictions (B,) in the labels' own units, detached and on the CPU."""
        raise NotImplementedError

    def estimate(self, raw: Tensor) -> Tensor:
        """What the heads of an ensemble are averaged by, detached and on the CPU: what `predict` gives."""
        return self.predict(raw)


def with_weights(labels: Tensor, weights: Tensor) -> Tensor:
    """(B, 2) float32: labels (B,), and beside them what each example counts in the loss; of (B, C) it is (B, C + 1)."""
    return torch.cat([labels.reshape(len(labels), -1).float(), weights.float()[:, None]], dim=1)


PARTS: dict[PairFeatures, int] = {"concat": 2, "full": 4, "symmetric": 3}  # vectors side by side


def features_of(kind: PairFeatures, z: Tensor, z_b: Tensor | None = None) -> Tensor:
    """(B, D) vectors of single texts as they are; of pairs (B, k D) features, see `PARTS`.

    concat is [a ‖ b], full [a ‖ b ‖ |a − b| ‖ a·b], and symmetric, the same whichever text comes first,
    [a + b ‖ |a − b| ‖ a·b].
    """
    if z_b is None:
        return z
    sides = [z + z_b] if kind == "symmetric" else [z, z_b]
    return torch.cat(sides if kind == "concat" else [*sides, (z - z_b).abs(), z * z_b], dim=1)


def features_width(kind: PairFeatures, width: int, num_texts: int) -> int:
    """Columns of `features_of` for vectors of `width` numbers."""
    return width * (PARTS[kind] if num_texts == 2 else 1)


class LogitsHead(Head):
    """What both heads of C classes share: Linear(k D, C) on D numbers of a text, or the features of a pair.

    Attributes:
        class_weights: float32 weights in the loss, None while all count alike; not saved.
    """

    class_weights: Tensor | None

    def __init__(self, width: int, num_texts: int, num_classes: int, features: PairFeatures = "concat") -> None:
        super().__init__()
        self.register_buffer("class_weights", None, persistent=False)
        self.features = features
        self.linear = nn.Linear(features_width(features, width, num_texts), num_classes)

    def forward(self, z: Tensor, z_b: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        return self.linear(features_of(self.features, z, z_b))


class ClassHead(LogitsHead):
    """A text has one of C classes: cross-entropy. Its `class_weights` are (C,), of each class."""

    def balance(self, labels: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Let rare classes count as much as frequent ones, by the training examples' labels (n,) and weights (n,)."""
        self.class_weights = balanced_weights(labels, self.linear.out_features, weights)

    def loss(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, each example's times the weight of its class and its own; labels (B,) int64, or (B, 2).

        The sum is divided by B, not by the batch's weights, which would undo them in small batches.
        """
        if labels.dim() == 2:
            each = F.cross_entropy(raw, labels[:, 0].long(), self.class_weights, reduction="none")
            return (each * labels[:, 1]).mean()
        if self.class_weights is None:
            return F.cross_entropy(raw, labels)
        return F.cross_entropy(raw, labels, self.class_weights, reduction="sum") / len(labels)

    def predict(self, raw: Tensor) -> Tensor:
        """(B,) int64 class indices."""
        return raw.detach().argmax(dim=1).cpu()

    def estimate(self, raw: Tensor) -> Tensor:
        """(B, C) float32 probabilities of the classes."""
        return raw.detach().float().softmax(dim=1).cpu()


class LabelsHead(LogitsHead):
    """A text has each of C labels or not: a sigmoid each, binary cross-entropy.

    Its `class_weights` are (2, C), of a text without each label, and of one with it.

    Attributes:
        thresholds: (C,) float32 probabilities above which each label is given; a half unless training sets them.
    """

    thresholds: Tensor

    def __init__(self, width: int, num_texts: int, num_labels: int, features: PairFeatures = "concat") -> None:
        super().__init__(width, num_texts, num_labels, features)
        self.register_buffer("thresholds", torch.full((num_labels,), HALF))

    def balance(self, codes: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Let the texts with a label count as much as those without it, by the training examples' codes (n,)."""
        columns = to_indicator(codes, self.linear.out_features).T
        self.class_weights = torch.stack([balanced_weights(has, 2, weights) for has in columns], dim=1)

    def loss(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy of all labels; labels (B, C) zeros and ones, or (B, C + 1) with weights."""
        count = raw.shape[-1]
        has = labels[:, :count].to(raw.dtype)
        each = F.binary_cross_entropy_with_logits(raw, has, reduction="none")
        if self.class_weights is not None:
            each = each * torch.where(has > 0, self.class_weights[1], self.class_weights[0])
        each = each.mean(dim=1)
        return each.mean() if labels.shape[1] == count else (each * labels[:, count]).mean()

    def predict(self, raw: Tensor) -> Tensor:
        """(B,) int64 codes of the labels whose probability is above their threshold, see `glot.store.label_sets`."""
        return torch.from_numpy(to_codes((self.estimate(raw) > self.thresholds.cpu()).numpy()))

    def estimate(self, raw: Tensor) -> Tensor:
        """(B, C) float32 probabilities of the labels; they need not sum to 1."""
        return raw.detach().float().sigmoid().cpu()


class ScoreHead(Head):
    """What both score heads share: raw outputs (B,) estimate (score - low) / (high - low), by mean squared error."""

    def __init__(self, score_range: tuple[float, float]) -> None:
        super().__init__()
        self.low, self.high = score_range

    def loss(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error against the scaled scores; labels (B,) in the task's units, or (B, 2)."""
        if labels.dim() == 2:
            each = (raw - (labels[:, 0].to(raw.dtype) - self.low) / (self.high - self.low)).square()
            return (each * labels[:, 1]).mean()
        return F.mse_loss(raw, (labels.to(raw.dtype) - self.low) / (self.high - self.low))

    def predict(self, raw: Tensor) -> Tensor:
        """(B,) float32 in the task's units; not clipped to the range, which would tie what the ranks tell apart."""
        return (self.low + raw.detach().float() * (self.high - self.low)).cpu()


class SimilarityHead(ScoreHead):
    """Pairs with a score: cosine of both vectors under one shared Linear(D, D)."""

    def __init__(self, width: int, score_range: tuple[float, float]) -> None:
        super().__init__(score_range)
        self.linear = nn.Linear(width, width)

    def forward(self, z: Tensor, z_b: Tensor | None = None) -> Tensor:
        """(B,) cosines."""
        return F.cosine_similarity(self.linear(z), self.linear(z_b), dim=1)


class RegressionHead(ScoreHead):
    """A text, or the features of a pair, with a score: Linear(k D, 1)."""

    def __init__(
        self, width: int, score_range: tuple[float, float], num_texts: int = 1, features: PairFeatures = "concat"
    ) -> None:
        super().__init__(score_range)
        self.features = features
        self.linear = nn.Linear(features_width(features, width, num_texts), 1)

    def forward(self, z: Tensor, z_b: Tensor | None = None) -> Tensor:
        """(B,) scaled scores."""
        return self.linear(features_of(self.features, z, z_b)).squeeze(1)


def balanced_weights(labels: np.ndarray, num_classes: int, weights: np.ndarray | None = None) -> Tensor:
    """(C,) float32 n / (C n_c) for labels (n,), scikit-learn's `class_weight="balanced"`.

    C counts the classes that occur; the others have the weight 0, which no example asks for. Where the examples have
    `weights` (n,) of their own, n and n_c are the sums of these.
    """
    counts = np.bincount(labels, weights, minlength=num_classes)
    there = counts > 0
    balanced = np.divide(counts.sum(), np.count_nonzero(there) * counts, out=np.zeros(num_classes), where=there)
    return torch.from_numpy(balanced).float()


def make_head(spec: TaskSpec, width: int, features: PairFeatures = "concat") -> Head:
    """The head of a task over pooled vectors of `width`; with "concat" by the paper's table of heads and losses."""
    if spec.target == "classes":
        return ClassHead(width, spec.num_texts, len(spec.classes), features)
    if spec.target == "labels":
        return LabelsHead(width, spec.num_texts, len(spec.classes), features)
    assert spec.score_range is not None  # every task of scores has one
    if spec.num_texts == 2 and features == "concat":
        return SimilarityHead(width, spec.score_range)
    return RegressionHead(width, spec.score_range, spec.num_texts, features)
