"""The token states of a cache as packed batches: in memory where they fit, else streamed from disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from glot.nn.config import TokenChoice
from glot.nn.tokens import TokenBatch, send
from glot.store.plan import CONTENT
from glot.store.reader import Cache, StoredStates


@dataclass(frozen=True)
class HostBatch:
    """The distinct texts of some examples, before they go to the training device.

    They lie in host memory (pinned, if that device is a GPU), or on the GPU where all states fit there.

    Attributes:
        values: (N, n d) states of n layers side by side in the stored dtype, one text after the other, shortest first;
            or vectors (B, D) that a pooler without weights made of the texts.
        scale: (N, n) what int8 values are to be multiplied with, else None.
        lengths: (B,) int64, tokens of each text, on the CPU; None for vectors.
        rows: (m,) int64, the text of each example; a second one for pairs, and one for each of their negatives, -1
            where an example has fewer.
    """

    values: Tensor
    scale: Tensor | None = None
    lengths: Tensor | None = None
    rows: tuple[Tensor, ...] = ()

    def to(self, device: torch.device, chunk_size: int | None = None) -> tuple[Texts, list[Tensor]]:
        """The texts and the rows on a device; with `chunk_size`, chunks of so many texts, each made when called."""
        rows = [send(rows, device) for rows in self.rows]
        if self.lengths is None:
            return self.values.to(device), rows
        if chunk_size is None:
            return self.tokens(device), rows
        return [partial(chunk.tokens, device) for chunk in self.split(chunk_size)], rows

    def tokens(self, device: torch.device) -> TokenBatch:
        """The states as float32 on a device; not for vectors."""
        assert self.lengths is not None
        states = self.values.to(device, non_blocking=True).float()
        if self.scale is not None:
            scale = self.scale.to(device, non_blocking=True)[:, :, None]
            states = (states.unflatten(1, (scale.shape[1], -1)) * scale).flatten(1)
        return TokenBatch(states, self.lengths)

    def split(self, texts: int) -> list[HostBatch]:
        """The states in parts of so many texts, the last one perhaps smaller; nothing is copied."""
        assert self.lengths is not None
        lengths = self.lengths.split(texts)
        tokens = [int(part.sum()) for part in lengths]
        scales = [None] * len(lengths) if self.scale is None else self.scale.split(tokens)
        return list(map(HostBatch, self.values.split(tokens), scales, lengths))


# Of distinct texts: their tokens, their vectors (B, D), or chunks of their tokens, each made when it is called.
Texts = TokenBatch | Tensor | list[Callable[[], TokenBatch]]


class States:
    """The states of the texts of a cache, by text id.

    Attributes:
        width: d.
        lengths: (texts,) int64, tokens of each text of the cache.
        device: where training happens.
        reads_ahead: whether `fetch` is worth a thread of its own. Such a fetch computes nothing with torch on a CPU,
            where two threads' pools of workers would compete for the cores.
    """

    width: int
    lengths: np.ndarray
    device: torch.device
    reads_ahead: bool

    def fetch(self, text_ids: np.ndarray) -> HostBatch:
        """The states of some texts as they are stored."""
        raise NotImplementedError

    def gather(self, text_ids: np.ndarray) -> TokenBatch:
        """The states of some texts as one packed float32 batch on the training device."""
        return self.fetch(text_ids).tokens(self.device)


def as_tensors(stored: StoredStates) -> tuple[Tensor, Tensor | None]:
    """Stored states as (N, d) in the dtype that they stand for (bfloat16 is stored as uint16), and scales (N, 1)."""
    values = torch.from_numpy(stored.values)
    values = values.view(torch.bfloat16) if stored.dtype == "bfloat16" else values
    return values, None if stored.scale is None else torch.from_numpy(stored.scale)[:, None]


def _read_layers(
    cache: Cache, layers: tuple[int, ...], text_ids: np.ndarray, seen: _Tokens
) -> tuple[Tensor, Tensor | None]:
    """The states (N, n d) of some texts' tokens that are seen, the n layers side by side, and their scales (N, n)."""
    parts = [as_tensors(seen.of(text_ids, cache.read_texts(layer, text_ids))) for layer in layers]
    if len(parts) == 1:
        return parts[0]
    values, scales = zip(*parts, strict=True)
    return torch.cat(values, dim=1), None if scales[0] is None else torch.cat(scales, dim=1)


