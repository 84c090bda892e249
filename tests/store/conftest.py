"""Caches of random states, written with the store alone: no backbone, no corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.made import TextStates, write_cache
from glot.store.example_set import ExampleSet
from glot.store.layout import STORED_AS, Manifest, StatesIdentity
from glot.store.plan import Plan
from glot.store.task_spec import TaskSpec

TASK = TaskSpec("made", 1, "classes", ("no", "yes"))
IDENTITY = StatesIdentity(
    backbone="tiny",
    revision="",
    weights_sha256="0" * 64,
    tokenizer_sha256="1" * 64,
    loader_sha256="2" * 64,
    kind="decoder",
    width=6,
    num_layers=3,
    template="{text}",
    max_tokens=16,
    layers=(1, 3),
    dtype="float16",
    compute_dtype="float32",
)


@dataclass
class MadeCache:
    """A written cache and what went into it: `states[layer][text_id]` is (L, d) in the stored dtype."""

    folder: Path
    plan: Plan
    identity: StatesIdentity
    manifest: Manifest
    states: dict[int, list[np.ndarray]]
    scales: dict[int, list[np.ndarray]]

    def naive(self, layer: int, text_ids: list[int]) -> np.ndarray:
        """What `read_texts` must return."""
        empty = np.empty((0, self.identity.width), STORED_AS[self.identity.dtype])
        return np.concatenate([empty, *(self.states[layer][number] for number in text_ids)])


def name_texts(count: int) -> list[str]:
    return [f"text {number} — naïve 文 🙂" if number else "" for number in range(count)]


@pytest.fixture
def make_plan(tmp_path: Path, write_plan: Callable) -> Callable[..., Plan]:
    """`make(lengths, shards, texts=True)`: an opened plan with some special tokens and unusual strings."""

    def make(lengths: list[int], shards: list[int], texts: bool = True) -> Plan:
        cuts = [place for place in range(1, len(shards)) if shards[place] != shards[place - 1]]
        return Plan(tmp_path, write_plan(tmp_path, name_texts(len(lengths)), lengths, cuts, texts))

    return make


@pytest.fixture
def identity() -> StatesIdentity:
    """Width 6, layers 1 and 3, float16."""
    return IDENTITY


@pytest.fixture
def make_cache(tmp_path: Path, write_plan: Callable) -> Callable[..., MadeCache]:
    """`make(name, lengths, shards, dtype, width)`: a finished cache below `tmp_path`, with one example set, "train"."""

    def make(
        name: str = "cache",
        lengths: tuple[int, ...] = (3, 1, 5, 2, 9, 4, 1),
        shards: tuple[int, ...] = (0, 0, 0, 1, 1, 2, 2),
        dtype: str = "float16",
        width: int = 6,
    ) -> MadeCache:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        cuts = [place for place in range(1, len(shards)) if shards[place] != shards[place - 1]]
        data = write_plan(folder, name_texts(len(lengths)), list(lengths), cuts)
        identity = replace(IDENTITY, dtype=dtype, width=width)
        random = np.random.default_rng(0)
        states = {
            layer: [_stored(random.standard_normal((length, width)), dtype) for length in lengths]
            for layer in identity.layers
        }
        scales = {layer: [random.random(length, dtype=np.float32) for length in lengths] for layer in identity.layers}

        def shard_states(plan: Plan, number: int) -> Iterator[TextStates]:
            for index in reversed(range(*plan.shard_range(number))):
                for layer in identity.layers:
                    yield layer, index, states[layer][index], scales[layer][index] if dtype == "int8" else None

        examples = ExampleSet(np.arange(3), np.asarray([2, 0, 2]), None, np.asarray([1, 0, 1]))
        manifest = write_cache(folder, data, identity, TASK, {"train": examples}, shard_states)
        plan = Plan(folder, data)
        return MadeCache(folder, plan, identity, manifest, states, scales)

    return make


def _stored(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    if dtype == "int8":
        return np.clip(values * 50, -127, 127).astype(np.int8)
    return values.astype(STORED_AS[dtype])
