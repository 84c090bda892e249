"""The token graph: which tokens of a text are joined, and what a layer may ask of it whatever the backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import UsageError
from pipeline.fit.dense_backend import DenseGraph
from pipeline.fit.dgl_backend import DglGraph, dgl_available, dgl_import_error, dgl_runs_on
from pipeline.fit.tokens import TokenBatch

Backend = Literal["dgl", "dense"]


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


def edge_mask(batch: TokenBatch, tau: float) -> Tensor:
    """Decide the edges of every text: j and i are joined iff cos(x_i, x_j) > tau (strict); i is joined to itself.

    The one function that decides edges, whatever the backend. Cosines are float32, without autocast or TF32,
    whatever the states are: in bfloat16 thousands of edges near tau flip. No gradient flows through it.

    Returns:
        (B, Lmax, Lmax) bool, symmetric, its diagonal True at real tokens, False wherever there is no token.
    """
    with torch.no_grad(), _exact_float32(batch.device):
        if tau >= 1:  # rounding may lift the cosine of parallel states above 1
            return torch.diag_embed(batch.real)
        # `normalize` divides by no less than 1e-12: a zero state has cosine 0 with every other.
        unit = batch.repeat_pad(F.normalize(batch.states.float(), dim=1))  # (B, L, d)
        cosine = unit @ unit.mT.contiguous()  # (B, L, L)
        # The product need not round (i, j) and (j, i) alike, so the triangle j > i decides for both; i is real if j is.
        triangle = torch.ones(cosine.shape[1:], dtype=torch.bool, device=batch.device).triu(diagonal=1)
        upper = (cosine > tau) & (triangle & batch.real[:, None, :])
        return upper | upper.mT | torch.diag_embed(batch.real)


def edge_density(mask: Tensor, lengths: Tensor) -> tuple[int, int]:
    """(edges, pairs): edges off the diagonal of `mask` (B, L, L), and how many there could be for lengths (B,).

    Both count (i, j) and (j, i), and both are sums over the batch, so that a caller can add up many batches before
    it divides. A text of one token adds nothing to either.
    """
    return int(mask.sum() - lengths.sum()), int((lengths * (lengths - 1)).sum())


def resolve_backend(name: str, device: torch.device | str) -> Backend:
    """Turn `auto`, `dgl` or `dense` into the backend that will run on `device`.

    `auto` is dense, on every device: `docs/benchmarks.md` shows it to be the faster for texts of up to 128 tokens
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


def build_graph(batch: TokenBatch, tau: float, backend: Backend) -> TokenGraph:
    """The token graphs of a batch at threshold `tau`, ready for message passing by `backend`."""
    key = (tau, backend)
    if key not in batch.graphs:  # heads that are trained side by side ask for the same graphs
        pieces = [(bucket, edge_mask(bucket, tau)) for bucket in batch.buckets]
        batch.graphs[key] = DglGraph(batch, pieces) if backend == "dgl" else DenseGraph(batch, pieces)
    return batch.graphs[key]


@contextmanager
def _exact_float32(device: torch.device) -> Iterator[None]:
    """Float32 products without autocast, TF32 or bfloat16 passes; the process's own settings come back after."""
    with torch.autocast(device.type, enabled=False):
        if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch < 2.9
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(before)
            return
        # The older call raises where a program has used the newer settings, so it will not do for both.
        settings = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
        saved = [setting.fp32_precision for setting in settings]
        try:
            for setting in settings:
                setting.fp32_precision = "ieee"
            yield
        finally:
            for setting, value in zip(settings, saved, strict=True):
                setting.fp32_precision = value
