"""Heads of one shape as one: their weights lie stacked, so that every product, sum and softmax is one for all.

Training sixteen small heads one after the other spends most of its time in starting small operations. Each head of a
stack gets the same batches and the same updates as by itself, to rounding.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glot.fit.learner import Learner
from glot.fit.schedule import lr_factor, make_optimizer, set_rate
from glot.fit.states import Texts
from glot.nn.attention import additive_mask, attend
from glot.nn.dense_backend import DenseGraph
from glot.nn.edges import EdgeRule
from glot.nn.graph import build_graph
from glot.nn.mix import mix
from glot.nn.readout import AttentionReadout, compute_dtype
from glot.nn.registry import GNN_LAYERS
from glot.nn.tokens import TokenBatch


def stack_key(head: Learner) -> tuple | None:
    """Heads whose keys are equal can be stacked; None: this one cannot.

    GLOT with graph attention on the dense backend and labels can, whatever its graph, its dropout and its seed, over
    one layer or a mix of several.
    """
    pooler, train = head.config.pooler, head.config.train
    can_stack = pooler.entry.stacks and GNN_LAYERS[pooler.gnn].stacks and pooler.readout == "attention"
    if not can_stack or train.backend != "dense" or train.schedule.startswith("plateau") or head.config.contrastive:
        return None
    shape = replace(pooler, tau=0.0, graph="cosine", neighbours=1)
    rates = (train.lr, train.schedule, train.warm_up, train.weight_decay)
    return (shape, *rates, train.class_weights, head.config.task)


class Stack:
    """S heads that train as one. Their own weights and optimizers stay in step: they are views of the stacked ones.

    Args:
        heads: with equal `stack_key`s.
    """

    def __init__(self, heads: list[Learner]) -> None:
        self.heads, first = heads, heads[0]
        self.device, self.train = first.device, first.config.train
        self.config = first.config.pooler
        self.rules = [EdgeRule.of(head.config.pooler) for head in heads]
        self.mixed_layers = self.config.mixed_layers
        self.prefix = "pooler.inner" if self.mixed_layers else "pooler"  # see `MixedPooler`
        readout = first.model.get_submodule(f"{self.prefix}.readout")
        assert isinstance(readout, AttentionReadout)  # see `stack_key`
        self.parts = readout.part_widths
        names = [name for name, _ in first.model.named_parameters()]
        self.weights = {name: self._stacked([head.model.get_parameter(name) for head in heads]) for name in names}
        self.optimizer = make_optimizer(self.weights.values(), self.train.lr, self.device, self.train.weight_decay)
        self.has_dropout = any(head.model.dropout is not None for head in heads)
        self.is_shared = False
        self._take_over_optimizers()
        self.lost = torch.stack([head.lost for head in heads])  # (S,)
        for index, head in enumerate(heads):
            head.lost = self.lost[index]

    @staticmethod
    def _stacked(own: list[nn.Parameter]) -> nn.Parameter:
        stacked = nn.Parameter(torch.stack([parameter.detach() for parameter in own]))
        for index, parameter in enumerate(own):
            parameter.data = stacked.data[index]
        return stacked

    def _take_over_optimizers(self) -> None:
        for name, stacked in self.weights.items():
            states = [head.optimizer.state.get(head.model.get_parameter(name)) for head in self.heads]
            known = [state for state in states if state]
            if len(known) < len(states):
                return  # before the first step
            moments = {key: torch.stack([state[key] for state in known]) for key in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[stacked] = {"step": known[0]["step"], **moments}
        self._share_optimizer()

    def _share_optimizer(self) -> None:
        """Make the heads' own optimizers see the stacked one's state, for a checkpoint."""
        for name, stacked in self.weights.items():
            state = self.optimizer.state[stacked]
            for index, head in enumerate(self.heads):
                moments = {key: state[key][index] for key in ("exp_avg", "exp_avg_sq")}
                head.optimizer.state[head.model.get_parameter(name)] = {"step": state["step"], **moments}
        self.is_shared = True

    @property
    def can_be_recorded(self) -> bool:
        """See `Learner.can_be_recorded` and `stack_key`."""
        return not self.has_dropout

    def set_rate(self, share: float) -> None:
        """See `Learner.set_rate`."""
        factor = lr_factor(self.train.schedule, share, [], self.train.warm_up)
        set_rate(self.optimizer, self.train.lr * factor)

    def update(self, texts: Texts, rows: list[Tensor], labels: Tensor | None) -> None:
        """One step of all heads, see `Learner.update`; `labels` are always given here."""
        assert isinstance(texts, TokenBatch)
        assert labels is not None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.train.precision == "bfloat16"):
            losses = self.losses(texts, rows, labels)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        self.optimizer.step()
        if not self.is_shared:
            self._share_optimizer()
        self.lost += losses.detach().double() * len(labels)

    def losses(self, texts: TokenBatch, rows: list[Tensor], labels: Tensor) -> Tensor:
        """(S,): each head's mean loss."""
        z = self.pool(texts)  # (S, B, D)
        if self.has_dropout:
            dropouts = [some.model.dropout for some in self.heads]
            masks = [dropout.mask(z.shape[1:]) if dropout else torch.ones_like(z[0]) for dropout in dropouts]
            z = z * torch.stack(masks).to(z.dtype)
        head = self.heads[0].model.head
        weights: dict[str, Tensor] = {
            name.removeprefix("head."): value for name, value in self.weights.items() if name[:5] == "head."
        }

        def loss(weights: dict[str, Tensor], *vectors: Tensor) -> Tensor:
            return head.loss(torch.func.functional_call(head, weights, vectors).float(), labels)

        return torch.func.vmap(loss)(weights, *(z.index_select(1, some) for some in rows))

    def pool(self, batch: TokenBatch) -> Tensor:
        """(S, B, D): every head's vectors of the texts."""
        states = self._mixed(batch) if self.mixed_layers else batch.states
        outputs = [states.to(compute_dtype(states))]
        if self.config.gnn_layers:
            masks = self._own_masks(batch, states) if self.mixed_layers else self._masks(batch)
            for number in range(self.config.gnn_layers):
                outputs.append(F.relu_(self._attend(number, outputs[-1], batch, masks)))  # (S, N, h)
        if self.config.gnn_layers and self.config.jk != "cat":
            stacked = torch.stack(outputs[1:])
            outputs = [stacked.amax(dim=0) if self.config.jk == "max" else stacked.mean(dim=0)]
        return torch.cat(batch.readout(self._scores(outputs), outputs)[1], dim=2)

    def _mixed(self, batch: TokenBatch) -> Tensor:
        """(S, N, d): every head's mix of the layers, see `LayerMix`."""
        weight, scale = self.weights["pooler.mix.weight"], self.weights["pooler.mix.scale"]
        return mix(weight, scale, batch.normal_layers(self.mixed_layers))

    def _own_masks(self, batch: TokenBatch, states: Tensor) -> list[Tensor]:
        """(S, b, L, L) float32 for each bucket, of the graphs that each head's own states (S, N, d) make."""
        parts = states.detach().split([len(bucket.states) for bucket in batch.buckets], dim=1)

        def masks(bucket: TokenBatch, part: Tensor) -> Tensor:
            own = [bucket.with_states(states) for states in part]
            edges = [rule.edges(texts) for rule, texts in zip(self.rules, own, strict=True)]
            return torch.stack([additive_mask(mask) for mask in edges])

        return [masks(bucket, part) for bucket, part in zip(batch.buckets, parts, strict=True)]

    def _masks(self, batch: TokenBatch) -> list[Tensor]:
        """(S or 1, b, L, L) float32 for each bucket, see `attend`."""
        rules = self.rules if len(set(self.rules)) > 1 else self.rules[:1]
        graphs = [build_graph(batch, rule, "dense") for rule in rules]  # which the batch keeps
        masks = [graph.additive_masks for graph in graphs if isinstance(graph, DenseGraph)]
        return [torch.cat(some) for some in zip(*masks, strict=True)]

    def _attend(self, number: int, h: Tensor, batch: TokenBatch, masks: list[Tensor]) -> Tensor:
        """Graph attention, see `GatLayer`: (N, d) or (S, N, h) to (S, N, h)."""
        weight, source, target, edge, bias = (
            self.weights[f"{self.prefix}.gnn.layers.{number}.{name}"]
            for name in ("weight", "source", "target", "edge", "bias")
        )
        return attend(h @ weight.mT, source, target, edge, batch.buckets, masks) + bias[:, None]

    def _scores(self, parts: list[Tensor]) -> Tensor:
        """(S, N), see `AttentionReadout.scores`."""
        project, bias, score, last = (
            self.weights[f"{self.prefix}.readout.{name}"]
            for name in ("project.weight", "project.bias", "score.weight", "score.bias")
        )
        dtype = compute_dtype(parts[0])
        hidden = bias[:, None].expand(-1, parts[0].shape[-2], -1)
        for index, (part, weight) in enumerate(zip(parts, project.split(self.parts, dim=2), strict=True)):
            part = part.expand(len(self.heads), *part.shape[-2:])
            # The first product makes the sum, the others are added to it where it lies, which autocast leaves alone.
            part, weight = part.to(dtype), weight.to(dtype)
            hidden = (hidden.baddbmm_ if index else hidden.to(dtype).baddbmm)(part, weight.mT)  # (S, N, r)
        return (hidden.tanh_() @ score.mT).squeeze(2) + last


def make_units(heads: list[Learner]) -> list[Stack | Learner]:
    """Stack the heads that can be stacked, two or more at a time; the others stay by themselves."""
    groups: dict[tuple | None, list[Learner]] = {}
    for head in heads:
        groups.setdefault(stack_key(head), []).append(head)
    units: list[Stack | Learner] = []
    for key, group in groups.items():
        units += group if key is None or len(group) == 1 else [Stack(group)]
    return units
