"""What train alone promises of the winner of `glot tune`, and what is said once another set is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("optuna", reason="optuna is not installed (extra: tune)")

from glot.fit import study as studies
from glot.fit import tune as tuning
from glot.fit.promise import Promise
from glot.fit.run_folder import RunConfig
from glot.fit.statistics import Interval, score_interval
from glot.fit.study import StudyFile, folds_of
from glot.fit.tune import Tuner
from glot.fit.yardsticks import Judgement
from glot.store.files import make_folder
from glot.store.reader import Cache

MakeCache = Callable[..., Path]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glot.fit.presets._pace", lambda options, task, examples: {"lr": 1e-3, "epochs": 1})
    monkeypatch.setattr("glot.fit.regression.STRENGTHS", (0.1,))
    monkeypatch.setattr(studies, "SPACE", replace(studies.SPACE, hidden=(4, 8)))


def searched(cache: Path, folder: Path) -> Tuner:
    """A study whose first candidates are scored."""
    opened = Cache(cache)
    StudyFile.of(opened).save(make_folder(folder))
    tuner = Tuner(folder, opened, "cpu")
    tuner.search(0)
    return tuner


def test_it_is_the_winners_score_on_what_was_held_out(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    tuner = searched(make_fit_cache(train=40, validation=8), tmp_path / "study")
    tuner.finish()
    folds = range(len(tuner.winner().user_attrs["scores"]))
    answers = [np.load(tuner._held_out(tuner.winner().number, fold)) for fold in folds]
    labels = [tuner.examples.subset(tuner.fold_of == fold).label for fold in folds]
    promise = tuner.promise()
    assert promise is not None
    assert promise.score == score_interval(np.concatenate(answers), np.concatenate(labels), "accuracy")
    assert (promise.learned, promise.of, promise.score.examples) == (32, 40, 8 * len(folds))
    assert not (tuner.folder / tuning.PROMISE).exists()  # the hold-outs are of all of train
    for path in (tuner.folder / tuning.HELD_OUT).iterdir():  # a study of before they were kept
        path.unlink()
    assert tuner.promise() is None


def test_of_a_large_train_the_winner_is_trained_once_more_without_a_fifth(
    make_fit_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "MOST", 30)
    tuner = searched(make_fit_cache(train=60, validation=8), tmp_path / "study")
    assert len(tuner.examples) == 30
    assert tuner.promise() is None  # it is not trained yet
    tuner.finish()
    promise, run = tuner.promise(), tuner.folder / tuning.PROMISE
    assert promise is not None
    assert (promise.learned, promise.of, promise.score.examples) == (48, 60, 12)
    every = tuner.cache.examples("train")
    held = every.label[folds_of(every.label) == 0]
    np.testing.assert_array_equal(np.load(run / "labels-holdout.npy"), held)
    best = RunConfig.load(tuner.folder / tuning.BEST)
    assert RunConfig.load(run) == replace(best, data={"train": best.data["train"]})  # no other set is named, so read
    before = (run / "metrics.json").stat().st_mtime_ns
    tuner.finish()
    assert (run / "metrics.json").stat().st_mtime_ns == before


def test_of_many_scores_it_is_that_of_the_examples_which_chose_the_epoch(
    make_fit_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "MOST", 30)
    monkeypatch.setattr("glot.fit.tune.select_of", lambda task, examples: "holdout")
    tuner = searched(make_fit_cache(target="score", train=60, validation=8), tmp_path / "study")
    tuner.finish()
    promise = tuner.promise()
    assert promise is not None
    assert (promise.metric, promise.learned, promise.score.examples) == ("spearman", 54, 6)
    assert not (tuner.folder / tuning.PROMISE).exists()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            Interval(0.85, 0.82, 0.88, 500),
            "validation is 5.0 above the expected 80.0, which chance explains (up to 5.0)",
        ),
        (
            Interval(0.78, 0.75, 0.82, 500),
            "validation is 2.0 below the expected 80.0, which chance explains (up to 6.4)",
        ),
        (Interval(0.86, 0.83, 0.90, 500), "more than chance (up to 5.0): its examples are easier than those of train"),
        (Interval(0.70, 0.67, 0.74, 500), "more than chance (up to 6.4): its examples are of another kind"),
        (Interval(0.70, None, None, 10), None),
    ],
)
def test_another_set_bears_it_out_or_does_not(found: Interval, said: str | None) -> None:
    promise = Promise("accuracy", Interval(0.80, 0.75, 0.84, 300), 400, 500)
    assert promise.line == (
        "expected of other examples like these: accuracy 80.0 [75.0, 84.0] (300 held-out examples, heads trained on "
        "400 of 500)"
    )
    verdict = promise.verdict(Judgement("validation", "accuracy", found))
    assert verdict == said or (said is not None and said in (verdict or ""))
    assert promise.is_kept(found) is (None if said is None else "which chance explains" in said)
