"""The token-GNN: K message-passing layers over the token graph, and jumping knowledge over their outputs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glot.nn.config import PoolerConfig
from glot.nn.graph import TokenGraph
from glot.nn.registry import GNN_LAYERS, load


class GatLayer(nn.Module):
    """Graph attention with one head: (N, width) to (N, hidden).

    h_i' = b + Σ_j α_ij W h_j, with α_i· = softmax_j(LeakyReLU_0.2(a_sᵀ W h_j + a_dᵀ W h_i + c)).

    c is one learned number: what the published code's projection of the constant edge weight 1 amounts to.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden, width))
        self.source = nn.Parameter(_glorot_vector(hidden))
        self.target = nn.Parameter(_glorot_vector(hidden))
        # There, c starts as the product of an edge projection and an attention vector, Glorot both.
        self.edge = nn.Parameter(_glorot_vector(hidden) @ _glorot_vector(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, h: Tensor, graph: TokenGraph) -> Tensor:
        """One layer over (N, width) node features: (N, hidden), before the ReLU."""
        values = F.linear(h, self.weight)  # (N, hidden)
        return graph.attention(values, self.source, self.target, self.edge) + self.bias


class GcnLayer(nn.Module):
    """Graph convolution D^{-1/2} A D^{-1/2} H W + b, the self-loops in A: (N, width) to (N, hidden)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden, width))
        self.bias = nn.Parameter(torch.zeros(hidden))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, h: Tensor, graph: TokenGraph) -> Tensor:
        """One layer over (N, width) node features: (N, hidden), before the ReLU."""
        values = F.linear(h, self.weight)  # (N, hidden)
        scale = graph.degrees().to(values.dtype).rsqrt()[:, None]  # (N, 1)
        return graph.neighbour_sum(values * scale) * scale + self.bias


class GinLayer(nn.Module):
    """Graph isomorphism layer MLP(h_i + Σ_j h_j): (N, width) to (N, hidden).

    j includes i, so h_i enters twice (ε = 0). With `gin_batch_norm`, as published, z depends on the batch in training.
    """

    def __init__(self, width: int, hidden: int, gin_batch_norm: bool = False) -> None:
        super().__init__()
        norm = [nn.BatchNorm1d(hidden)] if gin_batch_norm else []
        self.mlp = nn.Sequential(nn.Linear(width, hidden), *norm, nn.ReLU(), nn.Linear(hidden, hidden))

    def forward(self, h: Tensor, graph: TokenGraph) -> Tensor:
        """One layer over (N, width) node features: (N, hidden), before the ReLU."""
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        # The MLP's first map commutes with the sum over neighbours, which is cheaper after it (hidden << width).
        projected = F.linear(h, first.weight)  # (N, hidden)
        return self.mlp[1:](projected + graph.neighbour_sum(projected) + first.bias)


class GineLayer(GinLayer):
    """GIN with an edge vector, MLP(h_i + Σ_j ReLU(h_j + e)), e learned from zero: (N, width) to (N, hidden)."""

    def __init__(self, width: int, hidden: int, gin_batch_norm: bool = False) -> None:
        super().__init__(width, hidden, gin_batch_norm)
        self.edge = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, graph: TokenGraph) -> Tensor:
        """One layer over (N, width) node features: (N, hidden), before the ReLU."""
        return self.mlp(h + graph.neighbour_sum(F.relu(h + self.edge)))


class TokenGNN(nn.Module):
    """K layers with a ReLU after each, and what the readout sees of them (jumping knowledge).

    Args:
        config: `gnn` names the layer, `gnn_layers` is K (with 0 the readout sees the states themselves), `hidden` is
            h, the width of every layer; jk `cat` keeps [X, H¹, ..., Hᴷ], `max` and `mean` reduce H¹ ... Hᴷ elementwise.
        width: d, the width of the token states.

    Attributes:
        out_widths: the widths of the tensors that `forward` returns.
    """

    def __init__(self, config: PoolerConfig, width: int) -> None:
        super().__init__()
        self.jk = config.jk
        widths = [width] + [config.hidden] * config.gnn_layers
        self.layers = nn.ModuleList(_make_layer(config, w) for w in widths[:-1])
        self.out_widths = widths if config.jk == "cat" or not config.gnn_layers else [config.hidden]

    def forward(self, states: Tensor, graph: TokenGraph) -> list[Tensor]:
        """The parts of U, never concatenated: a list of (N, w_k), w_k = out_widths[k]."""
        outputs = [states]
        for layer in self.layers:
            outputs.append(F.relu(layer(outputs[-1], graph)))  # (N, hidden)
        if self.jk == "cat" or not self.layers:
            return outputs
        stacked = torch.stack(outputs[1:])  # (K, N, hidden)
        return [stacked.amax(dim=0) if self.jk == "max" else stacked.mean(dim=0)]


def _make_layer(config: PoolerConfig, width: int) -> nn.Module:
    entry = GNN_LAYERS[config.gnn]
    layer: nn.Module = load(entry.make)(
        width, config.hidden, **{name: getattr(config, name) for name in entry.settings}
    )
    return layer


def _glorot_vector(hidden: int) -> Tensor:
    """(hidden,) drawn by Glorot's rule for a map from `hidden` numbers to one."""
    bound = math.sqrt(6 / (hidden + 1))
    return torch.empty(hidden).uniform_(-bound, bound)
