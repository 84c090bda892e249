"""Several layers mixed by weights that train: the mix is the published sum, and all that one layer has holds for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glot.corpus.examples import Corpus
from glot.errors import Stopped, UsageError
from glot.extract.run import ExtractOptions, extract_states
from glot.extract.source import ModelSource
from glot.fit.head_model import HeadModel, load_head
from glot.fit.learner import Job
from glot.fit.result import FitResult
from glot.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
from glot.fit.run_folder import RunConfig, layer_shares, load_tensors
from glot.fit.states import MemoryStates, StreamedStates
from glot.fit.train import fit_head, fit_heads
from glot.inference.classifier import GlotClassifier
from glot.inference.model import GlotModel
from glot.inference.predictions import evaluate_head
from glot.nn.config import PoolerConfig
from glot.nn.mix import LayerMix
from glot.nn.poolers import MixedPooler, make_pooler
from glot.nn.tokens import TokenBatch
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
CPU = torch.device("cpu")


def extract(corpus: Corpus, backbone: Path, out: Path, **options: object) -> None:
    """Stage one, with all layers."""
    source = ModelSource(backbone.name, str(backbone))
    extract_states(corpus, source, out, ExtractOptions(max_tokens=32, layers=None, device="cpu", **options))


def by_hand(states: torch.Tensor, weights: list[float], scale: float) -> torch.Tensor:
    """γ Σ_k s_k (x_k - mean) / sqrt(var + 1e-5), token by token, in float64."""
    total = sum(np.exp(weights))
    rows = []
    for token in states.double().chunk(len(states)):
        layers = token.reshape(len(weights), -1)
        mixed = 0
        for layer, weight in zip(layers, weights, strict=True):
            centred = layer - layer.mean()
            mixed = mixed + np.exp(weight) / total * centred / (centred.square().mean() + 1e-5).sqrt()
        rows.append(scale * mixed)
    return torch.stack(rows)


def test_the_mix_is_the_sum_by_hand() -> None:
    mix = LayerMix(3)
    states = torch.randn(7, 3 * 6) * torch.tensor([1.0] * 6 + [40.0] * 6 + [0.1] * 6) + 3
    batch = TokenBatch(states, torch.tensor([4, 3]))
    torch.testing.assert_close(mix(batch).states.double(), by_hand(states, [0.0, 0.0, 0.0], 1.0), rtol=1e-4, atol=1e-4)
    weights = [0.7, -1.2, 0.1]
    mix.weight.data, mix.scale.data = torch.tensor(weights), torch.tensor([1.7])
    torch.testing.assert_close(mix(batch).states.double(), by_hand(states, weights, 1.7), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooler", ["glot", "adapool", "mlp", "mean", "max", "cls"])
def test_a_pooler_sees_the_mixed_states_and_the_mix_gets_gradients(pooler: str) -> None:
    """Edges too are drawn on the mixed states."""
    config = PoolerConfig(pooler=pooler, hidden=4, tau=0.2, mixed_layers=2)
    model = make_pooler(config, 6, "dense")
    assert isinstance(model, MixedPooler)
    assert model.out_width == model.inner.out_width
    batch = TokenBatch(torch.randn(9, 12), torch.tensor([4, 2, 3]))
    vectors = model(batch)
    torch.testing.assert_close(vectors, model.inner(TokenBatch(model.mix(batch).states, batch.lengths)))
    (vectors * torch.randn_like(vectors)).sum().backward()
    assert model.mix.weight.grad is not None
    assert float(model.mix.weight.grad.abs().sum()) > 0
    assert config.has_weights


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_layers_are_read_side_by_side(
    make_corpus: Callable, backbone_folders: dict[str, Path], tmp_path: Path, dtype: str
) -> None:
    """In memory and streamed, each with its own scales; `--layers all` keeps every one."""
    extract(make_corpus(), backbone_folders["bert"], tmp_path / "cache", dtype=dtype)
    cache = Cache(tmp_path / "cache")
    assert cache.manifest.states.layers == (0, 1, 2)
    ids = np.array([5, 2, 7])
    alone = [MemoryStates(cache, (layer,), ids, CPU).gather(ids).states for layer in (0, 1, 2)]
    for states in (MemoryStates(cache, (0, 1, 2), ids, CPU), StreamedStates(cache, (0, 1, 2), CPU)):
        assert (states.gather(ids).states == torch.cat(alone, dim=1)).all()


def fit(folder: Path, out: Path, **options: object) -> FitResult:
    prepare_runs(make_configs(Cache(folder), FitOptions(device="cpu", mix=True, **options)), out)
    return finish_runs(out)[out]


@pytest.mark.parametrize("start", ["random", "regression"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_fit_goes_on_to_the_same_bits(make_fit_cache: MakeCache, tmp_path: Path, start: str, streamed: bool) -> None:
    folder = make_fit_cache()
    memory = {"max_memory": 0} if streamed else {}
    whole = fit(folder, tmp_path / "whole", start=start, **memory)
    config = make_configs(Cache(folder), FitOptions(device="cpu", mix=True, start=start, **memory))
    assert (config[0].layers, config[0].train.window is None) == ((1, 2), not streamed)
    prepare_runs(config, tmp_path / "broken")
    steps = iter(range(1000))
    with pytest.raises(Stopped):
        finish_runs(tmp_path / "broken", should_stop=lambda: next(steps) == 15)
    broken = finish_runs(tmp_path / "broken")[tmp_path / "broken"]
    assert (tmp_path / "whole/head.safetensors").read_bytes() == (tmp_path / "broken/head.safetensors").read_bytes()
    assert (broken.best, broken.density) == (whole.best, whole.density)
    assert broken.density is not None
    shares = layer_shares(tmp_path / "whole", RunConfig.load(tmp_path / "whole"))
    assert list(shares) == [1, 2]
    assert sum(shares.values()) == pytest.approx(1)
    score = evaluate_head(tmp_path / "whole", Cache(folder), "validation", "cpu", "dense")
    assert score == whole.best["validation"]


def test_the_first_vectors_are_the_mean_of_the_mix(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    """A start at the regression reads the mean of the mixed states; the head's columns for the graph are 0."""
    folder = make_fit_cache()
    prepare_runs(make_configs(Cache(folder), FitOptions(device="cpu", mix=True, start="regression")), tmp_path / "run")
    with pytest.raises(Stopped):
        finish_runs(tmp_path / "run", should_stop=lambda: True)
    config = RunConfig.load(tmp_path / "run")
    model: HeadModel = load_head(tmp_path / "run", config, "dense", CPU)
    ids = np.arange(6)
    batch = StreamedStates(Cache(folder), config.layers, CPU).gather(ids)
    with torch.no_grad():
        vectors = model.pooler(batch)
        means = [some.mean(dim=0) for some in model.pooler.mix(batch).states.split(batch.lengths.tolist())]
    torch.testing.assert_close(vectors[:, :8], torch.stack(means), rtol=1e-5, atol=1e-5)
    assert (model.head.linear.weight[:, 8:] == 0).all()
    assert (model.head.linear.weight[:, :8] != 0).any()


