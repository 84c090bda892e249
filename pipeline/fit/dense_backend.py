"""Message passing in plain torch on padded (B, L, L) matrices: runs wherever torch runs, in any float type."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pipeline.fit.tokens import TokenBatch


class DenseGraph:
    """A `TokenGraph` as adjacency matrices.

    Args:
        batch: the texts.
        mask: (B, Lmax, Lmax) bool from `edge_mask`; mask[b, i, j] lets i hear j.
    """

    def __init__(self, batch: TokenBatch, mask: Tensor) -> None:
        self.batch = batch
        self.mask = mask
        # Rows without a token hear everything, so that their softmax is not 0 / 0; `unpad` drops them.
        self.blocked = ~mask & batch.real[:, :, None]  # (B, L, L)

    def attention(
        self, values: Tensor, source_score: Tensor, target_score: Tensor, edge_bias: Tensor, slope: float = 0.2
    ) -> Tensor:
        """See `TokenGraph.attention`."""
        pad = self.batch.pad
        logits = pad(source_score)[:, None, :] + pad(target_score)[:, :, None] + edge_bias  # (B, L, L)
        logits = F.leaky_relu(logits, slope).masked_fill(self.blocked, float("-inf"))
        return self.batch.unpad(logits.softmax(dim=2) @ pad(values))

    def neighbour_sum(self, values: Tensor) -> Tensor:
        """See `TokenGraph.neighbour_sum`."""
        return self.batch.unpad(self.mask.to(values.dtype) @ self.batch.pad(values))

    def degrees(self) -> Tensor:
        """See `TokenGraph.degrees`."""
        return self.batch.unpad(self.mask.sum(dim=2))

    def readout(self, scores: Tensor, parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See `TokenGraph.readout`: no edge takes part in it."""
        return self.batch.readout(scores, parts)
