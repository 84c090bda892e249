"""Labels that were turned round are doubted, doubled texts are found, and the learning curve is the regression's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from glot.fit.curve import learning_curve
from glot.fit.doubts import find_doubts, find_duplicates, texts_of
from glot.fit.options import FitOptions
from glot.fit.run import make_configs
from glot.fit.yardsticks import Means, measure_yardsticks
from glot.store.example_set import ExampleSet
from glot.store.label_sets import to_indicator
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

MakeCache = Callable[..., Path]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glot.fit.regression.STRENGTHS", (1.0,))


def test_labels_that_were_turned_round_are_doubted(make_fit_cache: MakeCache) -> None:
    cache = Cache(make_fit_cache(train=120))
    train = cache.examples("train")
    means = Means(cache, cache.examples_entry("train").task, "all", "none")
    clear = np.argsort(-np.abs(means.features(train, 2)[:, 0]))  # by the number that the labels are made of
    label, turned = train.label.copy(), clear[:3]
    label[turned] = 1 - label[turned]
    found = find_doubts(cache, replace(train, label=label), means, 2)
    assert found is not None
    assert found.of == 120
    assert set(train.index[turned].tolist()) == {one.row for one in found.found[:3]}
    assert len(found.found) < 30
    assert 30 > round(120 * (1 - found.right)) >= len(found.found)  # of two classes each in doubt is told wrongly
    first = found.found[0]
    place = int(np.flatnonzero(train.index == first.row)[0])
    assert (first.label, first.other) == (("no", "yes")[label[place]], ("no", "yes")[1 - label[place]])
    assert first.label_share == pytest.approx(1 - first.other_share, abs=1e-6)
    assert first.other_share > 0.5
    assert first.texts == texts_of(cache, train.subset(np.array([place])))[0]
    assert find_doubts(cache, train.subset(np.arange(39)), means, 2) is None


def test_what_too_few_have_is_not_doubted(make_fit_cache: MakeCache) -> None:
    """A fold that has seen none of them would doubt each."""
    cache = Cache(make_fit_cache(train=120))
    train, task = cache.examples("train"), TaskSpec("made", 1, "classes", ("no", "yes", "rare"), metrics=("accuracy",))
    label = train.label.copy()
    label[:9] = 2
    found = find_doubts(cache, replace(train, label=label), Means(cache, task, "all", "none"), 2)
    assert found is not None
    assert "rare" not in {one.label for one in found.found}
    codes = (1 << train.label) | np.where(np.arange(120) < 9, 4, 0)
    names = ("no", "yes", "rare")
    several = Means(cache, TaskSpec("made", 1, "labels", names, metrics=("micro_f1",)), "all", "none")
    found = find_doubts(cache, replace(train, label=codes), several, 2)
    assert found is not None
    assert "rare" not in {one.name for one in found.found}


@pytest.fixture
def several(make_fit_cache: MakeCache) -> tuple[Cache, ExampleSet, Means]:
    """120 texts that have "yes" by what a regression can learn, "no" without it, and "rain" at random."""
    cache = Cache(make_fit_cache(train=120))
    train = cache.examples("train")
    rain = np.random.default_rng(0).random(120) < 0.2
    task = TaskSpec("made", 1, "labels", ("yes", "no", "rain"), metrics=("micro_f1",))
    train = replace(train, label=np.where(train.label == 1, 1, 2) + 4 * rain)
    return cache, train, Means(cache, task, "all", "none")


def test_of_several_labels_each_is_doubted_by_itself(several: tuple[Cache, ExampleSet, Means]) -> None:
    cache, train, means = several
    clear = np.argsort(-np.abs(means.features(train, 2)[:, 0]))  # by the number that "yes" and "no" are made of
    label = train.label & 3
    kinds = [clear[label[clear] == kind] for kind in (1, 2)]
    missing, wrong, both = kinds[0][0], kinds[1][0], kinds[0][1]
    label[missing], label[wrong], label[both] = 0, 3, 2  # "yes" lacks; "yes" is too much; "no" stands for "yes"
    found = find_doubts(cache, replace(train, label=label), means, 2)
    assert found is not None
    assert found.of == 120
    row = train.index
    expected = {
        (row[missing], "yes", True, "none", "yes"),
        (row[wrong], "yes", False, "yes, no", "no"),
        (row[both], "yes", True, "no", "yes, no"),
        (row[both], "no", False, "no", "none"),
    }
    assert {(one.row, one.name, one.is_missing, one.label, one.other) for one in found.found[:4]} == expected
    assert [one.is_missing for one in found.found[:4]] == [True, False] * 2  # in turn
    assert all(one.label_share == pytest.approx(1 - one.other_share, abs=1e-6) for one in found.found)
    assert found.found[0].texts == texts_of(cache, train.subset(np.flatnonzero(row == found.found[0].row)))[0]


def test_labels_are_doubted_as_by_scikit_learns_held_out_probabilities(
    several: tuple[Cache, ExampleSet, Means],
) -> None:
    """Confident learning by a loop; what lies within a hundredth of the line may fall on either side."""
    cache, train, means = several
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    folds = KFold(5, shuffle=True, random_state=0)
    surely, perhaps = set(), set()
    for name, has in zip(means.task.classes, to_indicator(train.label, 3).T, strict=True):
        shares = cross_val_predict(model, means.features(train, 2), has, cv=folds, method="predict_proba")
        for place, real in enumerate(has):
            other = shares[place, 1 - real]
            margin = min(other - shares[place, real], other - shares[has != real, 1 - real].mean())
            surely |= {(train.index[place], name)} if margin > 0.01 else set()
            perhaps |= {(train.index[place], name)} if margin > -0.01 else set()
    found = find_doubts(cache, train, means, 2)
    assert found is not None
    assert len(surely) > 3
    assert surely <= {(one.row, one.name) for one in found.found} <= perhaps


def test_scores_far_from_what_the_others_say_are_doubted(make_fit_cache: MakeCache) -> None:
    cache = Cache(make_fit_cache(train=120, target="score"))
    train = cache.examples("train")
    label = train.label.copy()
    label[7] = 40.0
    means = Means(cache, cache.examples_entry("train").task, "all", "none")
    found = find_doubts(cache, replace(train, label=label), means, 2)
    assert found is not None
    assert found.found[0].row == 7
    assert (found.found[0].label, found.found[0].label_share) == ("40", None)


def test_texts_of_pairs_are_the_caches(make_fit_cache: MakeCache) -> None:
    cache = Cache(make_fit_cache(num_texts=2))
    some = cache.examples("validation").subset(np.array([4, 1]))
    for pair, ids in zip(texts_of(cache, some), zip(some.text_id, some.text_id_b, strict=True), strict=True):
        assert pair == tuple(cache.plan.texts(text, text + 1)[0] for text in ids)


def test_doubled_texts() -> None:
    task = TaskSpec("made", 1, "classes", ("no", "yes"))
    scored = [(0, ("A  dog ",), 1), (1, ("a cat",), 0), (2, ("rain",), 0)]
    train = [(10, ("a dog",), 1), (11, ("RAIN",), 1), (12, ("rain",), 0)]
    found = find_duplicates(task, scored, train)
    assert [(one.row, one.train_row, one.label, one.train_label) for one in found] == [
        (2, 11, "no", "yes"),
        (0, 10, "yes", "yes"),
    ]


def test_the_curve_ends_at_the_yardstick(make_fit_cache: MakeCache) -> None:
    cache = Cache(make_fit_cache(train=64, validation=40))
    config = make_configs(cache, FitOptions(epochs=1, hidden=4, device="cpu"))[0]
    curve = learning_curve(cache, config)
    assert [point.examples for point in curve.points] == [8, 16, 32, 64]
    assert (curve.metric, curve.set_name) == ("accuracy", "validation")
    held = cache.examples("validation")
    rival = measure_yardsticks(cache, config.task, cache.examples("train"), {"validation": held}, layer=2)[1]
    right = (rival.predictions["validation"] == held.label).mean()
    assert curve.points[-1].score.value == pytest.approx(right)
    gain = curve.points[-1].gain
    assert gain is not None
    assert gain.value == pytest.approx(right - curve.points[-2].score.value)
    assert "to 64 labels" in curve.verdict
