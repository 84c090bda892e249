"""Workers as actors of Ray: where it is, how many find a place in it, and what becomes of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from glot.cluster.assign import POLL_SECONDS, Doing, Event, Failed, Finished, LeftOut, Lost, Ready
from glot.cluster.launch import RayOptions
from glot.errors import FaultError, GlotError

if TYPE_CHECKING:
    from glot.cluster.actor import Actor, Begun

# Ray's own words, on the terminal; `setdefault`, for who sets them wants them.
QUIET = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what its machinery says of workers that die, which is told in our words
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",  # of a Ray that this command starts: nothing is sent
}
STORE_BYTES = 100 * 2**20  # of its object store, which holds no states
LISTING_SECONDS = 60.0  # until all nodes see what one has written
BEGINNINGS = 5  # of one worker that each end while it loads


Found = TypeVar("Found")


@dataclass(frozen=True)
class Placement:
    """How many workers, and what each asks Ray for."""

    workers: int
    cpus: int
    gpus: float

    def __str__(self) -> str:
        each = f"{self.gpus:g} GPU" if self.gpus else f"{self.cpus} CPU"
        return f"{self.workers}, of {each} each"


def place(nodes: list[dict[str, float]], asked: RayOptions) -> Placement:
    """The workers for nodes with so many "CPU" and "GPU".

    On GPUs one worker for each share of a GPU; else one a node, with its processors, or as many as were asked for,
    among which all processors are shared out.

    Raises FaultError where GPUs are asked for and there is none.
    """
    with_gpus = [node["GPU"] for node in nodes if node.get("GPU")]
    gpus = asked.gpus if asked.gpus is not None else float(bool(with_gpus))
    if gpus:
        room = sum(int(count / gpus) for count in with_gpus)
        if not room:
            raise FaultError(
                f"no node of the cluster has {gpus:g} GPU: start one that has, or pass a smaller --gpus-per-worker"
            )
        return Placement(asked.workers or room, 1, gpus)
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise FaultError("no node of the cluster has a CPU for workers: start one with `ray start --num-cpus`")
    workers = asked.workers or len(cpus)
    return Placement(workers, max(1, min(sum(cpus) // workers, min(cpus))), 0)


@contextmanager
def connected(asked: RayOptions) -> Iterator[None]:
    """Ray, for as long as the block lasts: a cluster that is there, or one of this machine alone.

    Raises FaultError where it cannot be reached or started.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "address": asked.address}
    if asked.address == "local":
        options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except (Exception, SystemExit) as error:  # Ray raises what its parts raise, and exits where nobody answers for long
        if asked.address == "auto" and isinstance(error, ConnectionError):
            raise FaultError(
                "no Ray runs on this machine: start it with `ray start`, or leave --ray-address out for one of this "
                "command's own"
            ) from error
        raise FaultError(
            f"Ray cannot be {'started here' if asked.address == 'local' else 'reached at ' + asked.address} "
            f"({_line(error)}): this machine must be a node of the cluster, of the same versions of Ray and Python"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def living_nodes() -> dict[str, dict[str, float]]:
    """The nodes of the cluster that live, by their ids, and what each has."""
    import ray

    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def place_workers(asked: RayOptions, say: Callable[[str], None]) -> Placement:
    """The workers for the nodes of the cluster that is connected; says how many. Raises what `place` raises."""
    nodes = list(living_nodes().values())
    found = place(nodes, asked)
    say(f"workers by Ray: {found}; nodes: {len(nodes)}")
    return found


def wait_until_shown(folder: Path, look: Callable[[], Found | None]) -> Found:
    """What `look` finds once this machine sees what others wrote: a file system may keep its listings for a while.

    What is false counts as nothing. Raises FaultError where it finds nothing for `LISTING_SECONDS`.
    """
    until = time.monotonic() + LISTING_SECONDS
    while not (found := look()):
        if time.monotonic() > until:
            raise FaultError(
                f"{folder} does not show all that the workers have made: it must be the same folder on every node; the "
                "same command goes on"
            )
        time.sleep(1)
    return found


class RayPool:
    """The actors of a command, see `Pool`. Ray starts them, and starts them again, elsewhere where their node is gone.

    Args:
        kind: of actor; made with `own` beside its order.
        given: what a worker is told of a piece beside its number, at the time when it is handed out.
    """

    def __init__(
        self,
        kind: type[Actor],
        own: tuple[object, ...],
        placement: Placement,
        given: Callable[[int], tuple[object, ...]] = lambda number: (),
    ) -> None:
        import ray

        from glot.cluster.actor import TALK, Order

        self.workers, self.given = placement.workers, given
        remote: Any = ray.remote  # its types leave out the groups
        actor = remote(concurrency_groups={TALK: 1})(kind).options(
            num_cpus=placement.cpus,
            num_gpus=placement.gpus,
            max_concurrency=1,  # of `begin` and `make`: who answers that it has begun has nothing in hand
            max_restarts=-1,
            max_task_retries=0,  # whoever is lost is asked again by us, who know what it had in hand
            scheduling_strategy="SPREAD",
        )
        order = Order.of_this_process()
        self._actors = [actor.remote(order, *own) for _ in range(self.workers)]
        self._begun: dict[int, Begun] = {}  # what each worker said when it began last
        self._calls: dict[Any, tuple[str, int]] = {}  # Ray's references -> method and worker
        self._again: dict[int, float] = {}  # lost workers -> when to ask them to begin
        self._out: set[int] = set()  # workers that cannot begin
        self._answering: set[int] = set()  # workers that were heard of while they load
        self._ended = dict.fromkeys(range(self.workers), 0)  # how often each has ended while it did
        self._asked = 0.0
        for worker in range(self.workers):
            self._call(worker, "begin")

    def make(self, worker: int, number: int) -> None:
        """Have a worker make a piece."""
        self._call(worker, "make", number, *self.given(number))

    def stop(self) -> None:
        """Ask all workers to stop at the next batch."""
        for worker in range(self.workers):
            self._call(worker, "stop")

    def events(self, seconds: float) -> list[Event]:
        """What happened since, after at most so many seconds; also asks the workers for their progress."""
        import ray

        self._ask()
        if not self._calls:
            time.sleep(seconds)
            return []
        some, _ = ray.wait(list(self._calls), num_returns=1, timeout=seconds)
        if some:
            some, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        found = [self._answer(reference) for reference in some]
        return [event for event in found if event is not None]

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        """End the actors."""
        for worker in range(self.workers):
            self._kill(worker)

    def _kill(self, worker: int) -> None:
        import ray

        with suppress(Exception):  # it is gone, or Ray is
            ray.kill(self._actors[worker])

    def _call(self, worker: int, method: str, *arguments: Any) -> None:
        self._calls[getattr(self._actors[worker], method).remote(*arguments)] = (method, worker)

    def _ask(self) -> None:
        now = time.monotonic()
        for worker in [worker for worker, when in self._again.items() if when <= now]:
            del self._again[worker]
            self._answering.discard(worker)
            self._call(worker, "begin")
        if now - self._asked >= POLL_SECONDS:
            self._asked = now
            asked = {worker for method, worker in self._calls.values() if method == "progress"}
            at_work = {worker for method, worker in self._calls.values() if method == "make"}
            for worker in set(range(self.workers)) - asked - self._again.keys() - self._out:
                self._call(worker, "progress", worker in at_work)

    def _answer(self, reference: Any) -> Event | None:
        """What an answer means, or that there is none."""
        import ray
        from ray.exceptions import ActorDiedError, RayActorError, RayError

        method, worker = self._calls.pop(reference)
        try:
            answer = ray.get(reference)
        except RayError as error:
            if method not in ("begin", "make"):
                return None
            if method == "begin" and isinstance(error, ActorDiedError):  # for good: else Ray would start it again
                return self._leave_out(worker, FaultError(f"Ray cannot start it: {_line(error)}"))
            if isinstance(error, RayActorError):
                return self._lost(worker, method)
            reason = FaultError(_line(error))  # what nobody foresaw
            return Failed(worker, reason) if method == "make" else self._leave_out(worker, reason)
        if method == "begin":
            return self._ready(worker, answer)
        if method == "progress":
            self._answering.add(worker)
            return Doing(worker, *answer)
        if method == "make":
            done = Finished(worker, answer.counts)
            return done if answer.error is None else Failed(worker, answer.error)
        return None

    def _ready(self, worker: int, begun: Begun) -> Event:
        if begun.error is not None:
            return self._leave_out(worker, begun.error)
        before, self._begun[worker], self._ended[worker] = self._begun.get(worker), begun, 0
        # Of a node that lives Ray knows that the process before has ended; it has started this one.
        is_sole = before is None or before.process == begun.process or before.node in living_nodes()
        return Ready(worker, is_sole)

    def _lost(self, worker: int, method: str) -> Event:
        if method == "begin" and worker in self._answering:
            self._ended[worker] += 1
            if self._ended[worker] >= BEGINNINGS:
                reason = f"its process ended {BEGINNINGS} times while it loaded (memory?)"
                return self._leave_out(worker, FaultError(f"{reason}: look into Ray's logs of its node"))
        self._again[worker] = time.monotonic() + POLL_SECONDS
        return Lost(worker)

    def _leave_out(self, worker: int, error: GlotError) -> Event:
        self._out.add(worker)
        self._kill(worker)
        return LeftOut(worker, error)


def _line(error: BaseException) -> str:
    """What an error says, in one line; of one in a worker, what was raised there."""
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, BaseException) else error
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[-1 if cause is None and len(words) > 1 else 0]}" if words else repr(error)
