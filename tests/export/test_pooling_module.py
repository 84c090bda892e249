"""The exported pooling is the trained one: every layer, jumping knowledge, readout and baseline, padded or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")

from glot.errors import UsageError
from glot.export.pooling import load_pooling
from glot.export.pooling_module import token_graph
from glot.fit.head_model import load_head
from glot.fit.run_folder import HEAD_FILE, RunConfig, save_tensors
from glot.nn.tokens import TokenBatch
from glot.store.task_spec import TaskSpec

LENGTHS = (1, 7, 3, 12)

SETTINGS = [
    *({"gnn": gnn, "jk": jk} for gnn in ("gat", "gcn", "gin", "gine") for jk in ("cat", "max", "mean")),
    *({"gnn": "gat", "tau": tau} for tau in (-1.0, 0.0, 0.9, 1.0)),
    {"gnn_layers": 0},
    {"gnn_layers": 0, "jk": "max"},
    {"gnn_layers": 3, "readout": "mean"},
    {"gnn": "gcn", "jk": "mean", "readout": "mean"},
    *({"pooler": pooler} for pooler in ("mean", "max", "adapool", "mlp")),
    {"pooler": "mlp", "gnn_layers": 0},
    *({"pooler": "cls", "token_position": position} for position in ("first", "last")),
]


@pytest.fixture
def states() -> list[torch.Tensor]:
    """(n, 8) for each text, with a common direction, so that cosines lie on both sides of 0.6."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(count, 8, generator=generator) + 0.8 for count in LENGTHS]


