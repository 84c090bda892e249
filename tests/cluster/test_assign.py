"""Which worker makes which shard, without Ray: a pool that does what a test says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from glot.cluster.assign import ATTEMPTS, DEATHS, Assigner, Board, Doing, Event, Failed, Finished, LeftOut, Lost, Ready
from glot.cluster.launch import RayOptions
from glot.cluster.pool import Placement, place
from glot.errors import FaultError, UsageError

LEASE = 30.0


@dataclass
class FakePool:
    """Workers without processes, and a clock that goes on by a second a question.

    `answer(worker, number)` says what comes of a shard: an event, or None while it is made.
    A lost worker is ready again after `RESTART` seconds; `hidden` ones may still have their shard in hand.
    """

    workers: int
    answer: Callable[[int, int], Event | None]
    hidden: bool = False
    now: float = 0.0
    making: dict[int, int] = field(default_factory=dict)
    made: list[int] = field(default_factory=list)
    lost: dict[int, float] = field(default_factory=dict)
    alive: dict[int, list[float]] = field(default_factory=dict)  # shard -> until when hidden workers may have it
    begun: bool = False
    stopped: bool = False

    RESTART = 3.0

    def make(self, worker: int, number: int) -> None:
        assert number not in self.making.values(), f"two workers have shard {number}"
        assert all(until <= self.now for until in self.alive.get(number, [])), f"shard {number} may still be made"
        self.making[worker] = number

    def stop(self) -> None:
        self.stopped = True

    def events(self, seconds: float) -> list[Event]:
        self.now += 1
        found: list[Event] = [] if self.begun else [Ready(worker, True) for worker in range(self.workers)]
        self.begun = True
        for worker in [worker for worker, when in self.lost.items() if when <= self.now]:
            del self.lost[worker]
            found.append(Ready(worker, not self.hidden))
        for worker, number in list(self.making.items()):
            event = Finished(worker, (1, 2)) if self.stopped else self.answer(worker, number)
            if event is None:
                found.append(Doing(worker, 1))
                continue
            del self.making[worker]
            found.append(event)
            if isinstance(event, Finished):
                self.made.append(number)
            if isinstance(event, Lost):
                self.lost[worker] = self.now + self.RESTART
                if self.hidden:
                    self.alive.setdefault(number, []).append(self.now + LEASE)
        return found


def run(pool: FakePool, shards: int = 40, suspects: tuple[int, ...] = (), **options: object) -> Assigner:
    tokens = {number: 10 for number in range(shards)}
    assigner = Assigner(total=10 * shards, lease=LEASE, clock=lambda: pool.now, **options)
    assigner.run(pool, tokens, suspects, should_stop=lambda: pool.now > 5000)
    return assigner


@pytest.mark.parametrize("hidden", [False, True], ids=["dead", "perhaps alive"])
def test_each_shard_is_made_once_whoever_dies(hidden: bool) -> None:
    random = np.random.default_rng(0)

    def answer(worker: int, number: int) -> Event | None:
        drawn = random.random()
        return Lost(worker) if drawn < 0.1 else Finished(worker, (3, 9)) if drawn < 0.5 else None

    told: list[tuple[int, int]] = []
    at_work: list[int] = []
    pool = FakePool(4, answer, hidden)
    assigner = run(pool, progress=lambda done, total: told.append((done, total)), workers=at_work.append)
    assert (at_work[0], max(at_work)) == (0, 4)
    assert sorted(pool.made) == list(range(40))
    assert assigner.counts == (120, 360)
    assert (told[0], told[-1]) == ((0, 400), (400, 400))


def test_a_shard_that_a_killed_command_may_have_in_hand_comes_last_and_late() -> None:
    began: dict[int, float] = {}

    def answer(worker: int, number: int) -> Event:
        began[number] = pool.now
        return Finished(worker, (1, 1))

    pool = FakePool(2, answer)
    run(pool, 6, suspects=(0, 3))
    assert sorted(pool.made) == list(range(6))
    assert min(began[0], began[3]) > LEASE > max(began[number] for number in (1, 2, 4, 5))


def test_a_shard_that_fails_is_tried_again_and_ends_the_run_then() -> None:
    tries: list[int] = []

    def answer(worker: int, number: int) -> Event:
        if number != 2:
            return Finished(worker, (1, 1))
        tries.append(worker)
        return Failed(worker, FaultError("text 7 is too large"))

    pool = FakePool(2, answer)
    with pytest.raises(FaultError, match="text 7 is too large"):
        run(pool, 10)
    assert (len(tries), pool.stopped) == (ATTEMPTS, True)
    assert sorted(pool.made) == [0, 1, 3, 4, 5, 6, 7, 8, 9]


def test_a_shard_that_takes_every_worker_with_it_ends_the_run() -> None:
    pool = FakePool(2, lambda worker, number: Lost(worker) if number == 1 else Finished(worker, (1, 1)))
    with pytest.raises(FaultError, match=f"{DEATHS} workers died with piece 1 in hand"):
        run(pool, 5)


def test_a_worker_that_comes_back_frees_only_what_itself_had() -> None:
    """Its shard was assigned again after the lease, and is in the hands of another that was lost meanwhile."""
    board = Board(deque([0]))
    board.assign(1, 0.0)
    board.lose(1, until=30.0)
    assert board.assign(2, 31.0) == 0
    board.lose(2, until=61.0)
    board.release(1)
    assert board.assign(3, 32.0) is None
    assert board.assign(3, 61.0) == 0


def test_workers_that_cannot_begin_are_left_out_but_not_all() -> None:
    class Crippled(FakePool):
        def events(self, seconds: float) -> list[Event]:
            found = super().events(seconds)
            error = FaultError("on node: no such model")
            return [LeftOut(0, error) if isinstance(event, Ready) and not event.worker else event for event in found]

    said: list[str] = []
    pool = Crippled(2, lambda worker, number: Finished(worker, (1, 1)))
    run(pool, 5, say=said.append)
    assert said == ["a worker is left out: on node: no such model"]
    with pytest.raises(FaultError, match="no such model"):
        run(Crippled(1, lambda worker, number: None), 5)


def test_a_stop_waits_until_the_workers_have_kept_what_they_have() -> None:
    pool = FakePool(3, lambda worker, number: None)
    assigner = Assigner(lease=LEASE, clock=lambda: pool.now)
    with pytest.raises(KeyboardInterrupt):
        assigner.run(pool, {number: 10 for number in range(5)}, should_stop=lambda: pool.now > 3)
    assert (pool.stopped, pool.making, assigner.counts) == (True, {}, (3, 6))


def test_workers_that_are_ready_get_more_when_all_is_made() -> None:
    """Whoever lost its piece meanwhile too."""
    pool = FakePool(2, lambda worker, number: Finished(worker, (1,)))
    assigner = Assigner(lease=LEASE, clock=lambda: pool.now)
    assigner.run(pool, {0: 1, 1: 1})
    pool.answer = lambda worker, number: (
        Lost(worker) if len(pool.made) < 3 and not pool.lost else Finished(worker, (1,))
    )
    assigner.run(pool, {2: 1, 3: 1, 4: 1})
    assert (sorted(pool.made), assigner.counts) == ([0, 1, 2, 3, 4], (5,))


def test_wrong_use_is_not_tried_again() -> None:
    tries: list[int] = []

    def answer(worker: int, number: int) -> Event:
        tries.append(number)
        return Failed(worker, UsageError("--tau 7 is none"))

    with pytest.raises(UsageError, match="--tau 7"):
        run(FakePool(1, answer), 1)
    assert tries == [0]


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([{"CPU": 1}, {"CPU": 1}], RayOptions(), Placement(2, 1, 0)),
        ([{"CPU": 8}, {"CPU": 4}, {"memory": 1}], RayOptions(), Placement(2, 4, 0)),
        ([{"CPU": 8}], RayOptions(workers=3), Placement(3, 2, 0)),
        ([{"CPU": 2}], RayOptions(workers=9), Placement(9, 1, 0)),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 4}, {"CPU": 8, "GPU": 2}], RayOptions(), Placement(6, 1, 1)),
        ([{"CPU": 8, "GPU": 1}], RayOptions(gpus=0.5), Placement(2, 1, 0.5)),
        ([{"CPU": 8, "GPU": 4}], RayOptions(workers=1, gpus=2), Placement(1, 1, 2)),
        ([{"CPU": 8, "GPU": 4}], RayOptions(gpus=0), Placement(1, 8, 0)),
    ],
)
def test_workers_find_a_place(nodes: list, asked: RayOptions, expected: Placement) -> None:
    assert place(nodes, asked) == expected


def test_gpus_that_are_not_there() -> None:
    with pytest.raises(FaultError, match="no node of the cluster has 1 GPU"):
        place([{"CPU": 8}], RayOptions(gpus=1))
