"""Message passing in plain torch on padded (b, L, L) matrices: runs wherever torch runs, in any float type."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.fit.tokens import TokenBatch


class DenseGraph:
    """A `TokenGraph` as adjacency matrices, one stack for each bucket of texts of similar length.

    Args:
        batch: the texts.
        pieces: its buckets, in order, each with its (b, L, L) bool mask from `edge_mask`; mask[t, i, j] lets i hear j.
    """

    def __init__(self, batch: TokenBatch, pieces: list[tuple[TokenBatch, Tensor]]) -> None:
        self.batch, self.pieces = batch, pieces
        self.sizes = [len(bucket.states) for bucket, _ in pieces]
        # Rows without a token hear everything, so that their softmax is not 0 / 0; `unpad` drops them.
        self.blocked = [~mask & bucket.real[:, :, None] for bucket, mask in pieces]  # (b, L, L)

    def attention(
        self, values: Tensor, source: Tensor, target: Tensor, edge_bias: Tensor, slope: float = 0.2
    ) -> Tensor:
        """See `TokenGraph.attention`."""
        both = torch.stack([source, target], dim=1)  # (h, 2)

        def attend(piece: int, values: Tensor) -> Tensor:
            padded = self.pieces[piece][0].pad(values)  # (b, L, h)
            scores = padded @ both  # (b, L, 2)
            logits = scores[:, None, :, 0] + (scores[:, :, 1:] + edge_bias)  # (b, L, L)
            logits = F.leaky_relu_(logits.masked_fill_(self.blocked[piece], float("-inf")), slope)
            return logits.softmax(dim=2) @ padded

        return self._each(attend, values)

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
