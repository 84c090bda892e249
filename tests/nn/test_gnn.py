"""Every layer and the readout against a small loop over texts and nodes that shares no code with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glot.nn.config import PoolerConfig
from glot.nn.edges import EdgeRule
from glot.nn.gnn import GatLayer, GcnLayer, GineLayer, GinLayer, TokenGNN
from glot.nn.graph import build_graph
from glot.nn.readout import AttentionReadout

LENGTHS = (4, 1, 6)
TAU = 0.5
LAYERS = {"gat": GatLayer, "gcn": GcnLayer, "gin": GinLayer, "gine": GineLayer}


@pytest.fixture
def batch(make_batch):
    return make_batch(LENGTHS, width=5)


def make_layer(kind: str, width: int = 5, hidden: int = 3) -> torch.nn.Module:
    """A layer in float64 whose parameters are all drawn, those that start at zero too."""
    torch.manual_seed(1)
    layer = LAYERS[kind](width, hidden).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return layer


def by_node(batch, masks):
    """Yield (h of the text, i, neighbours of i) for every node in order."""
    for mask, h in zip(masks, batch.states.split(batch.lengths.tolist()), strict=True):
        for i in range(len(h)):
            yield h, i, [j for j in range(len(h)) if mask[i, j]]


def mlp(layer, x: Tensor) -> Tensor:
    first, _, last = layer.mlp
    return last.weight @ (first.weight @ x + first.bias).clamp(min=0) + last.bias


def gat(layer, h: Tensor, i: int, neighbours: list[int], degree: list[int]) -> Tensor:
    logits = []
    for j in neighbours:
        a = layer.source @ layer.weight @ h[j] + layer.target @ layer.weight @ h[i] + layer.edge
        logits.append(a if a > 0 else 0.2 * a)
    alpha = torch.stack(logits).exp() / torch.stack(logits).exp().sum()
    return layer.bias + sum(a * (layer.weight @ h[j]) for a, j in zip(alpha, neighbours, strict=True))


def gcn(layer, h: Tensor, i: int, neighbours: list[int], degree: list[int]) -> Tensor:
    return layer.bias + sum(layer.weight @ h[j] / (degree[i] * degree[j]) ** 0.5 for j in neighbours)


def gin(layer, h: Tensor, i: int, neighbours: list[int], degree: list[int]) -> Tensor:
    return mlp(layer, h[i] + sum(h[j] for j in neighbours))


def gine(layer, h: Tensor, i: int, neighbours: list[int], degree: list[int]) -> Tensor:
    return mlp(layer, h[i] + sum((h[j] + layer.edge).clamp(min=0) for j in neighbours))


FORMULAS = {"gat": gat, "gcn": gcn, "gin": gin, "gine": gine}


@pytest.mark.parametrize("kind", LAYERS)
def test_layer_against_its_formula(batch, brute_force_mask, kind, backend):
    layer = make_layer(kind)
    nodes = list(by_node(batch, brute_force_mask(batch, TAU)))
    degrees = [[len(n) for other, _, n in nodes if other is h] for h, _, _ in nodes]
    expected = torch.stack([FORMULAS[kind](layer, h, i, n, d) for (h, i, n), d in zip(nodes, degrees, strict=True)])
    assert any(1 < len(n) < len(h) for h, _, n in nodes)  # neither empty nor complete
    torch.testing.assert_close(layer(batch.states, build_graph(batch, EdgeRule(TAU), backend)), expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_layer_gradcheck(make_batch, kind, backend):
    batch = make_batch((3, 1), width=3)
    graph = build_graph(batch, EdgeRule(0.3), backend)
    layer = make_layer(kind, 3, 2)
    names = [name for name, _ in layer.named_parameters()]

    def run(states: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (states, graph))

    assert torch.autograd.gradcheck(run, (batch.states.clone().requires_grad_(), *layer.parameters()))


def test_self_loops_alone_make_a_layer_a_map_of_each_token(batch, backend):
    alone = build_graph(batch, EdgeRule(1.0), backend)
    for kind in LAYERS:
        layer = make_layer(kind)
        x = batch.states
        expected = {
            "gat": lambda layer=layer, x=x: x @ layer.weight.T + layer.bias,
            "gcn": lambda layer=layer, x=x: x @ layer.weight.T + layer.bias,
            "gin": lambda layer=layer, x=x: layer.mlp(2 * x),
            "gine": lambda layer=layer, x=x: layer.mlp(x + (x + layer.edge).clamp(min=0)),
        }[kind]()
        torch.testing.assert_close(layer(x, alone), expected)


def test_initialisation():
    torch.manual_seed(0)
    layer = GatLayer(50, 200)
    assert layer.weight.abs().max() <= (6 / 250) ** 0.5
    assert layer.weight.abs().max() > 0.95 * (6 / 250) ** 0.5
    for vector in (layer.source, layer.target):
        assert 0.9 * (6 / 201) ** 0.5 < vector.abs().max() <= (6 / 201) ** 0.5
    assert layer.edge.shape == ()
    assert not layer.bias.any()
    # The product of two vectors of h numbers of variance 2 / (h + 1) has standard deviation sqrt(h) * 2 / (h + 1).
    starts = torch.stack([GatLayer(1, 16).edge.detach() for _ in range(400)])
    assert abs(starts.std() / (4 * 2 / 17) - 1) < 0.2
    assert not GcnLayer(4, 4).bias.any()
    assert not GineLayer(4, 4).edge.any()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("jk", ["cat", "max", "mean"])
def test_jumping_knowledge(batch, kind, jk):
    gnn = TokenGNN(PoolerConfig(hidden=3, gnn_layers=2, gnn=kind, jk=jk), 5).double()
    graph = build_graph(batch, EdgeRule(TAU), "dense")
    first = F.relu(gnn.layers[0](batch.states, graph))
    second = F.relu(gnn.layers[1](first, graph))
    expected = {
        "cat": [batch.states, first, second],
        "max": [torch.maximum(first, second)],
        "mean": [(first + second) / 2],
    }[jk]
    parts = gnn(batch.states, graph)
    assert [part.shape[1] for part in parts] == gnn.out_widths
    for part, right in zip(parts, expected, strict=True):
        torch.testing.assert_close(part, right)


@pytest.mark.parametrize("jk", ["cat", "max", "mean"])
def test_no_layers_leave_the_states(batch, jk):
    gnn = TokenGNN(PoolerConfig(hidden=3, gnn_layers=0, jk=jk), 5)
    assert gnn.out_widths == [5]
    assert gnn(batch.states, None) == [batch.states]


def test_batch_norm_only_where_asked_for():
    for kind in ("gin", "gine"):
        config = PoolerConfig(hidden=3, gnn_layers=1, gnn=kind)
        kinds = [type(module) for module in TokenGNN(replace(config, gin_batch_norm=True), 5).layers[0].mlp]
        assert kinds == [torch.nn.Linear, torch.nn.BatchNorm1d, torch.nn.ReLU, torch.nn.Linear]
        assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in TokenGNN(config, 5).modules())


@pytest.mark.parametrize("batch_norm", [False, True])
def test_gin_projects_before_it_sums_to_the_same_end(batch, batch_norm, backend):
    layer = GinLayer(5, 3, batch_norm).double()
    graph = build_graph(batch, EdgeRule(TAU), backend)
    plain = layer.mlp(batch.states + graph.neighbour_sum(batch.states))
    torch.testing.assert_close(layer(batch.states, graph), plain)


def test_readout_against_its_formula(batch, backend):
    parts = [batch.states, batch.states[:, :3].sin()]
    readout = AttentionReadout([5, 3]).double()
    assert readout.project.weight.shape == (128, 8)
    z, pi = readout(parts, build_graph(batch, EdgeRule(TAU), backend))
    for text, u in enumerate(torch.cat(parts, dim=1).split(LENGTHS)):
        m = torch.stack(
            [readout.score.weight[0] @ (readout.project.weight @ x + readout.project.bias).tanh() for x in u]
        )
        weights = (m + readout.score.bias).softmax(0)
        torch.testing.assert_close(pi.split(LENGTHS)[text], weights)
        torch.testing.assert_close(z[text], sum(w * x for w, x in zip(weights, u, strict=True)))


def test_readout_width_follows_the_parts():
    assert AttentionReadout([300, 100]).project.out_features == 200
    assert AttentionReadout([300], hidden=7).project.out_features == 7
