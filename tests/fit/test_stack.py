"""Stacked heads are the same function as each by itself: vectors, losses, gradients and steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from glot.fit.head_model import fetch
from glot.fit.learner import Job, Learner
from glot.fit.run import FitOptions, make_configs
from glot.fit.stack import Stack, make_units, stack_key
from glot.fit.training_data import open_data, open_states
from glot.nn.tokens import TokenBatch
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("in_float64")


def make_heads(cache: Cache, taus: list[float], **options: object) -> tuple[list[Learner], object, object]:
    """Heads of different seeds and thresholds, their data and their states."""
    given = FitOptions(device="cpu", backend="dense", seeds=tuple(range(len(taus))), order_seed=0, **options)
    configs = make_configs(cache, given)
    configs = [replace(c, pooler=replace(c.pooler, tau=tau)) for c, tau in zip(configs, taus, strict=True)]
    states = open_states(cache, configs[0])
    data = open_data(cache, configs[0], states)
    return [Learner(Job(config, Path("unused")), data) for config in configs], data, states


@pytest.mark.parametrize("taus", [[0.3, 0.6, 1.0], [0.5, 0.5]])
@pytest.mark.parametrize("jk", ["cat", "max", "mean"])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_vectors_and_gradients(make_fit_cache: MakeCache, taus: list[float], jk: str, layers: int) -> None:
    heads, _, _ = make_heads(Cache(make_fit_cache()), taus, jk=jk, gnn_layers=layers, hidden=5)
    check_vectors_and_gradients(heads, 8)


@pytest.mark.parametrize(
    "options", [{}, {"graph": "knn"}, {"graph": "random"}, {"jk": "max"}, {"jk": "mean"}, {"gnn_layers": 0}], ids=str
)
def test_heads_that_mix_layers(make_fit_cache: MakeCache, options: dict) -> None:
    """Each by weights of its own, so that its states, and its graph, are its own."""
    heads, _, _ = make_heads(Cache(make_fit_cache()), [0.3, 0.6, 0.3], mix=True, hidden=5, **options)
    for head in heads:
        mix = head.model.pooler.mix
        mix.weight.data, mix.scale.data = torch.randn_like(mix.weight), torch.rand_like(mix.scale) + 0.5
    check_vectors_and_gradients(heads, 2 * 8)


def check_vectors_and_gradients(heads: list[Learner], width: int) -> None:
    """Of heads whose states have so many numbers, all layers together: stacked and each by itself."""
    lengths = torch.tensor([1, 2, 3, 30, 31, 200])  # far enough apart for more than one bucket
    states = torch.randn(int(lengths.sum()), width) + 0.5
    assert len(TokenBatch(states, lengths).buckets) > 1
    alone = [head.model.pooler(TokenBatch(states, lengths)) for head in heads]
    weights = torch.randn_like(alone[0])
    for z in alone:
        (z * weights).sum().backward()
    expected = [{n: p.grad.clone() for n, p in h.model.pooler.named_parameters()} for h in heads]
    stack = Stack(heads)
    together = stack.pool(TokenBatch(states, lengths))
    torch.testing.assert_close(together, torch.stack(alone))
    (together * weights).sum().backward()
    for place, gradients in enumerate(expected):
        for name, gradient in gradients.items():
            found = stack.weights[f"pooler.{name}"].grad[place]
            torch.testing.assert_close(found, gradient, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize(("num_texts", "target"), [(1, "classes"), (2, "classes"), (1, "score"), (2, "score")])
def test_steps_of_every_task(make_fit_cache: MakeCache, num_texts: int, target: str, mix: bool) -> None:
    cache = Cache(make_fit_cache(num_texts=num_texts, target=target, layers_differ=True))
    alone, data, states = make_heads(cache, [0.3, 0.6], lr=1e-3, mix=mix)
    heads, _, _ = make_heads(cache, [0.3, 0.6], lr=1e-3, mix=mix)
    stack = Stack(heads)
    labels = torch.from_numpy(data.train.label if target == "classes" else data.train.label.astype(np.float32))
    for start in range(0, 96, 32):
        chosen = np.arange(start, start + 32)
        stack.update(*fetch(states, data.train.subset(chosen)).to(CPU), labels[chosen])
        for head in alone:
            head.update(*fetch(states, data.train.subset(chosen)).to(CPU), labels[chosen])
    for one, other in zip(alone, heads, strict=True):
        torch.testing.assert_close(one.lost, other.lost)
        for (name, expected), found in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9, msg=name)
        ours, theirs = other.tensors(), one.tensors()
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-7, atol=1e-9, msg=name)


def test_steps_with_class_weights(make_fit_cache: MakeCache) -> None:
    cache = Cache(make_fit_cache())
    given = FitOptions(device="cpu", backend="dense", seeds=(0, 1), order_seed=0, lr=1e-3)
    configs = {kind: make_configs(cache, given.but(class_weights=kind)) for kind in ("balanced", "none")}
    states = open_states(cache, configs["none"][0])
    data = open_data(cache, configs["none"][0], states)
    kept = np.flatnonzero((data.train.label == 0) | (np.arange(len(data.train)) % 6 == 0))  # "yes" becomes rare
    data = replace(data, train=data.train.subset(kept))

    def make(kind: str) -> list[Learner]:
        return [Learner(Job(config, Path("unused")), data) for config in configs[kind]]

    alone, heads, plain = make("balanced"), make("balanced"), make("none")
    units = make_units([*heads, *plain])
    assert [[head.config.train.class_weights for head in unit.heads] for unit in units] == [
        ["balanced"] * 2,
        ["none"] * 2,
    ]
    labels = torch.from_numpy(data.train.label)
    for start in range(0, len(labels) - 16, 16):
        chosen = np.arange(start, start + 16)
        for unit in (*units, *alone):
            unit.update(*fetch(states, data.train.subset(chosen)).to(CPU), labels[chosen])
    for one, other, unweighted in zip(alone, heads, plain, strict=True):
        torch.testing.assert_close(one.lost, other.lost)
        assert abs(one.lost - unweighted.lost) > 0.01 * one.lost
        for (name, expected), found in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9, msg=name)


def test_what_is_stacked(make_fit_cache: MakeCache) -> None:
    cache = Cache(make_fit_cache())
    heads, _, _ = make_heads(cache, [0.3, 0.6, 0.9])
    others = [
        *make_heads(cache, [0.3], gnn="gin")[0],
        *make_heads(cache, [0.3], pooler="mean")[0],
        *make_heads(cache, [0.3], schedule="plateau")[0],
        *make_heads(cache, [0.3], lr=0.5)[0],
    ]
    mixed, _, _ = make_heads(cache, [0.3, 0.6], mix=True)
    assert len({stack_key(head) for head in heads}) == 1
    units = make_units([*heads, *others, *mixed])
    assert [type(unit).__name__ for unit in units] == ["Stack", *["Learner"] * 4, "Stack"]
    assert (units[0].heads, units[-1].heads) == (heads, mixed)
