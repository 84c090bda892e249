"""A batch of texts as packed tokens, and the sums over each text's tokens that every pooler is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A bucket more is some dozens of small operations more; so many cells (token pairs) of padding cost the same. Measured
# on a CPU; on CUDA a cell costs next to nothing beside the start of an operation.
CUT_CELLS = {False: 2**16, True: 2**22}


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """The token states of B texts, one after the other, without padding.

    Attributes:
        states: (N, d) floating point; text b holds the rows offsets[b] to offsets[b] + lengths[b].
        lengths: (B,) int64, tokens of each text, all at least 1; on the CPU, wherever the states are, so that no
            shape waits for a device.

    Raises:
        ValueError: the shapes do not fit each other.
    """

    states: Tensor
    lengths: Tensor

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or self.lengths.ndim != 1 or not len(self.lengths):
            shapes = f"{tuple(self.states.shape)} and {tuple(self.lengths.shape)}"
            raise ValueError(f"need states (N, d) and lengths (B,) with B >= 1, got {shapes}")
        if self.lengths.min() < 1:
            raise ValueError("every text needs at least one token")
        if self.lengths.sum() != len(self.states):
            raise ValueError(f"lengths sum to {int(self.lengths.sum())} but there are {len(self.states)} tokens")

    def __len__(self) -> int:
        """B, the number of texts."""
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        """Where the states are."""
        return self.states.device

    def to(self, device: torch.device | str, dtype: torch.dtype) -> TokenBatch:
        """The batch with its states on `device`, in `dtype`."""
        return TokenBatch(self.states.to(device=device, dtype=dtype), self.lengths)

    @cached_property
    def graphs(self) -> dict[tuple[float, str], Any]:
        """The token graphs made of this batch so far, by threshold and backend: its states never change."""
        return {}

    @cached_property
    def offsets(self) -> Tensor:
        """(B,) int64, on the states' device: the row of each text's first token."""
        return self._here(self._first_rows)

    @cached_property
    def segment(self) -> Tensor:
        """(N,) int64, on the states' device: the text each token belongs to."""
        return self._here(self._texts)

    @cached_property
    def longest(self) -> int:
        """Lmax, the length of the longest text."""
        return int(self.lengths.max())

    @cached_property
    def real(self) -> Tensor:
        """(B, Lmax) bool, on the states' device: True where the padded layout holds a token."""
        return self._here(torch.arange(self.longest) < self.lengths[:, None])

    @cached_property
    def buckets(self) -> list[TokenBatch]:
        """The batch cut into runs of texts of similar length: what is padded together.

        Cuts pay where the texts lie in order of their lengths, as they do in training; in any other order the answer
        is the same, at the price of more padding.
        """
        cuts = _cuts(self.lengths.numpy(), CUT_CELLS[self.device.type == "cuda"])
        if not cuts:
            return [self]
        lengths = self.lengths.tensor_split(cuts)
        states = self.states.split([int(part.sum()) for part in lengths])
        return [TokenBatch(*part) for part in zip(states, lengths, strict=True)]

    @cached_property
    def _first_rows(self) -> Tensor:
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def _texts(self) -> Tensor:
        return torch.arange(len(self)).repeat_interleave(self.lengths, output_size=len(self.states))

    @cached_property
    def _slots(self) -> Tensor:
        """(N,) int64: each token's place in the flattened padded layout."""
        shift = torch.arange(len(self)) * self.longest - self._first_rows  # (B,)
        return self._here(torch.arange(len(self.states)) + shift[self._texts])

    def _here(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)

    def pad(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Packed (N, ...) to padded (B, Lmax, ...), with `fill` where there is no token."""
        padded = values.new_full((len(self) * self.longest, *values.shape[1:]), fill)
        return padded.index_copy_(0, self._slots, values).unflatten(0, (len(self), self.longest))

    def unpad(self, padded: Tensor) -> Tensor:
        """Padded (B, Lmax, ...) to packed (N, ...): undoes `pad`."""
        return padded.flatten(0, 1).index_select(0, self._slots)

    def pad_stack(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """(S, N, ...) to (S, B, Lmax, ...): `pad` for each of S stacked heads."""
        padded = values.new_full((len(values), len(self) * self.longest, *values.shape[2:]), fill)
        return padded.index_copy_(1, self._slots, values).unflatten(1, (len(self), self.longest))

    def unpad_stack(self, padded: Tensor) -> Tensor:
        """(S, B, Lmax, ...) to (S, N, ...): undoes `pad_stack`."""
        return padded.flatten(1, 2).index_select(1, self._slots)

    def spread_stack(self, weights: Tensor) -> Tensor:
        """(S, N) to (S, B, N): each text's weights in its own row, zero elsewhere."""
        spread = weights.new_zeros(len(weights), len(self) * len(self.states))
        return spread.index_copy(1, self._own_columns, weights).unflatten(1, (len(self), len(self.states)))

    def weighted_sums(self, parts: list[Tensor], weights: Tensor) -> list[Tensor]:
        """(B, w_k) for each part (N, w_k): the sum over each text's tokens of weights (N,) times the part.

        Matrix products with a (B, N) matrix that holds each text's weights in its own row: they read the values
        once, copy none of them, and their backward needs no atomic adds, so it is repeatable on a GPU too.
        """
        by_text = weights.new_zeros(len(self) * len(self.states)).index_copy(0, self._own_columns, weights)
        by_text = by_text.unflatten(0, (len(self), len(self.states)))  # (B, N)
        return [by_text @ part for part in parts]

    @cached_property
    def _own_columns(self) -> Tensor:
        """(N,) int64: each token's place in a flattened (B, N) matrix, in the row of its text."""
        return self._here(self._texts * len(self.states) + torch.arange(len(self.states)))

    def readout(self, scores: Tensor, parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Softmax of scores (N,) over each text, and the weighted sum of every part.

        Returns:
            weights (N,), which sum to 1 over each text, and one (B, w_k) for each part (N, w_k).
        """
        weights = self.unpad(self.pad(scores, float("-inf")).softmax(dim=1))  # (N,)
        return weights, self.weighted_sums(parts, weights)


def _cuts(lengths: np.ndarray, saving: int, first: int = 0) -> list[int]:
    """Where to cut (B,) lengths so that padding each part to its own longest text saves `saving` cells a cut."""
    if len(lengths) < 2:
        return []
    before = np.maximum.accumulate(lengths)[:-1]  # the longest of the texts up to each place
    after = np.maximum.accumulate(lengths[::-1])[::-1][1:]
    count = np.arange(1, len(lengths))
    cells = count * before**2 + (len(lengths) - count) * after**2
    best = int(cells.argmin())
    if len(lengths) * int(lengths.max()) ** 2 - int(cells[best]) < saving:
        return []
    left = _cuts(lengths[: best + 1], saving, first)
    return [*left, first + best + 1, *_cuts(lengths[best + 1 :], saving, first + best + 1)]
