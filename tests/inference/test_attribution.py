"""What is explained is what the model computes: its weights, its cosines, its edges, its prediction."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from glot.errors import UsageError
from glot.fit.head_model import load_head
from glot.fit.run import FitOptions, make_configs
from glot.fit.run_folder import RunConfig
from glot.fit.states import StreamedStates
from glot.fit.train import fit_head
from glot.inference.attribution import MAX_LEFT_OUT, MAX_TOKENS, TextStates, cache_example, explain
from glot.inference.predictions import predict_examples
from glot.inference.run_checks import open_runs
from glot.nn.config import PoolerConfig
from glot.nn.edges import cosines, edge_mask
from glot.nn.poolers import make_pooler, token_weights
from glot.nn.tokens import TokenBatch
from glot.store.plan import PlanWriter
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
WORDS = ["[CLS]", "one", "two", "three", "four", "five", "[SEP]"]


def fit(folder: Path, out: Path, **options: object) -> Path:
    cache = Cache(folder)
    fit_head(cache, make_configs(cache, FitOptions(device="cpu", epochs=1, **options))[0], out)
    return out


@pytest.mark.parametrize("num_texts", [1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"tokens": "content"}, {"graph": "knn", "neighbours": 1}, {"readout": "mean"}, {"mix": True}]
)
def test_weights_and_prediction_are_the_model_s(
    make_fit_cache: MakeCache, tmp_path: Path, num_texts: int, options: dict
) -> None:
    cache = Cache(make_fit_cache(num_texts=num_texts))
    folder = fit(cache.folder, tmp_path / "run", pooler="glot", **options)
    runs, config = open_runs([folder]), RunConfig.load(folder)
    answers, examples = predict_examples(folder, config, cache, "validation", "cpu", "dense")
    model = load_head(folder, config, "dense", torch.device("cpu"))
    states = StreamedStates(cache, config.layers, torch.device("cpu"), config.pooler.tokens)
    ids = examples.text_id if num_texts == 1 else np.stack([examples.text_id, examples.text_id_b], axis=1)
    for index in (0, 7, 31):
        example = cache_example(cache, "validation", index, runs)
        found = explain(example, runs)
        place = int(np.flatnonzero(examples.index == index)[0])
        assert found.predictions[0].answer == config.task.classes[answers[place]]
        assert sum(found.predictions[0].shares.values()) == pytest.approx(1)
        assert max(found.predictions[0].shares, key=found.predictions[0].shares.get) == found.predictions[0].answer
        assert example.label == config.task.classes[examples.label[place]]
        assert len(found.pictures) == num_texts
        pooler, batch = model.pooler, states.gather(np.atleast_1d(ids[place]))
        if "mix" in options:
            pooler, batch = pooler.inner, pooler.one_layer(batch)
            assert list(found.layer_shares[0]) == [1, 2]
            assert sum(found.layer_shares[0].values()) == pytest.approx(1)
            drawn = found.pictures[0].cosines
            mixed = cosines(batch)[0, : len(drawn), : len(drawn)].detach()
            np.testing.assert_allclose(np.triu(drawn), np.triu(mixed.numpy()), atol=1e-6)
        expected = pooler.forward_with_weights(batch)[1].detach().split(batch.lengths.tolist())
        for weights, picture, theirs in zip(found.weighings[0].by_text, found.pictures, expected, strict=True):
            assert weights.sum() == pytest.approx(1)
            np.testing.assert_allclose(weights[picture.seen], theirs.numpy(), rtol=1e-5)
            assert not weights[~picture.seen].any()


@pytest.mark.parametrize("options", [{}, {"tokens": "content"}, {"pooler": "adapool"}, {"scores": True}])
@pytest.mark.parametrize("num_texts", [1, 2])
def test_a_token_s_effect_is_what_the_answer_loses_without_it(
    make_head_run: Callable, make_example: Callable, monkeypatch: pytest.MonkeyPatch, num_texts: int, options: dict
) -> None:
    monkeypatch.setattr("glot.inference.attribution.LEFT_OUT_BATCH", 3 * len(WORDS))  # several batches
    runs = open_runs([make_head_run("run", num_texts=num_texts, tau=0.4, **options)])
    example = make_example(*[WORDS, WORDS[1:]][:num_texts])
    found = explain(example, runs).predictions[0]
    for side, (text, effects) in enumerate(zip(example.texts, found.effects, strict=True)):
        for place in range(len(text.tokens)):
            kept = np.arange(len(text.tokens)) != place
            shorter = TextStates(
                [token for token, keep in zip(text.tokens, kept, strict=True) if keep],
                text.kinds[kept],
                text.states[torch.from_numpy(kept)],
            )
            texts = [shorter if number == side else other for number, other in enumerate(example.texts)]
            without = explain(replace(example, texts=texts), runs).predictions[0]
            if "scores" in options:  # which are told with four digits
                assert effects[place] == pytest.approx(float(found.answer) - float(without.answer), abs=2e-3)
            else:
                lost = found.shares[found.answer] - without.shares[found.answer]
                assert effects[place] == pytest.approx(lost, abs=1e-5)
        assert np.ptp(effects) > 1e-3


def test_a_text_of_one_token_and_a_long_one_have_no_effects(make_head_run: Callable, make_example: Callable) -> None:
    runs = open_runs([make_head_run("run")])
    assert [effects.tolist() for effects in explain(make_example(["one"]), runs).predictions[0].effects] == [[0.0]]
    assert explain(make_example(["one"] * (MAX_LEFT_OUT + 1)), runs).predictions[0].effects == []


@pytest.mark.parametrize("tau", [-1.0, 0.2, 0.6, 0.9, 1.0])
def test_cosines_are_numpy_s_and_edges_the_token_graph_s(
    make_head_run: Callable, make_example: Callable, tau: float
) -> None:
    example = make_example(WORDS, [*WORDS, "six", "seven"])
    found = explain(example, open_runs([make_head_run("run", num_texts=2, tau=0.4)]), tau)
    assert found.tau == tau
    for text, picture in zip(example.texts, found.pictures, strict=True):
        states = text.states.numpy().astype(np.float64)
        unit = states / np.linalg.norm(states, axis=1, keepdims=True)
        np.testing.assert_allclose(picture.cosines, unit @ unit.T, atol=1e-6)
        np.testing.assert_array_equal(picture.cosines, picture.cosines.T)
        mask = edge_mask(TokenBatch(text.states, torch.tensor([len(states)])), tau)
        pairs = len(states) * (len(states) - 1) // 2
        assert picture.edges(tau) == (int(mask.sum() - len(states)) // 2, pairs)


def test_the_threshold_is_the_run_s_unless_it_has_none(make_head_run: Callable, make_example: Callable) -> None:
    example = make_example(WORDS)
    glot, mean = make_head_run("glot", tau=0.3), make_head_run("mean", pooler="mean", tau=0.9)
    assert explain(example, open_runs([glot])).tau == 0.3
    assert explain(example, open_runs([mean])).tau == 0.6
    both = explain(example, open_runs([mean, glot]))
    assert (both.drawn.folder, both.tau) == (glot, 0.3)
    with pytest.raises(UsageError, match="cosine"):
        explain(example, open_runs([glot]), 1.5)


def test_what_each_pooler_weighs(make_head_run: Callable, make_example: Callable) -> None:
    example = make_example(WORDS)
    names = ("glot", "adapool", "mlp")
    found = explain(example, open_runs([make_head_run(name, pooler=name) for name in names]))
    by_name = {weighing.pooler: weighing.by_text[0] for weighing in found.weighings}
    assert list(by_name) == [*names, "mean", "cls", "max"]
    assert all(weights.sum() == pytest.approx(1) and (weights >= 0).all() for weights in by_name.values())
    for name in ("mlp", "mean"):
        np.testing.assert_allclose(by_name[name], 1 / len(WORDS))
    assert by_name["adapool"].std() > 0
    assert by_name["cls"].tolist() == [1, 0, 0, 0, 0, 0, 0]
    largest = example.texts[0].states.numpy().argmax(axis=0)
    np.testing.assert_allclose(by_name["max"], np.bincount(largest, minlength=len(WORDS)) / 8)


def test_a_decoder_s_cls_is_its_last_token_and_equal_tokens_share_a_dimension() -> None:
    states = torch.tensor([[1.0, 5.0], [1.0, 0.0], [0.0, 0.0]])
    batch = TokenBatch(states, torch.tensor([3]))
    for name, expected in (("cls", [0, 0, 1]), ("max", [0.75, 0.25, 0])):
        pooler = make_pooler(PoolerConfig(pooler=name, token_position="last"), 2, "dense")
        assert token_weights(pooler, batch).tolist() == expected


def test_a_graph_of_another_rule_is_given_as_it_is(make_head_run: Callable, make_example: Callable) -> None:
    example = make_example(WORDS)
    chain = explain(example, open_runs([make_head_run("chain", graph="chain")]))
    assert chain.tau == 0.6
    assert chain.pictures[0].own_edges.tolist() == [[i, i + 1] for i in range(6)]
    content = explain(example, open_runs([make_head_run("content", graph="chain", tokens="content")]))
    assert content.pictures[0].own_edges.tolist() == [[1, 2], [2, 3], [3, 4], [4, 5]]
    assert content.pictures[0].edges(-1.0) == (10, 10)  # five of the seven tokens are seen


def test_runs_that_do_not_go_together_are_refused(make_head_run: Callable, make_fit_cache: MakeCache) -> None:
    here = make_head_run("here")
    with pytest.raises(UsageError, match="width 8 there, 6 here"):
        open_runs([here, make_head_run("wide", width=6)])
    with pytest.raises(UsageError, match="texts an example 1 there, 2 here"):
        open_runs([here, make_head_run("pairs", num_texts=2)])
    cache = Cache(make_fit_cache())
    other = fit(cache.folder, here.parent / "other", layer=1)
    with pytest.raises(UsageError, match="layer 2 there, 1 here"):
        open_runs([fit(cache.folder, here.parent / "last"), other])
    with pytest.raises(UsageError, match="trained on states of tiny"):
        cache_example(cache, "validation", 0, open_runs([here]))


def test_examples_that_are_not_there_are_refused(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    cache = Cache(make_fit_cache())
    runs = open_runs([fit(cache.folder, tmp_path / "run")])
    with pytest.raises(UsageError, match="no index 48: they go from 0 to 47"):
        cache_example(cache, "validation", 48, runs)
    with pytest.raises(UsageError, match="no example set 'test'"):
        cache_example(cache, "test", 0, runs)
    with pytest.raises(UsageError, match="was trained on 1 text"):
        cache_example(Cache(make_fit_cache("pairs", num_texts=2)), "validation", 0, runs)


def test_a_cache_without_token_strings_is_refused(
    make_fit_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = PlanWriter.finish

    def without(self: PlanWriter, *arguments: object) -> object:
        self.vocabulary = {}
        return finish(self, *arguments)

    monkeypatch.setattr(PlanWriter, "finish", without)
    cache = Cache(make_fit_cache())
    with pytest.raises(
        UsageError, match="does not hold the strings of its tokens: pass the text itself with --input-text"
    ):
        cache_example(cache, "validation", 0, open_runs([fit(cache.folder, tmp_path / "run")]))


def test_a_text_too_long_to_draw_is_refused(make_head_run: Callable, make_example: Callable) -> None:
    with pytest.raises(UsageError, match="1,025 tokens is too long"):
        explain(make_example(["a"] * (MAX_TOKENS + 1)), open_runs([make_head_run("run")]))


BLOCKED = """
import sys
blocked = ("transformers", "tokenizers", "huggingface_hub", "accelerate", "datasets", "matplotlib")
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)
sys.meta_path.insert(0, Block())
from glot.commands import app as cli
try:
    cli.main()
except SystemExit as stop:
    assert not stop.code, stop.code
leaked = [name for name in sys.modules if name.split(".")[0] in blocked or name.startswith("glot.extract.")]
assert not leaked, leaked
"""


@pytest.mark.slow
def test_an_example_of_a_cache_needs_no_transformers(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    folder = make_fit_cache()
    run = fit(folder, tmp_path / "run")
    options = ["explain", "--run", run, "--cache", folder, "--index", 5, "--out", tmp_path / "page.html"]
    command = [sys.executable, "-c", BLOCKED, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "example 5 of validation" in done.stdout.replace("\n", " ")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
