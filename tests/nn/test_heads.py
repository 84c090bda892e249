from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from glot.nn.heads import balanced_weights, features_of, make_head, with_weights
from glot.store.label_sets import to_codes, to_indicator
from glot.store.task_spec import TaskSpec

torch.manual_seed(0)
Z, Z_B = torch.randn(4, 6), torch.randn(4, 6)


def classes(num_texts: int) -> TaskSpec:
    return TaskSpec(name="t", num_texts=num_texts, target="classes", classes=("a", "b", "c"))


def scores(num_texts: int) -> TaskSpec:
    return TaskSpec(name="t", num_texts=num_texts, target="score", score_range=(1.0, 5.0), metrics=("spearman",))


@pytest.mark.parametrize("num_texts", [1, 2])
def test_class_head(num_texts):
    head = make_head(classes(num_texts), 6)
    texts = (Z, Z_B)[:num_texts]
    raw = head(*texts)
    assert head.linear.in_features == 6 * num_texts
    torch.testing.assert_close(raw, torch.cat(texts, 1) @ head.linear.weight.T + head.linear.bias)
    labels = torch.tensor([2, 0, 1, 1])
    by_hand = -sum(row[y] - row.exp().sum().log() for row, y in zip(raw, labels, strict=True)) / 4
    torch.testing.assert_close(head.loss(raw, labels), by_hand)
    assert head.predict(raw).tolist() == [max(range(3), key=row.__getitem__) for row in raw.tolist()]
    assert head.predict(raw).dtype == torch.int64


@pytest.mark.parametrize("kind", ["concat", "full", "symmetric"])
def test_features_of_pairs(kind):
    """By hand; the symmetric ones are the same whichever text comes first, and a single text has none."""
    columns = []
    for x, y in zip(Z.tolist(), Z_B.tolist(), strict=True):
        pairs = list(zip(x, y, strict=True))
        sides = [p + q for p, q in pairs] if kind == "symmetric" else [*x, *y]
        relation = [] if kind == "concat" else [*(abs(p - q) for p, q in pairs), *(p * q for p, q in pairs)]
        columns.append([*sides, *relation])
    expected = torch.tensor(columns)
    torch.testing.assert_close(features_of(kind, Z, Z_B), expected)
    assert features_of(kind, Z) is Z
    if kind == "symmetric":
        torch.testing.assert_close(features_of(kind, Z_B, Z), expected)
    head = make_head(classes(2), 6, kind)
    torch.testing.assert_close(head(Z, Z_B), head.linear(expected))
    if kind != "concat":
        torch.testing.assert_close((head := make_head(scores(2), 6, kind))(Z, Z_B), head.linear(expected)[:, 0])


@pytest.mark.parametrize("labels", [[0, 0, 0, 0, 1, 2, 2], [2, 2, 0, 2], [1, 1, 1, 0]])
def test_balanced_weights_are_scikit_learns(labels):
    labels = np.asarray(labels)
    weights = balanced_weights(labels, 3)
    there = np.unique(labels)
    np.testing.assert_allclose(weights[there], compute_class_weight("balanced", classes=there, y=labels), rtol=1e-6)
    head = make_head(classes(1), 6)
    head.class_weights = weights
    raw = head(torch.randn(len(labels), 6))
    expected = log_loss(
        labels,
        raw.detach().double().softmax(dim=1).numpy(),
        sample_weight=compute_sample_weight("balanced", labels),
        labels=[0, 1, 2],
    )
    assert head.loss(raw, torch.from_numpy(labels)).item() == pytest.approx(expected, rel=1e-5)


def test_balanced_weights_of_several_labels_are_scikit_learns_of_each():
    has = np.random.default_rng(0).random((40, 3)) < (0.5, 0.2, 0.05)
    head = make_head(TaskSpec("t", 1, "labels", ("a", "b", "c"), metrics=("micro_f1",)), 6)
    head.balance(to_codes(has))
    raw = head(torch.randn(40, 6))
    shares = raw.detach().double().sigmoid().numpy()
    each = [
        log_loss(y, p, sample_weight=compute_sample_weight("balanced", y)) for y, p in zip(has.T, shares.T, strict=True)
    ]
    assert head.loss(raw, torch.from_numpy(has)).item() == pytest.approx(np.mean(each), rel=1e-5)
    assert set(head.state_dict()) == {"linear.weight", "linear.bias", "thresholds"}


@pytest.mark.parametrize("task", [classes(1), TaskSpec("t", 1, "labels", ("a", "b", "c"), metrics=("micro_f1",))])
def test_balanced_weights_take_a_weighted_example_as_if_it_stood_there_more_often(task):
    rng = np.random.default_rng(0)
    labels, own, z = rng.integers(0, 3, 40), rng.integers(1, 4, 40), torch.randn(40, 6)
    many, given = np.repeat(labels, own), labels
    if task.target == "labels":
        many, given = to_indicator(many, 3), to_indicator(labels, 3)
    once = make_head(task, 6)
    often = copy.deepcopy(once)
    once.balance(labels, own.astype(float))
    often.balance(np.repeat(labels, own))
    weighted = once.loss(once(z), with_weights(torch.from_numpy(given), torch.from_numpy(own))) * 40 / own.sum()
    repeated = often.loss(often(z.repeat_interleave(torch.from_numpy(own), dim=0)), torch.from_numpy(many))
    torch.testing.assert_close(weighted, repeated)


def test_class_weights_hold_in_a_batch_of_one():
    head = make_head(classes(1), 6)
    raw, label = head(Z[:1]), torch.tensor([2])
    plain = head.loss(raw, label)
    head.class_weights = torch.tensor([1.0, 1.0, 4.0])
    torch.testing.assert_close(head.loss(raw, label), 4 * plain)
    assert set(head.state_dict()) == {"linear.weight", "linear.bias"}


def test_similarity_head():
    head = make_head(scores(2), 6)
    a, b = Z @ head.linear.weight.T + head.linear.bias, Z_B @ head.linear.weight.T + head.linear.bias
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    raw = head(Z, Z_B)
    torch.testing.assert_close(raw, cosine)
    check_scores(head, raw)


def test_regression_head():
    head = make_head(scores(1), 6)
    raw = head(Z)
    torch.testing.assert_close(raw, (Z * head.linear.weight[0]).sum(1) + head.linear.bias)
    check_scores(head, raw)


def check_scores(head, raw: torch.Tensor) -> None:
    labels = torch.tensor([1.0, 2.0, 5.0, 4.5], dtype=torch.float64)
    scaled = torch.tensor([0.0, 0.25, 1.0, 0.875])
    torch.testing.assert_close(head.loss(raw, labels), ((raw - scaled) ** 2).mean())
    predicted = head.predict(raw)
    assert predicted.dtype == torch.float32
    assert not predicted.requires_grad
    torch.testing.assert_close(predicted, 1 + 4 * raw.detach())
    torch.testing.assert_close(head.predict(scaled), labels.float())
