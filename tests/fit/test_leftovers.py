"""What a killed fit leaves half-written never stands in the way of a later one, and is removed by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from glot.errors import Stopped, UsageError
from glot.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
from glot.fit.sweep import finish_sweep, make_candidates, prepare_sweep
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
WRITTEN = ["config.json", "metrics.json", "head.safetensors", "checkpoint.safetensors", "predictions-validation.npy"]
OPTIONS = FitOptions(device="cpu", epochs=2)


def leave(folder: Path) -> None:
    """What a process that was killed while it wrote leaves."""
    for name in WRITTEN:
        (folder / f"{name}.tmp-host-1-0").write_bytes(b"half")


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".tmp-" in path.name or path.name.startswith(("group-", "checkp"))]


def stop(folder: Path) -> None:
    steps = iter(range(100))
    with pytest.raises(Stopped):
        finish_sweep(folder, should_stop=lambda: next(steps) > 3)


def test_a_sweep_that_was_killed_ends_well(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    cache, out = Cache(make_fit_cache()), tmp_path / "sweep"
    prepare_sweep(make_candidates(cache, OPTIONS, {"tau": (0.3, 0.6)}), out)
    stop(out)
    (group,) = out.glob("group-*")
    for folder in (group, out / "tau=0.3/seed-0"):
        leave(folder)
    finish_sweep(out)
    assert len(list(out.glob("*/seed-0/metrics.json"))) == 2
    assert leftovers(out) == []


def test_a_sweep_that_was_killed_after_its_last_result(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    """Its heads are finished, and the checkpoint of their group is still there."""
    cache, out = Cache(make_fit_cache()), tmp_path / "sweep"
    prepare_sweep(make_candidates(cache, OPTIONS, {"tau": (0.3, 0.6)}), out)
    stop(out)
    (group,) = out.glob("group-*")
    finish_sweep(out)
    group.mkdir()
    leave(group)
    (group / "checkpoint.safetensors").write_bytes(b"of before")
    finish_sweep(out)
    assert leftovers(out) == []


def test_what_others_put_into_a_sweep_stays(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    cache, out = Cache(make_fit_cache()), tmp_path / "sweep"
    prepare_sweep(make_candidates(cache, OPTIONS, {"tau": (0.3, 0.6)}), out)
    stop(out)
    (group,) = out.glob("group-*")
    (group / "mine.txt").write_text("mine")
    finish_sweep(out)
    assert [path.name for path in group.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_fit_that_was_killed(make_fit_cache: MakeCache, tmp_path: Path, seeds: tuple[int, ...]) -> None:
    """Before its first file was there, then after its last one: the same folder serves again, and is clean."""
    cache, out = Cache(make_fit_cache()), tmp_path / "run"
    out.mkdir()
    leave(out)
    prepare_runs(make_configs(cache, FitOptions(device="cpu", epochs=2, seeds=seeds)), out)
    for run in finish_runs(out):
        assert not [path for path in run.glob("metrics*") if ".tmp-" in path.name]
        leave(run)
        (run / "checkpoint.safetensors").write_bytes(b"of before")
    for run in finish_runs(out):
        assert leftovers(run) == []


def test_a_folder_with_files_of_others_is_still_refused(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    cache, out = Cache(make_fit_cache()), tmp_path / "run"
    out.mkdir()
    leave(out)
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        prepare_runs(make_configs(cache, OPTIONS), out)
    with pytest.raises(UsageError, match="is not empty"):
        prepare_sweep(make_candidates(cache, OPTIONS, {"tau": (0.3, 0.6)}), out)
