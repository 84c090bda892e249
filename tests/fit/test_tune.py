"""`glot tune`: candidates are pruned, a study goes on where it was, and only train is looked at before its end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("optuna", reason="optuna is not installed (extra: tune)")

import optuna
from optuna.trial import TrialState

from glot.errors import FaultError, Stopped, UsageError
from glot.fit import study as studies
from glot.fit import tune as tuning
from glot.fit.learner import Learner
from glot.fit.result import FitResult
from glot.fit.run import FitOptions, make_configs
from glot.fit.run_folder import RunConfig
from glot.fit.study import StudyFile, check_tunable, propose, settings_of
from glot.fit.tune import Searcher, Tuner
from glot.store.claims import Claims, Owner
from glot.store.files import make_folder
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
HOUR = 3600.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glot.fit.presets._pace", lambda options, task, examples: {"lr": 1e-3, "epochs": 2})
    monkeypatch.setattr("glot.fit.regression.STRENGTHS", (0.1,))
    monkeypatch.setattr(studies, "SPACE", replace(studies.SPACE, hidden=(4, 8)))


def begin(cache: Path, folder: Path) -> Tuner:
    """A new study of a cache."""
    opened = Cache(cache)
    check_tunable(opened)
    StudyFile.of(opened).save(make_folder(folder))
    return Tuner(folder, opened, "cpu")


def trials(tuner: Tuner) -> list[tuple]:
    """What is known of each candidate, but for who trained it and when."""
    found = tuner.study.get_trials()
    return [(trial.number, trial.state.name, trial.params, trial.user_attrs.get("scores")) for trial in found]


@pytest.mark.parametrize("target", ["classes", pytest.param("score", marks=pytest.mark.slow)])
def test_a_study_ends_with_a_winner_and_yardsticks(make_fit_cache: MakeCache, tmp_path: Path, target: str) -> None:
    tuner = begin(make_fit_cache(num_texts=2, target=target, train=40, validation=24), tmp_path / "study")
    told = []
    tuner.search(HOUR, 7, on_round=lambda standing, left: told.append((standing.candidates, left > 0)))
    assert told == [(4, True), (7, True)]
    first = [trial.user_attrs.get("first") for trial in tuner.study.get_trials()]
    assert first == [*tuning.FIRST, *[None] * 3]
    best = tuner.finish()
    assert best == tmp_path / "study/best"
    winner, config = tuner.winner(), RunConfig.load(best)
    assert mean(winner.user_attrs["scores"]) == tuner.standing().best
    assert len(winner.user_attrs["scores"]) == 3
    made = asdict(config.pooler) | asdict(config.train)
    wanted = {name: value for name, value in settings_of(winner.params).items() if name in made}
    assert {name: made[name] for name in wanted} == wanted
    assert config.train.select == "last"  # for 40 examples are few: all are trained on
    assert set(FitResult.load(best).best) == {"validation"}
    heads = {path.name for path in (tmp_path / "study/yardsticks").iterdir()}
    assert heads == {"published", "adapool", "mean"}


def test_the_run_of_strong_is_that_of_a_fit(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    tuner = begin(make_fit_cache(num_texts=2, train=40, validation=24), tmp_path / "study")
    tuner.search(0)
    [strong] = [trial for trial in tuner.study.get_trials() if trial.user_attrs.get("first") == "strong"]
    expected = make_configs(tuner.cache, FitOptions(preset="strong", select="last", device="cpu"))[0]
    assert tuner._config(strong.params) == expected


@pytest.mark.parametrize(
    ("right", "wins", "said"),
    [
        (12, True, "clearly better than the preset strong: accuracy +50.0 ["),
        (1, False, "not clearly better than the preset strong, which wins: layers mixed, adapool"),
        (-3, False, "no candidate scored above the preset strong, which is the winner"),
    ],
)
def test_another_than_strong_wins_where_it_is_clearly_better(
    make_fit_cache: MakeCache, tmp_path: Path, right: int, wins: bool, said: str
) -> None:
    """The leader is right on so many more of the 24 held-out examples than strong, which is right on half of them."""
    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    tuner.queue_first(again=True)
    [_, strong, other, _] = tuner._ask(4)
    label = np.concatenate([tuner.examples.label[tuner.fold_of == fold] for fold in range(3)])
    for candidate, count in ((strong, 12), (other, 12 + right)):
        answers = np.where(np.arange(24) < count, label, 1 - label)
        for fold, part in enumerate(np.split(answers, 3)):
            np.save(tuner._held_out(candidate.trial.number, fold), part)
        correct = np.split(answers == label, 3)
        candidate.trial.set_user_attr("scores", [float(part.mean()) for part in correct])
    assert (tuner.winner().number == other.trial.number) == wins
    assert said in tuner.verdict()
    for path in (tuner.folder / tuning.HELD_OUT).iterdir():  # a study of before they were kept
        path.unlink()
    assert (tuner.winner().number == other.trial.number) == (right > 0)


def test_what_is_behind_is_pruned_and_the_first_are_not(
    make_fit_cache: MakeCache, tmp_path: Path, put_in_scores: Callable[..., None]
) -> None:
    """All but the first score 0: each is given up at the epoch from which it may be."""
    scored = Learner._record

    def record(head: Learner, position: object, scores: dict, *more: object) -> bool:
        value = 0.9 if int(head.folder.name) < len(tuning.FIRST) else 0.0
        return scored(head, position, {name: dict.fromkeys(found, value) for name, found in scores.items()}, *more)

    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    with mock.patch.object(Learner, "_record", record):
        tuner.search(HOUR, 7)
    states = [state for _, state, *_ in trials(tuner)]
    assert states == ["COMPLETE"] * 4 + ["PRUNED"] * 3
    # One that begins at the regression may be good before its first epoch: it is scored once more.
    assert {len(trial.intermediate_values) for trial in tuner.study.get_trials()[4:]} <= {1, 2}
    assert tuner.standing().pruned == 3
    assert tuner.winner().number < 4


@pytest.mark.slow
def test_a_study_goes_on_as_if_it_had_not_been_stopped(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    cache = make_fit_cache(train=40, validation=24)
    whole = begin(cache, tmp_path / "whole")
    whole.search(HOUR, 7)
    begin(cache, tmp_path / "parts").search(HOUR, 4)
    parts = Tuner(tmp_path / "parts", Cache(cache), "cpu")
    parts.search(HOUR, 7)
    assert trials(parts) == trials(whole)


def test_two_at_a_study_do_not_repeat_each_other(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    ours = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    ours.search(HOUR, 4)
    theirs = Tuner(tmp_path / "study", ours.cache, "cpu")
    asked = [*ours._ask(3), *theirs._ask(3)]
    assert len({candidate.trial.number for candidate in asked}) == 6
    assert len({json.dumps(candidate.trial.params) for candidate in asked}) == 6


def test_ctrl_c_keeps_what_was_finished(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    with pytest.raises(Stopped):
        tuner.search(HOUR, should_stop=lambda: len(tuner.study.get_trials()) > 5)
    states = [state for _, state, *_ in trials(tuner)]
    assert states == ["COMPLETE"] * 4 + ["FAIL"] * 6
    again = Tuner(tmp_path / "study", tuner.cache, "cpu")
    with Claims(tmp_path / "study") as claims:
        assert claims.acquire("end")
        assert again.finish() is None  # for another process is at it
    assert (again.finish() / "metrics.json").exists()


def test_what_was_stopped_or_killed_at_the_first_is_made_up_for(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    with pytest.raises(UsageError, match="no candidate yet: go on with `glot tune --resume"):
        tuner.winner()
    tuner.queue_first(again=True)
    killed = subprocess.Popen([sys.executable, "-c", "pass"])
    killed.wait()
    for candidate in tuner._ask(4):
        candidate.trial.set_user_attr("owner", {**asdict(Owner.me()), "pid": killed.pid})
    again = Tuner(tmp_path / "study", tuner.cache, "cpu")
    again.search(0)
    assert [state for _, state, *_ in trials(again)][:4] == ["FAIL"] * 4
    assert {trial.user_attrs["first"] for trial in again.study.get_trials()[4:]} == set(tuning.FIRST)
    assert all(len(trial.user_attrs["scores"]) == 1 for trial in again.study.get_trials()[4:])


def test_many_that_begin_at_once_keep_to_the_number_of_candidates(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    """All see the first ones waiting; who comes late gets new ones, and no more than are left."""
    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    tuner.queue_first(again=True)
    waiting = len(tuner._trials(TrialState.WAITING))
    asked = [Tuner(tmp_path / "study", tuner.cache, "cpu")._ask(waiting, most=6) for _ in range(4)]
    assert [len(candidates) for candidates in asked] == [4, 2, 0, 0]


def test_a_place_that_another_fills_again_gives_up_what_its_last_one_had(
    make_fit_cache: MakeCache, tmp_path: Path
) -> None:
    """Of one living process that has others search for it: each place knows its own candidates."""
    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    me = Owner.me()
    tuner.queue_first(again=True)
    for place in (0, 1):
        tuner.searcher = Searcher(me, place)
        tuner._ask(2)
    again = Tuner(tmp_path / "study", tuner.cache, "cpu")
    again.searcher = Searcher(replace(me, since="later"), 1)
    again.queue_first(again=True)
    lost = [trial.number for trial in again.study.get_trials() if trial.state == TrialState.FAIL]
    at = [trial.user_attrs["place"] for trial in again.study.get_trials() if trial.state == TrialState.RUNNING]
    assert (lost, at) == ([2, 3], [0, 0])
    queued = [trial for trial in again.study.get_trials() if trial.state == TrialState.WAITING]
    assert [trial.user_attrs["first"] for trial in queued] == list(tuning.FIRST)[2:]


def test_without_time_the_first_are_scored_on_one_hold_out(
    make_fit_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here from states that are streamed."""
    monkeypatch.setattr("glot.fit.run.available_memory", lambda: 0)
    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    tuner.search(0)
    assert [len(scores) for *_, scores in trials(tuner)] == [1, 1, 1, 1]
    assert tuner.standing().hold_outs == 1
    assert tuner._config(tuner.winner().params).train.window is not None
    with pytest.MonkeyPatch.context() as without:
        without.setattr(Tuner, "_run_round", None)
        Tuner(tuner.folder, tuner.cache, "cpu").search(0)  # which ends at once


