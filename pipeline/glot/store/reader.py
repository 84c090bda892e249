"""Reading a cache: the manifest says where the bytes are, so no HDF5 is opened to read states."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path

import numpy as np
import xxhash

from glot.errors import FaultError, UsageError
from glot.store.column_reader import DamageError
from glot.store.columns import CHUNK_BYTES
from glot.store.example_set import EXTRACT_AGAIN, ExampleSet
from glot.store.files import no_access
from glot.store.layout import MANIFEST_FILE, STORED_AS, ExamplesEntry
from glot.store.parts import LINK_AGAIN, Part, first_shards, part_of
from glot.store.places import Place, RemoteFolder, place_of
from glot.store.plan import Plan
from glot.store.remote import RemoteFile
from glot.store.shards import DAMAGED_SHARD, ShardReader, load_manifest
from glot.store.task_spec import TaskSpec

MAX_OPEN_FILES = 256  # shards kept open; the limit of a process is often 1,024
DEPTH = 3  # folders below the one named in which a cache is looked for: cache/<task>/<model> lies 2 below cache
NO_WAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux: read what lies in memory, and say so where something does not


def find_cache(given: Path | str | RemoteFolder) -> Place:
    """The cache at a path, or the only one below it; UsageError where there is none or several, naming them.

    A URL must be that of the cache itself: nothing is looked for there.
    """
    path = place_of(given)
    if isinstance(path, RemoteFolder):
        return path
    if (path / MANIFEST_FILE).exists():
        return path
    if not path.is_dir():
        raise UsageError(f"there is no cache at {path}; make one with `glot extract`")
    found = sorted(_caches_below(path, DEPTH))
    if not found:
        raise UsageError(f"{path} holds no cache; make one with `glot extract`")
    if len(found) > 1:
        names = [cache.relative_to(path).as_posix() for cache in found]
        raise UsageError(f"{path} holds several caches ({', '.join(names)}): name one, as in {found[0]}")
    return found[0]


def _caches_below(path: Path, depth: int) -> Iterator[Path]:
    """The caches in the folders below `path`; what lies in a cache is looked at no more."""
    for folder in path.iterdir():
        if (folder / MANIFEST_FILE).exists():
            yield folder
        elif depth > 1 and folder.is_dir():
            yield from _caches_below(folder, depth - 1)


@dataclass(frozen=True)
class StoredStates:
    """States as they lie in the cache.

    Attributes:
        values: (N, d) in `dtype`'s stored form (see `STORED_AS`).
        scale: (N,) float32, what each token's values are to be multiplied with; None but for int8.
        dtype: float16, bfloat16, float32 or int8.
    """

    values: np.ndarray
    scale: np.ndarray | None
    dtype: str

    def rows(self, chosen: slice | np.ndarray) -> StoredStates:
        """Those of some tokens."""
        return StoredStates(self.values[chosen], None if self.scale is None else self.scale[chosen], self.dtype)


@dataclass(frozen=True, eq=False)
class _Wanted:
    """k texts of a layer, and where their states go.

    Attributes:
        ids: (k,) int64. shards: (k,) that hold them.
        start: (k,) where each text's tokens begin in the plan. ends: (k,) where they end in `out`.
    """

    ids: np.ndarray
    shards: np.ndarray
    start: np.ndarray
    ends: np.ndarray
    out: StoredStates

    def piece(self, first: int, stop: int) -> _Wanted:
        """The texts [first, stop), which go to a part of `out`."""
        texts, begin = slice(first, stop), int(self.ends[first - 1]) if first else 0
        out = self.out.rows(slice(begin, int(self.ends[stop - 1])))
        return _Wanted(self.ids[texts], self.shards[texts], self.start[texts], self.ends[texts] - begin, out)


class Cache:
    """A cache opened for reading, in a folder or at a URL (see `glot.store.places`).

    `read_texts` compares each text's checksum the first time it is read, so nothing is ever trained on bytes that
    changed since they were written.

    Raises UsageError (missing, ambiguous, unfinished, another format version), FaultError (damaged, or its store is not
    reached) or AccessError.
    """

    def __init__(self, path: Path | str | RemoteFolder, allow_unfinished: bool = False) -> None:
        self.folder = find_cache(path)
        self.is_remote = isinstance(self.folder, RemoteFolder)
        self.manifest = load_manifest(self.folder)
        if not self.manifest.complete and not allow_unfinished:
            done, planned = len(self.manifest.shards), self.manifest.plan.shards
            remedy = "push it once it is finished" if self.is_remote else self.remedy
            raise UsageError(f"{self.folder} is unfinished ({done} of {planned} shards): {remedy}")
        self._part_folders = [self._part_folder(part) for part in self.manifest.parts]
        self._first_shards = first_shards(self.manifest.parts)
        self._open: OrderedDict[int, ShardReader] = OrderedDict()
        self._layers: dict[int, _LayerIndex] = {}
        self._added: dict[str, ExampleSet] = {}

    def __repr__(self) -> str:
        states, plan = self.manifest.states, self.manifest.plan
        layers = f"layer{'s' if len(states.layers) > 1 else ''} {', '.join(map(str, states.layers))}"
        sets = ", ".join(f"{name} {entry.examples:,}" for name, entry in self.manifest.examples.items())
        return (
            f"<Cache {self.folder}: {states.backbone}, {layers}, {plan.texts:,} texts, {plan.tokens:,} tokens; {sets}>"
        )

    @property
    def remedy(self) -> str:
        """What to do where a file of the cache's own folder is missing or damaged."""
        return LINK_AGAIN if self.manifest.parts else EXTRACT_AGAIN

    def _part_folder(self, part: Part) -> Path:
        """Where a part of a linked cache lies; raises UsageError where it has gone. What changed is found when read."""
        assert isinstance(self.folder, Path)  # a linked cache at a URL was refused
        folder = Path(os.path.realpath(self.folder / part.folder))
        try:
            (folder / MANIFEST_FILE).stat()
        except PermissionError as error:
            raise no_access(error) from None
        except OSError:
            line = f"{self.folder} is linked to the cache {folder}, which is not there: {LINK_AGAIN}"
            raise UsageError(line) from None
        return folder

    def shard_folder(self, number: int) -> Place:
        """Where a shard lies: in the cache's folder, or in that of the part that it comes from."""
        is_linked = self.manifest.parts
        return self._part_folders[part_of(self._first_shards, number)] if is_linked else self.folder

    def open_shard(self, number: int) -> ShardReader:
        """A shard, opened anew; raises FaultError where it is missing, or does not fit the plan."""
        entry, folder, states = self.manifest.shards[number], self.shard_folder(number), self.manifest.states
        remedy = f"repair that cache with `glot inspect --repair {folder}`; where it was made anew, {LINK_AGAIN}"
        return ShardReader(folder, entry, self.plan, number, states, remedy if self.manifest.parts else DAMAGED_SHARD)

    @cached_property
    def plan(self) -> Plan:
        """The plan, opened."""
        entry = self.manifest.plan
        plan = Plan(self.folder, entry.data, LINK_AGAIN if self.manifest.parts else "")
        if (len(plan), plan.tokens, plan.num_shards) != (entry.texts, entry.tokens, entry.shards):
            raise plan.file.damage("does not fit the manifest beside it")
        return plan

    def examples(self, name: str) -> ExampleSet:
        """An example set by name; raises UsageError where the cache has none of that name, FaultError if damaged."""
        if name in self._added:
            return self._added[name]
        entry = self.examples_entry(name)
        examples = ExampleSet.load(self.folder, entry.data, len(self.plan), self.remedy)
        wrong = _wrong_labels(examples.label, entry)
        if wrong:
            raise FaultError(f"{self.folder / entry.data.file} is damaged: {wrong}: {self.remedy}")
        return examples

    def add_examples(self, name: str, examples: ExampleSet, task: TaskSpec) -> None:
        """Add an example set to this opened cache alone: nothing is written."""
        self._added[name] = examples
        self.manifest.examples[name] = ExamplesEntry.of(examples, self.plan.hashes(), task, "memory")

    def examples_entry(self, name: str) -> ExamplesEntry:
        """What the manifest says of an example set."""
        if name not in self.manifest.examples:
            there = ", ".join(self.manifest.examples)
            raise UsageError(
                f"{self.folder} has no example set {name!r} (it has {there}): name one of these, or extract it"
            )
        return self.manifest.examples[name]

    def resolve_set(self, name: str | None) -> str:
        """The set to score or explain: the one that is named, else validation, or test where there is no validation."""
        there = self.manifest.examples
        return name or ("test" if "test" in there and "validation" not in there else "validation")

    def resolve_layer(self, layer: int | None) -> int:
        """A kept layer by its number; negative numbers count from the last, None is the last that is kept.

        Raises UsageError naming those kept.
        """
        states = self.manifest.states
        if layer is None:
            return max(states.layers)
        number = layer if layer >= 0 else states.num_layers + 1 + layer
        if number not in states.layers:
            kept = ", ".join(map(str, states.layers))
            raise UsageError(f"{self.folder} has no layer {layer}: it keeps {kept} of 0 to {states.num_layers}")
        return number

    @cached_property
    def dtype(self) -> str:
        """How states are given out: as stored, or float32 where a shard had values beyond float16."""
        kinds = {entry.dtype for entry in self.manifest.shards.values()} or {self.manifest.states.dtype}
        return kinds.pop() if len(kinds) == 1 else "float32"

    def read_texts(self, layer: int, text_ids: np.ndarray) -> StoredStates:
        """The states of some texts, one after the other, in the order asked for.

        Raises FaultError naming the shard and the text where bytes are missing or damaged.
        """
        ids = np.asarray(text_ids, dtype=np.int64)
        index = self._layers.get(layer) or self._layers.setdefault(layer, _LayerIndex(self, layer))
        start = self.plan.token_start[ids]
        lengths = self.plan.token_start[ids + 1] - start
        shards = self.plan.shard_of(ids)
        for number in set(shards.tolist()):
            self._shard(number)  # checks shapes before room is made
        ends = lengths.cumsum()
        tokens = int(ends[-1]) if len(ids) else 0
        values = np.empty((tokens, self.manifest.states.width), STORED_AS[self.dtype])
        scale = np.empty(tokens, dtype=np.float32) if self.dtype == "int8" else None
        wanted = _Wanted(ids, shards, start, ends, StoredStates(values, scale, self.dtype))
        if 0 < len(ids) <= MAX_OPEN_FILES and values.nbytes <= CHUNK_BYTES:
            self._read_piece(index, wanted)
        else:
            for first, stop in _pieces(ends * index.row_bytes, CHUNK_BYTES):
                self._read_piece(index, wanted.piece(first, stop))
        return wanted.out

    def close(self) -> None:
        """Close the files."""
        for shard in self._open.values():
            shard.close()
        self._open.clear()
        if "plan" in self.__dict__:
            self.plan.close()

    def _read_piece(self, index: _LayerIndex, wanted: _Wanted) -> None:
        """Fill `wanted.out`, see `_fill`; from a store, what is damaged is fetched once again."""
        if not self.is_remote:
            self._fill(index, wanted)
            return
        by_object = self._ranges(index, wanted)
        for remote, ranges in by_object.items():
            remote.prepare(ranges)
        try:
            self._fill(index, wanted)
        except DamageError:
            for remote, ranges in by_object.items():
                remote.forget(ranges)
            self._fill(index, wanted)

    def _rows_in_shards(self, wanted: _Wanted) -> list[int]:
        """The row in its shard at which each text begins."""
        rows: list[int] = (wanted.start - self.plan.token_start[self.plan.shard_start[wanted.shards]]).tolist()
        return rows

    def _ranges(self, index: _LayerIndex, wanted: _Wanted) -> dict[RemoteFile, list[tuple[int, int]]]:
        """Where some texts' states lie in their objects: (offset, bytes)."""
        found: dict[RemoteFile, list[tuple[int, int]]] = {}
        rows, lengths = self._rows_in_shards(wanted), np.diff(wanted.ends, prepend=0).tolist()
        for number, row, length in zip(wanted.shards.tolist(), rows, lengths, strict=True):
            shard = self._shard(number)
            if shard.remote is not None:
                found.setdefault(shard.remote, []).extend(shard.states_ranges(index.layer, row, row + length))
        return found

    def _fill(self, index: _LayerIndex, wanted: _Wanted) -> None:
        """Fill `wanted.out`; the checksums of texts not seen before are compared.

        Of what comes from a store all are, always: it may have been fetched anew.
        """
        numbers = wanted.shards.tolist()
        opened = {number: self._shard(number) for number in set(numbers)}
        readers = [opened[number] for number in numbers]
        if index.is_plain:
            view, cuts = wanted.out.values.data.cast("B"), (wanted.ends * index.row_bytes).tolist()
            views = [view[first:stop] for first, stop in zip([0, *cuts], cuts, strict=False)]
            read = _read_each if self.is_remote else _read_plain
            read(readers, views, (wanted.start * index.row_bytes + index.base[wanted.shards]).tolist())
            hashed: Sequence[memoryview | bytes] = views
        else:
            rows = self._rows_in_shards(wanted)
            hashed = list(_read_mixed(readers, index.layer, rows, wanted.ends.tolist(), wanted.out))
        ids = wanted.ids
        if self.is_remote or not index.checked[ids].all():
            for number in opened.keys() - index.listed:
                index.list_checks(opened[number], number)
            self._compare(ids, readers, hashed, index.checks[ids].tolist())
            index.checked[ids] = True

    def _compare(
        self, ids: np.ndarray, readers: list[ShardReader], hashed: Sequence[memoryview | bytes], expected: list[int]
    ) -> None:
        """Raise FaultError for a text whose bytes are not what its checksum says."""
        found = list(map(xxhash.xxh3_64_intdigest, hashed))
        if found != expected:
            bad = next(row for row, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
            raise readers[bad].damage(f"is damaged in {self.plan.name_text(int(ids[bad]))}")

    def _shard(self, number: int) -> ShardReader:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if number not in self.manifest.shards:
            raise FaultError(f"{self.folder} lacks shard {number}: {self.remedy}")
        reader = self.open_shard(number)
        while len(self._open) >= MAX_OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        self._open[number] = reader
        return self._open[number]


def _wrong_labels(label: np.ndarray | None, entry: ExamplesEntry) -> str:
    """How labels do not fit what the manifest says of them; "" where they do."""
    if label is None:
        return "it lacks its labels" if entry.labelled else ""
    classes = len(entry.task.classes)
    if entry.task.target == "labels":
        classes = 1 << classes  # codes of sets of them
    if classes and label.size and not (label.min() >= 0 and label.max() < classes):
        return f"it has labels beyond the {classes} classes of its task"
    return ""


class _LayerIndex:
    """What is needed of a layer for every text.

    Attributes:
        is_plain: whether all shards hold just what is given out, so that bytes go from the file to `out` as they are.
        base: (shards,) int64, the offset at which a shard's first layer would begin if it held all tokens before it.
        checks: (texts,) the checksums of the shards in `listed`. checked: (texts,) bool.
    """

    def __init__(self, cache: Cache, layer: int) -> None:
        plan, name = cache.plan, f"hidden/{layer}"
        self.layer, self.plan = layer, plan
        self.row_bytes = cache.manifest.states.width * np.dtype(STORED_AS[cache.dtype]).itemsize
        entries = cache.manifest.shards
        self.is_plain = cache.dtype != "int8" and all(entry.dtype == cache.dtype for entry in entries.values())
        self.base = np.zeros(plan.num_shards, dtype=np.int64)
        for number, entry in entries.items():
            if name in entry.data.columns:  # who opens a shard without it says so
                before = int(plan.token_start[plan.shard_start[number]])
                self.base[number] = entry.data.columns[name].offset - before * self.row_bytes
        self.checks = np.zeros(len(plan), dtype="<u8")
        self.checked = np.zeros(len(plan), dtype=bool)
        self.listed: set[int] = set()

    def list_checks(self, reader: ShardReader, number: int) -> None:
        """Read the checksums of a shard's texts."""
        first, stop = self.plan.shard_range(number)
        self.checks[first:stop] = reader.read(f"check/{self.layer}")
        self.listed.add(number)


def _read_mixed(
    readers: list[ShardReader], layer: int, rows: list[int], ends: list[int], out: StoredStates
) -> Iterator[bytes]:
    """Fill `out` text by text, with scales or in another dtype than the file's; gives the bytes that were read."""
    for reader, row, first, stop in zip(readers, rows, [0, *ends], ends, strict=False):
        values, scale = reader.read_states(layer, row, row + stop - first)
        out.values[first:stop] = values
        if out.scale is not None:
            out.scale[first:stop] = scale
        yield values.tobytes() + (b"" if scale is None else scale.tobytes())


def _read_each(readers: list[ShardReader], views: list[memoryview], offsets: list[int]) -> None:
    """Fill each view from its reader, one after the other."""
    for reader, offset, view in zip(readers, offsets, views, strict=True):
        reader.read_into(view, offset)


def _read_plain(readers: list[ShardReader], views: list[memoryview], offsets: list[int]) -> None:
    """Fill each view from its reader's file.

    What lies in memory is copied at once. Where something does not, the system is told of all first, so that the disk
    works on several.
    """
    descriptors = [reader.descriptor for reader in readers]
    try:
        done = sum(map(os.preadv, descriptors, zip(views), offsets, repeat(NO_WAIT)))
    except (OSError, AttributeError):  # not in memory, or a system that cannot tell
        done = -1
    if done == sum(map(len, views)):
        return
    for descriptor, offset, view in zip(descriptors, offsets, views, strict=True):
        with suppress(OSError, AttributeError):
            os.posix_fadvise(descriptor, offset, len(view), os.POSIX_FADV_WILLNEED)
    _read_each(readers, views, offsets)


def _pieces(ends: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Cut positions into ranges [first, stop) of at most `size` by their running sums `ends` (at least one each).

    None has more texts than shards may be open.
    """
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + size, side="right")))
        yield first, min(stop, first + MAX_OPEN_FILES)
        first = min(stop, first + MAX_OPEN_FILES)
