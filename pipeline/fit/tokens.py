"""A batch of texts as packed tokens, and the sums over each text's tokens that every pooler is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """The token states of B texts, one after the other, without padding.

    Attributes:
        states: (N, d) floating point; text b holds the rows offsets[b] to offsets[b] + lengths[b].
        lengths: (B,) int64, tokens of each text, all at least 1, on the device of the states.

    Raises:
        ValueError: the shapes do not fit each other. Sums are checked on the CPU only, where that does not wait
            for a device.
    """

    states: Tensor
    lengths: Tensor

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or self.lengths.ndim != 1 or not len(self.lengths):
            shapes = f"{tuple(self.states.shape)} and {tuple(self.lengths.shape)}"
            raise ValueError(f"need states (N, d) and lengths (B,) with B >= 1, got {shapes}")
        if self.lengths.device.type == "cpu":
            if self.lengths.min() < 1:
                raise ValueError("every text needs at least one token")
            if self.lengths.sum() != len(self.states):
                raise ValueError(f"lengths sum to {int(self.lengths.sum())} but there are {len(self.states)} tokens")

    def __len__(self) -> int:
        """B, the number of texts."""
        return len(self.lengths)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> TokenBatch:
        """The batch on `device`, its states in `dtype`."""
        return TokenBatch(self.states.to(device=device, dtype=dtype), self.lengths.to(device))

    @cached_property
    def offsets(self) -> Tensor:
        """(B,) int64: the row of each text's first token."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def segment(self) -> Tensor:
        """(N,) int64: the text each token belongs to."""
        texts = torch.arange(len(self), device=self.lengths.device)
        return texts.repeat_interleave(self.lengths, output_size=len(self.states))

    @cached_property
    def longest(self) -> int:
        """Lmax, the length of the longest text; on a GPU this waits for the device, once a batch."""
        return int(self.lengths.max())

    @cached_property
    def real(self) -> Tensor:
        """(B, Lmax) bool: True where the padded layout holds a token."""
        return torch.arange(self.longest, device=self.lengths.device) < self.lengths[:, None]

    @cached_property
    def _slots(self) -> Tensor:
        """(N,) int64: each token's place in the flattened padded layout."""
        shift = torch.arange(len(self), device=self.lengths.device) * self.longest - self.offsets  # (B,)
        return torch.arange(len(self.states), device=self.lengths.device) + shift[self.segment]

    def pad(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Packed (N, ...) to padded (B, Lmax, ...), with `fill` where there is no token."""
        padded = values.new_full((len(self) * self.longest, *values.shape[1:]), fill)
        return padded.index_copy_(0, self._slots, values).unflatten(0, (len(self), self.longest))

    def unpad(self, padded: Tensor) -> Tensor:
        """Padded (B, Lmax, ...) to packed (N, ...): undoes `pad`."""
        return padded.flatten(0, 1).index_select(0, self._slots)

    def weighted_sum(self, values: Tensor, weights: Tensor) -> Tensor:
        """(B, w): the sum over each text's tokens of weights (N,) times values (N, w).

        One matrix product with a (B, N) matrix that holds each text's weights in its own row: it reads the values
        once, copies none of them, and its backward needs no atomic adds, so it is repeatable on a GPU too.
        """
        tokens = torch.arange(len(self.states), device=weights.device)
        by_text = weights.new_zeros(len(self), len(self.states))  # (B, N)
        return by_text.index_put_((self.segment, tokens), weights) @ values

    def readout(self, scores: Tensor, parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Softmax of scores (N,) over each text, and the weighted sum of every part.

        Returns:
            weights (N,), which sum to 1 over each text, and one (B, w_k) for each part (N, w_k).
        """
        weights = self.unpad(self.pad(scores, float("-inf")).softmax(dim=1))  # (N,)
        return weights, [self.weighted_sum(part, weights) for part in parts]
