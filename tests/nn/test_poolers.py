from __future__ import annotations

import itertools

import pytest
import torch

from glot.errors import UsageError
from glot.nn.poolers import PoolerConfig, make_pooler
from glot.nn.readout import AttentionReadout
from glot.nn.tokens import TokenBatch

LENGTHS = (5, 1, 12, 2, 1, 7)
KINDS = ("gat", "gcn", "gin", "gine")
JKS = ("cat", "max", "mean")
EVERY_GLOT = list(itertools.product(KINDS, JKS))


def make_glot(backend: str, width: int = 6, dtype: torch.dtype = torch.float64, **settings) -> torch.nn.Module:
    torch.manual_seed(3)
    config = PoolerConfig(**{"hidden": 4, "tau": 0.5, **settings})
    pooler = make_pooler(config, width, backend)
    for parameter in pooler.parameters():
        if parameter.numel() and not parameter.any():  # biases and e start at zero and would hide a mistake
            torch.nn.init.normal_(parameter, std=0.3)
    return pooler.to(dtype)


def run(pooler: torch.nn.Module, batch: TokenBatch) -> list[torch.Tensor]:
    """z, π and every gradient of an uneven function of z."""
    z, pi = pooler.forward_with_weights(batch)
    (z.sin() * torch.linspace(0.5, 1.5, z.shape[1], dtype=z.dtype)).sum().backward()
    return [z.detach(), pi.detach(), *(p.grad for p in pooler.parameters())]


@pytest.mark.usefixtures("needs_dgl")
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float32, 1e-4, 1e-5), (torch.float64, 1e-9, 1e-9)])
@pytest.mark.parametrize(("kind", "jk"), EVERY_GLOT)
def test_dgl_and_dense_agree_on_values_and_gradients(make_batch, kind, jk, dtype, rtol, atol):
    batch = make_batch(LENGTHS, dtype=dtype)
    dense, dgl = make_glot("dense", dtype=dtype, gnn=kind, jk=jk), make_glot("dgl", dtype=dtype, gnn=kind, jk=jk)
    dgl.load_state_dict(dense.state_dict())
    for left, right in zip(run(dense, batch), run(dgl, batch), strict=True):
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


