"""Several layers of a backbone as one: a learned mix for each token, before the graph and the pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerMix(nn.Module):
    """x_i = γ Σ_k s_k LN(x_i^(k)) with s = softmax(w), w and γ trained (Peters et al. 2018, "ELMo", equation 1).

    LN normalises each token's state of each layer to mean 0 and variance 1, without weights: some backbones' layers
    differ by orders of magnitude. All layers count alike at first.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers))
        self.scale = nn.Parameter(torch.ones(1))

    @property
    def shares(self) -> Tensor:
        """(n,) s, which sum to 1."""
        return self.weight.softmax(dim=0)

    def forward(self, states: Tensor) -> Tensor:
        """(N, d) from the states of n layers side by side, (N, n d)."""
        layers = states.unflatten(1, (len(self.weight), -1))  # (N, n, d)
        normal = F.layer_norm(layers, layers.shape[2:])
        return self.scale * (self.shares[None, :, None] * normal).sum(dim=1)