@pytest.mark.parametrize("pooler", ["glot", "adapool"])
def test_heads_that_mix_train_side_by_side_as_alone(
    make_fit_cache: MakeCache, tmp_path: Path, in_float64: None, pooler: str
) -> None:
    """Stacked or in turn, of two thresholds and seeds each comes to what it does by itself, and to its own density."""
    given = FitOptions(device="cpu", mix=True, pooler=pooler, hidden=4, order_seed=0, epochs=2)
    cache = Cache(make_fit_cache(layers_differ=True))
    configs = [make_configs(cache, given.but(tau=tau, seeds=(seed,)))[0] for seed, tau in enumerate((0.3, 0.9))]
    jobs = [Job(config, tmp_path / f"both-{number}") for number, config in enumerate(configs)]
    together = fit_heads(cache, jobs, tmp_path)
    alone = [fit_head(cache, config, tmp_path / f"alone-{number}") for number, config in enumerate(configs)]
    assert [result.best for result in together] == [result.best for result in alone]
    assert [result.density for result in together] == [result.density for result in alone]
    assert (together[0].density != together[1].density) == (pooler == "glot")
    for number in range(2):
        one, other = (load_tensors(tmp_path / f"{name}-{number}/head.safetensors")[0] for name in ("both", "alone"))
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=1e-7, atol=1e-9, msg=name)
    assert (one["pooler.mix.weight"] != 0).all()  # which is where it began


