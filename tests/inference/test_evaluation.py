"""A run on a cache: the scores of `evaluate_head`, beside the yardsticks of `fit`, and the words of the errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glot.errors import UsageError
from glot.fit.calibration import fit_temperature
from glot.fit.doubts import texts_of
from glot.fit.ensemble_run import estimate_heads
from glot.fit.options import FitOptions
from glot.fit.run import finish_runs, make_configs, prepare_runs
from glot.fit.training_data import read_train
from glot.fit.yardsticks import judge_each
from glot.inference.evaluation import evaluate_cache
from glot.inference.labelled import EvaluateOptions
from glot.inference.predictions import evaluate_head
from glot.report.gather import gather_page
from glot.store.reader import Cache

MakeCache = Callable[..., Path]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glot.fit.regression.STRENGTHS", (0.1,))


@pytest.fixture
def trained(make_fit_cache: MakeCache, tmp_path: Path) -> tuple[Path, Cache]:
    """A run, and its cache with two validation sets."""
    cache = Cache(make_fit_cache(train=48, validation=30, validation_sets=("validation", "validation_other")))
    options = FitOptions(epochs=1, hidden=4, device="cpu")
    prepare_runs(make_configs(cache, options), tmp_path / "run")
    finish_runs(tmp_path / "run")
    return tmp_path / "run", cache


def test_scores_and_yardsticks_are_those_of_the_fit(trained: tuple[Path, Cache]) -> None:
    run, cache = trained
    found = evaluate_cache(run, cache, "validation", source="held.csv")
    scores = evaluate_head(run, cache, "validation", "cpu", "dense")
    assert {one.metric: one.score.value for one in found.judgements} == pytest.approx(scores)
    fitted = next(one for one in judge_each([[run]], cache)[0] if one.set_name == "validation")
    assert found.judgements[0].yardsticks == fitted.yardsticks
    assert found.judgements[0].difference == fitted.difference
    assert found.judgements[0].set_name == found.scored.source == "held.csv"
    assert found.judgements[0].chose
    assert found.scaling is not None
    assert found.scaling.source == "validation_other"  # never the scored examples
    assert not evaluate_cache(run, cache, "validation_other").judgements[0].chose
    assert not evaluate_cache(run, cache, "validation", EvaluateOptions(yardsticks=False)).judgements[0].yardsticks


def test_without_another_set_the_temperature_is_that_of_what_was_kept_aside(
    make_fit_cache: MakeCache, tmp_path: Path
) -> None:
    cache = Cache(make_fit_cache(train=240, validation=30))
    options = FitOptions(epochs=1, hidden=4, device="cpu", select="holdout")
    prepare_runs(make_configs(cache, options), tmp_path / "run")
    finish_runs(tmp_path / "run")
    found = evaluate_cache(tmp_path / "run", cache, "validation")
    assert found.scaling is not None
    assert (found.scaling.source, found.scaling.examples) == ("train that chose the epoch", 24)
    answers, labels = (np.load(tmp_path / "run" / f"{name}-holdout.npy") for name in ("predictions", "labels"))
    aside = read_train(cache, "train", make_configs(cache, options)[0].train, None)[1]
    assert aside is not None
    estimates, _ = estimate_heads([tmp_path / "run"], cache, aside, "cpu", "dense")
    np.testing.assert_array_equal(estimates.argmax(axis=1), answers)
    assert found.scaling.temperature == fit_temperature(estimates, labels)


def test_errors_have_their_texts_and_words(trained: tuple[Path, Cache]) -> None:
    run, cache = trained
    examples = cache.examples("validation")
    found = evaluate_cache(run, cache, "validation", with_weights=True)
    assert found.scored.rows is not None
    assert (np.diff(found.scored.rows) > 0).all()  # in the order of the source
    assert found.mistakes
    for one in found.mistakes:
        place = np.flatnonzero(examples.index == one.row)
        assert one.texts == texts_of(cache, examples.subset(place))[0]
        assert one.label == ("no", "yes")[examples.label[place[0]]] != one.answer
        (weights,) = one.weights
        assert sum(weights.weights) == pytest.approx(1)
        assert len(weights.tokens) == cache.plan.length[examples.text_id[place[0]]]
    named = evaluate_cache(run, cache, "validation", texts={row: (f"row {row}",) for row in range(30)})
    assert all(one.texts == (f"row {one.row}",) for one in named.mistakes)


def test_what_stands_on_the_page(trained: tuple[Path, Cache]) -> None:
    run, cache = trained
    page = gather_page(run, evaluate_cache(run, cache, "validation"), cache)
    assert page.counts is not None
    train = cache.examples("train").label
    assert page.counts["train"] == [int((train == 0).sum()), int((train == 1).sum())]
    assert list(page.counts) == ["train", "validation", "validation_other"]
    assert page.duplicates == ()
    assert page.curve is not None
    assert page.curve.set_name == "validation"
    assert page.doubts is not None
    assert page.settings is not None
    assert dict(page.settings)["backbone"] == "tiny"
    cache.examples("train")  # is open still


def test_a_set_without_labels_is_refused(trained: tuple[Path, Cache]) -> None:
    run, cache = trained
    with pytest.raises(UsageError, match="no example set 'test'"):
        evaluate_cache(run, cache, "test")
