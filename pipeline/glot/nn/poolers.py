"""Poolers: token states to one vector a text. GLOT and the baselines it is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glot.nn.config import PoolerConfig
from glot.nn.edges import EdgeRule
from glot.nn.gnn import TokenGNN
from glot.nn.graph import Backend, build_graph
from glot.nn.mix import LayerMix
from glot.nn.readout import AttentionReadout, MeanReadout, compute_dtype
from glot.nn.registry import load
from glot.nn.tokens import TokenBatch


class Pooler(nn.Module):
    """Base of all poolers: `forward` maps a `TokenBatch` of B texts to (B, out_width).

    Args:
        config: the settings.
        width: d, the width of the token states.
        backend: what passes messages, for a pooler that has a graph. It holds no parameters, so a state dict fits
            either.

    Attributes:
        in_width: d. out_width: D, the width of a pooled vector; d unless a subclass says otherwise.
    """

    def __init__(self, config: PoolerConfig, width: int, backend: Backend = "dense") -> None:
        super().__init__()
        self.config, self.backend, self.in_width, self.out_width = config, backend, width, width

    def forward(self, batch: TokenBatch) -> Tensor:
        """One vector a text: (B, out_width)."""
        raise NotImplementedError


class MeanPooler(Pooler):
    """The mean of a text's token states."""

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, d)."""
        return _mean(batch, batch.states)


class MaxPooler(Pooler):
    """The elementwise maximum of a text's token states."""

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, d)."""
        # unsafe=True skips a check of the lengths that waits for the device; TokenBatch has made it.
        return torch.segment_reduce(batch.states, "max", lengths=batch.index.lengths, unsafe=True)


class ClsPooler(Pooler):
    """The state of one token: the first of a text (encoders) or the last (decoders)."""

    def rows(self, batch: TokenBatch) -> Tensor:
        """(B,) int64: the row of each text's token in the packed states."""
        is_first = self.config.token_position == "first"
        return batch.index.offsets if is_first else batch.index.offsets + batch.index.lengths - 1

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, d)."""
        return batch.states[self.rows(batch)]


class ReadoutPooler(Pooler):
    """A pooler whose vector is a weighted sum over a text's tokens, with weights of its own."""

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, out_width)."""
        return self.forward_with_weights(batch)[0]

    def forward_with_weights(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Vectors (B, out_width), and the weights π (N,), which sum to 1 over each text."""
        raise NotImplementedError


