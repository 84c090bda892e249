"""Moving, cutting and joining caches: copy, subset, merge, link. No backbone is needed.

The result is written beside its place and renamed there when it is whole.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from glot.errors import FaultError, UsageError
from glot.store.column_reader import ColumnReader
from glot.store.columns import CHUNK_BYTES, ColumnFile
from glot.store.example_set import NO_TEXT, ExampleSet
from glot.store.files import atomic_folder, make_folder
from glot.store.layout import EXAMPLES_FOLDER, PLAN_FILE, ExamplesEntry, Manifest, PlanEntry, StatesIdentity
from glot.store.parts import Part, name_from
from glot.store.places import RemoteFolder, local_folder, place_of
from glot.store.plan import Plan, PlanWriter, number_by_first_use
from glot.store.reader import Cache
from glot.store.shards import ShardWriter
from glot.store.verify import verify_cache
from glot.version import __version__

COPY_TOKENS = 2**16  # states of so many tokens are held in memory at a time


@dataclass(frozen=True)
class _Part:
    """Texts of one source, in the order in which they are numbered in the result."""

    cache: Cache
    text_ids: np.ndarray


def copy_cache(source: Path | str, target: Path, verify: bool = False) -> Manifest:
    """Copy a cache file by file, an unfinished one too; returns its manifest.

    Raises UsageError where the target is taken, FaultError where there is no room, or with `verify` where a file of
    the source is damaged.
    """
    cache = Cache(source, allow_unfinished=True)
    cache.manifest.refuse_linked(cache.folder, "copy it with `glot cache subset`, or copy those and link the copies")
    with _new_folder(target, verify) as folder:
        _copy_files(cache, folder, [entry.data for entry in cache.manifest.shards.values()])
        cache.manifest.save(folder)
    return cache.manifest


def subset_cache(
    source: Path | str,
    target: Path,
    splits: list[str] | None = None,
    limit: int | None = None,
    layers: tuple[int, ...] | None = None,
    shard_bytes: int = 2**30,
    verify: bool = False,
) -> Manifest:
    """Write a cache of some example sets, of the first `limit` examples of each, of some layers; returns its manifest.

    A cache's examples are in random order, so the first ones are a sample.

    Raises UsageError for a set or a layer that the source does not have, and whatever `copy_cache` raises.
    """
    cache = Cache(source)
    names = splits or list(cache.manifest.examples)
    sets = {name: cache.examples(name) for name in names}
    if limit is not None:
        sets = {name: examples.subset(np.arange(min(limit, len(examples)))) for name, examples in sets.items()}
    identity = cache.manifest.states
    if layers is not None:
        identity = replace(identity, layers=tuple(sorted({cache.resolve_layer(layer) for layer in layers})))
    every = np.concatenate([examples.used_ids() for examples in sets.values()])
    used = every[np.sort(np.unique(every, return_index=True)[1])]  # each text once, by first use
    number = np.full(len(cache.plan), -1, dtype=np.int64)
    number[used] = np.arange(len(used))
    sets = {name: examples.renumbered(number) for name, examples in sets.items()}
    entries = {name: cache.manifest.examples[name] for name in names}
    with _new_folder(target, verify) as folder:
        manifest = _build(folder, identity, [_Part(cache, used)], sets, entries, shard_bytes)
    return manifest


def merge_caches(
    sources: Sequence[Path | str], target: Path, shard_bytes: int = 2**30, verify: bool = False
) -> Manifest:
    """Join caches of the same backbone and settings; returns the result's manifest.

    Copies of one plan (made by workers without a common file system, each with some of its shards, finished or not)
    become one cache of all their shards. Finished caches of other texts become one cache of all texts, each once;
    example sets of one name and task are joined.

    Raises UsageError where settings or tasks differ (naming the difference), and whatever `copy_cache` raises.
    """
    caches = [Cache(source, allow_unfinished=True) for source in sources]
    first = caches[0].manifest
    _refuse_other_settings(caches)
    with _new_folder(target, verify) as folder:
        is_linked = any(cache.manifest.parts for cache in caches)
        if not is_linked and all(cache.manifest.plan.data.xxh3 == first.plan.data.xxh3 for cache in caches):
            manifest = _merge_shards(caches, folder)
        else:
            manifest = _merge_texts([Cache(source) for source in sources], folder, shard_bytes)
    return manifest


def link_caches(sources: Sequence[Path | str], target: Path, verify: bool = False) -> Manifest:
    """Write a cache that lists the shards of finished caches, of the same backbone and settings, where they lie.

    Nothing is written into those. The result holds what their merge would hold: each text counts once, and example sets
    of one name and task are joined. The parts of one that is linked itself become parts of the result.

    Raises UsageError where settings or tasks differ (naming the difference), a source is unfinished, at a URL or there
    twice, and whatever `copy_cache` raises.
    """
    remedy = "pull it with `glot cache pull`, and link the copy"
    caches = [Cache(local_folder(place_of(source), remedy)) for source in sources]
    _refuse_other_settings(caches)
    parts = [part for cache in caches for part in _parts_of(cache, target)]
    twice = [name for name, count in Counter(part.folder for part in parts).items() if count > 1]
    if twice:
        raise UsageError(f"the cache {twice[0]} would be a part twice: name it once")
    with _new_folder(target, verify) as folder:
        manifest = _link(caches, parts, folder)
    return manifest


def _parts_of(cache: Cache, target: Path) -> Iterator[Part]:
    """A cache as a part of a linked one, or its parts."""
    assert isinstance(cache.folder, Path)  # no URL is linked to
    for part in cache.manifest.parts or [Part(".", cache.manifest.plan.shards)]:
        yield replace(part, folder=name_from(target, cache.folder / part.folder))


def _link(caches: list[Cache], parts: list[Part], folder: Path) -> Manifest:
    is_new, number = number_by_first_use(np.concatenate([cache.plan.hashes() for cache in caches]))
    sets, entries = _joined_sets(caches, np.flatnonzero(is_new)[number])  # a text of several caches is the first's
    plan = _linked_plan(caches, is_new, folder)
    shards = [entry for cache in caches for _, entry in sorted(cache.manifest.shards.items())]
    manifest = Manifest(
        f"glot {__version__}",
        _joined_identity(caches),
        plan,
        shards=dict(enumerate(shards)),
        parts=tuple(parts),
        repeated=int((~is_new).sum()),
    )
    _save_sets(folder, manifest, sets, entries)
    manifest.save(folder)
    return manifest


def _linked_plan(caches: list[Cache], is_new: np.ndarray, folder: Path) -> PlanEntry:
    """Write the plans of the parts as one; its entry counts the `truncated` and `empty` of the texts that are new.

    The file does not say of what states it is: without the manifest nobody would find them.
    """
    writer = PlanWriter(folder, all(cache.plan.has_texts for cache in caches))
    try:
        for cache in caches:
            writer.copy(cache.plan)
        data = writer.finish(folder / PLAN_FILE, 1)  # every text has its shard
        truncated = int(np.frombuffer(writer.truncated, dtype=np.uint8)[is_new].sum())
    finally:
        writer.close()
    plan, order_seed = Plan(folder, data), caches[0].manifest.plan.order_seed
    empty = sum(_count_empty(plan, first, stop) for first, stop in _runs(np.flatnonzero(is_new)))
    return PlanEntry(len(plan), plan.tokens, truncated, empty, plan.num_shards, order_seed, "", data)


def _refuse_other_settings(caches: list[Cache]) -> None:
    for cache in caches[1:]:
        difference = caches[0].manifest.states.difference(cache.manifest.states)
        if difference:
            raise UsageError(f"{cache.folder} has other settings than {caches[0].folder} ({difference})")


def _joined_identity(caches: list[Cache]) -> StatesIdentity:
    identity = caches[0].manifest.states
    if not all(cache.manifest.states.loader_sha256 for cache in caches):
        identity = replace(identity, loader_sha256="")  # unknown of some texts is unknown
    return identity


def _merge_shards(caches: list[Cache], folder: Path) -> Manifest:
    first = caches[0].manifest
    manifest = Manifest(first.created_by, first.states, first.plan, dict(first.examples))
    for cache in caches:
        for name, entry in cache.manifest.examples.items():
            if name in manifest.examples and manifest.examples[name].fingerprint != entry.fingerprint:
                raise UsageError(f"{cache.folder} has other {name} examples than {caches[0].folder} over one plan")
            manifest.examples.setdefault(name, entry)
        missing = {n: entry for n, entry in cache.manifest.shards.items() if n not in manifest.shards}
        _copy_files(cache, folder, [entry.data for entry in missing.values()])
        manifest.shards |= missing
    manifest.save(folder)
    return manifest


def _merge_texts(caches: list[Cache], folder: Path, shard_bytes: int) -> Manifest:
    # Of each source's texts, one source after the other: whether they are new, and their numbers in the result.
    is_new, number = number_by_first_use(np.concatenate([cache.plan.hashes() for cache in caches]))
    sets, entries = _joined_sets(caches, number)
    starts = np.cumsum([len(cache.plan) for cache in caches])[:-1]
    added = zip(caches, np.split(is_new, starts), strict=True)
    parts = [_Part(cache, np.flatnonzero(some)) for cache, some in added]
    return _build(folder, _joined_identity(caches), parts, sets, entries, shard_bytes)


def _joined_sets(caches: list[Cache], number: np.ndarray) -> tuple[dict[str, ExampleSet], dict[str, ExamplesEntry]]:
    """The example sets of several caches; `number` is the new one of each text, of one cache after the other."""
    sets: dict[str, ExampleSet] = {}
    entries: dict[str, ExamplesEntry] = {}
    start = 0
    for cache in caches:
        stop = start + len(cache.plan)
        for name, entry in cache.manifest.examples.items():
            examples = cache.examples(name).renumbered(number[start:stop].astype(np.int64))
            if name not in sets:
                sets[name], entries[name] = examples, entry
            elif entries[name].fingerprint != entry.fingerprint:
                sets[name] = _join(sets[name], examples, name, entries[name], entry)
                entries[name] = replace(
                    entries[name],
                    source=f"{entries[name].source}; {entry.source}",
                    skipped=entries[name].skipped + entry.skipped,
                )
        start = stop
    return sets, entries


def _join(one: ExampleSet, other: ExampleSet, name: str, entry: ExamplesEntry, added: ExamplesEntry) -> ExampleSet:
    tasks = [(item.task.target, item.task.classes, item.task.num_texts, item.labelled) for item in (entry, added)]
    if tasks[0] != tasks[1]:
        raise UsageError(f"the {name} examples of these caches belong to different tasks: subset one of them first")
    columns: dict[str, Any] = {}
    for column in ("index", "text_id", "text_id_b", "label"):
        values = getattr(one, column), getattr(other, column)
        columns[column] = None if values[0] is None else np.concatenate(values)
    return ExampleSet(**columns, negatives=_join_negatives(one, other))


def _join_negatives(one: ExampleSet, other: ExampleSet) -> np.ndarray | None:
    parts = [np.zeros((len(item), 0), np.int64) if item.negatives is None else item.negatives for item in (one, other)]
    width = max(part.shape[1] for part in parts)
    if width == 0:
        return None
    wide = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=NO_TEXT) for part in parts]
    return np.concatenate(wide)


def _build(
    folder: Path,
    identity: StatesIdentity,
    parts: list[_Part],
    sets: dict[str, ExampleSet],
    entries: dict[str, ExamplesEntry],
    shard_bytes: int,
) -> Manifest:
    """Write a cache of the parts' texts, one part after the other."""
    keep_texts = all(part.cache.plan.has_texts for part in parts)
    writer = PlanWriter(folder, keep_texts)
    empty, order_seed = 0, parts[0].cache.manifest.plan.order_seed
    try:
        for part in parts:
            for first, stop in _runs(part.text_ids):
                writer.copy_texts(part.cache.plan, first, stop)
                empty += _count_empty(part.cache.plan, first, stop)
            writer.take_vocabulary(part.cache.plan)
        entry = writer.save(folder / PLAN_FILE, identity, shard_bytes, empty, order_seed)
    finally:
        writer.close()
    plan = Plan(folder, entry.data)
    manifest = Manifest(f"glot {__version__}", identity, entry)
    _save_sets(folder, manifest, sets, entries)
    for number in range(plan.num_shards):
        _write_shard(folder, number, plan, identity, parts, manifest)
    manifest.save(folder)
    return manifest


