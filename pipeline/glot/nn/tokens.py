"""A batch of texts as packed tokens, and the sums over each text's tokens that every pooler is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Each cut of a batch into buckets starts some dozens of small operations more. It pays where it saves so many cells
# (token pairs) of padding, measured on a CPU; on CUDA (True) a cell costs next to nothing beside starting an operation.
CUT_CELLS = {False: 2**16, True: 2**22}


@dataclass(frozen=True)
class TokenIndex:
    """Where the tokens of B texts lie in the packed rows (N) and in the padded layout (B, Lmax): int64, on one device.

    Attributes:
        lengths: (B,) tokens of each text.
        offsets: (B,) the row of each text's first token.
        segment: (N,) the text that each token belongs to.
        slots: (N,) each token's index in the flattened padded layout.
        repeated: (B Lmax,) the row at each index of that layout, where a text's last one is repeated to its end.
    """

    lengths: Tensor
    offsets: Tensor
    segment: Tensor
    slots: Tensor
    repeated: Tensor

    @staticmethod
    def flat(lengths: np.ndarray, longest: int) -> np.ndarray:
        """All attributes in one array, one after the other, so that one copy brings them to a device."""
        texts = np.arange(len(lengths))
        offsets = np.cumsum(lengths) - lengths
        segment = texts.repeat(lengths)
        slots = np.arange(len(segment)) + (texts * longest - offsets)[segment]
        repeated = np.minimum(np.arange(longest), lengths[:, None] - 1) + offsets[:, None]
        return np.concatenate([lengths, offsets, segment, slots, repeated.ravel()])

    @classmethod
    def of(cls, flat: Tensor, texts: int, tokens: int, longest: int) -> TokenIndex:
        """Views of what `flat` made for so many texts and tokens."""
        return cls(*flat.split([texts, texts, tokens, tokens, texts * longest]))


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """The token states of B texts, one after the other, without padding.

    Attributes:
        states: (N, d) floating point; text b's tokens follow those of the texts before it.
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
        lengths = self.lengths.numpy()
        if lengths.min() < 1:
            raise ValueError("every text needs at least one token")
        if lengths.sum() != len(self.states):
            raise ValueError(f"lengths sum to {lengths.sum()} but there are {len(self.states)} tokens")

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

    def with_states(self, states: Tensor) -> TokenBatch:
        """The same texts with other states (N, w), on the same device."""
        batch = TokenBatch(states, self.lengths)
        batch.__dict__.update(index=self.index, longest=self.longest)  # which the lengths alone decide
        return batch

    @cached_property
    def graphs(self) -> dict[tuple[Any, str], Any]:
        """The token graphs made of this batch so far, by edge rule and backend: its states never change."""
        return {}

    def normal_layers(self, count: int) -> Tensor:
        """(N, count, d), of states of so many layers side by side: each layer's state at mean 0 and variance 1.

        Made once, for all heads that mix them.
        """
        if count not in self._normal:
            layers = self.states.unflatten(1, (count, -1))
            self._normal[count] = F.layer_norm(layers, layers.shape[2:])
        return self._normal[count]

    @cached_property
    def _normal(self) -> dict[int, Tensor]:
        return {}

    @cached_property
    def index(self) -> TokenIndex:
        """Where the tokens of each text lie, on the states' device."""
        flat = torch.from_numpy(TokenIndex.flat(self.lengths.numpy(), self.longest))
        return TokenIndex.of(send(flat, self.device), len(self), len(self.states), self.longest)

    @cached_property
    def longest(self) -> int:
        """Lmax, the length of the longest text."""
        return int(self.lengths.numpy().max())

    @cached_property
    def real(self) -> Tensor:
        """(B, Lmax) bool, on the states' device: True where the padded layout holds a token."""
        return torch.arange(self.longest, device=self.device) < self.index.lengths[:, None]

    @cached_property
    def buckets(self) -> list[TokenBatch]:
        """The batch cut into runs of texts of similar length: what is padded together.

        Cuts pay where the texts lie in order of their lengths, as they do in training; in any other order the answer
        is the same, at the price of more padding.
        """
        cuts = _cuts(self.lengths.numpy(), CUT_CELLS[self.device.type == "cuda"])
        if not cuts:
            return [self.with_states(self.states)]  # not the batch itself, which would then keep itself alive
        lengths = self.lengths.tensor_split(cuts)
        states = self.states.split([int(part.sum()) for part in lengths])
        return [TokenBatch(*part) for part in zip(states, lengths, strict=True)]

    def pad(self, values: Tensor, fill: float = 0.0, dim: int = 0) -> Tensor:
        """Packed (..., N, ...) to padded (..., B, Lmax, ...), tokens along `dim`; `fill` where there is no token."""
        shape = list(values.shape)
        shape[dim] = len(self) * self.longest
        padded = values.new_full(shape, fill)
        return padded.index_copy_(dim, self.index.slots, values).unflatten(dim, (len(self), self.longest))

    def repeat_pad(self, values: Tensor, dim: int = 0) -> Tensor:
        """As `pad`, but each text's last row is repeated where it has no token: one pass over memory, not two."""
        return _rows(values, self.index.repeated, dim).unflatten(dim, (len(self), self.longest))

    def unpad(self, padded: Tensor, dim: int = 0) -> Tensor:
        """Padded (..., B, Lmax, ...), texts along `dim`, to packed (..., N, ...): undoes `pad`."""
        return _rows(padded.flatten(dim, dim + 1), self.index.slots, dim)

    def softmax(self, scores: Tensor) -> Tensor:
        """(..., N): the softmax of scores (..., N) over each text's tokens."""
        dim = scores.ndim - 1
        return self.unpad(self.pad(scores, float("-inf"), dim).softmax(dim=-1), dim)

    def weighted_sums(self, parts: list[Tensor], weights: Tensor) -> list[Tensor]:
        """(B, w_k) for each part (N, w_k): the sum over each text's tokens of weights (N,) times the part.

        For S stacked heads (S, B, w_k), weights (S, N) and parts (S, N, w_k), or (N, w_k) where all share one.
        """
        return [_WeightedSum.apply(part, weights.to(part.dtype), self) for part in parts]

    def dot(self, part: Tensor, vectors: Tensor) -> Tensor:
        """(..., N): each token of part (N, w) times the vector of its text, of vectors (..., B, w)."""
        heads = vectors.reshape(-1, *vectors.shape[-2:]).transpose(0, 1)  # (B, S, w)
        products, text = [], 0
        for bucket, rows in zip(self.buckets, part.split([len(bucket.states) for bucket in self.buckets]), strict=True):
            padded = bucket.repeat_pad(rows)  # (b, L, w)
            products.append(bucket.unpad(padded @ heads[text : text + len(bucket)].mT))  # (n, S)
            text += len(bucket)
        return torch.cat(products).T.reshape(*vectors.shape[:-2], -1)

    def readout(self, scores: Tensor, parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Softmax of scores (N,) over each text, and the weighted sum of every part; or of (S, N), as above.

        Returns:
            weights (N,), which sum to 1 over each text, and one (B, w_k) for each part (N, w_k).
        """
        weights = self.softmax(scores)
        return weights, self.weighted_sums(parts, weights)


class _WeightedSum(torch.autograd.Function):
    """`embedding_bag` reads each row once and copies none; its own backward for the rows sorts them, ours need not."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, weights: Tensor, batch: TokenBatch) -> Tensor:
        """(B, w) of part (N, w) and weights (N,); or (S, B, w), see `TokenBatch.weighted_sums`."""
        ctx.batch = batch
        ctx.save_for_backward(part, weights)
        heads, tokens = weights.numel() // len(batch.states), len(batch.states)
        shift = torch.arange(heads, device=part.device)[:, None]
        rows = torch.arange(part.shape[:-1].numel(), device=part.device).view(-1, tokens).expand(heads, -1)
        offsets = batch.index.offsets + shift * tokens  # (S, B)
        sums = F.embedding_bag(
            rows.flatten(), part.flatten(0, -2), offsets.flatten(), mode="sum", per_sample_weights=weights.flatten()
        )
        return sums.view(*weights.shape[:-1], len(batch), part.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients of part and weights; none for the part where it is frozen."""
        part, weights = ctx.saved_tensors
        if part.ndim < gradient.ndim:  # frozen states that many heads share
            return None, ctx.batch.dot(part, gradient), None
        spread = _rows(gradient, ctx.batch.index.segment, gradient.ndim - 2)  # (..., N, w)
        by_part = spread * weights[..., None] if ctx.needs_input_grad[0] else None
        return by_part, spread.mul_(part).sum(dim=-1), None


def send(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device. A GPU's other work is not waited for, as a copy of common memory would."""
    pinned = values.pin_memory() if device.type == "cuda" and not values.is_cuda else values
    return pinned.to(device, non_blocking=True)


def _rows(values: Tensor, rows: Tensor, dim: int) -> Tensor:
    """`values.index_select(dim, rows)` for dim 0 or 1; along dim 1 torch takes two to three times as long for it."""
    if dim == 0:
        return values.index_select(0, rows)
    heads, count = values.shape[:2]
    if heads > 1:
        rows = (rows + count * torch.arange(heads, device=rows.device)[:, None]).flatten()
    return values.flatten(0, 1).index_select(0, rows).unflatten(0, (heads, -1))


def _cuts(lengths: np.ndarray, saving: int, first: int = 0) -> list[int]:
    """Where to cut (B,) lengths so that padding each part to its own longest text saves `saving` cells a cut."""
    if len(lengths) < 2:
        return []
    before = np.maximum.accumulate(lengths)[:-1]  # the longest of the texts up to each one
    after = np.maximum.accumulate(lengths[::-1])[::-1][1:]
    count = np.arange(1, len(lengths))
    cells = count * before**2 + (len(lengths) - count) * after**2
    best = int(cells.argmin())
    if len(lengths) * int(lengths.max()) ** 2 - int(cells[best]) < saving:
        return []
    left = _cuts(lengths[: best + 1], saving, first)
    return [*left, first + best + 1, *_cuts(lengths[best + 1 :], saving, first + best + 1)]
