"""How the step of a batch is run: as it is, or on a GPU recorded once a size of batch as a CUDA graph and replayed.

A step is some two hundred small operations, and a processor takes ten times as long to start them as a GPU to compute
them. A graph starts all at once, but its shapes are fixed: texts that no example asks for bring every batch to one of
a few sizes.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from glot.fit.states import HostBatch, Texts
from glot.nn.tokens import TokenBatch, TokenIndex, send

FILLERS = 8  # texts that are added at least
LENGTHS = 16  # what the longest text is rounded up to a multiple of
WARM_UP = 2  # steps of a size that run as they are before one is recorded
MOST_SIZES = 32
MOST_CELLS = (
    2**24
)  # padded token pairs of a batch; above it a GPU is busy with a step for longer than it takes to start


class Unit(Protocol):
    """What trains as one: a `Learner` or a `Stack`."""

    @property
    def can_be_recorded(self) -> bool:
        """See `Learner`."""

    def update(self, texts: Texts, rows: list[Tensor], labels: Tensor | None) -> None:
        """See `Learner`."""


class Steps:
    """Runs the step of every unit on a batch, one operation after the other.

    Args:
        chunk_size: of the texts of pairs without labels, see `HostBatch.to`.
    """

    def __init__(self, units: Sequence[Unit], device: torch.device, chunk_size: int | None = None) -> None:
        self.units, self.device, self.chunk_size = units, device, chunk_size

    def run(self, host: HostBatch, labels: Tensor | None) -> None:
        """Loss, gradients and new weights of every unit on a batch whose labels (m,) are on the CPU."""
        texts, rows = host.to(self.device, self.chunk_size)
        here = None if labels is None else send(labels, self.device)
        for unit in self.units:
            unit.update(texts, rows, here)


@dataclass(frozen=True)
class BatchSize:
    """The shapes of a batch that a recorded step reads: B texts, N tokens, the padded length, and m examples."""

    texts: int
    tokens: int
    longest: int
    examples: int

    @classmethod
    def of(cls, host: HostBatch) -> BatchSize:
        """The smallest that holds a batch."""
        assert host.lengths is not None
        texts, tokens = len(host.lengths), int(host.lengths.sum())
        longest = _multiple(int(host.lengths.max()), LENGTHS)
        whole = _multiple(texts + FILLERS, FILLERS)
        # A filler holds a token at least and `longest` at most: so many of them take up any remainder.
        tokens = _multiple(tokens + whole - texts, 2 * longest)
        return cls(whole, tokens, longest, len(host.rows[0]))

    def filled(self, lengths: np.ndarray) -> np.ndarray:
        """(B,) the lengths of some texts, and of the fillers after them, which share the tokens that are left."""
        fillers = self.texts - len(lengths)
        share, more = divmod(self.tokens - int(lengths.sum()), fillers)
        return np.concatenate([lengths, share + (np.arange(fillers) < more)])


class FixedBatch(TokenBatch):
    """A batch of a size whose states and index are tensors that stay where they are while what they hold changes."""

    def __init__(self, states: Tensor, lengths: Tensor, index: TokenIndex, longest: int) -> None:
        super().__init__(states, lengths)
        self.__dict__.update(index=index, longest=longest)

    @cached_property
    def buckets(self) -> list[TokenBatch]:
        """See `TokenBatch`; never cut, for the lengths change."""
        return [self.with_states(self.states)]

    def with_states(self, states: Tensor) -> FixedBatch:
        """See `TokenBatch`; the index stays the one that changes with what the batch holds."""
        return FixedBatch(states, self.lengths, self.index, self.longest)


class Inputs:
    """The tensors on the device that a recorded step reads, for batches of one size, dtype and width."""

    def __init__(self, size: BatchSize, host: HostBatch, labels: Tensor, device: torch.device) -> None:
        self.size, self.device = size, device
        self.values = host.values.new_zeros((size.tokens, host.values.shape[1]), device=device)
        self.scale = None
        if host.scale is not None:
            self.scale = host.scale.new_zeros((size.tokens, host.scale.shape[1]), device=device)
        self.rows = [torch.zeros_like(rows, device=device) for rows in host.rows]
        self.labels = torch.zeros_like(labels, device=device)
        assert host.lengths is not None
        self.lengths = torch.from_numpy(size.filled(host.lengths.numpy()))
        self.flat = torch.from_numpy(TokenIndex.flat(self.lengths.numpy(), size.longest)).to(device)

    def fill(self, host: HostBatch, labels: Tensor) -> None:
        """Take over a batch; the fillers keep whatever states lie there."""
        assert host.lengths is not None
        tokens = len(host.values)
        self.values[:tokens].copy_(host.values, non_blocking=True)
        if self.scale is not None and host.scale is not None:
            self.scale[:tokens].copy_(host.scale, non_blocking=True)
        flat = torch.from_numpy(TokenIndex.flat(self.size.filled(host.lengths.numpy()), self.size.longest))
        for there, here in zip([self.flat, self.labels, *self.rows], [flat, labels, *host.rows], strict=True):
            there.copy_(send(here, self.device))

    def texts(self) -> FixedBatch:
        """The batch, its states made anew from what the tensors hold."""
        states = HostBatch(self.values, self.scale, self.lengths).tokens(self.device).states
        index = TokenIndex.of(self.flat, self.size.texts, self.size.tokens, self.size.longest)
        return FixedBatch(states, self.lengths, index, self.size.longest)


class RecordedSteps(Steps):
    """Steps that a GPU replays: the first of each size run as they are, one is recorded, and the rest replay it.

    Only for units whose `can_be_recorded` says so. On a CPU, for tests, a recorded step runs as it is.
    """

    def __init__(self, units: Sequence[Unit], device: torch.device) -> None:
        super().__init__(units, device)
        self.gave_up = False
        self.seen: Counter[BatchSize] = Counter()
        self.recorded: dict[BatchSize, tuple[Inputs, Callable[[], None]]] = {}
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def run(self, host: HostBatch, labels: Tensor | None) -> None:
        """See `Steps.run`."""
        if host.lengths is None or labels is None or self.gave_up:
            super().run(host, labels)
            return
        size = BatchSize.of(host)
        if size not in self.recorded:
            self.seen[size] += 1
            full = len(self.recorded) == MOST_SIZES or size.texts * size.longest**2 > MOST_CELLS
            if full or self.seen[size] <= WARM_UP or not self._record(size, host, labels):
                super().run(host, labels)
                return
        inputs, replay = self.recorded[size]
        inputs.fill(host, labels)
        replay()

    def _record(self, size: BatchSize, host: HostBatch, labels: Tensor) -> bool:
        """Record a step of a size, which does not run it; False where that does not work here."""
        inputs = Inputs(size, host, labels, self.device)

        def step() -> None:
            texts = inputs.texts()
            for unit in self.units:
                unit.update(texts, inputs.rows, inputs.labels)

        replay = step
        if self.device.type == "cuda":
            graph = torch.cuda.CUDAGraph()
            try:
                # One pool for all: they never run at once, and nothing of one is read after another.
                with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                    step()
            except RuntimeError as error:
                self.gave_up = True
                line = f"steps cannot be recorded as CUDA graphs here, which makes them slower: {error}"
                warnings.warn(line, RuntimeWarning, stacklevel=2)
                return False
            replay = graph.replay
        self.recorded[size] = (inputs, replay)
        return True


def make_steps(units: Sequence[Unit], device: torch.device, chunk_size: int | None) -> Steps:
    """What runs the steps of some units on a device."""
    if device.type == "cuda" and all(unit.can_be_recorded for unit in units):
        return RecordedSteps(units, device)
    return Steps(units, device, chunk_size)


def _multiple(count: int, of: int) -> int:
    """The smallest multiple of `of` that is not below `count`."""
    return -(-count // of) * of
