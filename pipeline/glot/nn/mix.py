"""Several layers of a backbone as one: a learned mix for each token, before the graph and the pooling."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn, zeros

from glot.nn.config import PoolerConfig
from glot.nn.graph import Backend
from glot.nn.poolers import Pooler
from glot.nn.tokens import TokenBatch


class LayerMix(nn.Module):
    """x_i = γ Σ_k s_k LN(x_i^(k)) with s = softmax(w), w and γ trained (Peters et al. 2018, "ELMo", equation 1).

    LN normalises each token's state of each layer to mean 0 and variance 1, without weights: some backbones' layers
    differ by orders of magnitude. All layers count alike at first.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(zeros(layers))
        self.scale = nn.Parameter(zeros(1) + 1)

    @property
    def shares(self) -> Tensor:
        """(n,) s, which sum to 1."""
        return self.weight.softmax(dim=0)

    def forward(self, states: Tensor) -> Tensor:
        """(N, d) from the states of n layers side by side, (N, n d)."""
        layers = states.unflatten(1, (len(self.weight), -1))  # (N, n, d)
        normal = F.layer_norm(layers, layers.shape[2:])
        return self.scale * (self.shares[None, :, None] * normal).sum(dim=1)


class MixedPooler(Pooler):
    """A pooler over the mix of several layers: `mix`, then the `inner` one."""

    def __init__(self, config: PoolerConfig, inner: Pooler, backend: Backend) -> None:
        super().__init__(config, inner.in_width, backend)
        self.mix, self.inner = LayerMix(config.mixed_layers), inner
        self.out_width = inner.out_width

    def mixed(self, batch: TokenBatch) -> TokenBatch:
        """The same texts with their mixed states (N, d), from those of all layers side by side (N, n d)."""
        return TokenBatch(self.mix(batch.states), batch.lengths)

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B, out_width)."""
        vectors: Tensor = self.inner(self.mixed(batch))
        return vectors
