"""A whole cache from arrays, without a backbone: for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from glot.store.columns import ColumnFile
from glot.store.example_set import ExampleSet
from glot.store.files import make_folder
from glot.store.layout import EXAMPLES_FOLDER, ExamplesEntry, Manifest, PlanEntry, StatesIdentity
from glot.store.plan import Plan
from glot.store.shards import ShardWriter
from glot.store.task_spec import TaskSpec

# (layer, index of a text, (L, d) states as they are stored, (L,) float32 scales or None), in any order
TextStates = tuple[int, int, np.ndarray, np.ndarray | None]


def write_cache(
    folder: Path,
    plan: ColumnFile,
    states: StatesIdentity,
    task: TaskSpec,
    sets: Mapping[str, ExampleSet],
    shard_states: Callable[[Plan, int], Iterable[TextStates]],
) -> Manifest:
    """Write shards, example sets and manifest beside a plan, and give the manifest.

    `plan` is what `PlanWriter.finish` gave in that folder, `task` that of all `sets`. `shard_states` gives the states
    of a shard, by its number: every text in every kept layer.
    """
    opened = Plan(folder, plan)
    truncated = int(opened.file.read("truncated").sum())
    made = PlanEntry(len(opened), opened.tokens, truncated, 0, opened.num_shards, 0, "", plan)
    manifest = Manifest("test", states, made)
    make_folder(folder / EXAMPLES_FOLDER)
    for name, examples in sets.items():
        entry = ExamplesEntry.of(examples, opened.hashes(), task, f"made {name}")
        manifest.examples[name] = entry.save(examples, folder / EXAMPLES_FOLDER / f"{name}.h5", name)
    for number in range(opened.num_shards):
        with ShardWriter(folder, number, opened, states) as writer:
            for layer, index, values, scale in shard_states(opened, number):
                writer.write(layer, index, values, scale)
            manifest.shards[number] = writer.finish()
    manifest.save(folder)
    opened.close()
    return manifest
