from __future__ import annotations

import math
import warnings

import pytest

from glot.errors import UsageError
from glot.fit.metrics import compute_metrics

LABELS = [1, 1, 1, 0, 0, 0, 0, 1]
PREDICTIONS = [1, 0, 1, 0, 0, 1, 0, 1]  # 3 true positives, 3 true negatives, 1 and 1 wrong


def test_class_metrics_on_known_counts():
    found = compute_metrics(["mcc", "accuracy", "f1", "macro_f1"], PREDICTIONS, LABELS)
    assert list(found) == ["mcc", "accuracy", "f1", "macro_f1"]
    assert found == pytest.approx({"mcc": (9 - 1) / 16, "accuracy": 0.75, "f1": 0.75, "macro_f1": 0.75})


def test_f1_is_of_class_one_and_macro_f1_of_all():
    found = compute_metrics(["f1", "macro_f1"], [1, 1, 0, 2], [1, 0, 0, 2])
    assert found == pytest.approx({"f1": 2 / 3, "macro_f1": (2 / 3 + 2 / 3 + 1) / 3})


def test_correlations_on_known_values():
    found = compute_metrics(["spearman", "pearson"], [1, 2, 3, 10], [1, 2, 4, 3])
    assert found["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert found["pearson"] == pytest.approx(7 / math.sqrt(50 * 5))


@pytest.mark.parametrize("predictions", [[2.0, 2.0, 2.0], [1.0]])
def test_a_constant_prediction_correlates_with_nothing(predictions):
    labels = [1.0, 2.0, 3.0][: len(predictions)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compute_metrics(["spearman", "pearson"], predictions, labels) == {"spearman": 0.0, "pearson": 0.0}
        assert compute_metrics(["mcc", "f1"], [0, 0, 0], [0, 1, 1]) == {"mcc": 0.0, "f1": 0.0}


def test_an_unknown_metric_is_refused():
    with pytest.raises(UsageError, match="macro_f1"):
        compute_metrics(["bleu"], [0], [0])
