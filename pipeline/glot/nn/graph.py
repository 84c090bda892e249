"""The token graph: what a layer may ask of it whatever the backend, and which backend that is."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from glot.errors import UsageError
from glot.nn.dense_backend import DenseGraph
from glot.nn.dgl_backend import DglGraph, dgl_available, dgl_import_error, dgl_runs_on
from glot.nn.edges import EdgeRule
from glot.nn.tokens import TokenBatch

Backend = str  # "dgl" or "dense": what `resolve_backend` gives


class TokenGraph(Protocol):
    """What a layer needs of the graphs of a batch. Every node has exactly one self-loop."""

    def attention(self, values: Tensor, source: Tensor, target: Tensor, edge_bias: Tensor) -> Tensor:
        """(N, h): Σ_j α_ij v_j, α_i· = softmax_j(LeakyReLU(sourceᵀ v_j + targetᵀ v_i + edge_bias)).

        Values v are (N, h), source and target (h,), the bias a scalar tensor; j runs over the neighbours of i, itself
        included.
        """

    def neighbour_sum(self, values: Tensor) -> Tensor:
        """(N, w): Σ_j values_j over the neighbours of each node, itself included."""

    def degrees(self) -> Tensor:
        """(N,) int64: the number of neighbours of each node, itself included."""

    def readout(self, scores: Tensor, parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Softmax of scores (N,) over each text: weights (N,), and the weighted sum (B, w_k) of each part (N, w_k)."""


def resolve_backend(name: str, device: torch.device | str) -> Backend:
    """Turn `auto`, `dgl` or `dense` into the backend that will run on `device`.

    `auto` is dense, on every device: `docs/benchmarks-fit.md` shows it to be the faster for texts of up to 128 tokens
    whatever the graph, and for longer ones unless hardly a token is joined.

    Raises:
        UsageError: an unknown name, or DGL asked for where it cannot run.
    """
    device = torch.device(device)
    if name in ("auto", "dense"):
        return "dense"
    if name != "dgl":
        raise UsageError(f"backend must be one of auto, dgl, dense; got {name!r}")
    if not dgl_available():
        raise UsageError(
            f"DGL cannot be imported ({dgl_import_error()}): install dgl==1.1.3 and packaging "
            "(wheels exist for Python 3.11 and older), or use the dense backend"
        )
    if not dgl_runs_on(device):
        raise UsageError(f"this build of DGL does not run on {device.type}: use the dense backend there, or the cpu")
    return "dgl"


def build_graph(batch: TokenBatch, rule: EdgeRule, backend: Backend) -> TokenGraph:
    """The token graphs of a batch by a rule, ready for message passing by `backend`."""
    key = (rule, backend)
    if key not in batch.graphs:  # heads that are trained side by side ask for the same graphs
        pieces = [(bucket, rule.edges(bucket)) for bucket in batch.buckets]
        texts = batch.with_states(batch.states)  # a batch that its own graphs hold would keep itself alive
        batch.graphs[key] = DglGraph(texts, pieces) if backend == "dgl" else DenseGraph(texts, pieces)
    return batch.graphs[key]
