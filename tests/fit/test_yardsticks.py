"""What a head is measured by: scikit-learn's own regression on the means of train, and how sure a score is."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression, RidgeCV

from glot.fit import regression, yardsticks
from glot.fit.regression import PENALTIES, fit_logistic
from glot.fit.result import Epoch, FitResult
from glot.fit.statistics import score_interval
from glot.fit.yardsticks import Yardstick, judge, measure_yardsticks
from glot.store.example_set import ExampleSet
from glot.store.reader import Cache

MakeCache = Callable[..., Path]


def measured(folder: Path, train: ExampleSet | None = None, **more: object) -> tuple[Cache, list[Yardstick]]:
    cache = Cache(folder)
    task = cache.examples_entry("train").task
    sets = {"validation": cache.examples("validation")}
    return cache, measure_yardsticks(cache, task, train or cache.examples("train"), sets, **more)


def features(cache: Cache, examples: ExampleSet) -> np.ndarray:
    """The means of the examples' texts by a loop, of pairs [a, b, |a - b|, a b]."""
    columns = [
        np.stack([cache.read_texts(2, np.array([text])).values.astype(float).mean(axis=0) for text in column])
        for column in examples.text_columns
    ]
    if len(columns) == 1:
        return columns[0]
    a, b = columns
    return np.concatenate([a, b, abs(a - b), a * b], axis=1)


@pytest.mark.parametrize("num_texts", [1, 2])
def test_the_regression_is_scikit_learns_on_the_same_means(
    make_fit_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, num_texts: int
) -> None:
    monkeypatch.setattr(regression, "STRENGTHS", (1e-2,))  # at which two solvers' stops differ by less than a hundredth
    cache, (majority, found) = measured(make_fit_cache(num_texts=num_texts))
    assert (majority.name, found.name, found.layer) == ("majority", "logistic regression on the mean", 2)
    train, validation = cache.examples("train"), cache.examples("validation")
    x = features(cache, train)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    expected = LogisticRegression(C=found.strength, max_iter=2000, tol=1e-8).fit((x - centre) / scale, train.label)
    z = (features(cache, validation) - centre) / scale
    raw = fit_logistic(x, train.label, 2, "none").raw(features(cache, validation))
    np.testing.assert_allclose(raw[:, 1] - raw[:, 0], expected.decision_function(z), atol=1e-2)
    assert (found.predictions["validation"] == expected.predict(z)).all()
    assert (majority.predictions["validation"] == np.bincount(train.label).argmax()).all()


def test_scores_are_estimated_by_ridge(make_fit_cache: MakeCache) -> None:
    cache, (found,) = measured(make_fit_cache(target="score", num_texts=2))
    assert found.name == "ridge regression on the mean"
    train = cache.examples("train")
    x = features(cache, train)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    expected = RidgeCV(PENALTIES).fit((x - centre) / scale, train.label)
    z = (features(cache, cache.examples("validation")) - centre) / scale
    np.testing.assert_allclose(found.predictions["validation"], expected.predict(z), atol=1e-3)
    assert found.strength == expected.alpha_


def spoil(monkeypatch: pytest.MonkeyPatch, layer: int, only: int | None = None) -> None:
    """Make noise of the means of a layer; with `only`, of the example set that has so many examples."""
    real = yardsticks.Means.features

    def spoilt(self: yardsticks.Means, examples: ExampleSet, number: int) -> np.ndarray:
        found = real(self, examples, number)
        if number == layer and only in (None, len(examples)):
            return np.random.default_rng(0).normal(size=found.shape).astype(np.float32)
        return found

    monkeypatch.setattr(yardsticks.Means, "features", spoilt)