def _save_sets(
    folder: Path, manifest: Manifest, sets: dict[str, ExampleSet], entries: dict[str, ExamplesEntry]
) -> None:
    """Write example sets over the plan that the manifest names, and list them there."""
    hashes = Plan(folder, manifest.plan.data).hashes()
    for name, examples in sets.items():
        new = replace(entries[name], fingerprint=examples.fingerprint(hashes), examples=len(examples))
        manifest.examples[name] = new.save(examples, folder / EXAMPLES_FOLDER / f"{name}.h5", name)


def _write_shard(
    folder: Path, number: int, plan: Plan, identity: StatesIdentity, parts: list[_Part], manifest: Manifest
) -> None:
    kinds = {part.cache.dtype for part in parts}
    dtype = kinds.pop() if len(kinds) == 1 else "float32"
    starts = np.cumsum([0] + [len(part.text_ids) for part in parts])
    with ShardWriter(folder, number, plan, identity, dtype) as writer:
        for part, start in zip(parts, starts.tolist(), strict=False):
            first, stop = max(writer.first, start), min(writer.stop, start + len(part.text_ids))
            while first < stop:
                end = int(np.searchsorted(plan.token_start, plan.token_start[first] + COPY_TOKENS, side="right")) - 1
                end = min(stop, max(first + 1, end))
                _copy_texts(writer, part, np.arange(first, end), start, plan, dtype)
                first = end
        manifest.shards[number] = writer.finish()


