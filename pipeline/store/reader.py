"""Reading a cache: the manifest says where the bytes are, so no HDF5 is opened to read states."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash

from pipeline.errors import FaultError, UsageError
from pipeline.store.columns import CHUNK_BYTES
from pipeline.store.example_set import ExampleSet
from pipeline.store.layout import MANIFEST_FILE, STORED_AS, ExamplesEntry
from pipeline.store.plan import Plan
from pipeline.store.shards import ShardReader, load_manifest

MAX_OPEN_FILES = 256  # shards kept open; the limit of a process is often 1,024
NO_WAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux: read what lies in memory, and say so where something does not


def find_cache(path: Path) -> Path:
    """The cache at `path`, or the only one right below it; UsageError where there is none or several."""
    if (path / MANIFEST_FILE).exists():
        return path
    if not path.is_dir():
        raise UsageError(f"there is no cache at {path}; make one with `glot extract`")
    found = sorted(child.name for child in path.iterdir() if (child / MANIFEST_FILE).exists())
    if len(found) > 1:
        raise UsageError(f"{path} holds several caches ({', '.join(found)}): name one, as in --cache {path / found[0]}")
    if not found:
        raise UsageError(f"{path} holds no cache; make one with `glot extract`")
    return path / found[0]


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


class Cache:
    """A cache opened for reading.

    `read_texts` compares each text's checksum the first time it is read, so nothing is ever trained on bytes that
    changed since they were written.

    Raises UsageError (missing, ambiguous, unfinished, another format version) or FaultError (damaged).
    """

    def __init__(self, path: Path | str, allow_unfinished: bool = False) -> None:
        self.folder = find_cache(Path(path))
        self.manifest = load_manifest(self.folder)
        if not self.manifest.complete and not allow_unfinished:
            done, planned = len(self.manifest.shards), self.manifest.plan.shards
            raise UsageError(
                f"{self.folder} is unfinished ({done} of {planned} shards): run the same `glot extract` again"
            )
        self._open: OrderedDict[int, ShardReader] = OrderedDict()
        self._layers: dict[int, _LayerIndex] = {}

    @cached_property
    def plan(self) -> Plan:
        """The plan, opened."""
        entry = self.manifest.plan
        plan = Plan(self.folder, entry.data)
        if (len(plan), plan.tokens, plan.num_shards) != (entry.texts, entry.tokens, entry.shards):
            raise plan.file.damage("does not fit the manifest beside it")
        return plan

    def examples(self, name: str) -> ExampleSet:
        """An example set by name; raises UsageError where the cache has none of that name."""
        return ExampleSet.load(self.folder, self.examples_entry(name).data, len(self.plan))

    def examples_entry(self, name: str) -> ExamplesEntry:
        """What the manifest says of an example set."""
        if name not in self.manifest.examples:
            there = ", ".join(self.manifest.examples)
            raise UsageError(f"{self.folder} has no example set {name!r} (it has {there}); extract it with --split")
        return self.manifest.examples[name]

    def resolve_layer(self, layer: int) -> int:
        """A kept layer by its number; negative numbers count from the last. Raises UsageError naming those kept."""
        states = self.manifest.states
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
        lengths = self.plan.length[ids].astype(np.int64)
        tokens = int(lengths.sum())
        shards = self.plan.shard_of(ids)
        for number in set(shards.tolist()):
            self._shard(number)  # checks shapes before room is made
        values = np.empty((tokens, self.manifest.states.width), STORED_AS[self.dtype])
        scale = np.empty(tokens, dtype=np.float32) if self.dtype == "int8" else None
        row_bytes = values.itemsize * values.shape[1]
        states = StoredStates(values, scale, self.dtype)
        if 0 < tokens * row_bytes <= CHUNK_BYTES:
            self._read_piece(layer, ids, shards, lengths, states)
            return states
        ends = np.cumsum(lengths)
        for first, stop in _pieces(ends * row_bytes, CHUNK_BYTES):
            start, end = int(ends[first] - lengths[first]), int(ends[stop - 1])
            part = StoredStates(values[start:end], None if scale is None else scale[start:end], self.dtype)
            self._read_piece(layer, ids[first:stop], shards[first:stop], lengths[first:stop], part)
        return states

    def close(self) -> None:
        """Close the files."""
        for shard in self._open.values():
            shard.close()
        self._open.clear()
        if "plan" in self.__dict__:
            self.plan.close()

    def _read_piece(
        self, layer: int, ids: np.ndarray, shards: np.ndarray, lengths: np.ndarray, out: StoredStates
    ) -> None:
        """Fill `out` with some texts' states; the checksums of those not seen before are compared."""
        index = self._layers.get(layer) or self._layers.setdefault(layer, _LayerIndex(self, layer))
        tokens = self.plan.token_start[ids]
        numbers, counts = shards, lengths
        is_next = ids[1:] - ids[:-1] == 1
        if is_next.any():  # texts that lie side by side are read in one go
            firsts = np.flatnonzero(np.concatenate([[True], ~(is_next & (shards[1:] == shards[:-1]))]))
            tokens, numbers, counts = tokens[firsts], shards[firsts], np.add.reduceat(lengths, firsts)
        if out.scale is None and index.is_plain:
            self._read_plain(index, tokens, numbers, counts, out)
        else:
            self._read_mixed(layer, tokens, numbers, counts, out)
        if not index.checked[ids].all():
            self._compare(index, ids, shards, lengths, out)
            index.checked[ids] = True

    def _read_plain(
        self, index: _LayerIndex, tokens: np.ndarray, numbers: np.ndarray, counts: np.ndarray, out: StoredStates
    ) -> None:
        """Read runs of tokens as they lie in the files.

        What the system has in memory is copied at once. From the first run that it has not, it is told of all the
        others, so that the disk works on several.
        """
        offsets = (tokens * index.row_bytes + index.base[numbers]).tolist()
        sizes, numbers = (counts * index.row_bytes).tolist(), numbers.tolist()
        view = memoryview(out.values).cast("B")
        place, flags = 0, NO_WAIT
        for run, (number, offset, size) in enumerate(zip(numbers, offsets, sizes, strict=True)):
            reader = self._open.get(number) or self._shard(number)
            piece = view[place : place + size]
            place += size
            try:
                done = os.preadv(reader.descriptor, [piece], offset, flags)
            except OSError:  # not in memory, or a file system that cannot tell
                done = 0
            if done == size:
                continue
            if flags:
                flags = 0
                self._will_need(numbers[run:], offsets[run:], sizes[run:])
            reader.read_into(piece[done:], offset + done)  # the rest, or an error that says why

    def _will_need(self, numbers: list[int], offsets: list[int], sizes: list[int]) -> None:
        for number, offset, size in zip(numbers, offsets, sizes, strict=True):
            reader = self._open.get(number) or self._shard(number)
            with suppress(OSError, AttributeError):
                os.posix_fadvise(reader.descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def _read_mixed(
        self, layer: int, tokens: np.ndarray, numbers: np.ndarray, counts: np.ndarray, out: StoredStates
    ) -> None:
        """Read runs of tokens with their scales, or of shards in another dtype than what is given out."""
        starts = tokens - self.plan.token_start[self.plan.shard_start[numbers]]
        place = 0
        for number, start, count in zip(numbers.tolist(), starts.tolist(), counts.tolist(), strict=True):
            reader, end = self._open.get(number) or self._shard(number), place + count
            out.values[place:end] = reader.read(f"hidden/{layer}", start, start + count)
            if out.scale is not None:
                out.scale[place:end] = reader.read(f"scale/{layer}", start, start + count)
            place = end

    def _compare(
        self, index: _LayerIndex, ids: np.ndarray, shards: np.ndarray, lengths: np.ndarray, out: StoredStates
    ) -> None:
        """Raise FaultError for a text whose bytes are not what its checksum says."""
        numbers = shards.tolist()
        for number in set(numbers) - index.listed:
            index.list_checks(self._shard(number), number)
        ends = np.cumsum(lengths)
        places = list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))
        if out.scale is None and index.is_plain:
            view, row_bytes = memoryview(out.values).cast("B"), index.row_bytes
            found = [xxhash.xxh3_64_intdigest(view[start * row_bytes : end * row_bytes]) for start, end in places]
        else:
            found = [
                _check_of(out, start, end, self.manifest.shards[number].dtype)
                for (start, end), number in zip(places, numbers, strict=True)
            ]
        expected = index.checks[ids].tolist()
        if found != expected:
            bad = next(place for place, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
            raise self._shard(numbers[bad]).damage(f"is damaged in {self.plan.name_text(int(ids[bad]))}")

    def _shard(self, number: int) -> ShardReader:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if number not in self.manifest.shards:
            raise FaultError(f"{self.folder} lacks shard {number}: run the same `glot extract` again")
        first, stop = self.plan.shard_range(number)
        entry, tokens = self.manifest.shards[number], self.plan.shard_tokens(number)
        reader = ShardReader(self.folder, entry, stop - first, tokens, self.manifest.states)
        while len(self._open) >= MAX_OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        self._open[number] = reader
        return self._open[number]


class _LayerIndex:
    """What is needed of a layer for every text.

    Attributes:
        is_plain: whether all shards hold what is given out, so that bytes go from the file to the reader as they are.
        base: (shards,) int64, the offset at which a shard's first layer would begin if it held all tokens before it.
        checks: (texts,) the checksums of the shards in `listed`. checked: (texts,) bool.
    """

    def __init__(self, cache: Cache, layer: int) -> None:
        plan, name = cache.plan, f"hidden/{layer}"
        self.layer, self.plan = layer, plan
        self.row_bytes = cache.manifest.states.width * np.dtype(STORED_AS[cache.dtype]).itemsize
        entries = cache.manifest.shards
        self.is_plain = all(entry.dtype == cache.dtype for entry in entries.values())
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


def _check_of(out: StoredStates, start: int, end: int, dtype: str) -> int:
    values = out.values[start:end]
    if out.scale is not None:
        digest = xxhash.xxh3_64(values.data)
        digest.update(out.scale[start:end].data)
        return digest.intdigest()
    if dtype == out.dtype:
        return xxhash.xxh3_64_intdigest(values.data)
    return xxhash.xxh3_64_intdigest(values.astype(STORED_AS[dtype]).data)  # float16 given out as float32, exactly


def _pieces(ends: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Cut positions into ranges [first, stop) of at most `size` by their running sums `ends` (at least one each)."""
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + size, side="right")))
        yield first, stop
        first = stop
