"""Stage two over a cluster of Ray: heads of a sweep, and candidates of a search, trained by Ray's actors.

The folder of the sweep or study, and the cache, must be the same on every node. Heads that train side by side stay on
one device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glot.cluster.assign import Assigner
from glot.cluster.launch import RayOptions, check_address
from glot.cluster.pool import Placement, RayPool, connected, place_workers
from glot.errors import Stopped
from glot.fit.config import FitOptions
from glot.fit.run_folder import RunConfig
from glot.fit.sweep import find_jobs, group_jobs, held_sweep, is_finished, make_candidates, prepare_sweep
from glot.fit.tune import BEST, END, Tuner
from glot.process import stop_flag
from glot.store.claims import Claims
from glot.store.reader import Cache

Say = Callable[[str], None]
Grid = dict[str, tuple[Any, ...]]


def sweep_over_ray(
    folder: Path,
    cache: Cache,
    cluster: RayOptions,
    asked: tuple[FitOptions, Grid] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: Callable[[int], None] = lambda count: None,
    say: Say = lambda line: None,
) -> None:
    """Train the heads of a sweep as `finish_sweep` does, by workers that Ray starts and starts again.

    Args:
        asked: what `make_candidates` is given, for a new sweep; None goes on with the one in the folder.
        progress: (done, in all), a thousand for each head. workers: told how many are at work.

    Raises FaultError where Ray cannot be reached or another process is at this sweep, Stopped after Ctrl-C or SIGTERM,
    once the workers have kept what they had; the next call goes on.
    """
    check_address(cluster)
    with connected(cluster):
        from glot.fit.ray_worker import SHARES, SweepMaker  # with Ray, which is told how to speak before it is loaded

        placement = place_workers(cluster, say)
        if asked is not None:
            prepare_sweep(_candidates(cache, asked, placement), folder)
            say(f"{folder}: {len(find_jobs(folder))} heads")
        with held_sweep(folder) as was_left:
            groups = group_jobs(find_jobs(folder))
            sizes = {number: SHARES * len(group) for number, group in enumerate(groups)}
            missing = {number: size for number, size in sizes.items() if not is_finished(groups[number])}
            there, total = sum(sizes.values()) - sum(missing.values()), sum(sizes.values())
            assigner = Assigner(there, total, progress, workers, say, piece="group")
            own = (folder.absolute(), _location(cache))
            try:
                with RayPool(SweepMaker, own, placement) as pool, stop_flag() as should_stop:
                    assigner.run(pool, missing, missing if was_left else (), should_stop)
            except KeyboardInterrupt:
                raise Stopped(f"stopped; go on with `glot sweep --resume {folder}`") from None


def tune_over_ray(
    tuner: Tuner,
    cluster: RayOptions,
    seconds: float,
    most: int | None = None,
    ensemble: int | None = None,
    say: Say = lambda line: None,
) -> Path | None:
    """Search as `Tuner.search` does, many at once, and train the winner as `Tuner.finish` does, by workers of Ray.

    Args:
        tuner: the study, here; nothing is trained by it. seconds: of search, from when the first worker has begun.
        most: candidates in all. ensemble: of so many heads.

    Returns what `Tuner.finish` returns. Raises FaultError where Ray cannot be reached, Stopped after Ctrl-C or SIGTERM.
    """
    check_address(cluster)
    tuner.queue_first(again=seconds > 0)  # once, not by each of them
    with connected(cluster):
        from glot.fit.ray_worker import StudyMaker

        placement = place_workers(cluster, say)
        assigner, places = Assigner(say=say, piece="search"), placement.workers

        def left(number: int) -> tuple[object, ...]:
            began = assigner.began
            return (max(0.0, seconds - (time.monotonic() - began if began else 0.0)),) if number < places else ()

        own = (
            tuner.folder.absolute(),
            _location(tuner.cache),
            _device(placement),
            tuner.searcher.owner,
            places,
            most,
            ensemble,
        )
        try:
            with RayPool(StudyMaker, own, placement, left) as pool, stop_flag() as should_stop:
                assigner.run(pool, dict.fromkeys(range(places), 0), should_stop=should_stop)
                with Claims(tuner.folder) as claims:
                    if not claims.acquire(END):
                        return None
                    assigner.piece = "winner"
                    assigner.run(pool, {places: 0}, should_stop=should_stop)
        except KeyboardInterrupt:
            raise Stopped("stopped") from None
    return tuner.folder / BEST


def _candidates(cache: Cache, asked: tuple[FitOptions, Grid], placement: Placement) -> dict[str, RunConfig]:
    """The configs of a sweep, made where heads are trained: they say what device, precision and memory there are."""
    import ray
    from ray.exceptions import RayTaskError

    from glot.cluster.actor import Order

    call = ray.remote(num_cpus=placement.cpus, num_gpus=placement.gpus, max_retries=3)(_make_candidates)
    options, grid = asked
    environment = Order.of_this_process().environment
    try:
        return ray.get(call.remote(environment, _location(cache), options, grid, _device(placement)))
    except RayTaskError as error:
        raise error.cause from None


def _make_candidates(
    environment: dict[str, str], cache: str, options: FitOptions, grid: Grid, device: str
) -> dict[str, RunConfig]:
    """Runs in a process of Ray."""
    os.environ.update(environment)
    return make_candidates(Cache(cache), options, grid, (device,))


def _device(placement: Placement) -> str:
    return "cuda" if placement.gpus else "cpu"


def _location(cache: Cache) -> str:
    """A cache as the nodes find it."""
    return str(cache.folder.absolute()) if isinstance(cache.folder, Path) else str(cache.folder)
