"""Training without labels: the loss, gradient caching, ranking, and runs over a made cache of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.made import TextStates, write_cache
from glot.errors import Stopped, UsageError
from glot.fit.head_model import HeadModel, load_head
from glot.fit.result import FitResult
from glot.fit.retrieval import retrieval_scores
from glot.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
from glot.fit.run_folder import RunConfig, load_tensors
from glot.fit.states import HostBatch, MemoryStates
from glot.fit.sweep import finish_sweep, make_candidates, prepare_sweep
from glot.fit.train import fit_head
from glot.inference.predictions import evaluate_head, write_predictions
from glot.nn.contrastive import ContrastiveConfig, ContrastiveHead, Pairs, backward_in_chunks, info_nce
from glot.nn.poolers import PoolerConfig
from glot.nn.tokens import TokenBatch
from glot.store.example_set import ExampleSet
from glot.store.layout import StatesIdentity
from glot.store.plan import Plan
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

TASK = TaskSpec("made", 2, "contrastive", metrics=("mrr@10", "accuracy"))
SETS = {"train": 96, "validation": 32}
SHARDS, WIDTH = 3, 12


@pytest.fixture
def pairs_cache(tmp_path: Path, write_plan: Callable, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """Queries, positives and negatives; the topic of a text is in one of its tokens, which its first numbers mark."""
    monkeypatch.setattr("glot.registry.tasks.PAIRS_HEAD", {"hidden": 8, "lr": 1e-2, "epochs": 4})
    rng = np.random.default_rng(0)
    count = sum(SETS.values())
    topics = rng.normal(0, 2, (count, WIDTH - 2))
    topic = np.arange(count * 3) // 3 + np.tile([0, 0, 1], count)  # query, positive, another's topic
    texts = [f"text {number}" for number in range(count * 3)]
    lengths = rng.integers(2, 7, len(texts)).astype(np.uint32)
    identity = StatesIdentity(
        "tiny", "", "w", "t", "encoder", WIDTH, 2, "{text}", 16, (2,), dtype="float32", compute_dtype="float32"
    )
    sets, start = {}, 0
    for name, size in SETS.items():
        ids = np.arange(start * 3, (start + size) * 3).reshape(size, 3)
        negatives = np.where(np.arange(size)[:, None] % 4, ids[:, 2:], -1)
        sets[name] = ExampleSet(np.arange(size), ids[:, 0].copy(), ids[:, 1].copy(), None, negatives)
        start += size

    def shard_states(plan: Plan, number: int) -> Iterator[TextStates]:
        for text in range(*plan.shard_range(number)):
            states = rng.normal(0, 0.4, (int(lengths[text]), WIDTH)).astype(np.float32)
            states[rng.integers(lengths[text])] = [4, 4, *topics[topic[text] % count]]
            yield 2, text, states, None

    folder = tmp_path / "pairs"
    folder.mkdir()
    data = write_plan(folder, texts, lengths.tolist(), [len(texts) // 3, 2 * len(texts) // 3])
    write_cache(folder, data, identity, TASK, sets, shard_states)
    return Cache(folder)


def configs(cache: Cache, contrastive: ContrastiveConfig | None = None, **options: object) -> list[RunConfig]:
    given = {} if contrastive is None else asdict(contrastive)
    return make_configs(cache, FitOptions(device="cpu", **given, **options))


def fit(cache: Cache, out: Path, contrastive: ContrastiveConfig | None = None, **options: object) -> FitResult:
    return fit_head(cache, configs(cache, contrastive, **options)[0], out)


def random_pairs(m: int, k: int) -> tuple[Tensor, Pairs]:
    """Vectors (T, 6) of distinct texts in float64; no text occurs twice."""
    generator = torch.Generator().manual_seed(m + k)
    rows = torch.randperm(m * (2 + k), generator=generator)
    vectors = torch.randn(len(rows), 6, generator=generator, dtype=torch.float64)
    return vectors, Pairs.of(list(rows.split(m)))


# the loss


@pytest.mark.parametrize("similarity", ["cos", "dot"])
@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("widths", [(), (2, 4)])
def test_the_loss_is_that_of_sentence_transformers(similarity: str, k: int, widths: tuple[int, ...]) -> None:
    losses = pytest.importorskip("sentence_transformers.losses")
    util = pytest.importorskip("sentence_transformers.util")
    vectors, pairs = random_pairs(7, k)
    theirs = losses.MultipleNegativesRankingLoss(
        None,
        scale=1 / 0.07,
        similarity_fct=util.cos_sim if similarity == "cos" else util.dot_score,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    columns = [pairs.query, pairs.positive, *(pairs.negatives.T if k else [])]
    every = (*widths, 6)
    expected = [
        theirs.compute_loss_from_embeddings([vectors[rows][:, :width] for rows in columns], None) for width in every
    ]
    head = ContrastiveHead(ContrastiveConfig(similarity=similarity, proj_dim=6, matryoshka=widths), 6)
    torch.testing.assert_close(head.pair_loss(vectors, pairs), torch.stack(expected).mean())


def loss_by_loop(vectors: Tensor, pairs: Pairs, temperature: float) -> float:
    """InfoNCE with each rule spelled out, one example after the other."""
    x = F.normalize(vectors, dim=1)
    query, positive = pairs.query.tolist(), pairs.positive.tolist()
    negatives = [] if pairs.negatives is None else pairs.negatives.flatten().tolist()
    documents = {*positive, *(row for row in negatives if row >= 0)}
    true = set(zip(query, positive, strict=True))

    def minus_log(anchor: int, target: int, others: set[int]) -> float:
        score = {row: math.exp(float(x[anchor] @ x[row]) / temperature) for row in {target, *others}}
        return -math.log(score[target] / sum(score.values()))

    total = 0.0
    for q, p in zip(query, positive, strict=True):
        total += minus_log(q, p, {d for d in documents if d != q and (q, d) not in true})
        total += minus_log(p, q, {o for o in query if o != p and (o, p) not in true})
    return total / (2 * len(query))


def test_what_belongs_together_is_no_negative() -> None:
    """Repeated positives, several positives of a query, a text in both roles, missing and shared negatives."""
    vectors = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    pairs = Pairs(
        torch.tensor([0, 0, 1, 2, 3, 0]),
        torch.tensor([4, 5, 4, 0, 6, 4]),
        torch.tensor([[7, -1], [4, -1], [-1, -1], [7, 6], [3, 2], [1, 5]]),
    )
    expected = loss_by_loop(vectors, pairs, 0.3)
    assert info_nce(vectors, pairs, "cos", 0.3).item() == pytest.approx(expected, rel=1e-12)


def test_a_batch_of_one_text_pair_has_no_negatives_and_no_loss() -> None:
    assert info_nce(torch.randn(2, 4), Pairs(torch.tensor([0, 0]), torch.tensor([1, 1])), "dot", 0.07).item() == 0


# gradient caching


@pytest.mark.parametrize("pooler", ["glot", "adapool", "mlp"])
def test_chunks_give_the_gradients_of_the_whole_batch(make_batch: Callable, pooler: str) -> None:
    lengths = (1, 2, 2, 3, 3, 4, 5, 6, 7)
    batch = make_batch(lengths, dtype=torch.float64)
    pairs = Pairs.of(list(torch.tensor([[0, 3, 6], [1, 4, 7], [2, 5, -1]])))
    config = ContrastiveConfig(proj_dim=4, matryoshka=(2,))
    torch.manual_seed(0)
    model = HeadModel(PoolerConfig(pooler, hidden=5), TASK, 6, "dense", config).double()
    loss = model.backward(batch, [pairs.query, pairs.positive, pairs.negatives[:, 0]], None, nullcontext)
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    for size in (1, 4, 100):
        model.zero_grad()
        stored = HostBatch(batch.states, None, batch.lengths).split(size)
        chunks = [partial(TokenBatch, part.values, part.lengths) for part in stored]
        assert [len(chunk()) for chunk in chunks] == [len(part) for part in torch.zeros(9).split(size)]
        chunked = backward_in_chunks(model.vectors, chunks, lambda x: model.head.pair_loss(x, pairs), nullcontext)
        assert chunked.item() == pytest.approx(loss.item(), rel=1e-6)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("pooler", ["glot", "adapool"])
def test_a_fit_in_chunks_is_the_fit(pairs_cache: Cache, tmp_path: Path, pooler: str, in_float64: None) -> None:
    settings = {"pooler": pooler, "epochs": 3, "batch_size": 48}
    whole = fit(pairs_cache, tmp_path / "whole", ContrastiveConfig(proj_dim=8), **settings)
    chunked = fit(pairs_cache, tmp_path / "chunked", ContrastiveConfig(proj_dim=8, chunk_size=7), **settings)
    for one, other in zip(whole.epochs, chunked.epochs, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-9)
        assert one.losses == pytest.approx(other.losses, rel=1e-9)


# ranking


def test_ranks_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.normal(0, 1, (60, 3)))
    pairs = Pairs(
        torch.from_numpy(rng.integers(0, 15, 40)),
        torch.from_numpy(rng.integers(5, 50, 40)),
        torch.from_numpy(rng.integers(-1, 60, (40, 2))),
    )
    x = F.normalize(vectors, dim=1)
    documents = {*pairs.positive.tolist(), *pairs.negatives.flatten().tolist()} - {-1}
    ranks = []
    for query in sorted(set(pairs.query.tolist())):
        right = {p for q, p in zip(pairs.query.tolist(), pairs.positive.tolist(), strict=True) if q == query}
        best = max(float(x[query] @ x[row]) for row in right)
        ranks.append(1 + sum(float(x[query] @ x[row]) >= best for row in documents - right - {query}))
    expected = {
        "mrr@10": np.mean([1 / rank if rank <= 10 else 0 for rank in ranks]),
        "accuracy": np.mean(np.equal(ranks, 1)),
    }
    for cells in (1, 100, 2**24):
        monkeypatch.setattr("glot.fit.retrieval.RANKED_CELLS", cells)
        assert retrieval_scores(vectors, pairs, "cos") == pytest.approx(expected)
    assert 0 < expected["accuracy"] < expected["mrr@10"] < 1


def test_vectors_that_are_all_the_same_find_nothing() -> None:
    pairs = Pairs(torch.arange(20), torch.arange(20, 40))
    assert retrieval_scores(torch.ones(40, 4), pairs, "cos") == {"mrr@10": 0.0, "accuracy": 0.0}


# runs


@pytest.mark.parametrize(
    ("pooler", "config"),
    [
        ("glot", ContrastiveConfig()),
        ("glot", ContrastiveConfig(similarity="dot", temperature=10.0)),
        ("mlp", ContrastiveConfig(proj_dim=8, matryoshka=(4,))),
        ("mean", ContrastiveConfig(proj_dim=8)),
    ],
)
def test_pairs_are_learnt(pairs_cache: Cache, tmp_path: Path, pooler: str, config: ContrastiveConfig) -> None:
    """Of twenty seeds each, the worst keeps 0.5 of its first loss and finds its positives with an mrr@10 of 0.6."""
    result = fit(pairs_cache, tmp_path / "run", config, pooler=pooler, epochs=15, lr=1e-2)
    assert result.epochs[-1].loss < 0.8 * result.epochs[0].loss
    assert result.metric == "mrr@10"
    assert result.best["validation"]["mrr@10"] > 0.4  # chance is about 0.05
    assert FitResult.load(tmp_path / "run") == result


def test_the_epoch_with_the_best_rank_is_kept(pairs_cache: Cache, tmp_path: Path, put_in_scores: Callable) -> None:
    put_in_scores(validation=[0.3, 0.5, 0.4])
    result = fit(pairs_cache, tmp_path / "run", epochs=3)
    assert (result.best_epoch, result.best["validation"]["mrr@10"]) == (2, 0.5)
    assert load_tensors(tmp_path / "run/head.safetensors")[1] == {"epoch": 2}


def test_the_projection_is_what_is_given_out(pairs_cache: Cache, tmp_path: Path) -> None:
    fit(pairs_cache, tmp_path / "run", ContrastiveConfig(proj_dim=5, matryoshka=(2, 3)), epochs=1)
    config = RunConfig.load(tmp_path / "run")
    assert config.contrastive == ContrastiveConfig(proj_dim=5, matryoshka=(2, 3))
    model = load_head(tmp_path / "run", config, "dense", torch.device("cpu"))
    batch = MemoryStates(pairs_cache, (2,), np.arange(4), torch.device("cpu")).gather(np.arange(4))
    vectors = model.vectors(batch)
    assert (model.width, tuple(vectors.shape)) == (5, (4, 5))
    torch.testing.assert_close(vectors, model.pooler(batch) @ model.head.projection.weight.T)


def test_without_a_projection_the_vectors_are_the_poolers(pairs_cache: Cache, tmp_path: Path) -> None:
    fit(pairs_cache, tmp_path / "run", epochs=1)
    model = load_head(tmp_path / "run", RunConfig.load(tmp_path / "run"), "dense", torch.device("cpu"))
    assert {name.partition(".")[0] for name in model.state_dict()} == {"pooler"}
    assert model.width == model.pooler.out_width


@pytest.mark.parametrize("chunk_size", [None, 10])
def test_a_stopped_fit_goes_on_to_the_same_bits(pairs_cache: Cache, tmp_path: Path, chunk_size: int | None) -> None:
    config = ContrastiveConfig(proj_dim=6, chunk_size=chunk_size)
    whole = fit(pairs_cache, tmp_path / "whole", config)
    prepare_runs(configs(pairs_cache, config), tmp_path / "broken")
    steps = iter(range(1000))
    with pytest.raises(Stopped, match="--resume"):
        finish_runs(tmp_path / "broken", should_stop=lambda: next(steps) == 4)
    result = finish_runs(tmp_path / "broken")[tmp_path / "broken"]
    assert (tmp_path / "whole/head.safetensors").read_bytes() == (tmp_path / "broken/head.safetensors").read_bytes()
    records = [[(epoch.loss, epoch.scores, epoch.losses) for epoch in item.epochs] for item in (whole, result)]
    assert records[0] == records[1]


def test_streamed_pairs_train_as_well(pairs_cache: Cache, tmp_path: Path) -> None:
    config = configs(pairs_cache, ContrastiveConfig(chunk_size=16), epochs=6)[0]
    streamed = replace(config, train=replace(config.train, window=1))
    result = fit_head(pairs_cache, streamed, tmp_path / "run")
    assert result.best["validation"]["mrr@10"] > 0.4


def test_pairs_can_be_held_out_of_train(pairs_cache: Cache, tmp_path: Path) -> None:
    result = fit(pairs_cache, tmp_path / "run", select="holdout", epochs=2)
    assert list(result.best) == ["holdout", "validation"]
    assert list(result.epochs[0].losses) == ["holdout", "validation"]


def test_hard_negatives_are_used_unless_told_not_to(pairs_cache: Cache, tmp_path: Path) -> None:
    losses = {
        count: fit(pairs_cache, tmp_path / str(count), ContrastiveConfig(negatives=count), max_steps=1).epochs[0].loss
        for count in (None, 0, 1)
    }
    assert losses[None] == losses[1]
    assert losses[0] < losses[1]  # of the same weights, with fewer candidates


def test_a_sweep_over_pairs(pairs_cache: Cache, tmp_path: Path, in_float64: None) -> None:
    grid = {"pooler": ("glot", "adapool"), "tau": (0.1, 0.5)}
    prepare_sweep(make_candidates(pairs_cache, FitOptions(device="cpu", epochs=1), grid), tmp_path / "sweep")
    finish_sweep(tmp_path / "sweep", pairs_cache)
    alone = fit(pairs_cache, tmp_path / "alone", epochs=1, tau=0.5)
    swept = FitResult.load(tmp_path / "sweep/pooler=glot,tau=0.5/seed-0")
    assert swept.epochs[0].loss == pytest.approx(alone.epochs[0].loss, rel=1e-9)
    assert len(list((tmp_path / "sweep").glob("*/seed-0/metrics.json"))) == 3


# wrong use


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"matryoshka": (2,)}, "pass --proj-dim too"),
        ({"matryoshka": (2, 9), "proj_dim": 8}, r"widths from 1 to --proj-dim \(8\)"),
        ({"matryoshka": (0,), "proj_dim": 8}, "widths from 1"),
        ({"temperature": 0.0}, "--temperature must be above 0"),
        ({"temperature": math.nan}, "--temperature"),
        ({"similarity": "l2"}, "--similarity must be one of cos, dot"),
        ({"chunk_size": 0}, "--chunk-size must be at least 1"),
        ({"proj_dim": 0}, "--proj-dim must be at least 1"),
        ({"negatives": -1}, "--negatives must be at least 0"),
    ],
)
def test_settings_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ContrastiveConfig(**settings)


def test_something_must_train(pairs_cache: Cache) -> None:
    for options in (
        {"pooler": "mean"},
        {"pooler": "max"},
        {"pooler": "cls"},
        {"pooler": "mlp", "gnn_layers": 0},
        {"readout": "mean", "gnn_layers": 0},
    ):
        with pytest.raises(UsageError, match="has no weights to train: pass --proj-dim"):
            configs(pairs_cache, **options)
        assert configs(pairs_cache, ContrastiveConfig(proj_dim=4), **options)
    with pytest.raises(UsageError, match="--gin-batch-norm"):
        configs(pairs_cache, ContrastiveConfig(chunk_size=4), gnn="gin", gin_batch_norm=True)


def test_an_objective_must_fit_the_cache(pairs_cache: Cache, make_fit_cache: Callable) -> None:
    assert configs(pairs_cache, objective="contrastive") == configs(pairs_cache)
    with pytest.raises(UsageError, match="holds pairs without labels"):
        configs(pairs_cache, objective="labels")
    with pytest.raises(UsageError, match="--dropout needs labels"):
        configs(pairs_cache, dropout=0.1)
    with pytest.raises(UsageError, match="--objective must be one of labels, contrastive"):
        configs(pairs_cache, objective="triplet")
    labelled = Cache(make_fit_cache("labelled"))
    assert configs(labelled, objective="labels")[0].contrastive is None
    for wrong in ({"objective": "contrastive"}, {"temperature": 0.07}):
        with pytest.raises(UsageError, match="holds labelled examples"):
            configs(labelled, **wrong)


def test_there_is_nothing_to_predict(pairs_cache: Cache, tmp_path: Path) -> None:
    fit(pairs_cache, tmp_path / "run", epochs=1)
    for use in (
        lambda: evaluate_head(tmp_path / "run", pairs_cache, "validation", "cpu", "dense"),
        lambda: write_predictions(
            tmp_path / "run", pairs_cache, "validation", "jsonl", tmp_path / "x.jsonl", "cpu", "dense"
        ),
    ):
        with pytest.raises(UsageError, match="use `glot encode`"):
            use()
