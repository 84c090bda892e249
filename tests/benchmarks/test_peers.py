"""Our GLOT and a hand-written one with torch-geometric are the same function: a second look at the equations."""

from __future__ import annotations

import pytest
import torch

from glot.nn.dgl_backend import dgl_available
from glot.nn.poolers import Glot, PoolerConfig
from glot.nn.tokens import TokenBatch

peers = pytest.importorskip(
    "benchmarks.peers", reason="torch-geometric is not installed (extra: bench)", exc_type=ImportError
)

LENGTHS = [5, 1, 17, 40, 128]


@pytest.mark.parametrize("way", peers.WAYS)
@pytest.mark.parametrize("tau", [-1.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_outputs_and_gradients_are_the_peers(way: str, tau: float, layers: int) -> None:
    torch.manual_seed(0)
    states = torch.randn(sum(LENGTHS), 24, dtype=torch.float64) + 0.5
    for backend in ("dense", *(["dgl"] if dgl_available() else [])):
        ours = Glot(PoolerConfig(gnn_layers=layers, hidden=16, tau=tau), 24, backend).double()
        theirs = peers.PygGlot(24, 16, layers).double().take(ours)
        build, padded = peers.WAYS[way]
        expected = theirs(build(*peers.padded_states(states, LENGTHS, padded), tau))
        found = ours(TokenBatch(states, torch.tensor(LENGTHS)))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        weights = torch.randn_like(found)
        (found * weights).sum().backward()
        (expected * weights).sum().backward()
        pairs = [(ours.readout.project, theirs.readout[0]), (ours.readout.score, theirs.readout[2])]
        grads = [(a.weight.grad, b.weight.grad) for a, b in pairs]
        grads += [(a.weight.grad, b.lin.weight.grad) for a, b in zip(ours.gnn.layers, theirs.layers, strict=True)]
        for own, other in grads:
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)
