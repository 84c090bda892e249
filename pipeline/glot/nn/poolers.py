"""Poolers: token states to one vector a text. GLOT and the baselines it is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glot.nn.config import PoolerConfig, TokenPosition
from glot.nn.gnn import TokenGNN
from glot.nn.graph import Backend, build_graph
from glot.nn.readout import AttentionReadout, MeanReadout, compute_dtype
from glot.nn.tokens import TokenBatch


class Pooler(nn.Module):
    """Base of all poolers: `forward` maps a `TokenBatch` of B texts to (B, out_width)."""

    out_width: int

    def forward(self, batch: TokenBatch) -> Tensor:
        """One vector a text: (B, out_width)."""
        raise NotImplementedError


class MeanPooler(Pooler):
    """The mean of a text's token states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = width

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, width)."""
        return _mean(batch, batch.states)


class MaxPooler(Pooler):
    """The elementwise maximum of a text's token states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = width

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, width)."""
        # unsafe=True skips a check of the lengths that waits for the device; TokenBatch has made it.
        return torch.segment_reduce(batch.states, "max", lengths=batch.lengths.to(batch.device), unsafe=True)


class ClsPooler(Pooler):
    """One token's state: the first (encoders) or the last (decoders)."""

    def __init__(self, width: int, position: TokenPosition) -> None:
        super().__init__()
        self.out_width = width
        self.position = position

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, width)."""
        rows = batch.offsets if self.position == "first" else batch.offsets + batch.lengths.to(batch.device) - 1
        return batch.states[rows]


class AdaPooler(Pooler):
    """AdaPool: a learned softmax over the token states, without a graph."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.out_width = width
        self.readout = AttentionReadout([width], hidden)

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, width)."""
        return self.readout([batch.states], batch)[0]


class MlpPooler(Pooler):
    """K layers of Linear and ReLU on every token by itself, then the mean."""

    def __init__(self, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [width] + [hidden] * layers
        self.out_width = widths[-1]
        self.layers = nn.ModuleList(nn.Linear(w, hidden) for w in widths[:-1])

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, hidden), or (B, width) where there is no layer."""
        h = batch.states
        for layer in self.layers:
            h = F.relu(layer(h))  # (N, hidden)
        return _mean(batch, h)


class Glot(Pooler):
    """GLOT: token graph, token-GNN, jumping knowledge, attention readout.

    Args:
        config: the settings.
        width: d, the width of the token states.
        backend: what passes the messages; it holds no parameters, so a state dict fits either.
    """

    def __init__(self, config: PoolerConfig, width: int, backend: Backend) -> None:
        super().__init__()
        self.rule = config.edge_rule
        self.backend = backend
        self.gnn = TokenGNN(width, config.hidden, config.layers, config.gnn, config.jk, config.gin_batch_norm)
        attention = config.readout == "attention"
        self.readout = AttentionReadout(self.gnn.out_widths) if attention else MeanReadout()
        self.out_width = sum(self.gnn.out_widths)

    def forward(self, batch: TokenBatch) -> Tensor:
        """z of every text: (B, out_width)."""
        return self.forward_with_weights(batch)[0]

    def forward_with_weights(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """z (B, out_width), and the readout's weights π (N,), which sum to 1 over each text."""
        # Without layers nobody asks for an edge: the batch itself can weigh its tokens.
        graph = build_graph(batch, self.rule, self.backend) if self.gnn.layers else batch
        # Edges come of the states as they are; under autocast what follows sees them in its own type, cast once.
        states = batch.states.to(compute_dtype(batch.states))
        return self.readout(self.gnn(states, graph), graph)


def make_pooler(config: PoolerConfig, width: int, backend: Backend) -> Pooler:
    """The pooler that `config` describes, for token states of `width`; only glot uses the backend."""
    if config.pooler == "glot":
        return Glot(config, width, backend)
    if config.pooler == "mlp":
        return MlpPooler(width, config.hidden, config.layers)
    if config.pooler == "adapool":
        return AdaPooler(width, config.adapool_hidden)
    if config.pooler == "cls":
        return ClsPooler(width, config.token_position)
    return MaxPooler(width) if config.pooler == "max" else MeanPooler(width)


def _mean(batch: TokenBatch, values: Tensor) -> Tensor:
    """(B, w): the mean of values (N, w) over each text's tokens."""
    return batch.weighted_sums([values], values.new_ones(len(values)))[0] / batch.lengths.to(values.device)[:, None]
