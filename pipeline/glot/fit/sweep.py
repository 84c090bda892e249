"""Many heads over one cache: every combination of some settings, those that share batches trained side by side."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glot.errors import Stopped, UsageError
from glot.fit.config import FitOptions
from glot.fit.options import check_comparable, grid_options
from glot.fit.ray_claim import wait_for_orphans
from glot.fit.run import make_configs, open_cache
from glot.fit.run_folder import CONFIG_FILE, METRICS_FILE, RunConfig, check_new_folder, clear_run, find_sweep_runs
from glot.fit.states import States
from glot.fit.train import Job, Progress, batch_key, fit_heads
from glot.fit.training_data import open_states
from glot.process import stop_flag
from glot.store.claims import Claims
from glot.store.files import json_sha256, make_folder
from glot.store.reader import Cache

CLAIM = "sweep"  # its name; held while runs are trained
HEADS_AT_ONCE = 64  # that train side by side; more are trained after them


@dataclass(frozen=True)
class Grid:
    """What the heads of a sweep are: see `make_candidates`."""

    options: FitOptions
    values: dict[str, tuple[Any, ...]]


def make_candidates(
    cache: Cache, options: FitOptions, grid: dict[str, tuple[Any, ...]], devices: tuple[str, ...] = ()
) -> dict[str, RunConfig]:
    """The config of every combination, by the name of its run's folder: `tau=0.3,layers=2/seed-0`.

    Args:
        options: what all have in common, their seeds too.
        grid: the name of a setting -> its values. A pooler that does not use a setting is trained once.
        devices: take turns, one head each; none: that of the options.

    Raises UsageError for settings out of range, or where there would be no scores to compare.
    """
    made: dict[str, RunConfig] = {}
    for folder, some in grid_options(options, grid):
        check_comparable(cache, some)
        for config in make_configs(cache, some):
            name = f"{folder}/seed-{config.train.init_seed}"
            if devices and name not in made:
                train = replace(config.train, device=devices[len(made) % len(devices)])
                config = replace(config, train=train)
            made.setdefault(name, config)
    return made


def prepare_sweep(candidates: dict[str, RunConfig], folder: Path) -> None:
    """Make the run folders, each with its config; raises UsageError where the folder is not empty."""
    check_new_folder(folder)
    save_candidates(candidates, folder)


def save_candidates(candidates: dict[str, RunConfig], folder: Path) -> None:
    """Make the run folders, each with its config, whatever there is."""
    for name, config in candidates.items():
        config.save(make_folder(folder / name))


def find_jobs(folder: Path) -> list[Job]:
    """The runs of a sweep, in the order of their names; raises UsageError where there are none."""
    paths = find_sweep_runs(folder)
    if not paths:
        raise UsageError(f"{folder} holds no sweep: make one with `glot sweep`")
    return jobs_of(paths)


def jobs_of(runs: Iterable[Path]) -> list[Job]:
    """Jobs from run folders that have their configs."""
    return [Job(RunConfig.load(run), run) for run in runs]


def sweep_cache(folder: Path) -> Cache:
    """The cache of a sweep that goes on; raises UsageError where it is not there, or holds other examples by now."""
    job = find_jobs(folder)[0]
    return open_cache(job.config, None, job.folder)


def finish_sweep(
    folder: Path,
    cache: Cache | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train all runs of a sweep that are not finished; heads that share batches at once, devices at the same time.

    Raises Stopped after `should_stop` said so; the next call goes on. FaultError where another process is at it.
    """
    devices = sorted({job.config.train.device for job in find_jobs(folder)})
    with held_sweep(folder):
        if len(devices) == 1:
            _finish_device(folder, devices[0], cache, progress, should_stop)
            return
        with ProcessPoolExecutor(len(devices), multiprocessing.get_context("spawn")) as pool:
            for done in [pool.submit(_finish_alone, folder, device) for device in devices]:
                done.result()


@contextmanager
def held_sweep(folder: Path) -> Iterator[None]:
    """A sweep for this process alone; raises FaultError where another one is at it."""
    with Claims(folder) as claims:
        claims.require(CLAIM, f"is at the sweep in {folder}")
        wait_for_orphans(folder)
        yield


def _finish_alone(folder: Path, device: str) -> None:
    """What a process of its own does."""
    with stop_flag() as should_stop:
        _finish_device(folder, device, None, None, should_stop)


def _finish_device(
    folder: Path, device: str, cache: Cache | None, progress: Progress | None, should_stop: Callable[[], bool]
) -> None:
    jobs = [job for job in find_jobs(folder) if job.config.train.device == device]
    try:
        finish_jobs(jobs, folder, cache, progress, should_stop)
    except Stopped as error:
        raise error.but(f"go on with `glot sweep --resume {folder}`") from None


def group_jobs(jobs: list[Job]) -> list[list[Job]]:
    """The jobs that train side by side, for they share batches."""
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault(batch_key(job.config), []).append(job)
    return [
        group[start : start + HEADS_AT_ONCE]
        for group in groups.values()
        for start in range(0, len(group), HEADS_AT_ONCE)
    ]


def is_finished(jobs: list[Job]) -> bool:
    """Whether all of them have their scores."""
    return all((job.folder / METRICS_FILE).exists() for job in jobs)


def finish_jobs(
    jobs: list[Job],
    folder: Path,
    cache: Cache | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    opened: dict[tuple, States] | None = None,
) -> None:
    """Train the jobs that are not finished, on one device; those that share batches at once.

    Args:
        folder: holds the folders of all jobs, and while they train their checkpoint.
        cache: the one to train on; None opens what the jobs' configs name.
        opened: for who calls again and again, keeps the states that were opened last.

    Raises Stopped after `should_stop` said so; the same jobs go on where they were.
    """
    opened = {} if opened is None else opened  # the states of one layer at a time
    for some in group_jobs(jobs):
        kept = _checkpoint_folder(folder, some)
        if is_finished(some):
            _clear(kept, some)
            continue
        config = some[0].config
        cache = open_cache(config, cache, some[0].folder)
        key = (config.layers, config.pooler.tokens, config.train.window)
        if key not in opened:
            opened.clear()
            opened[key] = open_states(cache, config)
        fit_heads(cache, some, make_folder(kept), progress, should_stop, opened[key])
        _clear(kept, some)


def _checkpoint_folder(folder: Path, jobs: list[Job]) -> Path:
    """Where the heads of a group keep their checkpoint."""
    names = [job.folder.relative_to(folder).as_posix() for job in jobs]
    return folder / f"group-{json_sha256(names)[:12]}"


def remove_others(folder: Path, there: Iterable[Path], wanted: dict[Path, RunConfig]) -> None:
    """Remove runs that are not wanted, or not with the config that they have, and then all checkpoints in `folder`.

    A checkpoint is found by the names of its runs: it would be taken for that of the runs which come in their place.
    """
    found = {run: RunConfig.load(run) for run in there if (run / CONFIG_FILE).exists()}
    others = [run for run, config in found.items() if wanted.get(run) != config]
    for run in others:
        shutil.rmtree(run)
    if others:
        remove_checkpoints(folder)


def remove_checkpoints(folder: Path) -> None:
    """Remove what heads that trained side by side kept in a folder."""
    for kept in folder.glob("group-*"):
        shutil.rmtree(kept)


def _clear(kept: Path, jobs: list[Job]) -> None:
    """Remove what the training of some finished heads left, killed ones too; what others put there stays."""
    for folder in (kept, *(job.folder for job in jobs)):
        clear_run(folder)
    with suppress(OSError):
        kept.rmdir()
