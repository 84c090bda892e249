"""Ensembles of `glot tune`: which candidates, what their mean predicts, and folders that are not whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("optuna", reason="optuna is not installed (extra: tune)")

from glot.errors import FaultError, Stopped, UsageError
from glot.fit import ensemble_run
from glot.fit.ensemble import find_heads
from glot.fit.ensemble_run import score_ensemble
from glot.fit.head_model import HeadModel, load_head
from glot.fit.run_folder import RunConfig
from glot.fit.states import StreamedStates
from glot.fit.study import StudyFile, preset_params
from glot.fit.tune import Tuner
from glot.fit.yardsticks import judge_each
from glot.inference.predictions import evaluate_head
from glot.store.files import make_folder
from glot.store.reader import Cache

MakeCache = Callable[..., Path]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glot.fit.presets._pace", lambda options, task, examples: {"lr": 1e-3, "epochs": 1})
    monkeypatch.setattr("glot.fit.regression.STRENGTHS", (0.1,))


def begin(cache: Path, folder: Path) -> Tuner:
    """A new study of a cache."""
    opened = Cache(cache)
    StudyFile.of(opened).save(make_folder(folder))
    return Tuner(folder, opened, "cpu")


@pytest.fixture
def tuned(make_fit_cache: MakeCache, tmp_path: Path) -> Tuner:
    """A study that scored the first candidates, each on one hold-out."""
    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    tuner.search(0)
    return tuner


def test_members_are_the_best_that_differ(
    make_fit_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner = begin(make_fit_cache(train=40, validation=24), tmp_path / "study")
    plain = preset_params(tuner.cache, "published")

    def scored(*scores: float, **settings: object) -> SimpleNamespace:
        return SimpleNamespace(params={**plain, **settings}, user_attrs={"scores": list(scores)})

    mean = {"pooler": "mean", "lr": 0.004}
    found = [
        scored(1.0, lr=0.001),  # the best of all, on one hold-out alone
        scored(0.7, 0.7, 0.7, lr=0.002),
        scored(0.8, 0.8, 0.8, lr=0.003),
        scored(0.8, 0.8, 0.8, **mean),  # as good as the one before, and later
        scored(0.8, 0.8, 0.8, **mean, tau=0.9, graph="chain"),  # which the mean has no use for
        scored(0.8, 0.8, 0.8, lr=0.003),
        SimpleNamespace(params=plain, user_attrs={}),
    ]
    for number, trial in enumerate(found):
        trial.number = number
    monkeypatch.setattr(tuner, "_trials", lambda *states: found)
    rates = [config.train.lr for config in tuner._leaders(9)]
    assert rates == [0.003, 0.004, 0.002, 0.001]
    assert [config.train.lr for config in tuner._leaders(2)] == [0.003, 0.004]
    assert tuner.winner() is found[2]


def test_it_is_made_from_a_finished_study_and_no_head_is_trained_twice(
    tuned: Tuner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    finish_jobs = ensemble_run.finish_jobs

    def finish(jobs: list, *args: object) -> None:
        trained.extend(job.folder.relative_to(tmp_path).as_posix() for job in jobs)
        finish_jobs(jobs, *args)

    monkeypatch.setattr(ensemble_run, "finish_jobs", finish)
    best, folder = tuned.finish(), tmp_path / "study/ensemble"
    assert best is not None
    assert not folder.exists()
    assert tuned.finish(ensemble=2) == best
    assert trained == ["study/ensemble/2"]
    assert (folder / "1/head.safetensors").read_bytes() == (best / "head.safetensors").read_bytes()
    assert RunConfig.load(folder / "2") == tuned._leaders(2)[1]
    tuned.finish(ensemble=2)
    tuned.finish(ensemble=3)
    assert trained == ["study/ensemble/2", "study/ensemble/3"]
    tuned.finish(ensemble=2)
    assert [path.name for path in find_heads(folder)] == ["1", "2"]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["1", "2"]
    assert len(trained) == 2


def test_a_stop_leaves_no_half_ensemble(tuned: Tuner, tmp_path: Path) -> None:
    tuned.finish()
    folder = tmp_path / "study/ensemble"
    with pytest.raises(Stopped):
        tuned.finish(should_stop=lambda: True, ensemble=3)
    assert not (folder / "ensemble.json").exists()
    tuned.finish(ensemble=3)
    assert len(find_heads(folder)) == 3
    assert not list(folder.glob("group-*"))


def probabilities(cache: Cache, run: Path, texts: np.ndarray) -> np.ndarray:
    """(n, C), text by text: the softmax of a head's logits, written out."""
    config = RunConfig.load(run)
    model: HeadModel = load_head(run, config, "dense", torch.device("cpu"))
    states = StreamedStates(cache, config.layers, torch.device("cpu"))
    with torch.no_grad():
        logits = torch.cat([model.head(model.vectors(states.gather(texts[i : i + 1]))) for i in range(len(texts))])
    powers = np.exp(logits.numpy().astype(float))
    return powers / powers.sum(axis=1, keepdims=True)