def pad(states: list[torch.Tensor], fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L, 8) and mask (B, L), with `fill` where there is no token."""
    lengths = torch.tensor([len(some) for some in states])
    mask = torch.arange(int(lengths.max()) + 2) < lengths[:, None]
    padded = torch.full((*mask.shape, 8), fill)
    padded[mask] = torch.cat(states)
    return padded, mask


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda some: "-".join(map(str, some.values())))
def test_vectors_and_gradients(settings: dict, make_head_run: Callable[..., Path], states: list[torch.Tensor]) -> None:
    run = make_head_run("run", **{"gnn_layers": 2, "hidden": 6, "tau": 0.6, **settings})
    config = RunConfig.load(run)
    trained, pooling = load_head(run, config, "dense", torch.device("cpu")), load_pooling(run, config)
    packed = torch.cat(states).requires_grad_()
    expected = trained.vectors(TokenBatch(packed, torch.tensor(LENGTHS)))
    padded, mask = pad(states, float("nan"))  # whatever stands in the padding is not looked at
    padded.requires_grad_()
    vectors = pooling.pool(padded, mask)
    assert vectors.shape == expected.shape == (4, pooling.get_embedding_dimension())
    np.testing.assert_allclose(vectors.detach(), expected.detach(), rtol=1e-5, atol=1e-5)
    alone = torch.cat([pooling.pool(some[None], torch.ones(1, len(some), dtype=torch.bool)) for some in states])
    np.testing.assert_allclose(alone.detach(), expected.detach(), rtol=1e-5, atol=1e-5)
    # The states' gradients: what a backbone that is not frozen would be trained by.
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected * weight).sum().backward()
    (vectors * weight).sum().backward()
    np.testing.assert_allclose(padded.grad[mask], packed.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "features"),
    [
        (TaskSpec("one", 1, "classes", ("a", "b", "c")), "full"),  # which single texts do not have
        (TaskSpec("pairs", 2, "classes", ("a", "b")), "concat"),
        (TaskSpec("pairs", 2, "classes", ("a", "b")), "full"),
        (TaskSpec("pairs", 2, "classes", ("a", "b")), "symmetric"),
        (TaskSpec("score", 1, "score", score_range=(1.0, 5.0)), "concat"),
        (TaskSpec("similarity", 2, "score", score_range=(0.0, 5.0)), "concat"),
        (TaskSpec("similarity", 2, "score", score_range=(0.0, 5.0)), "full"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_head_goes_along(
    task: TaskSpec, features: str, make_run: Callable[..., Path], states: list[torch.Tensor]
) -> None:
    run = make_run("bert", task=task, pair_features=features)
    config = RunConfig.load(run)
    trained, pooling = load_head(run, config, "dense", torch.device("cpu")), load_pooling(run, config)
    assert not any(parameter.requires_grad for parameter in pooling.head.parameters())
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(5, trained.width, generator=generator) for _ in range(task.num_texts)]
    expected = trained.head.predict(trained.head(*given))
    predicted = pooling.predict(*(some.numpy() for some in given))
    if task.target == "classes":
        assert predicted == [task.classes[number] for number in expected.tolist()]
        probabilities = trained.head(*given).softmax(dim=1).detach()
        np.testing.assert_allclose(pooling.predict_proba(*given), probabilities, rtol=1e-5, atol=1e-6)
    else:
        with pytest.raises(ValueError, match="no classes"):
            pooling.predict_proba(*given)
        np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"graph": "knn"}, "knn graph"),
        ({"gnn": "gin", "gin_batch_norm": True}, "BatchNorm"),
    ],
)
def test_what_is_only_for_comparison_is_refused(
    settings: dict, message: str, make_head_run: Callable[..., Path]
) -> None:
    run = make_head_run("run", **settings)
    with pytest.raises(UsageError, match=message):
        load_pooling(run, RunConfig.load(run))


def test_edges_are_strict_and_leave_padding_out() -> None:
    states = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 0.0]]], requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    edges = token_graph(states, mask, 0.0)[0].int().tolist()
    assert edges == [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    assert token_graph(states, mask, -0.5)[0, :3, :3].all()
    assert torch.equal(token_graph(states, mask, 1.0)[0], torch.eye(4, dtype=torch.bool))


def test_autocast_leaves_the_graph_in_float32(make_head_run: Callable[..., Path], states: list[torch.Tensor]) -> None:
    run = make_head_run("run", hidden=6)
    pooling = load_pooling(run, RunConfig.load(run))
    padded, mask = pad(states, 0.0)
    expected, edges = pooling.pool(padded, mask), token_graph(padded, mask, 0.6)
    with torch.autocast("cpu", torch.bfloat16):
        vectors, under = pooling.pool(padded, mask), token_graph(padded, mask, 0.6)
    assert torch.equal(edges, under)
    np.testing.assert_allclose(vectors.float().detach(), expected.detach(), atol=0.1)


def test_a_projection_comes_last(make_run: Callable[..., Path], tmp_path: Path) -> None:
    task = TaskSpec("pairs", 2, "contrastive", metrics=("accuracy",))
    run = make_run("bert", task=TaskSpec("pairs", 2, "score", score_range=(0.0, 1.0)))
    trained = load_head(run, RunConfig.load(run), "dense", torch.device("cpu"))
    projection = torch.randn(5, trained.width, generator=torch.Generator().manual_seed(0))
    pooler = {f"pooler.{name}": value for name, value in trained.pooler.state_dict().items()}
    save_tensors(run / HEAD_FILE, {**pooler, "head.projection.weight": projection})
    pooling = load_pooling(run, replace(RunConfig.load(run), task=task))
    states = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1))
    expected = trained.pooler(TokenBatch(states[0], torch.tensor([4]))) @ projection.T
    vectors = pooling.pool(states, torch.ones(1, 4, dtype=torch.bool))
    np.testing.assert_allclose(vectors.detach(), expected.detach(), rtol=1e-5, atol=1e-5)
    assert pooling.get_embedding_dimension() == 5
    with pytest.raises(ValueError, match="without labels"):
        pooling.predict(vectors)
    pooling.save(str(tmp_path))
    again = type(pooling).load(str(tmp_path))
    torch.testing.assert_close(again.projection.weight, projection)


def test_a_head_that_does_not_see_its_prompt_is_refused(make_run: Callable[..., Path]) -> None:
    run = make_run("bert", template="about: {text}", tokens="content")
    with pytest.raises(UsageError, match="fit with --tokens all"):
        load_pooling(run, RunConfig.load(run))
