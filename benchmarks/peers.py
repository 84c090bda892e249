"""GLOT as it is written by hand with torch-geometric: what a training step of ours is measured against.

Two ways to write it, with the same parameters and the same equations as ours:

    obvious   states padded to 128 tokens; each text's graph by itself in a Python loop, its cosines by broadcasting;
              `Batch.from_data_list`
    fair      states padded to the batch's longest text; all cosines by one matrix product; one batched graph

Only the extra `bench` installs torch-geometric; no other module needs it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GATConv, global_add_pool
from torch_geometric.utils import softmax

from glot.nn.poolers import Glot

PADDED = 128  # tokens that the obvious script pads every text to


class PygGlot(nn.Module):
    """GLOT with graph attention layers, `cat` jumping knowledge and the attention readout."""

    def __init__(self, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [width] + [hidden] * layers
        self.layers = nn.ModuleList(GATConv(w, hidden, edge_dim=1, add_self_loops=False) for w in widths[:-1])
        total = sum(widths)
        self.readout = nn.Sequential(
            nn.Linear(total, max(128, total // 2)), nn.Tanh(), nn.Linear(max(128, total // 2), 1)
        )

    def forward(self, graph: Data) -> Tensor:
        """(B, D) vectors of the texts of a batched graph."""
        outputs = [graph.x]
        ones = graph.x.new_ones(graph.edge_index.shape[1], 1)
        for layer in self.layers:
            outputs.append(F.relu(layer(outputs[-1], graph.edge_index, ones)))
        tokens = torch.cat(outputs, dim=1)  # (N, D)
        weights = softmax(self.readout(tokens), graph.batch)  # (N, 1)
        return global_add_pool(weights * tokens, graph.batch)

    @torch.no_grad()
    def take(self, model: Glot) -> PygGlot:
        """The same, with the parameters of one of ours; its layers must be graph attention."""
        for ours, theirs in zip(model.gnn.layers, self.layers, strict=True):
            theirs.lin.weight.copy_(ours.weight)
            theirs.att_src.copy_(ours.source[None, None])
            theirs.att_dst.copy_(ours.target[None, None])
            theirs.lin_edge.weight.copy_((ours.edge / len(ours.source)).expand(len(ours.source), 1))
            theirs.att_edge.fill_(1.0)
            theirs.bias.copy_(ours.bias)
        first, _, last = self.readout
        first.load_state_dict(model.readout.project.state_dict())
        last.load_state_dict(model.readout.score.state_dict())
        return self


def obvious_graphs(padded: Tensor, mask: Tensor, tau: float) -> Data:
    """The graphs of (B, 128, d) padded states with their (B, 128) mask, built text by text."""
    graphs = []
    for text in range(len(padded)):
        x = padded[text][mask[text]]  # (L, d)
        cosine = F.cosine_similarity(x[:, None], x[None], dim=-1)  # (L, L)
        joined = (cosine > tau) | torch.eye(len(x), dtype=torch.bool, device=x.device)
        graphs.append(Data(x=x, edge_index=joined.nonzero().t()))
    return Batch.from_data_list(graphs)


def fair_graph(padded: Tensor, mask: Tensor, tau: float) -> Data:
    """One graph for (B, L, d) states padded to the longest text, with their (B, L) mask."""
    unit = F.normalize(padded, dim=2)
    joined = (unit @ unit.mT > tau) | torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    text, target, source = (joined & mask[:, :, None] & mask[:, None, :]).nonzero(as_tuple=True)
    first = (mask.sum(dim=1).cumsum(0) - mask.sum(dim=1))[text]
    owner = mask.nonzero()[:, 0]
    return Data(x=padded[mask], edge_index=torch.stack([first + source, first + target]), batch=owner)


def padded_states(states: Tensor, lengths: list[int], to: int | None = None) -> tuple[Tensor, Tensor]:
    """(B, L, d) zero-padded states and their (B, L) mask; L is the longest text unless given."""
    longest = to or max(lengths)
    texts = [F.pad(text, (0, 0, 0, longest - len(text))) for text in states.split(lengths)]
    places = torch.arange(longest, device=states.device)
    return torch.stack(texts), places < torch.tensor(lengths, device=states.device)[:, None]


Build = Callable[[Tensor, Tensor, float], Data]
WAYS: dict[str, tuple[Build, int | None]] = {"obvious": (obvious_graphs, PADDED), "fair": (fair_graph, None)}
