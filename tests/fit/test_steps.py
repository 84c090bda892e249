"""Recorded steps: batches brought to one of a few sizes train as they are. On a GPU through real CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glot.fit.head_model import fetch
from glot.fit.learner import Job, Learner
from glot.fit.run import FitOptions, make_configs
from glot.fit.stack import make_units
from glot.fit.steps import RecordedSteps, Steps
from glot.fit.training_data import labels_of, open_data, open_states
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.cuda)]
WAYS = {
    "glot": {},
    "adapool": {"pooler": "adapool"},
    "mlp": {"pooler": "mlp"},
    "gcn": {"gnn": "gcn"},
    "gin": {"gnn": "gin"},
    "gine, knn": {"gnn": "gine", "graph": "knn"},
    "random graph": {"graph": "random"},
    "mean readout": {"readout": "mean"},
    "maximum of layers": {"jk": "max"},
    "content tokens": {"tokens": "content"},
    "two seeds": {"seeds": (0, 1)},
}


def open_units(cache: Cache, device: torch.device, **options: object) -> tuple[list[Learner], object, object]:
    """Learners with equal weights at every call, their data and their states."""
    given = FitOptions(device=str(device), backend="dense", lr=1e-2, **{"hidden": 6, **options})
    configs = make_configs(cache, given)
    states = open_states(cache, configs[0])
    data = open_data(cache, configs[0], states)
    return [Learner(Job(config, Path("unused")), data) for config in configs], data, states


def train_by(steps: Steps, data: object, states: object, order: list[np.ndarray]) -> None:
    """A step on each batch of the order, by a rate that falls."""
    labels = labels_of(data.train)
    labels = torch.from_numpy(labels if labels.dtype == np.int64 else labels.astype(np.float32))
    for number, chosen in enumerate(order):
        for unit in steps.units:
            unit.set_rate(number / len(order))
        steps.run(fetch(states, data.train.subset(chosen)), labels[chosen])


def check_equal(cache: Cache, device: torch.device, **options: object) -> RecordedSteps:
    """Recorded steps leave the weights and losses that plain ones leave."""
    plain, data, states = open_units(cache, device, **options)
    recorded, _, _ = open_units(cache, device, **options)
    order = [np.random.default_rng(seed % 3).permutation(len(data.train))[:16] for seed in range(12)]
    train_by(Steps(make_units(plain), device), data, states, order)
    steps = RecordedSteps(make_units(recorded), device)
    train_by(steps, data, states, order)
    assert not steps.gave_up
    for one, other in zip(plain, recorded, strict=True):
        torch.testing.assert_close(other.lost, one.lost, rtol=1e-4, atol=1e-5)
        for (name, expected), found in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5, msg=name)
    return steps


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_every_pooler(make_fit_cache: MakeCache, in_float64: None, way: str, device: torch.device) -> None:
    steps = check_equal(Cache(make_fit_cache()), device, **WAYS[way])
    assert steps.recorded


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("num_texts", "target"), [(2, "classes"), (1, "score"), (2, "score")])
def test_every_task(
    make_fit_cache: MakeCache, in_float64: None, num_texts: int, target: str, device: torch.device
) -> None:
    assert check_equal(Cache(make_fit_cache(num_texts=num_texts, target=target)), device).recorded
