"""Message passing in plain torch on padded (b, L, L) matrices: runs wherever torch runs, in any float type."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from glot.nn.attention import additive_mask, attend
from glot.nn.tokens import TokenBatch


class DenseGraph:
    """A `TokenGraph` as adjacency matrices, one stack for each bucket of texts of similar length.

    Args:
        batch: the texts.
        pieces: its buckets, in order, each with its (b, L, L) bool mask from `EdgeRule`; mask[t, i, j] lets i hear j.
    """

    def __init__(self, batch: TokenBatch, pieces: list[tuple[TokenBatch, Tensor]]) -> None:
        self.batch, self.pieces = batch, pieces
        self.sizes = [len(bucket.states) for bucket, _ in pieces]

    @cached_property
    def additive_masks(self) -> list[Tensor]:
        """(1, b, L, L) float32 for each bucket, see `attend`: for one head, or for many that share the graph."""
        return [additive_mask(mask)[None] for _, mask in self.pieces]

    def attention(self, values: Tensor, source: Tensor, target: Tensor, edge_bias: Tensor) -> Tensor:
        """See `TokenGraph.attention`."""
        buckets = [bucket for bucket, _ in self.pieces]
        return attend(values[None], source[None], target[None], edge_bias[None], buckets, self.additive_masks)[0]

    def neighbour_sum(self, values: Tensor) -> Tensor:
        """See `TokenGraph.neighbour_sum`."""

        def add_up(piece: int, values: Tensor) -> Tensor:
            bucket, mask = self.pieces[piece]
            return mask.to(values.dtype) @ bucket.pad(values)

        return self._each(add_up, values)

    def degrees(self) -> Tensor:
        """See `TokenGraph.degrees`."""
        return self._each(lambda piece: self.pieces[piece][1].sum(dim=2))

    def readout(self, scores: Tensor, parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See `TokenGraph.readout`: no edge takes part in it."""
        return self.batch.readout(scores, parts)

    def _each(self, make: Callable[..., Tensor], *packed: Tensor) -> Tensor:
        """Split packed values (N, ...) by bucket, make a padded tensor of each, and pack these again."""
        split = [values.split(self.sizes) for values in packed]
        made = [make(piece, *(part[piece] for part in split)) for piece in range(len(self.pieces))]
        flat = [bucket.unpad(padded) for (bucket, _), padded in zip(self.pieces, made, strict=True)]
        return flat[0] if len(flat) == 1 else torch.cat(flat)
