"""Weight decay, warm-up, dropout and the mean of weights do what their names say, alone, stacked and after a stop."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glot.errors import Stopped, UsageError
from glot.fit.config import FitOptions
from glot.fit.head_model import fetch, load_head
from glot.fit.learner import Job, Learner
from glot.fit.run import finish_runs, make_configs, prepare_runs
from glot.fit.run_folder import RunConfig
from glot.fit.schedule import lr_factor, make_optimizer, mean_weights
from glot.fit.stack import Stack, make_units
from glot.fit.steps import RecordedSteps, make_steps
from glot.fit.training_data import open_data, open_states
from glot.inference.predictions import predict_examples
from glot.nn.dropout import Dropout
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
CPU = torch.device("cpu")
ALL = {"weight_decay": 0.3, "warm_up": 0.25, "dropout": 0.4, "schedule": "linear", "averaging": "polynomial"}


def test_weight_decay_is_that_of_adamw() -> None:
    start, gradient = torch.randn(3, 4), torch.randn(3, 4)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizers = [make_optimizer([ours], 0.1, CPU, 0.5), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.5)]
    for _ in range(3):
        for parameter, optimizer in zip([ours, theirs], optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(ours, start)


def test_steps_are_adams_and_load_no_compiler() -> None:
    """The import of `torch._dynamo` takes a second of each start. A state goes over to torch's own and back."""
    code = """
import sys; sys.path[:0] = sys.argv[1:]
import torch
from glot.fit.schedule import make_optimizer
ours, theirs = (torch.nn.Parameter(torch.arange(6.0)) for _ in range(2))
optimizer = make_optimizer([ours], 0.1, torch.device("cpu"))
def step(parameter, optimizer, count):
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        (parameter**2).sum().backward()
        optimizer.step()
step(ours, optimizer, 3)
again = make_optimizer([ours], 0.1, torch.device("cpu"))
again.load_state_dict(optimizer.state_dict())
step(ours, again, 2)
print("torch._dynamo" in sys.modules)
step(theirs, torch.optim.Adam([theirs], lr=0.1, fused=True), 5)
print(torch.equal(ours, theirs))
"""
    done = subprocess.run([sys.executable, "-c", code, *sys.path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_rate_rises_then_follows_the_schedule() -> None:
    shares = [0.0, 0.1, 0.2, 0.6, 1.0]
    assert [lr_factor("linear", share, [], 0.2) for share in shares] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert [lr_factor("constant", share, [], 0.2) for share in shares] == pytest.approx([0, 0.5, 1, 1, 1])
    assert [lr_factor("linear", share, []) for share in shares] == pytest.approx([1, 0.9, 0.8, 0.4, 0])


def test_dropout_leaves_out_its_share_and_keeps_the_mean() -> None:
    dropout = Dropout(0.4, 0, CPU)
    vectors = torch.full((200, 500), 3.0)
    dropped = dropout(vectors)
    assert dropped.unique().tolist() == pytest.approx([0, 5])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.4, abs=0.01)  # of 100,000: six deviations
    assert not torch.equal(dropped, dropout(vectors))
    assert torch.equal(dropped, Dropout(0.4, 0, CPU)(vectors))
    assert not torch.equal(dropped, Dropout(0.4, 1, CPU)(vectors))
    assert torch.equal(dropout.eval()(vectors), vectors)


def test_later_steps_count_more_in_the_mean_of_the_weights() -> None:
    """Step t counts t (t + 1) (t + 2) / 6."""
    model, weights = torch.nn.Linear(3, 2), torch.randn(6, 2, 3)
    means = mean_weights(model)
    for weight in weights:
        model.weight.data.copy_(weight)
        means.update_parameters(model)
    counts = torch.tensor([math.comb(step + 2, 3) for step in range(1, 7)], dtype=torch.float32)
    expected = (counts[:, None, None] * weights).sum(0) / counts.sum()
    torch.testing.assert_close(means.module.weight.data, expected)
    assert torch.equal(model.weight.data, weights[-1])


def test_what_is_scored_and_kept_is_the_mean(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    """Training itself goes on as without it."""
    cache = Cache(make_fit_cache())
    given = FitOptions(device="cpu", preset="strong", lr=1e-2, epochs=2, select="last")
    found, kept = {}, {}
    for averaging in ("none", "polynomial"):
        run = tmp_path / averaging
        prepare_runs(make_configs(cache, given.but(averaging=averaging)), run)
        found[averaging] = finish_runs(run)[run]
        kept[averaging] = load_head(run, RunConfig.load(run), "dense", CPU).state_dict()
        saved = np.load(run / "predictions-validation.npy")
        assert np.array_equal(predict_examples(run, RunConfig.load(run), cache, "validation", "cpu", "dense")[0], saved)
    losses = {averaging: [epoch.loss for epoch in result.epochs] for averaging, result in found.items()}
    assert losses["none"] == losses["polynomial"]
    assert not torch.equal(kept["none"]["head.linear.weight"], kept["polynomial"]["head.linear.weight"])


def _learners(cache: Cache, seeds: tuple[int, ...]) -> tuple[list[Learner], object, object]:
    configs = make_configs(cache, FitOptions(device="cpu", backend="dense", seeds=seeds, order_seed=0, lr=1e-2, **ALL))
    states = open_states(cache, configs[0])
    data = open_data(cache, configs[0], states)
    return [Learner(Job(config, Path("unused")), data) for config in configs], data, states


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("num_texts", [1, 2])
def test_stacked_heads_train_as_each_by_itself(make_fit_cache: MakeCache, num_texts: int) -> None:
    cache = Cache(make_fit_cache(num_texts=num_texts))
    alone, data, states = _learners(cache, (0, 1))
    heads, _, _ = _learners(cache, (0, 1))
    (stack,) = make_units(heads)
    assert isinstance(stack, Stack)
    labels = torch.from_numpy(data.train.label)
    for step in range(4):
        chosen = torch.arange(32 * (step % 3), 32 * (step % 3) + 32).numpy()
        for unit in (stack, *alone):
            unit.set_rate(step / 4)
            unit.update(*fetch(states, data.train.subset(chosen)).to(CPU), labels[chosen])
    for one, other in zip(alone, heads, strict=True):
        for (name, expected), found in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9, msg=name)
        assert torch.equal(one.tensors()["dropout"], other.tensors()["dropout"])


def test_heads_that_are_regularised_otherwise_are_no_stack(make_fit_cache: MakeCache) -> None:
    cache = Cache(make_fit_cache())
    given = FitOptions(device="cpu", backend="dense")
    names = ("weight_decay", "warm_up", "schedule")
    configs = [make_configs(cache, given.but(**{name: ALL[name]}))[0] for name in names]
    states = open_states(cache, configs[0])
    heads = [Learner(Job(config, Path("unused")), open_data(cache, config, states)) for config in configs]
    assert make_units(heads) == heads


@pytest.mark.usefixtures("in_float64")
def test_heads_of_other_dropout_are_a_stack(make_fit_cache: MakeCache) -> None:
    cache = Cache(make_fit_cache())
    given = FitOptions(device="cpu", backend="dense", lr=1e-2)
    configs = [make_configs(cache, given.but(dropout=share))[0] for share in (0.0, 0.3, 0.6)]
    states = open_states(cache, configs[0])
    data = open_data(cache, configs[0], states)
    alone, heads = ([Learner(Job(config, Path("unused")), data) for config in configs] for _ in range(2))
    (stack,) = make_units(heads)
    texts, rows = fetch(states, data.train.subset(torch.arange(32).numpy())).to(CPU)
    for unit in (stack, *alone):
        unit.update(texts, rows, torch.from_numpy(data.train.label[:32]))
    for one, other in zip(alone, heads, strict=True):
        torch.testing.assert_close(other.lost, one.lost, rtol=1e-9, atol=0)
    assert len({head.lost.item() for head in heads}) == 3


@pytest.mark.parametrize("stop_after", [5, 12])
def test_a_stopped_fit_goes_on_to_the_same_bits(make_fit_cache: MakeCache, tmp_path: Path, stop_after: int) -> None:
    cache = Cache(make_fit_cache())
    for name in ("whole", "broken"):
        prepare_runs(make_configs(cache, FitOptions(device="cpu", **ALL)), tmp_path / name)
    finish_runs(tmp_path / "whole")
    steps = iter(range(1000))
    with pytest.raises(Stopped, match="--resume"):
        finish_runs(tmp_path / "broken", should_stop=lambda: next(steps) + 1 >= stop_after)
    finish_runs(tmp_path / "broken")
    assert (tmp_path / "whole/head.safetensors").read_bytes() == (tmp_path / "broken/head.safetensors").read_bytes()
    train = RunConfig.load(tmp_path / "whole").train
    assert {name: getattr(train, name) for name in ALL} == ALL


def test_a_step_with_dropout_is_never_recorded(make_fit_cache: MakeCache) -> None:
    heads, _, _ = _learners(Cache(make_fit_cache()), (0, 1))
    for units in (heads, make_units(heads)):
        assert not isinstance(make_steps(units, torch.device("cuda"), None), RecordedSteps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"--dropout must lie in 0\.\.0\.9"),
        ({"warm_up": -0.1}, r"--warm-up must lie in 0\.\.0\.9"),
        ({"averaging": "mean"}, "averaging must be one of none, polynomial"),
        ({"weight_decay": float("nan")}, "--weight-decay must be at least 0"),
        ({"warm_up": 0.1, "schedule": "plateau-steps"}, "--warm-up does not go with --schedule plateau-steps"),
    ],
)
def test_bad_settings_are_refused(make_fit_cache: MakeCache, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_configs(Cache(make_fit_cache()), FitOptions(device="cpu", **options))
