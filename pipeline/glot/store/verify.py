"""Verifying a cache: every byte of every file against the checksums, and the names of what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from glot.errors import FaultError
from glot.store.columns import ColumnFile, ColumnReader
from glot.store.reader import Cache
from glot.store.shards import ShardReader


@dataclass(frozen=True)
class Damage:
    """A damaged file.

    Attributes:
        file: its name in the cache. what: what is wrong, in words.
        shard: its number, None for the plan and example sets.
        texts: ids of the texts whose states are damaged; all of the shard's where the file as a whole is unusable.
        whole: whether the rest of the shard can still be read.
    """

    file: str
    what: str
    shard: int | None = None
    texts: tuple[int, ...] = ()
    whole: bool = True


def verify_cache(cache: Cache, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Damage]:
    """Read all of a cache and list what is damaged; an unfinished cache is verified as far as it goes.

    Args:
        progress: called with (bytes read, bytes in all).
    """
    manifest = cache.manifest
    sizes = [entry.data.size for entry in manifest.shards.values()]
    found = list(_damaged_small_files(cache))
    done = 0
    plan_is_whole = all(item.file != manifest.plan.data.file for item in found)
    for number, entry in sorted(manifest.shards.items()):
        damage = _verify_shard(cache, number) if plan_is_whole else verify_file(cache.folder, entry.data)
        if damage is not None:
            found.append(damage)
        done += entry.data.size
        progress(done, sum(sizes))
    return found


def _damaged_small_files(cache: Cache) -> Iterator[Damage]:
    manifest = cache.manifest
    damage = verify_file(cache.folder, manifest.plan.data)
    if damage is None:
        try:
            cache.plan  # noqa: B018 - opening it compares its columns with the manifest
        except FaultError as error:
            damage = Damage(manifest.plan.data.file, str(error))
    if damage is not None:
        yield damage
    for name, entry in manifest.examples.items():
        problem = verify_file(cache.folder, entry.data)
        if problem is None and damage is None:
            try:
                cache.examples(name)
            except FaultError as error:
                problem = Damage(entry.data.file, str(error))
        if problem is not None:
            yield problem


def verify_file(folder: Path, data: ColumnFile) -> Damage | None:
    """What is wrong with a file, every byte compared with its checksum; None where nothing is."""
    try:
        ColumnReader(folder, data, "run the same `glot extract` again").check_file()
    except (FaultError, OSError) as error:
        return Damage(data.file, str(error))
    return None


def _verify_shard(cache: Cache, number: int) -> Damage | None:
    entry = cache.manifest.shards[number]
    first, stop = cache.plan.shard_range(number)
    try:
        rows = ShardReader(cache.folder, entry, cache.plan, number, cache.manifest.states).damaged_rows()
    except FaultError as error:
        return Damage(entry.data.file, str(error), number, tuple(range(first, stop)), whole=False)
    if len(rows):
        return Damage(entry.data.file, f"{len(rows)} damaged texts", number, tuple((first + rows).tolist()))
    damage = verify_file(cache.folder, entry.data)
    return damage and Damage(damage.file, "damaged beside the states, which are whole", number)