@pytest.mark.usefixtures("needs_dgl")
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float32, 1e-4, 1e-5), (torch.float64, 1e-9, 1e-9)])
@pytest.mark.parametrize("tau", [-1.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_backends_agree_on_graphs_of_every_size_and_density(make_batch, kind, tau, dtype, rtol, atol):
    """From one token to 512 in a batch, padded in several buckets; complete graphs, and none but self-loops."""
    lengths = (1, 512, 1, 2, 130, 17, 40, 300)
    if kind in ("gin", "gine") and dtype == torch.float32:
        # They add up vectors without a mean, each backend in its own order: over 512 of them rounding alone is 1e-3.
        lengths = (1, 100, 1, 2, 130, 17, 40, 60)
    batch = make_batch(lengths, dtype=dtype)
    assert len(batch.buckets) > 1 or max(lengths) < 512
    dense = make_glot("dense", dtype=dtype, gnn=kind, tau=tau)
    dgl = make_glot("dgl", dtype=dtype, gnn=kind, tau=tau)
    dgl.load_state_dict(dense.state_dict())
    for left, right in zip(run(dense, batch), run(dgl, batch), strict=True):
        largest = max(1.0, float(right.abs().max()))
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol * largest)


@pytest.mark.usefixtures("needs_dgl")
def test_backends_agree_under_autocast(make_batch):
    batch = make_batch(LENGTHS, dtype=torch.float32)
    dense, dgl = make_glot("dense", dtype=torch.float32), make_glot("dgl", dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        left, right = dense(batch), dgl(batch)
    torch.testing.assert_close(left.float(), right.float(), rtol=0.05, atol=0.05)


def one_by_one(pooler: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
    """Each text by itself: what a batch must amount to."""
    texts = batch.states.split(batch.lengths.tolist())
    return torch.cat([pooler(TokenBatch(x, torch.tensor([len(x)]))) for x in texts])


@pytest.mark.parametrize("kind", KINDS)
def test_batching_order_and_padding_leave_z_unchanged(make_batch, kind, backend):
    batch = make_batch(LENGTHS)
    pooler = make_glot(backend, gnn=kind)
    z = pooler(batch)
    torch.testing.assert_close(z, one_by_one(pooler, batch))
    order = [3, 0, 5, 1, 4, 2]
    texts = batch.states.split(LENGTHS)
    shuffled = TokenBatch(torch.cat([texts[i] for i in order]), batch.lengths[order])
    torch.testing.assert_close(pooler(shuffled), z[order])


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_tokens_makes_no_difference(make_batch, kind, backend):
    batch = make_batch(LENGTHS)
    pooler = make_glot(backend, gnn=kind)
    reversed_texts = torch.cat([x.flip(0) for x in batch.states.split(LENGTHS)])
    torch.testing.assert_close(pooler(TokenBatch(reversed_texts, batch.lengths)), pooler(batch))


def test_weights_sum_to_one_over_each_text(make_batch, backend):
    batch = make_batch(LENGTHS)
    weights = make_glot(backend).forward_with_weights(batch)[1]
    torch.testing.assert_close(torch.stack([w.sum() for w in weights.split(LENGTHS)]), torch.ones(6).double())
    assert (weights >= 0).all()


@pytest.mark.parametrize(("kind", "jk"), [*((kind, "cat") for kind in KINDS), ("gat", "max"), ("gat", "mean")])
def test_glot_gradcheck(make_batch, kind, jk, backend):
    batch = make_batch((3, 1), width=3)
    pooler = make_glot(backend, width=3, hidden=2, gnn=kind, jk=jk, tau=0.3)
    pooler.readout = AttentionReadout(pooler.gnn.out_widths, hidden=3).double()
    names = [name for name, _ in pooler.named_parameters()]

    def forward(*parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(pooler, dict(zip(names, parameters, strict=True)), (batch,))

    assert torch.autograd.gradcheck(forward, tuple(pooler.parameters()), fast_mode=True, check_undefined_grad=False)


def test_no_layers_make_a_plain_attention_pool(make_batch, backend):
    batch = make_batch(LENGTHS)
    pooler = make_glot(backend, gnn_layers=0)
    project, score = pooler.readout.project, pooler.readout.score
    for z, x in zip(pooler(batch), batch.states.split(LENGTHS), strict=True):
        torch.testing.assert_close(z, (score(project(x).tanh())).softmax(0)[:, 0] @ x)


def test_self_loops_alone_make_each_token_a_map_of_itself(make_batch, backend):
    batch = make_batch(LENGTHS)
    pooler = make_glot(backend, tau=1.0)
    h, parts = batch.states, [batch.states]
    for layer in pooler.gnn.layers:
        h = (h @ layer.weight.T + layer.bias).relu()
        parts.append(h)
    u = torch.cat(parts, dim=1)
    m = pooler.readout.score(pooler.readout.project(u).tanh())
    expected = torch.stack([(a.softmax(0) * b).sum(0) for a, b in zip(m.split(LENGTHS), u.split(LENGTHS), strict=True)])
    torch.testing.assert_close(pooler(batch), expected)


def test_no_gradient_is_computed_for_the_states(make_batch, backend):
    """No matrix product of the backward pass, where nearly all the time goes, has the shape of X or of U."""
    batch = make_batch(LENGTHS, width=50)
    shapes = set()

    def visit(node: torch.autograd.graph.Node | None) -> None:
        if node is not None:
            if "mm" in node.name().lower():
                node.register_hook(lambda grads, _: shapes.update(tuple(g.shape) for g in grads if g is not None))
            for child, _ in node.next_functions:
                visit(child)

    loss = make_glot(backend, width=50)(batch).sum()
    visit(loss.grad_fn)
    loss.backward()
    tokens = sum(LENGTHS)
    assert (tokens, 4) in shapes  # the GNN's own parts
    assert not {(tokens, 50), (tokens, 58)} & shapes


@pytest.mark.parametrize("batch_norm", [False, True])
def test_extreme_states_give_finite_gradients(make_batch, batch_norm, backend):
    batch = make_batch(LENGTHS)
    batch.states[0] = 0
    batch.states[7] = 1e4
    pooler = make_glot(backend, gnn="gin" if batch_norm else "gat", gin_batch_norm=batch_norm)
    assert all(value.isfinite().all() for value in run(pooler, batch))


def test_mean_max_and_cls_against_loops(make_batch):
    batch = make_batch(LENGTHS)
    batch.states.sub_(5)  # all negative: a maximum over padding would give 0
    texts = batch.states.split(LENGTHS)
    naive = {
        "mean": [x.mean(0) for x in texts],
        "max": [x.amax(0) for x in texts],
        "first": [x[0] for x in texts],
        "last": [x[-1] for x in texts],
    }
    for name, expected in naive.items():
        is_position = name in ("first", "last")
        config = PoolerConfig(pooler="cls", token_position=name) if is_position else PoolerConfig(pooler=name)
        pooler = make_pooler(config, 6, "dense")
        assert pooler.out_width == 6
        assert not list(pooler.parameters())
        torch.testing.assert_close(pooler(batch), torch.stack(expected))


def test_adapool_against_a_loop(make_batch):
    batch = make_batch(LENGTHS)
    pooler = make_pooler(PoolerConfig(pooler="adapool", adapool_hidden=9), 6, "dense").double()
    project, score = pooler.readout.project, pooler.readout.score
    assert project.out_features == 9
    for z, x in zip(pooler(batch), batch.states.split(LENGTHS), strict=True):
        torch.testing.assert_close(z, score(project(x).tanh()).softmax(0)[:, 0] @ x)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_mlp_against_a_loop(make_batch, layers):
    batch = make_batch(LENGTHS)
    pooler = make_pooler(PoolerConfig(pooler="mlp", hidden=4, gnn_layers=layers), 6, "dense").double()
    assert pooler.out_width == (4 if layers else 6)
    for z, x in zip(pooler(batch), batch.states.split(LENGTHS), strict=True):
        for layer in pooler.layers:
            x = (x @ layer.weight.T + layer.bias).relu()
        torch.testing.assert_close(z, x.mean(0))


def test_widths_of_glot():
    assert make_pooler(PoolerConfig(hidden=4, gnn_layers=3), 6, "dense").out_width == 18
    assert make_pooler(PoolerConfig(hidden=4, jk="max"), 6, "dense").out_width == 4
    assert make_pooler(PoolerConfig(gnn_layers=0, jk="max"), 6, "dense").out_width == 6


def test_the_paper_counts_this_many_parameters():
    # At K = 2 and d = 4096.
    for hidden, millions in ((128, 10.0), (256, 11.7)):
        pooler = make_pooler(PoolerConfig(hidden=hidden), 4096, "dense")
        assert abs(sum(p.numel() for p in pooler.parameters()) / 1e6 - millions) < 0.1


def test_config_round_trip():
    config = PoolerConfig(pooler="cls", tau=-0.25, token_position="last")
    assert PoolerConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pooler": "sum"}, "glot, mean, max, cls, adapool, mlp"),
        ({"gnn": "sage"}, "gat, gcn, gin, gine"),
        ({"jk": "sum"}, "cat, max, mean"),
        ({"token_position": "middle"}, "first, last"),
        ({"tau": 1.01}, r"\[-1, 1\]"),
        ({"tau": -1.5}, r"\[-1, 1\]"),
        ({"tau": float("nan")}, r"\[-1, 1\]"),
        ({"gnn_layers": -1}, r"0\.\.16"),
        ({"gnn_layers": 17}, r"0\.\.16"),
        ({"hidden": 0}, "at least 1"),
        ({"adapool_hidden": 0}, "at least 1"),
    ],
)
def test_config_errors_name_what_is_allowed(settings, says):
    with pytest.raises(UsageError, match=says) as caught:
        PoolerConfig(**settings)
    assert "\n" not in str(caught.value)
    assert next(iter(settings)) in str(caught.value)


@pytest.mark.cuda
@pytest.mark.parametrize(("kind", "jk"), EVERY_GLOT)
def test_cuda_agrees_with_the_cpu(make_batch, kind, jk):
    batch = make_batch(LENGTHS)
    cpu = run(make_glot("dense", gnn=kind, jk=jk), batch)
    pooler = make_glot("dense", gnn=kind, jk=jk).cuda()
    z, pi = pooler.forward_with_weights(batch.to("cuda", torch.float64))
    (z.sin() * torch.linspace(0.5, 1.5, z.shape[1], dtype=z.dtype, device="cuda")).sum().backward()
    for left, right in zip(cpu, [z.detach(), pi.detach(), *(p.grad for p in pooler.parameters())], strict=True):
        torch.testing.assert_close(left, right.cpu(), rtol=1e-9, atol=1e-9)