def _copy_texts(writer: ShardWriter, part: _Part, ids: np.ndarray, start: int, plan: Plan, dtype: str) -> None:
    for layer in writer.identity.layers:
        stored = part.cache.read_texts(layer, part.text_ids[ids - start])
        values = stored.values if stored.dtype == dtype else stored.values.astype(np.float32)
        row = 0
        for text_id in ids.tolist():
            end = row + int(plan.length[text_id])
            scale = None if stored.scale is None else stored.scale[row:end]
            writer.write(layer, text_id, values[row:end], scale)
            row = end


def _count_empty(plan: Plan, start: int, end: int) -> int:
    """How many of the texts [start, end) have no token of their own."""
    count = 0
    for first in range(start, end, COPY_TOKENS):
        stop = min(first + COPY_TOKENS, end)
        starts = plan.token_start[first:stop] - plan.token_start[first]
        count += int((np.minimum.reduceat(plan.token_kinds(first, stop), starts) > 0).sum())
    return count


def _runs(ids: np.ndarray) -> Iterator[tuple[int, int]]:
    """Consecutive ids as ranges [first, stop)."""
    for run in np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1):
        if len(run):
            yield int(run[0]), int(run[-1]) + 1


@contextmanager
def _new_folder(target: Path, verify: bool) -> Iterator[Path]:
    """A folder beside `target` that becomes it at the end, when it was read back if that is wanted; or goes."""
    with atomic_folder(target) as folder:
        make_folder(folder / EXAMPLES_FOLDER)
        yield folder
        damaged = verify_cache(Cache(folder, allow_unfinished=True)) if verify else []
        if damaged:
            raise FaultError(
                f"{damaged[0].file} is damaged ({damaged[0].what}), as {len(damaged) - 1} more files: "
                "repair the source with `glot inspect --repair` first"
            )


def _copy_files(cache: Cache, folder: Path, shards: list[ColumnFile]) -> None:
    manifest = cache.manifest
    place = cache.folder.fresh() if isinstance(cache.folder, RemoteFolder) else cache.folder
    for data in [manifest.plan.data, *(entry.data for entry in manifest.examples.values()), *shards]:
        reader = ColumnReader(place, data, "repair or extract it first")
        with open(reader.descriptor, "rb", closefd=False) as source, open(folder / data.file, "wb") as copy:
            shutil.copyfileobj(source, copy, CHUNK_BYTES)
            copy.flush()
            os.fsync(copy.fileno())
        reader.close()