def test_the_better_layer_is_chosen_on_train_alone(make_fit_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in the last layer makes the other the rival; noise in its validation set, or no labels, change nothing."""
    folder = make_fit_cache()
    spoil(monkeypatch, layer=2)
    cache, found = measured(folder)
    assert [some.name for some in found[1:]] == [f"logistic regression on the mean{end}" for end in ("", " of layer 1")]
    assert found[-1].layer == 1
    spoil(monkeypatch, layer=1, only=48)  # the validation set's
    assert measured(folder)[1][-1].layer == 1
    labels = cache.examples("validation").label
    line = judge("validation", labels, labels, ("accuracy",), found)[0].line
    assert re.fullmatch(r".*; logistic regression on the mean \d\d\.\d, of layer 1 100.0", line)
    train, unlabelled = cache.examples("train"), replace(cache.examples("validation"), label=None)
    task = cache.examples_entry("train").task
    again = measure_yardsticks(cache, task, train, {"validation": unlabelled})
    assert [some.strength for some in again] == [some.strength for some in found]


def test_of_many_examples_a_sample_is_taken_and_said(
    make_fit_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yardsticks, "MOST_ROWS", 40)
    cache, found = measured(make_fit_cache())
    assert (found[-1].rows, found[-1].of_rows) == (40, 96)
    labels = cache.examples("validation").label
    line = judge("validation", labels, labels, ("accuracy",), found)[0].line
    assert line.endswith(" (on 40 of 96 training examples)")


def test_train_of_one_class_or_with_a_class_of_one_example(make_fit_cache: MakeCache) -> None:
    folder = make_fit_cache()
    train = Cache(folder).examples("train")
    for label in (np.ones(96, dtype=np.int64), (np.arange(96) != 3).astype(np.int64)):
        _, found = measured(folder, train=replace(train, label=label))
        assert (found[-1].predictions["validation"] == 1).mean() > 0.9
        assert found[-1].layer == 2


def test_an_accuracys_interval_is_wilsons() -> None:
    for right, count in ((0, 3), (3, 3), (40, 40), (171, 203)):
        predictions = (np.arange(count) < right).astype(int)
        found = score_interval(predictions, np.ones(count, dtype=int), "accuracy")
        expected = binomtest(right, count).proportion_ci(method="wilson")
        assert (found.value, found.examples) == (right / count, count)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_interval_covers_the_true_f1_about_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), []
    for _ in range(150):
        labels = rng.integers(0, 2, 200)
        found = score_interval(np.where(rng.random(200) < 0.8, labels, 1 - labels), labels, "f1", 500)
        covered.append(found.low <= 0.8 <= found.high)
    assert 0.88 <= np.mean(covered) <= 1.0


def test_nothing_is_claimed_of_three_examples() -> None:
    labels = np.array([0, 1, 1])
    rival = Yardstick("logistic regression on the mean", {"validation": 1 - labels}, 9, 9, 2)
    accuracy, f1 = judge("validation", labels, labels, ("accuracy", "f1"), [rival])
    assert accuracy.line == (
        "validation (3 examples): accuracy 100.0 [43.9, 100.0]; logistic regression on the mean 0.0"
    )
    assert f1.line == "validation (3 examples): f1 100.0; logistic regression on the mean 0.0"
    assert accuracy.verdict is None
    (one,) = judge("validation", labels[:1], labels[:1], ("f1",))
    assert one.line == "validation (1 example): f1 0.0"
    (one,) = judge("validation", labels, labels, ("f1",), classes=("ham", "spam"))
    assert one.line == "validation (3 examples): f1 of spam 100.0"


@pytest.mark.parametrize(
    ("wrong", "theirs", "words"),
    [
        (0, 60, "clearly better than the logistic regression on the mean: +60.0 ["),
        (30, 33, "not clearly better than the logistic regression on the mean: +3.0 [+0.0, +7.0]"),
        (60, 0, "clearly worse than the logistic regression on the mean: -60.0 ["),
    ],
)
def test_the_verdict_is_as_clear_as_the_paired_interval(wrong: int, theirs: int, words: str) -> None:
    labels = np.arange(100) % 2
    flip = np.arange(100)
    rival = Yardstick("logistic regression on the mean", {"validation": labels ^ (flip < theirs)}, 9, 9, 2)
    found = judge("validation", labels ^ (flip < wrong), labels, ("accuracy",), [rival], chose=True)[0]
    assert found.verdict is not None
    assert found.verdict.startswith(words)
    assert ("chosen on these very examples" in found.verdict) == words.startswith("clearly better")
    assert " has " not in found.verdict
    other = replace(found, yardsticks={**found.yardsticks, "majority": 0.999})  # ahead of the head and of its rival
    assert other.verdict is not None
    assert other.verdict.endswith("; the majority has 99.9") == words.startswith("not clearly")
    level = replace(found, yardsticks={**found.yardsticks, "majority": found.score.value})  # with the head, and ahead
    assert (level.verdict or "").endswith(f"; the majority has {100 - wrong}.0") == (wrong < theirs)


def test_the_rival_is_the_regression_that_is_better_on_these_examples() -> None:
    """Whichever cross-validation likes best: so nobody is told of a lead over the worse of two."""
    labels, flip = np.arange(100) % 2, np.arange(100)
    last, other = (
        Yardstick(name, {"validation": labels ^ (flip < wrong)}, 9, 9, layer)
        for name, wrong, layer in (("regression", 20, 2), ("regression of layer 1", 30, 1))
    )
    (found,) = judge("validation", labels ^ (flip < 25), labels, ("accuracy",), [last, other])
    assert found.rival == "regression"
    assert found.verdict is not None
    assert found.verdict.startswith("clearly worse than the regression: -5.0 [")


def test_a_fit_ends_with_its_score_beside_the_yardsticks(glot: Callable[..., tuple], extracted: Path) -> None:
    options = ("--epochs", 2, "--hidden", 4)
    code, out, err = glot("fit", "--cache", extracted, *options, "--out", "run")
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.startswith("validation (40 examples): ")]
    assert [line.split()[3] for line in lines] == ["accuracy", "f1"]
    assert all("; majority " in line and "; logistic regression on the mean " in line for line in lines)
    assert sum("than the logistic regression on the mean: " in line for line in out.splitlines()) == 1
    code, out, _ = glot("--json", "fit", "--resume", "run")
    first = json.loads(out)["judgements"][0]
    assert (code, first["metric"], first["score"]["examples"]) == (0, "accuracy", 40)
    assert first["difference"]["value"] == pytest.approx(
        first["score"]["value"] - first["yardsticks"]["logistic regression on the mean"]
    )
    code, out, _ = glot("fit", "--resume", "run", "--no-yardsticks")
    assert (code, "regression on the mean" in out) == (0, False)


def test_seeds_are_judged_together(glot: Callable[..., tuple], extracted: Path) -> None:
    code, out, err = glot("fit", "--cache", extracted, "--epochs", 1, "--hidden", 4, "--seeds", "0,1", "--out", "run")
    assert code == 0, err
    scores = [json.loads(Path(f"run/seed-{s}/metrics.json").read_text())["best"]["validation"] for s in (0, 1)]
    mean = np.mean([found["accuracy"] for found in scores])
    assert f"validation (40 examples): accuracy {100 * mean:.1f} [" in out


def test_a_finished_run_whose_cache_is_gone_is_still_shown(glot: Callable[..., tuple], extracted: Path) -> None:
    assert glot("fit", "--cache", extracted, "--epochs", 1, "--hidden", 4, "--out", "run")[0] == 0
    extracted.rename("elsewhere")
    code, out, err = glot("fit", "--resume", "run")
    assert code == 0
    assert "accuracy" in out
    assert err.startswith("no yardsticks: run was trained on ")
    assert len(err.splitlines()) == 1


def test_without_labelled_validation_examples_there_is_nothing_to_say(
    glot: Callable[..., tuple], make_fit_cache: MakeCache
) -> None:
    folder = make_fit_cache(validation_sets=())
    code, out, err = glot("fit", "--cache", folder, "--select", "holdout", "--epochs", 1, "--out", "run")
    assert code == 0, err
    assert "regression" not in out + err


def test_training_that_had_not_converged_is_told() -> None:
    def fitted(*losses: float, best: int, start: float | None = None) -> FitResult:
        epochs = [Epoch(number + 1, loss, 1.0, {}) for number, loss in enumerate(losses)]
        begun = None if start is None else Epoch(0, start, 1.0, {})
        return FitResult("validation", "accuracy", epochs, best, {}, {}, {}, None, 1, 1.0, start=begun)

    assert fitted(1.0, 0.9, best=2).loss_fell == pytest.approx(0.1)
    assert fitted(0.9, best=1, start=1.0).loss_fell == pytest.approx(0.1)
    for quiet in (fitted(1.0, 0.9, best=1), fitted(1.0, 0.99, best=2), fitted(1.0, best=1), fitted(1.0, 1.1, best=2)):
        assert quiet.loss_fell is None
    assert fitted(0.5, best=0, start=1.0).loss_fell is None
    unwatched = replace(fitted(0.9, best=1, start=1.0), select="last")
    assert unwatched.loss_fell is None
    assert replace(unwatched, epochs=[*fitted(1.0, 0.9, best=2).epochs], best_epoch=2, start=None).loss_fell is not None


def test_the_command_says_that_training_had_not_converged(
    glot: Callable[..., tuple], extracted: Path, put_in_scores: Callable[..., None]
) -> None:
    put_in_scores(validation=[0.5, 0.6])
    code, out, err = glot(
        "fit",
        "--cache",
        extracted,
        "--hidden",
        16,
        "--lr",
        0.01,
        "--epochs",
        2,
        "--preset",
        "published",
        "--out",
        "run",
    )
    assert code == 0, err
    assert "training had not converged: the last epoch was the best, and its loss " in out


def test_a_sweep_names_its_best_run_and_how_sure_its_score_is(glot: Callable[..., tuple], extracted: Path) -> None:
    options = ("--tau", "0.3,0.6", "--seeds", "0..1", "--epochs", 1, "--hidden", 4, "--out", "swept")
    code, out, err = glot("sweep", "--cache", extracted, *options)
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("best: tau 0.")]
    assert " on the 40 examples of validation, the mean of 2 seeds" in line
    (line,) = [line for line in out.splitlines() if line.startswith("its best seed: ")]
    run = line.removeprefix("its best seed: ").partition(";")[0]
    assert Path(run, "head.safetensors").exists()
    with open("swept/sweep.csv", newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert len(rows) == 4
    assert rows[run]["seed"] == run.rpartition("-")[2]
    assert line.endswith(f" {float(rows[run]['best']):.1f}")
    assert "it is the best of 4 heads by this score, which flatters it" in out
    code, out, _ = glot("--json", "sweep", "--resume", "swept")
    best = json.loads(out)["best"]
    assert best["run"] == run
    assert best["score"]["low"] < best["score"]["value"] < best["score"]["high"]
