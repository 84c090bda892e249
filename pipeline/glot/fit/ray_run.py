"""Stage two over a cluster of Ray: heads of a sweep, and candidates of a search, trained by Ray's actors.

The folder of the sweep or study, and the cache, must be the same on every node. Heads that train side by side stay on
one device.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glot.cluster.assign import Assigner
from glot.cluster.launch import RayOptions, check_address
from glot.cluster.pool import Placement, RayPool, connected, place_workers, wait_until_shown
from glot.errors import Stopped
from glot.fit.ray_claim import held_for_ray
from glot.fit.run_folder import METRICS_FILE, check_new_folder, find_sweep_runs
from glot.fit.sweep import Grid, find_jobs, group_jobs, held_sweep, is_finished
from glot.fit.tune import BEST, END, Tuner
from glot.process import stop_flag
from glot.store.claims import Claims
from glot.store.files import make_folder
from glot.store.reader import Cache

Say = Callable[[str], None]
CONFIGS = -1  # the piece that makes them


def sweep_over_ray(
    folder: Path,
    cache: Cache,
    cluster: RayOptions,
    grid: Grid | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: Callable[[int], None] = lambda count: None,
    say: Say = lambda line: None,
) -> None:
    """Train the heads of a sweep as `finish_sweep` does, by workers that Ray starts and starts again.

    Args:
        grid: of a new sweep; None goes on with the one in the folder.
        progress: (done, in all), a thousand for each head. workers: told how many are at work.

    Raises FaultError where Ray cannot be reached or another process is at this sweep, Stopped after Ctrl-C or SIGTERM,
    once the workers have kept what they had; the next call goes on.
    """
    check_address(cluster)
    assigner = Assigner(progress=progress, workers=workers, say=say, piece="group")
    groups: dict[int, list[str]] = {}

    def given(number: int) -> tuple[object, ...]:
        return (grid,) if number == CONFIGS else tuple(groups[number])

    with connected(cluster), _made_folder(folder, grid is not None), held_sweep(folder), held_for_ray(folder):
        from glot.fit.ray_worker import SHARES, SweepMaker  # with Ray, which is told how to speak before it is loaded

        placement = place_workers(cluster, say)
        own = (folder.absolute(), _location(cache), _device(placement))
        try:
            with RayPool(SweepMaker, own, placement, given) as pool, stop_flag() as should_stop:
                if grid is not None:
                    with _all_or_none(folder):
                        assigner.run(pool, {CONFIGS: 0}, should_stop=should_stop)
                        (heads,) = assigner.counts
                        wait_until_shown(folder, lambda: len(find_sweep_runs(folder)) == heads)
                    say(f"{folder}: {heads} heads")
                jobs = dict(enumerate(group_jobs(find_jobs(folder))))
                groups |= {number: [str(job.folder.relative_to(folder)) for job in jobs[number]] for number in jobs}
                sizes = {number: SHARES * len(group) for number, group in jobs.items()}
                missing = {number: size for number, size in sizes.items() if not is_finished(jobs[number])}
                assigner.total = sum(sizes.values())
                assigner.done = assigner.total - sum(missing.values())
                assigner.run(pool, missing, should_stop=should_stop)
        except KeyboardInterrupt:
            raise Stopped(f"stopped; go on with `glot sweep --resume {folder}`") from None
        wait_until_shown(folder, lambda: all(map(is_finished, jobs.values())))


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
    assigner, folder = Assigner(say=say, piece="search"), tuner.folder
    with connected(cluster), held_for_ray(folder):
        from glot.fit.ray_worker import StudyMaker

        tuner.queue_first(again=seconds > 0)  # once, not by each of them
        placement = place_workers(cluster, say)
        places = placement.workers

        def given(number: int) -> tuple[object, ...]:
            began = assigner.began
            return (max(0.0, seconds - (time.monotonic() - began if began else 0.0)),) if number < places else ()

        where = (folder.absolute(), _location(tuner.cache), _device(placement))
        own = (*where, tuner.searcher.owner, places, most, ensemble)
        try:
            with RayPool(StudyMaker, own, placement, given) as pool, stop_flag() as should_stop:
                assigner.run(pool, dict.fromkeys(range(places), 0), should_stop=should_stop)
                with Claims(folder) as claims:
                    if not claims.acquire(END):
                        return None
                    assigner.run(pool, {places: 0}, should_stop=should_stop)
        except KeyboardInterrupt:
            raise Stopped("stopped") from None
        wait_until_shown(folder, lambda: (folder / BEST / METRICS_FILE).exists())
    return folder / BEST


@contextmanager
def _made_folder(folder: Path, is_new: bool) -> Iterator[None]:
    """A new sweep's folder, gone again where nothing was put into it; raises UsageError where it is not empty."""
    if is_new:
        check_new_folder(folder)
        make_folder(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _all_or_none(folder: Path) -> Iterator[None]:
    """Of a new sweep's runs nothing stays where not all were made."""
    try:
        yield
    except BaseException:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
        raise


def _device(placement: Placement) -> str:
    return "cuda" if placement.gpus else "cpu"


def _location(cache: Cache) -> str:
    """A cache as the nodes find it."""
    return str(cache.folder.absolute()) if isinstance(cache.folder, Path) else str(cache.folder)
