"""Many heads side by side: each is what its own fit makes, and the whole can be stopped, moved and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from glot.cluster.assign import LEASE_SECONDS
from glot.errors import FaultError, Stopped, UsageError
from glot.fit.head_model import each_batch
from glot.fit.result import FitResult
from glot.fit.run import FitOptions
from glot.fit.run_folder import RunConfig, load_tensors
from glot.fit.sweep import finish_sweep, held_sweep, make_candidates, prepare_sweep
from glot.fit.train import fit_head
from glot.report.sweep import read_sweep, write_sweep
from glot.store.claims import Owner
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
GRID = {"tau": (0.3, 0.6), "gnn_layers": (0, 2)}


def sweep(folder: Path, out: Path, grid: dict, devices: tuple[str, ...] = (), **options: object) -> None:
    cache = Cache(folder)
    options = FitOptions(**{"device": "cpu", "epochs": 3, **options})
    prepare_sweep(make_candidates(cache, options, grid, devices), out)
    finish_sweep(out)


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(run / "head.safetensors")[0]


def assert_same_run(found: Path, expected: Path) -> None:
    """Two runs that were computed in float64 (`in_float64`): equal but for the order of sums."""
    for name, value in tensors(expected).items():
        torch.testing.assert_close(tensors(found)[name], value, rtol=1e-7, atol=1e-9, msg=name)
    ours, theirs = FitResult.load(found), FitResult.load(expected)
    assert [epoch.scores for epoch in ours.epochs] == [epoch.scores for epoch in theirs.epochs]
    assert [epoch.loss for epoch in ours.epochs] == pytest.approx([epoch.loss for epoch in theirs.epochs], rel=1e-9)
    assert (ours.best_epoch, ours.density) == (theirs.best_epoch, theirs.density)


def test_a_sweep_without_scores_to_compare_is_refused(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="validation examples to compare heads on"):
        sweep(make_fit_cache(validation_sets=()), tmp_path / "sweep", GRID, select="last")


@pytest.mark.slow
def test_each_head_is_what_its_own_fit_makes(make_fit_cache: MakeCache, tmp_path: Path, in_float64: None) -> None:
    folder = make_fit_cache(num_texts=2)
    grid = {"pooler": ("glot", "adapool", "mean"), "gnn": ("gat", "gin"), **GRID, "lr": (1e-3, 1e-2)}
    sweep(folder, tmp_path / "sweep", grid, seeds=(0, 1), backend="dense")
    runs = [path.parent for path in (tmp_path / "sweep").glob("*/seed-*/config.json")]
    assert len(runs) == 2 * 2 * (2 * 2 * 2 + 1 + 1)  # adapool and mean use neither tau nor layers
    for number, run in enumerate(runs):
        if number % 5 == 0:
            fit_head(Cache(folder), RunConfig.load(run), tmp_path / "own" / str(number))
            assert_same_run(run, tmp_path / "own" / str(number))


@pytest.mark.parametrize("backend", ["dense", pytest.param("auto", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1, "epochs": 6},
        {"max_steps": 5},
        pytest.param({"max_memory": 0}, marks=pytest.mark.slow),
        pytest.param({"schedule": "cosine"}, marks=pytest.mark.slow),
        {"schedule": "plateau"},
        {"mix": True, "start": "regression", "patience": 1, "epochs": 6},
    ],
)
def test_the_options_of_a_fit_hold_for_each_head(
    make_fit_cache: MakeCache, tmp_path: Path, options: dict, backend: str, in_float64: None
) -> None:
    folder = make_fit_cache(shards=6, layers_differ=True)
    sweep(folder, tmp_path / "sweep", {"lr": (1e-4, 1e-2), "tau": (0.3, 0.6)}, backend=backend, **options)
    for run in [path.parent for path in (tmp_path / "sweep").glob("*/seed-*/config.json")]:
        own = tmp_path / "own" / run.parent.name
        fit_head(Cache(folder), RunConfig.load(run), own)
        assert_same_run(run, own)


def test_bfloat16_is_autocast_for_stacked_heads_too(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    """The loss before the first step: that of the same weights, to bfloat16's rounding, and not that of float32."""
    folder, losses = make_fit_cache(), {}
    for precision in ("bfloat16", "float32"):
        out = tmp_path / precision
        sweep(folder, out, {"tau": (0.3, 0.6)}, precision=precision, backend="dense", max_steps=1, epochs=1)
        runs = sorted(path.parent for path in out.glob("*/seed-*/config.json"))
        assert {value.dtype for run in runs for value in tensors(run).values()} == {torch.float32}
        losses[precision] = [FitResult.load(run).epochs[0].loss for run in runs]
    own = fit_head(Cache(folder), RunConfig.load(tmp_path / "bfloat16/tau=0.3/seed-0"), tmp_path / "own")
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != pytest.approx(losses["float32"], rel=1e-5)
    assert losses["bfloat16"][0] == pytest.approx(own.epochs[0].loss, rel=0.02)


