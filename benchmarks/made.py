"""Caches of random or given states, written with the store alone: any size, no backbone, no corpus."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from glot.store.columns import ColumnFile
from glot.store.example_set import ExampleSet
from glot.store.files import make_folder
from glot.store.layout import EXAMPLES_FOLDER, PLAN_FILE, ExamplesEntry, Manifest, PlanEntry, StatesIdentity
from glot.store.plan import CONTENT, Plan, PlanWriter
from glot.store.shards import ShardWriter
from glot.store.task_spec import TaskSpec

LAYER = 1  # the first
LONGEST = 128  # tokens of a text, the tasks' limit
POOL_BYTES = 64 * 2**20  # of random states, from which every text takes some rows
# (layer, index of a text, (L, d) states as they are stored, (L,) float32 scales or None), in any order
TextStates = tuple[int, int, np.ndarray, np.ndarray | None]
TASK = TaskSpec("made", 1, "classes", ("no", "yes"))


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


def make_cache(
    folder: Path, width: int, lengths: np.ndarray, shard_tokens: int, seed: int = 0, layers: int = 1
) -> Path:
    """Write a finished float16 cache; its sets are train, and every tenth text as validation."""
    make_folder(folder)
    random = np.random.default_rng(seed)
    data = _write_plan(folder, lengths, shard_tokens, random)
    tokens, indices = int(lengths.sum(dtype=np.int64)), np.arange(len(lengths))
    sets = {"train": _examples(indices[indices % 10 > 0]), "validation": _examples(indices[indices % 10 == 0])}
    pool = _random_states(max(LONGEST, min(POOL_BYTES // (2 * width), tokens)), width, random)
    identity = _identity(width, layers)
    write_cache(
        folder, data, identity, TASK, sets, lambda plan, number: _texts(plan, number, pool, random, identity.layers)
    )
    return folder


def spread_lengths(total: int, mean: int, seed: int = 0) -> np.ndarray:
    """(n,) lengths of texts with about `total` tokens in all, spread around `mean` as real ones are."""
    random = np.random.default_rng(seed)
    if 2 * mean > LONGEST:  # long documents, mostly cut at the limit
        length = random.integers(2 * mean - LONGEST, LONGEST + 1, max(1, total // mean))
    else:
        length = random.gamma(4.0, mean / 4.0, max(1, total // mean))
    return np.clip(np.rint(length), 3, LONGEST).astype(np.uint32)


def _identity(width: int, layers: int) -> StatesIdentity:
    return StatesIdentity(
        backbone="made",
        revision="",
        weights_sha256="0" * 64,
        tokenizer_sha256="1" * 64,
        kind="encoder",
        width=width,
        num_layers=layers,
        template="{text}",
        max_tokens=LONGEST,
        layers=tuple(range(LAYER, LAYER + layers)),
        dtype="float16",
        compute_dtype="float32",
    )


def _write_plan(folder: Path, lengths: np.ndarray, shard_tokens: int, random: np.random.Generator) -> ColumnFile:
    writer = PlanWriter(folder, keep_texts=False)
    tokens = int(lengths.sum(dtype=np.int64))
    ids, kinds = np.ones(tokens, dtype=np.uint32), np.full(tokens, CONTENT, dtype=np.uint8)
    writer.add(lengths, random.bytes(16 * len(lengths)), ids, kinds, np.zeros(len(lengths), dtype=np.uint8), [])
    writer.vocabulary = {1: "a"}
    data = writer.finish(folder / PLAN_FILE, shard_tokens)
    writer.close()
    return data


def _examples(text_ids: np.ndarray) -> ExampleSet:
    return ExampleSet(np.arange(len(text_ids)), text_ids, None, np.arange(len(text_ids)) % 2)


def _random_states(rows: int, width: int, random: np.random.Generator) -> np.ndarray:
    """States with a common direction, so that some tokens are joined and most are not."""
    states = random.standard_normal((rows, width), dtype=np.float32)
    states += 1.2 * random.standard_normal(width, dtype=np.float32)
    return states.astype("<f2")


def _texts(
    plan: Plan, number: int, pool: np.ndarray, random: np.random.Generator, layers: tuple[int, ...]
) -> Iterator[TextStates]:
    first, stop = plan.shard_range(number)
    length = plan.length[first:stop].astype(np.int64)
    for layer in layers:
        start = random.integers(0, len(pool) - length + 1)
        for text_id, row, count in zip(range(first, stop), start.tolist(), length.tolist(), strict=True):
            yield layer, text_id, pool[row : row + count], None


def files_of(folder: Path) -> list[Path]:
    """All files of a cache."""
    return [path for path in folder.rglob("*") if path.is_file()]


def forget(paths: list[Path]) -> None:
    """Drop files from the system's page cache, so that what is read next comes from the disk.

    Raises RuntimeError where the system keeps more than a hundredth of one.
    """
    for path in paths:
        for _ in range(20):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
            if cached_share(path) < 0.01:
                break
            time.sleep(0.05)  # pages on their way from the disk cannot be dropped
        else:
            raise RuntimeError(f"the page cache keeps {path}")


def load(paths: list[Path]) -> None:
    """Bring files into the page cache in one sweep from the disk: however they were written, they then lie alike."""
    forget(paths)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(2**20):
                pass


def cached_share(path: Path) -> float:
    """Which share of a file lies in the page cache."""
    size = path.stat().st_size
    if not size:
        return 0.0
    pages = np.zeros(-(-size // mmap.PAGESIZE), dtype=np.uint8)
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)):
        raise OSError(ctypes.get_errno(), f"cannot ask for the pages of {path}")
    return float((pages & 1).mean())
