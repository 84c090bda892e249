"""The attention readout: a learned softmax over each text's tokens, and their weighted sum."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Weighing(Protocol):
    """What turns scores into weights and sums: a `TokenGraph`, or a `TokenBatch` where there is no graph."""

    def readout(self, scores: Tensor, parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Softmax of scores (N,) over each text: weights (N,), and the weighted sum (B, w_k) of each part (N, w_k)."""


class AttentionReadout(nn.Module):
    """z = Σ_i π_i u_i, with π = softmax(m) over a text's tokens and m_i = wᵀ tanh(W u_i + b) + c.

    u_i is split into parts that are never concatenated: each is multiplied with its own columns of W, so that the
    backward pass spends nothing on the part that is the frozen states.

    Args:
        part_widths: the widths w_k of the parts; they sum to D.
        hidden: rows of W; max(128, D // 2) unless given.
    """

    def __init__(self, part_widths: list[int], hidden: int | None = None) -> None:
        super().__init__()
        self.part_widths = list(part_widths)
        width = sum(part_widths)
        hidden = hidden or max(128, width // 2)
        self.project = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1)

    def scores(self, parts: list[Tensor]) -> Tensor:
        """(N,): m_i of each token, before the softmax."""
        hidden = self.project.bias
        for part, weight in zip(parts, self.project.weight.split(self.part_widths, dim=1), strict=True):
            hidden = hidden + F.linear(part, weight)  # (N, hidden)
        return self.score(torch.tanh(hidden)).squeeze(1)

    def forward(self, parts: list[Tensor], graph: Weighing) -> tuple[Tensor, Tensor]:
        """Parts (N, w_k) to z (B, D) and the weights π (N,), which sum to 1 over each text."""
        weights, sums = graph.readout(self.scores(parts), parts)
        return torch.cat(sums, dim=1), weights
