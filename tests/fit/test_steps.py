"""Recorded steps: batches brought to one of a few sizes train as they are. On a GPU through real CUDA graphs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from glot.errors import Stopped
from glot.fit.head_model import fetch
from glot.fit.learner import Job, Learner
from glot.fit.run import FitOptions, make_configs
from glot.fit.run_folder import load_tensors
from glot.fit.stack import make_units
from glot.fit.states import HostBatch
from glot.fit.steps import FILLERS, WARM_UP, BatchSize, RecordedSteps, Steps, make_steps
from glot.fit.train import fit_head
from glot.fit.training_data import labels_of, open_data, open_states
from glot.nn.tokens import TokenBatch
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
    "layer mix": {"mix": True},
    "layer mix, two seeds": {"mix": True, "seeds": (0, 1)},
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


class Waits(TorchDispatchMode):
    """Collects what would wait for a GPU, which cannot be recorded: values read, and shapes that hang on values."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "index.Tensor", "unique", "item")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += [str(func) for name in self.NAMES if name in str(func)]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("way", [*WAYS, "bfloat16"])
def test_a_recorded_step_waits_for_nothing(make_fit_cache: MakeCache, way: str) -> None:
    options = {**WAYS, "bfloat16": {"precision": "bfloat16"}}[way]
    units, data, states = open_units(Cache(make_fit_cache()), CPU, **options)
    steps = RecordedSteps(make_units(units), CPU)
    train_by(steps, data, states, [np.arange(16)] * 3)
    [(_, replay)] = steps.recorded.values()
    with Waits() as waits:
        replay()
    assert waits.seen == []
    with Waits() as waits:
        assert units[0].lost.nonzero().ndim == 2
    assert waits.seen  # that it sees what it looks for


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_step_leaves_nothing_of_its_batch(
    make_fit_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, way: str, recorded: bool
) -> None:
    """What lived on would hold memory of a GPU; and a gradient of a mix that does cannot be recorded there."""
    units, data, states = open_units(Cache(make_fit_cache()), CPU, **WAYS[way])
    steps = (RecordedSteps if recorded else Steps)(make_units(units), CPU)
    batches: list[weakref.ref[TokenBatch]] = []
    check = TokenBatch.__post_init__

    def note(batch: TokenBatch) -> None:
        check(batch)
        batches.append(weakref.ref(batch))

    monkeypatch.setattr(TokenBatch, "__post_init__", note)
    gc.collect()
    gc.disable()
    try:
        train_by(steps, data, states, [np.arange(16)] * 4)
        assert batches
        assert [batch for batch in batches if batch() is not None] == []
    finally:
        gc.enable()


def test_what_cannot_be_recorded(make_fit_cache: MakeCache) -> None:
    cache = Cache(make_fit_cache())
    for options in ({"gnn": "gin", "gin_batch_norm": True}, {"schedule": "plateau-steps"}):
        [unit], _, _ = open_units(cache, CPU, **options)
        assert not unit.can_be_recorded
    assert type(make_steps([unit], torch.device("cuda"), None)) is Steps
    [unit], _, _ = open_units(cache, CPU)
    assert unit.can_be_recorded
    assert type(make_steps([unit], CPU, None)) is Steps


@pytest.mark.parametrize("lengths", [[1], [5] * 32, list(range(1, 33)), [128] * 32, [1, 2, 3, 512]])
def test_a_size_holds_the_batch_and_few_sizes_hold_all(lengths: list[int]) -> None:
    count = torch.tensor(lengths)
    host = HostBatch(torch.zeros(sum(lengths), 2), lengths=count, rows=(torch.arange(len(lengths)),))
    size = BatchSize.of(host)
    filled = size.filled(count.numpy())
    assert filled[: len(lengths)].tolist() == lengths
    assert (len(filled), filled.sum()) == (size.texts, size.tokens)
    assert filled.min() >= 1
    assert filled.max() <= size.longest
    assert size.longest - max(lengths) < 16
    assert size.texts - len(lengths) < 2 * FILLERS


def test_a_gpu_that_records_nothing_trains_all_the_same(
    make_fit_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    units, data, states = open_units(Cache(make_fit_cache()), CPU)
    steps = RecordedSteps(make_units(units), CPU)
    monkeypatch.setattr(steps, "_record", lambda *given: setattr(steps, "gave_up", True))
    before = [parameter.clone() for parameter in units[0].model.parameters()]
    train_by(steps, data, states, [np.arange(16)] * (WARM_UP + 2))
    assert not steps.recorded
    assert int(units[0].optimizer.state_dict()["state"][0]["step"]) == WARM_UP + 2
    assert not all(map(torch.equal, before, units[0].model.parameters()))


@pytest.mark.cuda  # make_steps chooses so; tests above stand in for it on a CPU
def test_a_fit_on_a_gpu_records_and_goes_on(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    cache = Cache(make_fit_cache())
    [config] = make_configs(cache, FitOptions(device="cuda", backend="dense", epochs=6))
    fit_head(cache, config, tmp_path / "whole")
    asked = iter(range(10**6))
    with pytest.raises(Stopped):
        fit_head(cache, config, tmp_path / "cut", should_stop=lambda: next(asked) == 20)
    fit_head(cache, config, tmp_path / "cut")
    whole, cut = (load_tensors(tmp_path / name / "head.safetensors")[0] for name in ("whole", "cut"))
    for name, expected in whole.items():
        torch.testing.assert_close(cut[name], expected, rtol=1e-2, atol=1e-3, msg=name)