class AdaPooler(ReadoutPooler):
    """AdaPool: a learned softmax over the token states, without a graph."""

    def __init__(self, config: PoolerConfig, width: int, backend: Backend = "dense") -> None:
        super().__init__(config, width, backend)
        self.readout = AttentionReadout([width], config.adapool_hidden)

    def forward_with_weights(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Vectors (B, d) and weights (N,)."""
        return self.readout([batch.states], batch)


class MlpPooler(Pooler):
    """K layers of Linear and ReLU on every token by itself, then the mean."""

    def __init__(self, config: PoolerConfig, width: int, backend: Backend = "dense") -> None:
        super().__init__(config, width, backend)
        widths = [width] + [config.hidden] * config.gnn_layers
        self.out_width = widths[-1]
        self.layers = nn.ModuleList(nn.Linear(w, config.hidden) for w in widths[:-1])

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, hidden), or (B, d) where there is no layer."""
        h = batch.states
        for layer in self.layers:
            h = F.relu(layer(h))  # (N, hidden)
        return _mean(batch, h)


class Glot(ReadoutPooler):
    """GLOT: token graph, token-GNN, jumping knowledge, attention readout; see `Pooler` for what it is made of."""

    def __init__(self, config: PoolerConfig, width: int, backend: Backend) -> None:
        super().__init__(config, width, backend)
        self.rule = EdgeRule.of(config)
        self.gnn = TokenGNN(config, width)
        attention = config.readout == "attention"
        self.readout = AttentionReadout(self.gnn.out_widths) if attention else MeanReadout()
        self.out_width = sum(self.gnn.out_widths)

    def forward_with_weights(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """z (B, out_width), and the readout's weights π (N,), which sum to 1 over each text."""
        # Without layers nobody asks for an edge: the batch itself can weigh its tokens.
        graph = build_graph(batch, self.rule, self.backend) if self.gnn.layers else batch
        # Edges are decided on the states as they are; under autocast what follows sees them in its type, cast once.
        states = batch.states.to(compute_dtype(batch.states))
        return self.readout(self.gnn(states, graph), graph)


class LayersPooler(Pooler):
    """A pooler over the states of several layers side by side (N, n d): one state a token of them, then the `inner`."""

    def __init__(self, inner: Pooler) -> None:
        super().__init__(inner.config, inner.in_width, inner.backend)
        self.inner, self.out_width = inner, inner.out_width

    def one_layer(self, batch: TokenBatch) -> TokenBatch:
        """The same texts with one state (N, d) a token."""
        raise NotImplementedError

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, out_width)."""
        vectors: Tensor = self.inner(self.one_layer(batch))
        return vectors


class MixedPooler(LayersPooler):
    """A pooler over the mix of all layers, whose weights train with it."""

    def __init__(self, inner: Pooler) -> None:
        super().__init__(inner)
        self.mix = LayerMix(inner.config.mixed_layers)

    def one_layer(self, batch: TokenBatch) -> TokenBatch:
        """The mixed states."""
        mixed: TokenBatch = self.mix(batch)
        return mixed


class LastLayerPooler(LayersPooler):
    """A pooler over the last of the layers: what stands beside heads that mix them."""

    def one_layer(self, batch: TokenBatch) -> TokenBatch:
        """The last layer's states."""
        return batch.with_states(batch.states[:, -self.in_width :])


def make_pooler(config: PoolerConfig, width: int, backend: Backend) -> Pooler:
    """The pooler that `config` names, for token states of `width` numbers."""
    pooler: Pooler = load(config.entry.make)(config, width, backend)
    return MixedPooler(pooler) if config.mixed_layers else pooler


def token_weights(pooler: Pooler, batch: TokenBatch) -> Tensor:
    """(N,): how a pooler weighs each token, as its registry entry says; they sum to 1 over each text."""
    if isinstance(pooler, LayersPooler):
        return token_weights(pooler.inner, pooler.one_layer(batch))
    weights: Tensor = load(pooler.config.entry.weights)(pooler, batch)
    return weights


def uniform_weights(pooler: Pooler, batch: TokenBatch) -> Tensor:
    """(N,) float64: each token of a text the same. For mean, and where weights cannot tell what a pooler does."""
    return (1 / batch.lengths.double()).repeat_interleave(batch.lengths)


def one_token_weights(pooler: ClsPooler, batch: TokenBatch) -> Tensor:
    """(N,) float64: 1 for the token that is taken, else 0."""
    weights = torch.zeros(len(batch.states), dtype=torch.float64)
    weights[pooler.rows(batch)] = 1
    return weights


def largest_weights(pooler: Pooler, batch: TokenBatch) -> Tensor:
    """(N,) float64: the share of the d dimensions in which a token is the largest; equal ones share a dimension."""
    parts = batch.states.split(batch.lengths.tolist())
    largest = [(part == part.amax(dim=0)).double() for part in parts]  # (n, d) each
    return torch.cat([(part / part.sum(dim=0)).mean(dim=1) for part in largest])


def readout_weights(pooler: ReadoutPooler, batch: TokenBatch) -> Tensor:
    """(N,): the weights of the pooler's own readout."""
    return pooler.forward_with_weights(batch)[1]


def _mean(batch: TokenBatch, values: Tensor) -> Tensor:
    """(B, w): the mean of values (N, w) over each text's tokens."""
    return batch.weighted_sums([values], values.new_ones(len(values)))[0] / batch.index.lengths[:, None]
