"""Which tokens of a text are joined: by cosine as in the paper, or by a rule that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glot.nn.config import PoolerConfig
from glot.nn.registry import EDGE_RULES, load
from glot.nn.tokens import TokenBatch


@dataclass(frozen=True)
class EdgeRule:
    """Which tokens hear each other. Every graph is undirected, and each token hears itself.

    Attributes:
        tau: the threshold of cosine and random.
        kind: a name of `EDGE_RULES`. `cosine` joins tokens whose cosine is above tau (1: none; -1: all but exact
            opposites); `random` as many as cosine does, drawn anew for each text and the same each time it is seen;
            `chain` each with the next one in the text; `knn` each with the `neighbours` of the highest cosine.
        neighbours: of knn.
    """

    tau: float
    kind: str = "cosine"
    neighbours: int = 5

    @classmethod
    def of(cls, config: PoolerConfig) -> EdgeRule:
        """The rule of a pooler's settings."""
        return cls(config.tau, config.graph, config.neighbours)

    def edges(self, batch: TokenBatch) -> Tensor:
        """(B, Lmax, Lmax) bool, symmetric, its diagonal True at real tokens, False wherever there is no token."""
        joined: Tensor = load(EDGE_RULES[self.kind].joined)(batch, self)
        return undirected(batch, joined)


def edge_mask(batch: TokenBatch, tau: float) -> Tensor:
    """Decide the edges of every text: j and i are joined iff cos(x_i, x_j) > tau (strict); i is joined to itself.

    The paper's rule, `similar`, by itself. Cosines are float32, without autocast or TF32, whatever the states are: in
    bfloat16 thousands of edges near tau flip. No gradient flows through it.

    Returns:
        (B, Lmax, Lmax) bool, symmetric, its diagonal True at real tokens, False wherever there is no token.
    """
    return EdgeRule(tau).edges(batch)


def similar(batch: TokenBatch, rule: EdgeRule) -> Tensor:
    """(B, L, L) bool: cosine above tau."""
    cosine = cosines(batch)
    # Rounding may lift the cosine of parallel states above 1.
    return cosine > rule.tau if rule.tau < 1 else torch.zeros_like(cosine, dtype=torch.bool)


def cosines(batch: TokenBatch) -> Tensor:
    """(B, Lmax, Lmax) float32 cosines of each text's tokens; padding stands for the text's last token.

    (i, j) and (j, i) may be rounded differently; edges are decided by the one above the diagonal.
    """
    with torch.no_grad(), _exact_float32(batch.device):
        # `normalize` divides by no less than 1e-12: a zero state has cosine 0 with every other.
        unit = batch.repeat_pad(F.normalize(batch.states.float(), dim=1))  # (B, L, d)
        return unit @ unit.mT


def undirected(batch: TokenBatch, joined: Tensor) -> Tensor:
    """Edges where `joined` (B, L, L) says so, and to oneself.

    The triangle j > i decides for both directions, for a product need not round (i, j) and (j, i) alike.
    """
    triangle = torch.ones(joined.shape[1:], dtype=torch.bool, device=batch.device).triu(diagonal=1)
    upper = joined & (triangle & batch.real[:, None, :])  # i is real where j > i is
    return upper | upper.mT | torch.diag_embed(batch.real)


def chain(batch: TokenBatch, rule: EdgeRule) -> Tensor:
    """(B, L, L) bool: each token and the next one in the text."""
    index = torch.arange(batch.longest, device=batch.device)
    return ((index[None] - index[:, None]) == 1).expand(len(batch), -1, -1)


def nearest(batch: TokenBatch, rule: EdgeRule) -> Tensor:
    """(B, L, L) bool: one is among the other's `neighbours` of the highest cosine."""
    others = batch.real[:, None, :] & ~torch.eye(batch.longest, dtype=torch.bool, device=batch.device)
    cosine = cosines(batch).masked_fill(~others, float("-inf"))
    nearest = cosine.topk(min(rule.neighbours, batch.longest), dim=2).indices  # (B, L, k)
    heard = torch.zeros_like(others).scatter_(2, nearest, True) & others & batch.real[:, :, None]
    return heard | heard.mT


def shuffled(batch: TokenBatch, rule: EdgeRule) -> Tensor:
    """(B, L, L) bool: in each text as many pairs as the cosine rule joins, drawn at random.

    The draw is a hash of both tokens' indices and of the text's first state, so that a text has one graph for good.
    """
    mask = edge_mask(batch, rule.tau)
    index = torch.arange(batch.longest, device=batch.device)
    first = batch.states.index_select(0, batch.index.offsets).float().view(torch.int32).long()  # (B, d)
    salt = (first * torch.arange(1, first.shape[1] + 1, device=batch.device)).sum(dim=1)  # (B,)
    draw = index[:, None] * 0x9E3779B1 + index * 0x85EBCA77 + salt[:, None, None]  # (B, L, L)
    for _ in range(2):  # multiply and shift, until nothing of the indices' order is left
        draw = ((draw ^ (draw >> 29)) * 0x1B873593) & 0x7FFFFFFFFFFF
    none = torch.iinfo(torch.int64).max
    possible = undirected(batch, torch.ones_like(mask)).triu(diagonal=1)
    draw = draw.masked_fill(~possible, none).flatten(1)  # (B, L L)
    wanted = mask.triu(diagonal=1).sum(dim=(1, 2))  # (B,)
    rank = draw.argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < wanted[:, None]).view_as(mask)


def edge_density(mask: Tensor, lengths: Tensor) -> tuple[int, int]:
    """(edges, pairs): edges off the diagonal of `mask` (B, L, L), and how many there could be for lengths (B,).

    Both count (i, j) and (j, i), and both are sums over the batch, so that a caller can add up many batches before
    it divides. A text of one token adds nothing to either.
    """
    return int(mask.sum() - lengths.sum()), int((lengths * (lengths - 1)).sum())


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
        mkldnn: Any = torch.backends.mkldnn  # whose type stubs do not know `matmul`
        settings = (torch.backends.cuda.matmul, mkldnn.matmul)
        saved = [setting.fp32_precision for setting in settings]
        try:
            for setting in settings:
                setting.fp32_precision = "ieee"
            yield
        finally:
            for setting, value in zip(settings, saved, strict=True):
                setting.fp32_precision = value
