"""Heads by workers of Ray, on a real cluster of two nodes: a sweep and a search, whoever dies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import runs
from tests.faults.ray_runs import RayRuns

if TYPE_CHECKING:
    import optuna

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(ray_runs: RayRuns, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    words = ["extract", "--model", bert, "--data", runs.write_csv(folder / "train.csv", 400), "--layers", "1,2"]
    ray_runs.zygote.finish(ray_runs.zygote.glot(*words, "--device", "cpu", "--out", folder / "cache"))
    return folder / "cache"


def heads_of(folder: Path) -> dict[str, object]:
    """What was learnt by every run of a sweep, but for the time that it took."""
    found: dict[str, object] = {}
    for path in sorted(folder.glob("*/seed-*/*")):
        if path.name == "metrics.json":
            metrics = json.loads(path.read_text())
            found[str(path.relative_to(folder))] = metrics["best_epoch"], [it["scores"] for it in metrics["epochs"]]
        elif path.name in ("head.safetensors", "predictions-holdout.npy"):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def sweep(cache: Path) -> list[object]:
    """A sweep of two groups, one a layer, each of which two heads share."""
    words = ["sweep", "--cache", cache, "--preset", "published", "--tau", "0.1,0.5", "--backbone-layer", "1,2"]
    return [*words, "--epochs", 40, "--select", "holdout", "--precision", "float32"]


@pytest.fixture(scope="module")
def unbroken(ray_runs: RayRuns, sweep: list[object], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The heads that one process makes."""
    folder = tmp_path_factory.mktemp("alone") / "sweep"
    ray_runs.zygote.finish(ray_runs.zygote.glot(*sweep, "--out", folder))
    return heads_of(folder)


@pytest.mark.parametrize("fault", ["worker", "command", "Ctrl-C"])
def test_a_sweep(
    ray_runs: RayRuns, sweep: list[object], unbroken: dict[str, object], tmp_path: Path, fault: str
) -> None:
    """Heads are those of one process, to the last bit: groups go on from their checkpoints, once in one worker."""
    out = tmp_path / "out"
    pid = ray_runs.start(*sweep, "--out", out)
    ray_runs.wait_for(lambda: any(out.glob("group-*/checkpoint.safetensors")), pid)
    assert ray_runs.zygote.is_running(pid)
    if fault == "worker":
        ray_runs.workers("SweepMaker")[0].kill()
    elif fault == "command":
        ray_runs.zygote.kill_after(pid, 0)
    else:
        assert f"go on with `glot sweep --resume {out}`" in ray_runs.stop(pid)
        assert any(out.glob("group-*/checkpoint.safetensors"))
    if fault != "worker":
        pid = ray_runs.start("sweep", "--resume", out)
    ray_runs.finish(pid)
    assert heads_of(out) == unbroken
    assert not [*out.glob("group-*"), *out.glob("*.claim")]


def trials_of(study: Path) -> list[optuna.trial.FrozenTrial]:
    """The candidates of a search; none before its study is written into its journal."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(study / "study.journal")))
    names = optuna.get_all_study_names(storage)
    return [trial for name in names for trial in optuna.load_study(study_name=name, storage=storage).trials]


def test_a_search_whose_worker_dies_and_that_is_stopped(ray_runs: RayRuns, cache: Path, tmp_path: Path) -> None:
    """Whoever dies is replaced; after Ctrl-C it goes on over Ray.

    Nothing is left running, what is tried first is scored, and the winner is a run.
    """
    from optuna.trial import TrialState

    from glot.fit.tune import FIRST

    out = tmp_path / "study"
    pid = ray_runs.start("tune", "--cache", cache, "--minutes", 20, "--trials", 8, "--out", out)
    ray_runs.wait_for(lambda: (out / "study.journal").exists(), pid)
    ray_runs.wait_for(lambda: any(trial.intermediate_values for trial in trials_of(out)), pid)
    assert ray_runs.zygote.is_running(pid)
    dead = ray_runs.workers("StudyMaker")
    for worker in dead:
        worker.kill()
    ray_runs.wait_for(lambda: set(ray_runs.workers("StudyMaker")) - set(dead), pid)
    assert f"--resume {out}" in ray_runs.stop(pid)
    printed = ray_runs.finish(ray_runs.start("tune", "--resume", out, "--minutes", 20, "--trials", 8))
    assert "winner: " in printed
    assert not {TrialState.RUNNING, TrialState.WAITING} & {trial.state for trial in trials_of(out)}
    scored = {trial.user_attrs.get("first") for trial in trials_of(out) if len(trial.user_attrs.get("scores", [])) == 3}
    assert scored >= FIRST.keys()
    assert json.loads((out / "best" / "metrics.json").read_text())["best"]
    ray_runs.zygote.finish(ray_runs.zygote.glot("evaluate", "--run", out / "best", "--cache", cache))
