"""Requests joined to batches, without HTTP and without a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError

import pytest

from glot.serve.batcher import Batcher, Full, Row

SECONDS = 30  # after which a test that waits has failed


class Gate:
    """A model that answers a text by its capitals, and its first batch only when it is let through."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, rows: Sequence[Row]) -> list[str]:
        self.batches.append([text for (text,) in rows])
        self.entered.set()
        assert self.open.wait(SECONDS)
        if "bad" in self.batches[-1]:
            raise ValueError("no text")
        return [text.upper() for (text,) in rows]


def rows(*texts: str) -> list[Row]:
    return [(text,) for text in texts]


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()  # whatever a test left waiting


def test_what_waits_goes_together_and_each_gets_its_own(gate: Gate) -> None:
    with Batcher(room=1000) as batcher:
        first = batcher.submit(gate, rows("first"))
        assert gate.entered.wait(SECONDS)
        others = {name: batcher.submit(gate, rows(f"{name}-a", f"{name}-b")) for name in map(str, range(63))}
        gate.open.set()
        assert first.result(SECONDS) == ["FIRST"]
        for name, answers in others.items():
            assert answers.result(SECONDS) == [f"{name}-A", f"{name}-B"]
    assert [len(batch) for batch in gate.batches] == [1, 126]


def test_an_error_is_only_the_one_s_that_caused_it(gate: Gate) -> None:
    with Batcher(room=1000) as batcher:
        batcher.submit(gate, rows("first"))
        assert gate.entered.wait(SECONDS)
        good, bad, more = (batcher.submit(gate, rows(text)) for text in ("good", "bad", "more"))
        gate.open.set()
        assert (good.result(SECONDS), more.result(SECONDS)) == (["GOOD"], ["MORE"])
        with pytest.raises(ValueError, match="no text"):
            bad.result(SECONDS)
        assert batcher.submit(gate, rows("later")).result(SECONDS) == ["LATER"]
    assert gate.batches[1] == ["good", "bad", "more"]


def test_a_batch_has_a_limit_and_other_calls_keep_their_turn(gate: Gate) -> None:
    other = Gate()
    other.open.set()
    with Batcher(room=1000, most=3) as batcher:
        batcher.submit(gate, rows("first"))
        assert gate.entered.wait(SECONDS)
        batcher.submit(gate, rows("a", "b"))
        batcher.submit(other, rows("x"))
        batcher.submit(gate, rows("c", "d"))
        batcher.submit(gate, rows("e"))
        long = batcher.submit(gate, rows(*"12345"))
        gate.open.set()
        assert long.result(SECONDS) == list("12345")
    assert gate.batches == [["first"], ["a", "b", "e"], ["c", "d"], list("12345")]
    assert other.batches == [["x"]]


def test_there_is_room_for_so_many_and_what_was_left_is_not_answered(gate: Gate) -> None:
    with Batcher(room=4) as batcher:
        batcher.submit(gate, rows("first"))
        assert gate.entered.wait(SECONDS)
        left, kept = batcher.submit(gate, rows("a", "b")), batcher.submit(gate, rows("c", "d"))
        with pytest.raises(Full):
            batcher.submit(gate, rows("e"))
        assert left.cancel()
        gate.open.set()
        assert kept.result(SECONDS) == ["C", "D"]
        with pytest.raises(CancelledError):
            left.result(SECONDS)
        assert batcher.submit(gate, rows(*"efgh")).result(SECONDS) == list("EFGH")
    assert ["c", "d"] in gate.batches


def test_leaving_answers_what_waits_and_takes_no_more(gate: Gate) -> None:
    with Batcher(room=10) as batcher:
        answers = [batcher.submit(gate, rows(text)) for text in "ab"]
        gate.open.set()
    assert [done.result(0) for done in answers] == [["A"], ["B"]]
    with pytest.raises(Full):
        batcher.submit(gate, rows("c"))