def test_what_cannot_be_mixed_is_refused(make_fit_cache: MakeCache) -> None:
    cache = Cache(make_fit_cache())
    with pytest.raises(UsageError, match="--mix takes all layers of the cache, --backbone-layer one"):
        make_configs(cache, FitOptions(device="cpu", mix=True, backbone_layer=1))
    with pytest.raises(UsageError, match="vectors of max with these settings do not hold the mean"):
        make_configs(cache, FitOptions(device="cpu", mix=True, pooler="max", start="regression"))


def test_one_layer_is_no_mix_and_a_mix_goes_everywhere(
    glot: Callable[..., tuple], extracted: Path, table: Path, backbone_folders: dict[str, Path]
) -> None:
    """From the command line, each in one line."""
    code, _, err = glot("fit", "--cache", extracted, "--mix")
    assert (code, err.count("\n")) == (2, 1)
    assert "keeps layer 2 alone; extract several, as in `glot extract --layers all`" in err
    data = ["--data", table, "--eval-data", table.with_name("dev.csv"), "--text", "sentence", "--label", "kind"]
    more = ["--max-tokens", 24, "--layers", "all", "--out", "all"]
    assert glot("extract", "--model", backbone_folders["bert"], *data, *more)[0] == 0
    code, out, err = glot("fit", "--cache", "all", "--mix", "--start", "regression", "--epochs", 1, "--out", "run")
    assert code == 0, err
    assert "run: layers 0 " in out
    assert "the regression that training began at (epoch 0): validation accuracy" in out
    code, out, err = glot("fit", "--cache", "all", "--mix", "--backbone-layer", 1)
    assert (code, err.count("\n")) == (2, 1)
    assert glot("evaluate", "--run", "run", "--cache", "all")[0] == 0
    texts = table.with_name("dev.csv")
    code, out, err = glot("predict", "--run", "run", "--input", texts, "--text", "sentence", "--output", "p.jsonl")
    assert code == 0, err
    assert glot("explain", "--run", "run", "--input-text", "the dog")[0] == 0
    assert '["mix","layer 0: ' in Path("explain.html").read_text(encoding="utf-8")


def test_new_texts_are_mixed_as_the_cache_was(
    make_corpus: Callable, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    corpus, bert = make_corpus({"train": 24, "validation": 8}), backbone_folders["bert"]
    extract(corpus, bert, tmp_path / "cache", dtype="float32")
    fit(tmp_path / "cache", tmp_path / "run", epochs=1, batch_size=8, hidden=4)
    cache, config = Cache(tmp_path / "cache"), RunConfig.load(tmp_path / "run")
    model = GlotModel.load(tmp_path / "run", str(bert), "cpu")
    texts = cache.plan.texts(0, len(cache.plan))
    ids = np.arange(len(texts))
    with torch.no_grad():
        expected = model.model.vectors(StreamedStates(cache, config.layers, CPU).gather(ids))
    np.testing.assert_allclose(model.encode(texts), expected, rtol=1e-3, atol=1e-4)


def test_the_estimator_mixes(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    texts = ["rain falls softly", "a dog barks", "rain over the old town", "the dog looked"] * 4
    labels = [0, 1, 0, 1] * 4
    for cache in (None, tmp_path / "cache"):
        model = GlotClassifier(backbone_folders["bert"], mix=True, epochs=1, hidden=4, start="regression", cache=cache)
        model.fit(texts, labels)
        assert model.config_.layers == (0, 1, 2)
        assert model.predict(texts).shape == (16,)
