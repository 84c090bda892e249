"""The attention readout: a learned softmax over each text's tokens, and their weighted sum."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from glot.nn.config import readout_width


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
        hidden: rows of W; `readout_width` of D unless given.
    """

    def __init__(self, part_widths: list[int], hidden: int | None = None) -> None:
        super().__init__()
        self.part_widths = list(part_widths)
        width = sum(part_widths)
        hidden = hidden or readout_width(width)
        self.project = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1)

    def scores(self, parts: list[Tensor]) -> Tensor:
        """(N,): m_i of each token, before the softmax."""
        hidden = SplitLinear.apply(self.project.weight, self.project.bias, *parts)  # (N, hidden)
        return self.score(torch.tanh(hidden)).squeeze(1)

    def forward(self, parts: list[Tensor], graph: Weighing) -> tuple[Tensor, Tensor]:
        """Parts (N, w_k) to z (B, D) and the weights π (N,), which sum to 1 over each text."""
        weights, sums = graph.readout(self.scores(parts), parts)
        return torch.cat(sums, dim=1), weights


class MeanReadout(nn.Module):
    """z = the mean of u_i over a text's tokens: what attention is compared with."""

    def forward(self, parts: list[Tensor], graph: Weighing) -> tuple[Tensor, Tensor]:
        """Parts (N, w_k) to z (B, D) and the equal weights (N,), which sum to 1 over each text."""
        weights, sums = graph.readout(parts[0].new_zeros(len(parts[0])), parts)
        return torch.cat(sums, dim=1), weights


class SplitLinear(torch.autograd.Function):
    """W [part_1, ..., part_n] + b without ever putting the parts side by side: (N, w_k) each, W (rows, Σ w_k).

    What autograd makes of the same products adds n tensors forward and copies W's gradient together backward; here
    each product lands where it belongs. A part that needs no gradient, as the frozen states, gets none.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, *parts: Tensor) -> Tensor:
        """(N, rows)."""
        dtype = compute_dtype(parts[0])
        parts = tuple(part.to(dtype) for part in parts)
        ctx.save_for_backward(weight, *parts)
        with torch.autocast(weight.device.type, enabled=False):
            weight = weight.to(dtype)
            hidden, start = bias.to(dtype), 0
            for part in parts:
                columns = weight[:, start : start + part.shape[1]]
                hidden = torch.addmm(hidden, part, columns.T) if not start else hidden.addmm_(part, columns.T)
                start += part.shape[1]
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of weight, bias and parts."""
        weight, *parts = ctx.saved_tensors
        by_weight, by_parts, start = weight.new_empty(weight.shape, dtype=gradient.dtype), [], 0
        for index, part in enumerate(parts):
            columns = slice(start, start + part.shape[1])
            torch.mm(gradient.T, part, out=by_weight[:, columns])
            needed = ctx.needs_input_grad[2 + index]
            by_parts.append(gradient @ weight[:, columns].to(gradient.dtype) if needed else None)
            start = columns.stop
        return by_weight.to(weight.dtype), gradient.sum(dim=0).to(weight.dtype), *by_parts


def compute_dtype(values: Tensor) -> torch.dtype:
    """The type in which products of these values are computed: autocast's where that is on, else their own."""
    device = values.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else values.dtype
