"""Several layers of a backbone as one: a learned mix for each token, before the graph and the pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glot.nn.tokens import TokenBatch


class LayerMix(nn.Module):
    """x_i = γ Σ_k s_k LN(x_i^(k)) with s = softmax(w), w and γ trained (Peters et al. 2018, "ELMo", equation 1).

    LN normalises each token's state of each layer to mean 0 and variance 1, without weights: some backbones' layers
    differ by orders of magnitude. All layers count alike at first.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, batch: TokenBatch) -> TokenBatch:
        """The texts with one state (N, d) a token, from the states of n layers side by side, (N, n d)."""
        mixed = mix(self.weight[None], self.scale[None], batch.normal_layers(len(self.weight)))
        return batch.with_states(mixed[0])


def mix(weight: Tensor, scale: Tensor, normal: Tensor) -> Tensor:
    """(S, N, d): the mixes of S heads, each with its own w and γ, of the same normalised layers (N, n, d).

    Args:
        weight: w, (S, n).
        scale: γ, (S, 1).
    """
    with torch.autocast(normal.device.type, enabled=False):  # edges are decided on what comes of it
        shares = scale * weight.softmax(dim=1)
        # A small product for each token reads the layers once and writes nothing of their size.
        return (shares.expand(len(normal), -1, -1) @ normal).transpose(0, 1).contiguous()
