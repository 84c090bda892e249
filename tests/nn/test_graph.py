from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from glot.errors import UsageError
from glot.nn.edges import EdgeRule, edge_density, edge_mask
from glot.nn.graph import build_graph, resolve_backend
from glot.nn.tokens import TokenBatch


@pytest.mark.parametrize("tau", [-1.0, -0.3, 0.0, 0.31, 0.6, 0.9])
@pytest.mark.parametrize("lengths", [(1,), (7,), (5, 1, 9, 2)])
def test_mask_against_a_double_loop(make_batch, brute_force_mask, lengths, tau):
    batch = make_batch(lengths, dtype=torch.float32)
    mask = edge_mask(batch, tau)
    assert mask.dtype == torch.bool
    np.testing.assert_array_equal(mask.numpy(), brute_force_mask(batch, tau))
    assert torch.equal(mask, mask.mT)


def test_a_text_of_equal_tokens_is_complete():
    batch = TokenBatch(torch.tensor([0.1, -2.0, 0.7]).repeat(5, 1), torch.tensor([4, 1]))
    mask = edge_mask(batch, 0.99)
    assert mask[0].all()
    assert mask[1].sum() == 1


def test_duplicates_and_a_zero_state(brute_force_mask):
    states = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
    batch = TokenBatch(states, torch.tensor([5]))
    for tau in (-0.5, -0.01, 0.0, 0.5):
        np.testing.assert_array_equal(edge_mask(batch, tau).numpy(), brute_force_mask(batch, tau))


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_the_threshold_is_strict(scale):
    # cos([3, 4], [1, 0]) is 0.6 exactly, in float32 too.
    batch = TokenBatch(torch.tensor([[3.0, 4.0], [1.0, 0.0]]) * scale, torch.tensor([2]))
    assert not edge_mask(batch, 0.6)[0, 0, 1]
    assert edge_mask(batch, np.nextafter(np.float32(0.6), np.float32(0)).item())[0, 0, 1]


def test_tau_one_means_self_loops_only():
    states = torch.randn(1, 37).repeat(20, 1) * torch.arange(1.0, 21.0)[:, None]  # parallel: cosines round above 1
    assert torch.equal(edge_mask(TokenBatch(states, torch.tensor([20])), 1.0)[0], torch.eye(20, dtype=torch.bool))


def test_edges_are_decided_in_float32_whatever_runs_around(make_batch):
    batch = make_batch((40, 30), width=64, dtype=torch.float32)
    expected = edge_mask(batch, 0.4)
    assert torch.equal(edge_mask(TokenBatch(batch.states.double(), batch.lengths), 0.4), expected)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(edge_mask(batch, 0.4), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_gradient_flows_through_the_mask(make_batch):
    batch = make_batch((3, 2))
    batch.states.requires_grad_()
    assert not edge_mask(batch, 0.5).requires_grad


def test_edge_density(make_batch):
    batch = make_batch((4, 1, 3))
    assert edge_density(edge_mask(batch, -1.0), batch.lengths) == (18, 18)
    assert edge_density(edge_mask(batch, 1.0), batch.lengths) == (0, 18)
    assert edge_density(edge_mask(make_batch((1, 1)), 0.5), torch.tensor([1, 1])) == (0, 0)


def test_degrees_count_the_self_loop(make_batch, backend):
    batch = make_batch((4, 1, 3))
    mask = edge_mask(batch, 0.5)
    assert torch.equal(build_graph(batch, EdgeRule(0.5), backend).degrees(), batch.unpad(mask.sum(2)))
    assert build_graph(batch, EdgeRule(1.0), backend).degrees().tolist() == [1] * 8


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_auto_is_dense_everywhere(device):
    assert resolve_backend("auto", device) == "dense"
    assert resolve_backend("dense", device) == "dense"


@pytest.mark.usefixtures("needs_dgl")
def test_dgl_runs_on_the_cpu_and_is_refused_elsewhere():
    assert resolve_backend("dgl", "cpu") == "dgl"
    with pytest.raises(UsageError, match="dense"):
        resolve_backend("dgl", "mps")


def test_an_unknown_backend_is_refused():
    with pytest.raises(UsageError, match="auto, dgl, dense"):
        resolve_backend("pyg", "cpu")


def test_stage_two_runs_without_dgl_transformers_or_the_other_rooms():
    script = """
        import sys
        for name in ("transformers", "datasets", "accelerate", "glot.extract", "glot.corpus"):
            sys.modules[name] = None
        import torch
        from glot.errors import UsageError
        from glot.fit import metrics
        from glot.nn import graph, heads, poolers, tokens
        assert "dgl" not in sys.modules  # imported only when a graph is asked for
        sys.modules["dgl"] = None
        assert graph.resolve_backend("auto", "cpu") == "dense"
        try:
            graph.resolve_backend("dgl", "cpu")
        except UsageError as error:
            assert "dgl==1.1.3" in str(error) and "\\n" not in str(error), error
        else:
            raise AssertionError("dgl was not refused")
        pooler = poolers.make_pooler(poolers.PoolerConfig(hidden=4), 3, "dense")
        z = pooler(tokens.TokenBatch(torch.randn(5, 3), torch.tensor([4, 1])))
        assert z.shape == (2, pooler.out_width) == (2, 11)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)


def test_a_graph_is_built_once_a_batch_and_threshold(make_batch, backend):
    batch = make_batch((3, 5))
    graph = build_graph(batch, EdgeRule(0.5), backend)
    assert build_graph(batch, EdgeRule(0.5), backend) is graph
    assert build_graph(batch, EdgeRule(0.6), backend) is not graph
    assert build_graph(make_batch((3, 5)), EdgeRule(0.5), backend) is not graph
