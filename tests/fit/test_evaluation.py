"""What is said of answers to labelled examples, beside scikit-learn's report and sums by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.metrics import classification_report

from glot.fit.calibration import calibrate, fit_temperature, scale
from glot.fit.evaluation import Scored, evaluate
from glot.fit.statistics import paired_bootstrap
from glot.fit.yardsticks import RESAMPLES, Yardstick
from glot.store.task_spec import TaskSpec

THREE = TaskSpec("made", 1, "classes", ("no", "yes", "never"), metrics=("accuracy", "macro_f1"))
SCORE = TaskSpec("made", 2, "score", score_range=(0.0, 5.0), metrics=("spearman", "pearson"))


@pytest.fixture
def scored() -> Scored:
    """Sixty answers to two of three classes."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 60)
    shares = random.dirichlet((1, 1, 1), 60) + 0.6 * np.eye(3)[labels]
    texts = [(f"text {row}",) for row in range(60)]
    return Scored("held.csv", THREE, labels, shares / shares.sum(axis=1, keepdims=True), np.arange(100, 160), texts)


def test_classes_are_scored_as_scikit_learn_scores_them(scored: Scored) -> None:
    found = evaluate(scored)
    names = list(THREE.classes)
    expected = classification_report(
        scored.labels, scored.answers, labels=[0, 1, 2], target_names=names, output_dict=True, zero_division=0
    )
    for one in found.classes:
        row = expected[one.name]
        assert [one.precision, one.recall, one.f1, one.support] == pytest.approx(
            [row["precision"], row["recall"], row["f1-score"], row["support"]]
        )
    assert sum(one.answers for one in found.classes) == 60
    for label in range(3):
        for answer in range(3):
            by_hand = sum((scored.labels == label) & (scored.answers == answer))
            assert found.confusion[label][answer] == by_hand
    assert found.judgements[0].score.value == pytest.approx((scored.answers == scored.labels).mean())
    assert found.wrong == sum(scored.answers != scored.labels)


def test_the_most_confident_errors_come_first(scored: Scored) -> None:
    found = evaluate(scored, most_mistakes=4)
    wrong = [row for row in range(60) if scored.answers[row] != scored.labels[row]]
    wrong.sort(key=lambda row: -scored.estimates[row].max())
    assert [one.row for one in found.mistakes] == [row + 100 for row in wrong[:4]]
    first, place = found.mistakes[0], wrong[0]
    assert first.texts == (f"text {place}",)
    assert (first.label, first.answer) == (THREE.classes[scored.labels[place]], THREE.classes[scored.answers[place]])
    assert first.label_share == pytest.approx(scored.estimates[place, scored.labels[place]])


def test_a_yardstick_is_compared_row_by_row(scored: Scored) -> None:
    theirs = np.roll(scored.labels, 1)
    rival = Yardstick("a rival", {"held.csv": theirs}, 10, 10, layer=1)
    difference = evaluate(scored, [rival]).judgements[0].difference
    assert difference == paired_bootstrap(scored.answers, theirs, scored.labels, "accuracy", RESAMPLES)


def test_a_temperature_comes_from_other_examples(scored: Scored) -> None:
    sure = np.full((40, 3), 0.01) + 0.97 * np.eye(3)[np.zeros(40, dtype=int)]
    labels = np.repeat([0, 1], 20)  # half of what is said with 98 % is wrong
    found = evaluate(scored, held_out=Scored("validation", THREE, labels, sure)).scaling
    assert found is not None
    assert (found.source, found.examples, found.crosswise) == ("validation", 40, False)
    assert found.temperature > 2
    few = Scored("validation", THREE, labels[:5], sure[:5])
    assert evaluate(scored, held_out=few).scaling == evaluate(scored).scaling


def test_without_others_each_fifth_is_scaled_by_the_rest() -> None:
    """So that no example is scored at a temperature that it helped to choose: random labels gain nothing by it."""
    random = np.random.default_rng(0)
    sure = 0.005 + 0.985 * np.eye(3)[random.integers(0, 3, 60)]
    labels = random.integers(0, 3, 60)  # what is said with 99 % is right one time in three
    found = evaluate(Scored("held.csv", THREE, labels, sure)).scaling
    assert found is not None
    assert (found.source, found.examples, found.crosswise) == ("held.csv", 60, True)
    assert found.temperature == fit_temperature(sure, labels)
    assert found.after.log_loss > calibrate(scale(sure, found.temperature), labels).log_loss
    assert found.after.log_loss == pytest.approx(math.log(3), abs=0.1)
    assert evaluate(Scored("held.csv", THREE, labels[:24], sure[:24])).scaling is None


def test_scores() -> None:
    labels, answers = np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.5, 1.0, 4.0, 4.0], dtype=np.float32)
    found = evaluate(Scored("held.csv", SCORE, labels, answers))
    assert found.residuals is not None
    assert found.residuals.mae == pytest.approx((0.5 + 0 + 2 + 1) / 4)
    assert found.residuals.rmse == pytest.approx(((0.25 + 0 + 4 + 1) / 4) ** 0.5)
    assert found.residuals.bias == pytest.approx((0.5 + 0 + 2 - 1) / 4)
    assert [one.row for one in found.mistakes] == [2, 3, 0, 1]
    assert (found.mistakes[0].label, found.mistakes[0].answer, found.mistakes[0].sure) == ("2", "4", 2.0)
    assert [judgement.metric for judgement in found.judgements] == ["spearman", "pearson"]
    assert (found.calibration, found.classes, found.wrong) == (None, (), None)


def test_json_holds_the_numbers(scored: Scored) -> None:
    found = json.loads(json.dumps(evaluate(scored).to_json()))
    assert found["examples"] == 60
    assert found["judgements"][0]["metric"] == "accuracy"
    assert found["classes"][1]["name"] == "yes"
    assert np.sum(found["confusion"]) == 60
    assert found["calibration"]["bins"][9]["high"] == 1.0