class _Tokens:
    """Which tokens of each text a pooler sees: all, or those that are neither special nor a template's.

    A text that has no other keeps them all.

    Attributes:
        lengths: (texts,) int64, how many.
    """

    def __init__(self, cache: Cache, choice: TokenChoice) -> None:
        self.lengths = cache.plan.length.astype(np.int64)
        self.start, self.seen = cache.plan.token_start, None
        if choice == "content":
            texts = len(self.lengths)
            self.seen = cache.plan.token_kinds(0, texts) == CONTENT  # (tokens,)
            count = np.add.reduceat(self.seen.astype(np.int64), self.start[:-1])
            self.seen |= np.repeat(count == 0, self.lengths)
            self.lengths = np.where(count == 0, self.lengths, count)

    def of(self, text_ids: np.ndarray, stored: StoredStates) -> StoredStates:
        """The rows that are seen of the stored states of some texts."""
        if self.seen is None:
            return stored
        ends = zip(self.start[text_ids], self.start[text_ids + 1], strict=True)
        seen = np.concatenate([self.seen[first:last] for first, last in ends])
        return stored.rows(seen)


class MemoryStates(States):
    """All states of the wanted texts in one tensor, in the stored dtype, on the training device if they fit there."""

    def __init__(
        self,
        cache: Cache,
        layers: tuple[int, ...],
        text_ids: np.ndarray,
        device: torch.device,
        tokens: TokenChoice = "all",
    ) -> None:
        self.device = device
        self.width = cache.manifest.states.width
        seen = _Tokens(cache, tokens)
        self.lengths = seen.lengths
        wanted = np.unique(text_ids)
        packed, scale = _read_layers(cache, layers, wanted, seen)  # (T, n d), (T, n)
        size = packed.numel() * packed.element_size()
        on_device = device.type != "cuda" or size < torch.cuda.mem_get_info(device)[0] // 2
        self.packed = packed.to(device) if on_device else packed
        self.reads_ahead = not on_device
        self.scale = None if scale is None else scale.to(self.packed.device)
        self.start = np.full(len(self.lengths), -1, dtype=np.int64)
        self.start[wanted] = np.cumsum(self.lengths[wanted]) - self.lengths[wanted]

    def fetch(self, text_ids: np.ndarray) -> HostBatch:
        """See `States`."""
        lengths = self.lengths[text_ids]
        ends = np.cumsum(lengths)
        index = np.repeat(self.start[text_ids] - ends + lengths, lengths) + np.arange(ends[-1])  # (N,)
        rows = send(torch.from_numpy(index), self.packed.device)
        scale = None if self.scale is None else self.scale.index_select(0, rows)
        return _pinned(self.packed.index_select(0, rows), scale, lengths, self.device)


class StreamedStates(States):
    """States read from the shards text by text: fast where an epoch stays within a few shards, see `epoch_order`."""

    def __init__(
        self, cache: Cache, layers: tuple[int, ...], device: torch.device, tokens: TokenChoice = "all"
    ) -> None:
        self.cache, self.layers, self.device = cache, layers, device
        self.width = cache.manifest.states.width
        self.tokens = _Tokens(cache, tokens)
        self.lengths = self.tokens.lengths
        self.reads_ahead = True

    def fetch(self, text_ids: np.ndarray) -> HostBatch:
        """See `States`."""
        values, scale = _read_layers(self.cache, self.layers, text_ids, self.tokens)
        return _pinned(values, scale, self.lengths[text_ids], self.device)


def _pinned(values: Tensor, scale: Tensor | None, lengths: np.ndarray, device: torch.device) -> HostBatch:
    if device.type == "cuda" and not values.is_cuda:
        values = values.pin_memory()  # the copy to the GPU then runs beside what computes there
    return HostBatch(values, scale, torch.from_numpy(lengths))


def states_bytes(cache: Cache, text_ids: np.ndarray, layers: int = 1) -> int:
    """Bytes of some layers' states of the given texts, each distinct text once."""
    states = cache.manifest.states
    row_bytes = replace(states, layers=states.layers[:1], dtype=cache.dtype).bytes_per_token
    return int(cache.plan.length[np.unique(text_ids)].sum()) * row_bytes * layers


def epoch_order(home: np.ndarray, seed: int, epoch: int, window: int | None) -> np.ndarray:
    """The order of an epoch's m examples, a function of (seed, epoch) alone: each exactly once.

    Args:
        home: (m,) the shard in which each example's first text lies.
        window: None shuffles all examples together; a number takes the shards in random order and shuffles the
            examples of that many shards at a time. Shards are random samples of the data, so this trains as well.
    """
    generator = np.random.default_rng([seed, epoch])
    if window is None:
        return generator.permutation(len(home))
    shards = generator.permutation(np.flatnonzero(np.bincount(home)))
    # One sort, and not a look at all examples for each window, of which there may be thousands.
    window_of = np.zeros(len(home) and home.max() + 1, np.min_scalar_type(len(shards)))
    window_of[shards] = np.arange(len(shards)) // window
    order = np.argsort(window_of[home], kind="stable")
    ends = np.cumsum(np.bincount(window_of[home]))
    for start, end in zip([0, *ends], ends, strict=False):
        order[start:end] = generator.permutation(order[start:end])
    return order
