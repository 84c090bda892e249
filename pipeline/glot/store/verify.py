"""Verifying a cache: every byte of every file against the checksums, and the names of what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from glot.errors import FaultError
from glot.store.column_reader import ColumnReader
from glot.store.columns import ColumnFile
from glot.store.example_set import EXTRACT_AGAIN
from glot.store.places import Place, RemoteFolder
from glot.store.reader import Cache


@dataclass(frozen=True)
class Damage:
    """A damaged file.

    Attributes:
        file: its name in the cache, or its path where it lies in a part of a linked one. what: what is wrong, in words.
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

    Of a URL all is fetched anew, one file at a time, and kept nowhere. `progress` is told of (bytes read, bytes in
    all), of shards.
    """
    if isinstance(cache.folder, RemoteFolder):
        cache = Cache(cache.folder.fresh(), allow_unfinished=True)
    manifest = cache.manifest
    done, total = 0, sum(entry.data.size for entry in manifest.shards.values())
    found = list(_damaged_small_files(cache))
    plan_is_whole = all(item.file != manifest.plan.data.file for item in found)
    for number, entry in sorted(manifest.shards.items()):
        if plan_is_whole:
            damage = _verify_shard(cache, number)
        else:
            damage = verify_file(cache.shard_folder(number), entry.data, cache.remedy)
        if damage is not None:
            found.append(damage)
        done += entry.data.size
        progress(done, total)
    return found


def _damaged_small_files(cache: Cache) -> Iterator[Damage]:
    manifest = cache.manifest
    # Opening the plan compares its columns with the manifest.
    verify = partial(verify_file, cache.folder, remedy=cache.remedy)
    plan = verify(manifest.plan.data) or _damage(manifest.plan.data, lambda: cache.plan)
    if plan is not None:
        yield plan
    for name, entry in manifest.examples.items():
        damage = verify(entry.data)
        if damage is None and plan is None:  # a set is opened by the plan
            damage = _damage(entry.data, partial(cache.examples, name))
        if damage is not None:
            yield damage


def _damage(data: ColumnFile, check: Callable[[], object]) -> Damage | None:
    """What a check says is wrong with a file; None where it says nothing."""
    try:
        check()
    except (FaultError, OSError) as error:
        return Damage(data.file, str(error))
    return None


def verify_file(folder: Place, data: ColumnFile, remedy: str = EXTRACT_AGAIN) -> Damage | None:
    """What is wrong with a file, every byte compared with its checksum, and the remedy; None where nothing is."""
    return _damage(data, lambda: ColumnReader(folder, data, remedy).check_file())


def _verify_shard(cache: Cache, number: int) -> Damage | None:
    data = cache.manifest.shards[number].data
    file = str(cache.shard_folder(number) / data.file) if cache.manifest.parts else data.file
    first, stop = cache.plan.shard_range(number)
    try:
        reader = cache.open_shard(number)
        rows = reader.damaged_rows()
    except FaultError as error:
        return Damage(file, str(error), number, tuple(range(first, stop)), whole=False)
    if len(rows):
        return Damage(file, f"{len(rows)} damaged texts", number, tuple((first + rows).tolist()))
    if _damage(data, reader.check_file) is None:
        return None
    return Damage(file, "damaged beside the states, which are whole", number)