def test_the_cache_is_read_once(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    with mock.patch.object(Cache, "read_texts", autospec=True, side_effect=Cache.read_texts) as read:
        sweep(make_fit_cache(), tmp_path / "sweep", {**GRID, "pooler": ("glot", "mean")}, seeds=(0, 1, 2))
    assert read.call_count == 1


def test_batches_are_gathered_once_for_all_heads(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    def count(grid: dict, out: str) -> int:
        asked: list[np.ndarray] = []

        def counted(source: object, examples: object, chosen: Iterable[np.ndarray]) -> object:
            return each_batch(source, examples, (asked.append(some) or some for some in chosen))

        with mock.patch("glot.fit.train.each_batch", side_effect=counted):
            sweep(folder, tmp_path / out, grid, epochs=2)
        return len(asked)

    folder = make_fit_cache()
    steps = count({"tau": (0.3,)}, "one")
    assert steps >= 4
    assert count({"tau": (0.3, 0.6), "lr": (1e-3, 2e-3, 3e-3)}, "six") == steps


@pytest.mark.parametrize(
    ("stop_after", "mix"),
    [
        (9, True),
        *[pytest.param(stop, False, marks=pytest.mark.slow) for stop in (1, 4, 9)],
    ],
)
def test_a_stopped_sweep_goes_on_to_the_same_bits(
    make_fit_cache: MakeCache, tmp_path: Path, stop_after: int, mix: bool
) -> None:
    folder = make_fit_cache(layers_differ=True)
    sweep(folder, tmp_path / "whole", GRID, seeds=(0, 1), backend="dense", mix=mix)
    options = FitOptions(device="cpu", epochs=3, seeds=(0, 1), backend="dense", mix=mix)
    prepare_sweep(make_candidates(Cache(folder), options, GRID), tmp_path / "broken")
    steps = iter(range(1000))
    with pytest.raises(Stopped, match="glot sweep --resume"):
        finish_sweep(tmp_path / "broken", should_stop=lambda: next(steps) + 1 >= stop_after)
    finish_sweep(tmp_path / "broken")
    for run in (tmp_path / "whole").glob("*/seed-*/head.safetensors"):
        assert run.read_bytes() == (tmp_path / "broken" / run.relative_to(tmp_path / "whole")).read_bytes()
    assert not list((tmp_path / "broken").glob("group-*"))


def test_another_process_is_at_the_sweep(
    make_fit_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lives keeps others out; what one left that was killed is taken over, once Ray's workers have ended."""
    cache, folder = Cache(make_fit_cache()), tmp_path / "sweep"
    prepare_sweep(make_candidates(cache, FitOptions(device="cpu", epochs=1), {"tau": (0.3,)}), folder)
    said = f"process {os.getpid()} on .* is at the sweep in {folder}: wait"
    with held_sweep(folder), pytest.raises(FaultError, match=said):
        finish_sweep(folder, cache)
    assert not list(folder.glob("*/*/metrics.json"))
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    for name in ("sweep", "ray"):
        (folder / f"{name}.claim").write_text(json.dumps({**asdict(Owner.me()), "pid": ended.pid}))
    waited: list[float] = []
    monkeypatch.setattr("glot.fit.ray_claim.sleep", waited.append)
    finish_sweep(folder, cache)
    assert waited == [LEASE_SECONDS]
    assert len(list(folder.glob("*/*/metrics.json"))) == 1
    assert not list(folder.glob("*.claim"))


def test_a_finished_sweep_is_left_alone(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    sweep(make_fit_cache(), tmp_path / "sweep", GRID)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*.*")}
    finish_sweep(tmp_path / "sweep")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*.*")} == stamps


@pytest.mark.slow
def test_devices_share_the_heads(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    """Two names of the one processor stand for two GPUs: a process each.

    One step each: a loss of weights that nothing has trained yet is the same to float32's rounding.
    """
    folder = make_fit_cache()
    sweep(folder, tmp_path / "one", GRID, epochs=1, max_steps=1)
    sweep(folder, tmp_path / "two", GRID, ("cpu", "cpu:0"), epochs=1, max_steps=1)
    devices = [RunConfig.load(path.parent).train.device for path in (tmp_path / "two").glob("*/seed-0/config.json")]
    assert sorted(devices) == ["cpu", "cpu", "cpu:0", "cpu:0"]
    for run in (tmp_path / "one").glob("*/seed-0"):
        there = tmp_path / "two" / run.relative_to(tmp_path / "one")
        assert FitResult.load(there).epochs[0].loss == pytest.approx(FitResult.load(run).epochs[0].loss, rel=1e-4)
        assert tensors(there).keys() == tensors(run).keys()


def test_a_folder_that_is_there_is_refused(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/mine").write_text("x")
    with pytest.raises(UsageError, match="choose another with --out"):
        sweep(make_fit_cache(), tmp_path / "sweep", GRID)
    with pytest.raises(UsageError, match="holds no sweep"):
        finish_sweep(tmp_path / "sweep")


def test_the_report(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sweep(make_fit_cache(), out, {**GRID, "pooler": ("glot", "mean")}, seeds=(0, 1))
    trials = read_sweep(out)
    assert len(trials) == 5
    means = [sum(trial.scores) / 2 for trial in trials]
    assert means == sorted(means, reverse=True)
    written = {path.name for path in write_sweep(out, trials)}
    assert written >= {"sweep.md", "sweep.csv"}
    lines = (out / "sweep.csv").read_text().splitlines()
    assert len(lines) == 11
    first = FitResult.load(out / "pooler=mean/seed-0")
    end = f",{first.best_epoch},,{first.seconds:.2f},0,{(out / 'pooler=mean/seed-0').as_posix()}"
    assert any(line.endswith(end) for line in lines)
    assert "| mean |" in (out / "sweep.md").read_text()
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    assert written >= {"tau.png", "layers.png", "pooler.png"}
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in written if name.endswith(".png"))


def test_options_out_of_range_are_refused_before_anything_is_made(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    cache = Cache(make_fit_cache())
    with pytest.raises(UsageError, match="tau is a cosine"):
        make_candidates(cache, FitOptions(device="cpu"), {"tau": (0.3, 3.0)})
    config = next(iter(make_candidates(cache, FitOptions(device="cpu"), {"tau": (0.3,)}).values()))
    with pytest.raises(UsageError, match="--schedule must be one of constant"):
        replace(config.train, schedule="warm")
