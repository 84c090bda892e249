"""Batches and backends that the tests of stage two share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.made import TextStates, write_cache
from glot.fit.learner import Learner
from glot.fit.result import Scores
from glot.nn.dgl_backend import dgl_available, dgl_import_error
from glot.nn.tokens import TokenBatch
from glot.registry.tasks import TASKS, Task
from glot.store.example_set import ExampleSet
from glot.store.layout import StatesIdentity
from glot.store.plan import Plan
from glot.store.task_spec import TaskSpec


@pytest.fixture
def needs_dgl() -> None:
    if not dgl_available():
        pytest.skip(f"DGL cannot be imported: {dgl_import_error()}")


@pytest.fixture(params=["dense", "dgl"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "dgl":
        request.getfixturevalue("needs_dgl")
    return request.param


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fits compute in float64, so that what differs in the order of its sums alone agrees to 1e-9 after many steps.

    In float32 Adam makes steps of full length even of gradients that are rounding alone, which each processor has its
    own of.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def put_in_scores(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`put_in_scores(validation=[0.5, 0.9])`: what every metric of a set is after each epoch, whatever was trained.

    A set that is not named keeps its own scores; after the last value the same goes on.
    """

    def put(**by_set: list[float]) -> None:
        record = Learner._record

        def recorded(head: Learner, position: Any, scores: Scores, *more: Any) -> bool:
            for name, values in by_set.items():
                value = values[min(position.epoch, len(values)) - 1]
                scores = {**scores, name: dict.fromkeys(scores[name], value)}
            return record(head, position, scores, *more)

        monkeypatch.setattr(Learner, "_record", recorded)

    return put


@pytest.fixture
def make_batch() -> Callable[..., TokenBatch]:
    """A batch of random states with a common direction, so that cosines lie on both sides of 0.5."""

    def make(lengths: tuple[int, ...], width: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> TokenBatch:
        generator = torch.Generator().manual_seed(seed)
        states = torch.randn(sum(lengths), width, generator=generator, dtype=dtype) + 0.8
        return TokenBatch(states, torch.tensor(lengths))

    return make


@pytest.fixture
def brute_force_mask() -> Callable[[TokenBatch, float], np.ndarray]:
    """Every pair by itself, in float64: no cosine of these tests is so near tau that float32 could differ."""

    def mask_by_loop(batch: TokenBatch, tau: float) -> np.ndarray:
        lengths = batch.lengths.tolist()
        mask = np.zeros((len(lengths), max(lengths), max(lengths)), dtype=bool)
        for text, states in enumerate(batch.states.double().split(lengths)):
            for i, x in enumerate(states.numpy()):
                for j, y in enumerate(states.numpy()):
                    norms = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
                    cosine = float(x @ y) / norms if norms else 0.0
                    mask[text, i, j] = i == j or cosine > tau
        return mask

    return mask_by_loop


@dataclass(frozen=True)
class MadeTask:
    """What `make_fit_cache` is to make: see there."""

    num_texts: int = 1
    target: str = "classes"
    train: int = 96
    validation: int = 48
    shards: int = 3
    width: int = 8
    backbone: str = "tiny"
    validation_sets: tuple[str, ...] = ("validation",)
    layers_differ: bool = False
    noise_layer: int | None = None


@pytest.fixture
def make_fit_cache(tmp_path: Path, write_plan: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a cache whose labels can be learnt: one token of a text carries +1 or -1 (its sign) in its first column.

    `make(name, **fields of MadeTask)` gives the folder. Classes: the sign, or for pairs whether both are +1, which a
    linear head on [a, b] can tell and one text alone cannot (chance and the best guess from one text: 0.75).
    Scores: 4 or 1, by the sign, or for pairs by whether the signs agree. There are two layers, which are alike, or
    differ in that the first one's columns are turned by one; or one of them is noise.
    """

    def make(name: str = "cache", **settings: object) -> Path:
        task = MadeTask(**settings)
        rng = np.random.default_rng(0)
        counts = {"train": task.train, **dict.fromkeys(task.validation_sets, task.validation)}
        texts = sum(counts.values()) * task.num_texts
        signs = rng.choice([-1, 1], texts)
        lengths = rng.integers(1, 7, texts).astype(np.uint32)
        shard = np.arange(texts) * task.shards // texts
        names = [f"word{sign} {number}" for number, sign in enumerate(signs)]
        identity = StatesIdentity(
            backbone=task.backbone,
            revision="",
            weights_sha256=task.backbone,
            tokenizer_sha256="t",
            kind="encoder",
            width=task.width,
            num_layers=2,
            template="{text}",
            max_tokens=16,
            layers=(1, 2),
            dtype="float32",
            compute_dtype="float32",
        )
        spec = TaskSpec(
            name="made",
            num_texts=task.num_texts,
            target=task.target,
            classes=("no", "yes") if task.target == "classes" else (),
            score_range=None if task.target == "classes" else (0.0, 5.0),
            metrics=("accuracy", "f1") if task.target == "classes" else ("spearman", "pearson"),
        )
        quick = {"hidden": 8, "lr": 1e-2, "epochs": 4, "batch_size": 8}
        monkeypatch.setitem(TASKS._entries, spec.name, Task(spec, head=quick))
        sets, start = {}, 0
        for split, count in counts.items():
            ids = np.arange(start, start + count * task.num_texts).reshape(count, task.num_texts)
            start += ids.size
            right = signs[ids].min(axis=1) > 0 if task.target == "classes" else signs[ids].prod(axis=1) > 0
            label = right.astype(np.int64) if task.target == "classes" else np.where(right, 4.0, 1.0)
            sets[split] = ExampleSet(np.arange(count), ids[:, 0], ids[:, 1] if task.num_texts == 2 else None, label)

        def shard_states(plan: Plan, number: int) -> Iterator[TextStates]:
            for text in range(*plan.shard_range(number)):
                states = rng.normal(0, 0.3, (int(lengths[text]), task.width)).astype(np.float32)
                states[rng.integers(lengths[text]), 0] = 2 * signs[text]
                for layer in identity.layers:
                    of_layer = np.roll(states, (2 - layer) * task.layers_differ, axis=1)
                    if layer == task.noise_layer:
                        of_layer = rng.normal(size=states.shape).astype(np.float32)
                    yield layer, text, of_layer, None

        folder = tmp_path / name
        folder.mkdir()
        cuts = np.searchsorted(shard, np.arange(1, task.shards)).tolist()
        data = write_plan(folder, names, lengths.tolist(), cuts)
        write_cache(folder, data, identity, spec, sets, shard_states)
        return folder

    return make
