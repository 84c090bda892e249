"""Caches of random states, written with the store alone: no backbone, no corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.store.example_set import ExampleSet
from pipeline.store.layout import EXAMPLES_FOLDER, STORED_AS, ExamplesEntry, Manifest, PlanEntry, StatesIdentity
from pipeline.store.plan import CONTENT, SPECIAL, Plan, text_hash
from pipeline.store.task_spec import TaskSpec
from pipeline.store.writer import ShardWriter

TASK = TaskSpec("made", 1, "classes", ("no", "yes"))
IDENTITY = StatesIdentity(
    backbone="tiny",
    revision="",
    weights_sha256="0" * 64,
    tokenizer_sha256="1" * 64,
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

    def naive(self, layer: int, text_ids: list[int]) -> np.ndarray:
        """What `read_texts` must return."""
        empty = np.empty((0, self.identity.width), STORED_AS[self.identity.dtype])
        return np.concatenate([empty, *(self.states[layer][number] for number in text_ids)])


def build_plan(lengths: list[int], shards: list[int], texts: bool = True) -> Plan:
    shard = np.asarray(shards, dtype=np.uint32)
    length = np.asarray(lengths, dtype=np.uint32)
    names = [f"text {number} — naïve 文 🙂" if number else "" for number in range(len(lengths))]
    tokens = int(length.sum())
    kinds = np.full(tokens, CONTENT, dtype=np.uint8)
    kinds[np.cumsum(length) - length] = SPECIAL
    ids = np.arange(tokens, dtype=np.uint32) % 7
    return Plan(
        hash=np.frombuffer(b"".join(map(text_hash, names)), dtype=np.uint8).reshape(-1, 16),
        length=length,
        shard=shard,
        row=(np.arange(len(shard)) - np.searchsorted(shard, shard)).astype(np.uint32),
        truncated=(length > 8).astype(np.uint8),
        token_ids=ids,
        token_kind=kinds,
        texts=names if texts else None,
        vocabulary={number: f"Ġ{number}é" if number else "" for number in np.unique(ids).tolist()},
    )


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """`make(lengths, shards, texts=True)`: a plan with some special tokens and unusual strings."""
    return build_plan


@pytest.fixture
def identity() -> StatesIdentity:
    """Width 6, layers 1 and 3, float16."""
    return IDENTITY


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., MadeCache]:
    """`make(name, lengths, shards, dtype, width)`: a finished cache below `tmp_path`, with one example set, "train"."""

    def make(
        name: str = "cache",
        lengths: tuple[int, ...] = (3, 1, 5, 2, 9, 4, 1),
        shards: tuple[int, ...] = (0, 0, 0, 1, 1, 2, 2),
        dtype: str = "float16",
        width: int = 6,
    ) -> MadeCache:
        folder = tmp_path / name
        (folder / EXAMPLES_FOLDER).mkdir(parents=True)
        plan = build_plan(list(lengths), list(shards))
        identity = replace(IDENTITY, dtype=dtype, width=width)
        random = np.random.default_rng(0)
        states = {
            layer: [_stored(random.standard_normal((length, width)), dtype) for length in lengths]
            for layer in identity.layers
        }
        entry = PlanEntry("plan.h5", plan.save(folder / "plan.h5"), len(plan), sum(lengths), 1, 0, plan.num_shards, 0)
        manifest = Manifest("test", identity, entry)
        examples = ExampleSet(np.arange(3), np.asarray([2, 0, 2]), None, np.asarray([1, 0, 1]))
        manifest.examples["train"] = ExamplesEntry(
            file="examples/train.h5",
            sha256=examples.save(folder / "examples/train.h5"),
            fingerprint=examples.fingerprint(plan.hash),
            examples=3,
            labelled=True,
            source="made",
            task=TASK,
        )
        for number in range(plan.num_shards):
            with ShardWriter(folder, number, plan, identity) as writer:
                for text_id in reversed(range(writer.first, writer.stop)):
                    for layer in identity.layers:
                        writer.write(layer, text_id, states[layer][text_id])
                manifest.shards[number] = writer.finish()
        manifest.save(folder)
        return MadeCache(folder, plan, identity, manifest, states)

    return make


def _stored(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    return values.astype(STORED_AS[dtype])
