"""Dropout whose random numbers are its own, so that a checkpoint can keep how far they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Leaves out a share of the numbers of each vector while it trains, and scales the others up (Srivastava 2014).

    Args:
        share: of the numbers, at least 0 and below 1.
        device: where the vectors are.
    """

    def __init__(self, share: float, seed: int, device: torch.device) -> None:
        super().__init__()
        self.share, self.device = share, device
        self.generator = torch.Generator(device).manual_seed(seed)

    def mask(self, shape: torch.Size) -> Tensor:
        """Float32 factors of the next vectors, 0 or 1 / (1 - share)."""
        drawn = torch.rand(shape, generator=self.generator, device=self.device)
        return (drawn >= self.share) / (1 - self.share)

    def forward(self, vectors: Tensor) -> Tensor:
        """Of the same shape and dtype; outside training the vectors themselves."""
        return vectors * self.mask(vectors.shape).to(vectors.dtype) if self.training else vectors
