"""Message passing by DGL: the only module that imports it, and only when a graph is first asked for.

DGL 1.1.3 is imported late because it takes half a second and is not there for Python 3.12 and newer. Its graphs are
built once from global edge lists and never transformed: `add_self_loop`, `to_simple` and the like lose the batch
sizes in silence. Its kernels know neither bfloat16 nor autocast, so both are kept outside.
"""

from __future__ import annotations

import functools
import os
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from glot.errors import kind_and_reason
from glot.nn.attention import SLOPE, widen
from glot.nn.tokens import TokenBatch


def _dgl() -> ModuleType:
    # Without a backend named, DGL prints and writes a file to the home folder when it is imported.
    named = os.environ.get("DGLBACKEND")
    os.environ["DGLBACKEND"] = named or "pytorch"
    try:
        import dgl
    finally:
        if named is None:
            del os.environ["DGLBACKEND"]
    return dgl


@functools.cache
def dgl_import_error() -> str | None:
    """Why DGL cannot be imported, in one line; None where it can. The import is tried once a process."""
    try:
        _dgl()
    except Exception as error:  # a DGL built for another torch fails with whatever its loader raises
        return kind_and_reason(error)
    return None


def dgl_available() -> bool:
    """Whether DGL can be imported here."""
    return dgl_import_error() is None


def dgl_runs_on(device: torch.device) -> bool:
    """Whether the installed DGL has kernels for `device`: CUDA builds say so in their version, as in 1.1.3+cu118."""
    return device.type == "cpu" or (device.type == "cuda" and "+cu" in _dgl().__version__)


class DglGraph:
    """A `TokenGraph` as one batched DGL graph.

    Args:
        batch: the texts.
        pieces: its buckets, in order, each with its (b, L, L) bool mask from `edge_mask`, the self-loops in it.
    """

    def __init__(self, batch: TokenBatch, pieces: list[tuple[TokenBatch, Tensor]]) -> None:
        sources, targets, start = [], [], 0
        for bucket, mask in pieces:
            text, target, source = mask.nonzero(as_tuple=True)  # (E,) each
            first = bucket.index.offsets[text] + start
            sources.append(first + source)
            targets.append(first + target)
            start += len(bucket.states)
        graph = _dgl().graph((torch.cat(sources), torch.cat(targets)), num_nodes=start)
        edges_of_text = torch.cat([mask.sum(dim=(1, 2)) for _, mask in pieces])  # (B,)
        # DGL does not check the sizes: a wrong sum drops nodes or reads beyond the arrays.
        assert int(batch.lengths.sum()) == graph.num_nodes()
        assert int(edges_of_text.sum()) == graph.num_edges()
        graph.set_batch_num_nodes(batch.index.lengths)
        graph.set_batch_num_edges(edges_of_text)
        self.graph = graph

    def attention(self, values: Tensor, source: Tensor, target: Tensor, edge_bias: Tensor) -> Tensor:
        """See `TokenGraph.attention`."""
        fn = _dgl().function
        with self.graph.local_scope(), torch.autocast(values.device.type, enabled=False):
            self.graph.ndata["value"] = widen(values)
            self.graph.ndata["source"] = (widen(values) @ widen(source))[:, None]
            self.graph.ndata["target"] = (widen(values) @ widen(target))[:, None]
            self.graph.apply_edges(fn.u_add_v("source", "target", "logit"))
            logits = F.leaky_relu(self.graph.edata["logit"] + widen(edge_bias), SLOPE)  # (E, 1)
            self.graph.edata["alpha"] = _dgl().nn.functional.edge_softmax(self.graph, logits)
            self.graph.update_all(fn.u_mul_e("value", "alpha", "message"), fn.sum("message", "out"))
            return self.graph.ndata["out"].to(values.dtype)

    def neighbour_sum(self, values: Tensor) -> Tensor:
        """See `TokenGraph.neighbour_sum`."""
        fn = _dgl().function
        with self.graph.local_scope(), torch.autocast(values.device.type, enabled=False):
            self.graph.ndata["value"] = widen(values)
            self.graph.update_all(fn.copy_u("value", "message"), fn.sum("message", "out"))
            return self.graph.ndata["out"].to(values.dtype)

    def degrees(self) -> Tensor:
        """See `TokenGraph.degrees`."""
        return self.graph.in_degrees()

    def readout(self, scores: Tensor, parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See `TokenGraph.readout`."""
        dgl = _dgl()
        with self.graph.local_scope(), torch.autocast(scores.device.type, enabled=False):
            self.graph.ndata["score"] = widen(scores)[:, None]
            self.graph.ndata["weight"] = dgl.softmax_nodes(self.graph, "score")
            sums = []
            for part in parts:
                self.graph.ndata["part"] = widen(part)
                sums.append(dgl.sum_nodes(self.graph, "part", "weight").to(part.dtype))
            return self.graph.ndata["weight"][:, 0].to(scores.dtype), sums
