"""What is asked of Ray's actors, and what their answers mean, without Ray: answers come when a test says so."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")
from ray.exceptions import ActorUnavailableError  # noqa: E402

from glot import errors  # noqa: E402
from glot.cluster import actor, pool  # noqa: E402
from glot.cluster.actor import Actor, Begun, Order, Outcome  # noqa: E402
from glot.cluster.assign import Failed, Lost, Ready  # noqa: E402
from glot.cluster.pool import Placement, RayPool  # noqa: E402
from glot.fit.learner import LossError  # noqa: E402


class FakeRay:
    """Keeps calls until they are answered.

    `calls`: (method, arguments) in the order they came. `asked`: what an actor asks Ray for.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple]] = []
        self.answers: dict[int, Any] = {}
        self.asked: dict[str, Any] = {}

    def remote(self, **_: Any) -> Callable:
        def options(**given: Any) -> SimpleNamespace:
            self.asked = given
            return SimpleNamespace(remote=lambda *_: self)

        return lambda kind: SimpleNamespace(options=options)

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append((method, arguments))
            return len(self.calls) - 1

        return SimpleNamespace(remote=call)

    def wait(self, references: list[int], **_: Any) -> tuple[list[int], list[int]]:
        return [some for some in references if some in self.answers], []

    def get(self, reference: int) -> Any:
        answer = self.answers[reference]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, _: Any) -> None:
        """An actor is gone."""

    def answer(self, method: str, value: Any) -> None:
        """Answer the last call of a method."""
        last = max(number for number, (name, _) in enumerate(self.calls) if name == method)
        self.answers[last] = value


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    found = FakeRay()
    for name in ("remote", "wait", "get", "kill"):
        monkeypatch.setattr(ray, name, getattr(found, name))
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(pool, "living_nodes", lambda: {"node": {"CPU": 1.0}})
    return found


def test_a_worker_that_was_taken_for_lost_is_not_kept_alive(fake: FakeRay) -> None:
    """It cannot be reached for a moment and works on: its lease must run out, for its piece is another's by then."""
    workers = RayPool(Actor, (), Placement(1, 1, 0))
    fake.answer("begin", Begun("process", "node"))
    assert workers.events(0) == [Ready(0, True)]
    workers.make(0, 7)
    assert fake.calls[-1] == ("make", (7,))
    fake.answer("progress", (0, ()))
    workers.events(0)
    workers.events(0)
    assert fake.calls[-1] == ("progress", (True,))
    fake.answer("make", ActorUnavailableError("no route", None))
    assert Lost(0) in workers.events(0)
    before = len(fake.calls)
    fake.answer("progress", (0, ()))
    for _ in range(3):
        workers.events(0)
        fake.answer("progress", (0, ()))
    asked = [arguments for method, arguments in fake.calls[before:] if method == "progress"]
    assert asked
    assert set(asked) == {(False,)}


def test_only_who_is_waited_for_renews_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    renewed: list[bool] = []
    monkeypatch.setattr(actor.Lease, "renew", lambda self: renewed.append(True))
    worker = Actor(Order(30.0, {}, "0"))
    worker.progress(False)
    assert renewed == []
    worker.progress(True)
    assert renewed == [True]


def kinds_of_errors() -> list[errors.GlotError]:
    def below(kind: type) -> Iterator[type]:
        yield kind
        for other in kind.__subclasses__():
            yield from below(other)

    others = {kind for kind in below(errors.GlotError) if kind.__module__.startswith("glot.")} - {LossError}
    return [LossError("not finite", Path("run")), *(kind("words") for kind in sorted(others, key=str))]


@pytest.mark.parametrize("error", kinds_of_errors(), ids=lambda error: type(error).__name__)
def test_every_error_comes_back_from_a_worker(error: errors.GlotError) -> None:
    again = pickle.loads(pickle.dumps(Outcome(error=error))).error
    assert (type(again), str(again), again.exit_code) == (type(error), str(error), error.exit_code)


def test_a_piece_that_fails(fake: FakeRay) -> None:
    workers = RayPool(Actor, (), Placement(1, 1, 0), given=lambda number: (f"run-{number}", 2))
    fake.answer("begin", Begun("process", "node"))
    workers.events(0)
    workers.make(0, 3)
    assert ("make", (3, "run-3", 2)) in fake.calls
    error = errors.FaultError("the disk is full")
    fake.answer("make", Outcome(error=error))
    assert Failed(0, error) in workers.events(0)


def test_a_worker_asks_for_its_share_and_is_started_again(fake: FakeRay) -> None:
    """For ever, elsewhere too; but what it had in hand is nobody's until the command says so."""
    RayPool(Actor, (), Placement(2, 4, 0.5))
    share = {name: fake.asked[name] for name in ("num_cpus", "num_gpus", "max_restarts", "max_task_retries")}
    assert share == {"num_cpus": 4, "num_gpus": 0.5, "max_restarts": -1, "max_task_retries": 0}


def test_workers_do_as_the_command_and_have_none_of_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOT_ENGINE", "HF_HUB_OFFLINE", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made")
    given = Order.of_this_process().environment
    assert {name for name, value in given.items() if value == "made"} == {"GLOT_ENGINE", "HF_HUB_OFFLINE"}
