"""What runs in an actor of Ray: a worker that trains heads over a cache, those of a sweep or candidates of a search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glot.cluster.actor import Actor, Order
from glot.errors import FaultError, UsageError
from glot.store.claims import Owner
from glot.store.reader import Cache

if TYPE_CHECKING:
    from glot.fit.states import States
    from glot.fit.tune import Tuner

SHARES = 1000  # what a head counts for in what is done, so that parts of it are numbers


class SweepMaker(Actor):
    """A piece is a group of heads that train side by side, or the making of all configs; it counts heads.

    They are made here, where heads are trained: they say what device, precision and memory there are.
    """

    def __init__(self, order: Order, folder: Path, cache: str, device: str) -> None:
        super().__init__(order)
        self.folder, self.location, self.device = folder, cache, device
        self.cache: Cache | None = None
        self.opened: dict[tuple, States] = {}

    def load(self) -> None:
        """Open the cache."""
        self.cache = self.cache or open_shared(self.folder, self.location)

    def work(self, number: int, *given: object) -> tuple[int, ...]:
        """Write the configs of a grid, or train the heads of some runs, from their checkpoint if there is one."""
        from glot.fit.sweep import Grid, finish_jobs, jobs_of, make_candidates, save_candidates

        assert self.cache is not None  # it has begun
        if isinstance(given[0], Grid):
            candidates = make_candidates(self.cache, given[0].options, given[0].values, (self.device,))
            save_candidates(candidates, self.folder)
            return (len(candidates),)
        jobs = jobs_of(self.folder / str(name) for name in given)
        epochs = max(job.config.train.epochs for job in jobs)

        def note(epoch: int, step: int, steps: int, loss: float) -> None:
            self.done = int(SHARES * len(jobs) * (epoch - 1 + step / steps) / epochs)

        finish_jobs(jobs, self.folder, self.cache, note, self.stopping.is_set, self.opened)
        return (len(jobs),)


class StudyMaker(Actor):
    """A piece is a place in which a process searches until its time is up, or the training of the winner.

    Args:
        device: to train on. owner: the command's process. places: how many search, numbered from 0; the piece after
            them is the winner.
        most, ensemble: see `Tuner.search` and `Tuner.finish`.
    """

    def __init__(
        self,
        order: Order,
        folder: Path,
        cache: str,
        device: str,
        owner: Owner,
        places: int,
        most: int | None,
        ensemble: int | None,
    ) -> None:
        super().__init__(order)
        self.folder, self.location, self.device, self.owner = folder, cache, device, owner
        self.places, self.most, self.ensemble = places, most, ensemble
        self.tuner: Tuner | None = None

    def load(self) -> None:
        """Open the study."""
        from glot.fit.tune import Tuner

        self.tuner = self.tuner or Tuner(self.folder, open_shared(self.folder, self.location), self.device)

    def work(self, number: int, *given: object) -> tuple[int, ...]:
        """Search for so many seconds, or train the winner."""
        from glot.fit.tune import Searcher

        tuner = self.tuner
        assert tuner is not None  # it has begun
        if number == self.places:
            tuner.train_best(None, self.stopping.is_set, self.ensemble)
            return ()
        (seconds,) = given
        assert isinstance(seconds, float)
        tuner.searcher = Searcher(self.owner, number)
        tuner.search(
            seconds,
            self.most,
            should_stop=self.stopping.is_set,
            on_round=lambda standing, left: self.said.append(standing.line(tuner.metric, left)),
        )
        return ()


def open_shared(folder: Path, cache: str) -> Cache:
    """A command's cache; raises FaultError where that, or a folder that the command has made, is not there."""
    if not folder.is_dir():
        raise FaultError(f"there is no {folder}: it must be the same folder on every node of the cluster")
    try:
        return Cache(cache)
    except UsageError as error:
        raise FaultError(f"{error}; the cache must be the same on every node of the cluster") from None