def test_it_predicts_the_mean_and_can_be_copied(tuned: Tuner, tmp_path: Path) -> None:
    best = tuned.finish(ensemble=3)
    assert best is not None
    folder = shutil.copytree(tmp_path / "study/ensemble", tmp_path / "copied")
    cache = Cache(shutil.copytree(tuned.cache.folder, tmp_path / "other"))
    examples = cache.examples("validation")
    expected = np.mean([probabilities(cache, run, examples.text_id) for run in find_heads(folder)], axis=0)
    kept = np.load(folder / "predictions-validation.npy")
    clear = abs(expected[:, 1] - 0.5) > 1e-5
    assert clear.sum() > 12
    np.testing.assert_array_equal(kept[clear], expected.argmax(axis=1)[clear])

    groups = judge_each([[best], [folder]], cache)
    assert groups[0] == judge_each([[best]], cache)[0]
    accuracy = (kept == examples.label).mean()
    assert groups[1][0].score.value == pytest.approx(accuracy)
    assert groups[1][0].yardsticks == groups[0][0].yardsticks
    shutil.rmtree(tmp_path / "study")
    shutil.rmtree(tuned.cache.folder)
    assert evaluate_head(folder, cache, "validation", "cpu", "dense") == score_ensemble(folder)["validation"]
    assert score_ensemble(folder)["validation"]["accuracy"] == pytest.approx(accuracy)


def test_scores_of_pairs_are_averaged(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    tuner = begin(make_fit_cache(num_texts=2, target="score", train=40, validation=24), tmp_path / "study")
    tuner.search(0)
    tuner.finish(ensemble=3)
    folder = tmp_path / "study/ensemble"
    members = [np.load(folder / name / "predictions-validation.npy") for name in "123"]
    assert abs(members[0] - members[2]).max() > 1e-3
    np.testing.assert_allclose(np.load(folder / "predictions-validation.npy"), np.mean(members, axis=0), rtol=1e-5)


def forget(folder: Path) -> None:
    shutil.rmtree(folder / "2")


def newer(folder: Path) -> None:
    change(folder / "ensemble.json", version=2)


def no_members(folder: Path) -> None:
    change(folder / "ensemble.json", members=["../best"])


def without_task(folder: Path) -> None:
    change(folder / "ensemble.json", task=None)


def other_states(folder: Path) -> None:
    config = RunConfig.load(folder / "2")
    replace(config, states=replace(config.states, weights_sha256="0000")).save(folder / "2")


def other_task(folder: Path) -> None:
    config = RunConfig.load(folder / "2")
    replace(config, task=replace(config.task, classes=("0", "1"))).save(folder / "2")


def cut(folder: Path) -> None:
    path = folder / "2/head.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_what_is_not_whole_is_told_in_one_line(tuned: Tuner, tmp_path: Path) -> None:
    tuned.finish(ensemble=2)
    cases: list[tuple[Callable[[Path], None], type[Exception], str]] = [
        (forget, UsageError, "is not whole: it is an ensemble of 2 heads, and there is no trained run"),
        (newer, UsageError, "ensemble.json has version 2"),
        (no_members, FaultError, "ensemble.json is damaged: its members are"),
        (without_task, FaultError, "ensemble.json is damaged"),
        (other_states, UsageError, r"on other states \(weights_sha256: tiny -> 0000\)"),
        (other_task, UsageError, "2 does not go with .*ensemble.json: it was trained on another task"),
        (cut, FaultError, "2/head.safetensors is damaged"),
    ]
    for spoil, kind, line in cases:
        folder = shutil.copytree(tmp_path / "study/ensemble", tmp_path / spoil.__name__)
        spoil(folder)
        with pytest.raises(kind, match=line) as told:
            evaluate_head(folder, tuned.cache, "validation", "cpu", "dense")
        assert "\n" not in str(told.value)