def test_one_that_diverges_leaves_the_others_alone(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    flush = Learner.flush_loss

    def flushed(head: Learner, epoch: int) -> None:
        if head.folder.name == "1":
            head.lost += float("nan")
        flush(head, epoch)

    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    with mock.patch.object(Learner, "flush_loss", flushed):
        tuner.search(HOUR, 4)
    assert [state for _, state, *_ in trials(tuner)] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.slow
def test_nothing_but_train_is_looked_at_before_the_end(
    make_fit_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same winner whatever the labels of validation are, and its states are not even read."""

    def searched(poison: Callable[[np.ndarray], np.ndarray]) -> Tuner:
        examples = Cache.examples

        def poisoned(cache: Cache, name: str) -> object:
            found = examples(cache, name)
            return found if name == "train" else replace(found, label=poison(found.label))

        with mock.patch.object(Cache, "examples", poisoned):
            tuner = begin(cache, tmp_path / poison.__name__)
            with mock.patch.object(Cache, "read_texts", autospec=True, side_effect=Cache.read_texts) as read:
                tuner.search(HOUR, 7)
            seen.extend(np.concatenate([call.args[2] for call in read.call_args_list]).tolist())
            tuner.finish()
        return tuner

    def as_they_are(label: np.ndarray) -> np.ndarray:
        return label

    def turned(label: np.ndarray) -> np.ndarray:
        return 1 - label

    monkeypatch.setattr(tuning, "MOST", 30)
    cache, seen = make_fit_cache(train=40, validation=24), []
    right, wrong = searched(as_they_are), searched(turned)
    assert set(seen) <= set(Cache(cache).examples("train").used_ids().tolist())
    assert trials(right) == trials(wrong)
    assert right.promise() == wrong.promise()
    scores = [FitResult.load(tuner.folder / "best").best["validation"]["accuracy"] for tuner in (right, wrong)]
    assert scores[0] == pytest.approx(1 - scores[1])


def test_folds_have_their_share_of_every_class(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    labels = np.r_[np.zeros(80, int), np.ones(15, int)]
    folds = studies.folds_of(labels)
    assert [np.bincount(labels[folds == fold]).tolist() for fold in range(5)] == [[16, 3]] * 5


def test_every_setting_of_the_space_is_one_of_a_fit(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    tuner = begin(make_fit_cache(num_texts=2, train=40, validation=24), tmp_path / "study")
    study, made = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), set()
    for _ in range(60):
        trial = study.ask()
        settings = propose(trial, tuner.cache)
        config = tuner._config(trial.params)
        assert ("tau" in settings) == (settings.get("graph") == "cosine")
        made.add((config.pooler.pooler, config.pooler.graph, config.layers, config.train.start))
    assert {pooler for pooler, *_ in made} == {"glot", "adapool", "mean"}
    assert {layers for *_, layers, _ in made} == {(1,), (2,), (1, 2)}


@pytest.mark.parametrize(
    ("change", "what"), [({"train": "other"}, "training examples"), ({"states": {"width": 1}}, "states")]
)
def test_a_study_of_other_data_is_refused(make_fit_cache: MakeCache, tmp_path: Path, change: dict, what: str) -> None:
    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    replace(StudyFile.of(tuner.cache), **change).save(tmp_path / "study")
    with pytest.raises(UsageError, match=f"is a study of other {what} than .* holds: tune anew with --out"):
        Tuner(tmp_path / "study", tuner.cache, "cpu")


def test_what_cannot_be_tuned_is_refused(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has 9 training examples: glot tune needs 10 or more"):
        begin(make_fit_cache("few", train=9), tmp_path / "few")
    cache = Cache(make_fit_cache("one", train=40))
    examples = cache.examples("train")
    alike = replace(examples, label=np.zeros_like(examples.label))
    with (
        mock.patch.object(Cache, "examples", return_value=alike),
        pytest.raises(UsageError, match="all of one class: there is nothing to learn"),
    ):
        begin(cache.folder, tmp_path / "one")
    with (
        mock.patch("importlib.util.find_spec", return_value=None),
        pytest.raises(UsageError, match="needs Optuna: pip install 'glot-pipeline\\[tune\\]'"),
    ):
        check_tunable(cache)


@pytest.mark.parametrize("damage", ["cut", "short"])
def test_damaged_answers_are_one_line(make_fit_cache: MakeCache, tmp_path: Path, damage: str) -> None:
    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    tuner.search(HOUR, 4)
    path = min((tuner.folder / tuning.HELD_OUT).iterdir())
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        np.save(path, np.load(path)[1:])
    trial = next(one for one in tuner._scored() if path.name.startswith(f"{one.number}-"))
    with pytest.raises(FaultError, match=rf"{path.name} (is damaged|holds \d+ numbers for \d+ examples).*; remove it"):
        tuner._lead(trial, trial)


def test_a_damaged_journal_is_one_line(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    path = tmp_path / "study" / studies.JOURNAL_FILE
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(FaultError, match=r"study\.journal is damaged"):
        Tuner(tmp_path / "study", tuner.cache, "cpu")
