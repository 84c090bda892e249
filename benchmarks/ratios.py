"""Ratios of two ways to do the same work: they take turns in one process, so that a busy machine slows both."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Ratio:
    """The work of one way over that of its peer, one value a repeat: above 1 it was faster, or smaller."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({min(self.values):.3f} to {max(self.values):.3f}, {len(self.values)} repeats)"


def seconds_of(run: Callable[[], object]) -> float:
    """How long a call took."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def speed_ratio(
    ours: Callable[[], object],
    peer: Callable[[], object],
    repeats: int,
    before: Callable[[], object] = lambda: None,
) -> Ratio:
    """Peer's seconds over ours, repeat by repeat; who goes first changes with each.

    Args:
        before: called before each run and not timed.
    """
    values = []
    for repeat in range(repeats):
        seconds = {}
        for run in (ours, peer) if repeat % 2 else (peer, ours):
            before()
            seconds[run] = seconds_of(run)
        values.append(seconds[peer] / seconds[ours])
    return Ratio(tuple(values))


def interleaved(ours: Callable[[T], object], peer: Callable[[T], object], pieces: Sequence[T]) -> float:
    """Peer's seconds over ours for one pass over all pieces; they take turns piece by piece."""
    seconds = {ours: 0.0, peer: 0.0}
    for place, piece in enumerate(pieces):
        for run in (ours, peer) if place % 2 else (peer, ours):
            started = time.perf_counter()
            run(piece)
            seconds[run] += time.perf_counter() - started
    return seconds[peer] / seconds[ours]


def describe_machine() -> str:
    """What the ratios were measured with, for a first line."""
    return f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def verdict(value: float, target: float, at_most: bool = False) -> str:
    """The target, and whether it was met."""
    met = value <= target if at_most else value >= target
    return f"target {'<=' if at_most else '>='} {target:g}: {'met' if met else 'MISSED'}"
