"""Reading a cache: the manifest says where the bytes are, so no HDF5 is opened to read states."""

from __future__ import annotations

import os
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.errors import FaultError, UsageError
from pipeline.store.example_set import ExampleSet
from pipeline.store.files import file_sha256
from pipeline.store.layout import (
    BLOCK_BYTES,
    EXAMPLES_FOLDER,
    MANIFEST_FILE,
    STORED_AS,
    ExamplesEntry,
    Manifest,
    ShardEntry,
)
from pipeline.store.plan import Plan


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


class Cache:
    """A cache opened for reading.

    `read_texts` checks each 4 MiB block against its checksum the first time it is touched, so nothing
    is ever trained on bytes that changed since they were written.

    Raises UsageError (missing, ambiguous, unfinished, another format version) or FaultError (damaged).
    """

    def __init__(self, path: Path | str, allow_unfinished: bool = False) -> None:
        self.folder = find_cache(Path(path))
        self.manifest = Manifest.load(self.folder)
        if not self.manifest.complete and not allow_unfinished:
            done, planned = len(self.manifest.shards), self.manifest.plan.shards
            raise UsageError(
                f"{self.folder} is unfinished ({done} of {planned} shards): run the same `glot extract` again"
            )
        self._shards: dict[int, ShardReader] = {}

    @cached_property
    def plan(self) -> Plan:
        """The plan, checked against the manifest's hash."""
        path = self.folder / self.manifest.plan.file
        self._check_hash(path, self.manifest.plan.sha256)
        plan = Plan.load(path)
        if (len(plan), plan.num_shards) != (self.manifest.plan.texts, self.manifest.plan.shards):
            raise FaultError(f"{path} does not fit the manifest beside it; extract again")
        return plan

    def examples(self, name: str) -> ExampleSet:
        """An example set by name; raises UsageError where the cache has none of that name."""
        entry = self.examples_entry(name)
        path = self.folder / entry.file
        self._check_hash(path, entry.sha256)
        return ExampleSet.load(path, len(self.plan))

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

    def read_texts(self, layer: int, text_ids: np.ndarray) -> np.ndarray:
        """The states of some texts, one after the other: (sum of their lengths, d), in the stored dtype."""
        states = self.manifest.states
        runs = _runs(text_ids, self.plan.shard)
        shards = [self._shard(int(self.plan.shard[first])) for first, _ in runs]  # checks shapes before room is made
        out = np.empty((int(self.plan.length[text_ids].sum()), states.width), STORED_AS[states.dtype])
        place = 0
        for shard, (first, stop) in zip(shards, runs, strict=True):
            base = self.plan.token_start[shard.first_text]
            start, end = int(self.plan.token_start[first] - base), int(self.plan.token_start[stop] - base)
            shard.read_into(layer, start, out[place : place + end - start])
            place += end - start
        return out

    def close(self) -> None:
        """Close the shard files."""
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()

    def _shard(self, number: int) -> ShardReader:
        if number not in self._shards:
            entry = self.manifest.shards[number]
            first, stop = self.plan.shard_range(number)
            tokens = int(self.plan.token_start[stop] - self.plan.token_start[first])
            self._shards[number] = ShardReader(self.folder / entry.file, entry, first, tokens, self.manifest)
        return self._shards[number]

    @staticmethod
    def _check_hash(path: Path, expected: str) -> None:
        try:
            digest = file_sha256(path)
        except OSError as error:
            raise FaultError(f"cannot read {path}: {error.strerror}; extract again") from None
        if digest != expected:
            remedy = (
                "extract again" if path.parent.name == EXAMPLES_FOLDER else f"remove {path.parent} and extract again"
            )
            raise FaultError(f"{path} is damaged (its SHA-256 is not the manifest's): {remedy}")


def _runs(text_ids: np.ndarray, shard: np.ndarray) -> list[tuple[int, int]]:
    """Cut text ids into runs [first, stop) that lie side by side in one shard."""
    ids = np.asarray(text_ids, dtype=np.int64)
    if not len(ids):
        return []
    breaks = np.flatnonzero((np.diff(ids) != 1) | (np.diff(shard[ids].astype(np.int64)) != 0)) + 1
    starts = np.concatenate([[0], breaks])
    stops = np.concatenate([breaks, [len(ids)]])
    return [(int(ids[start]), int(ids[stop - 1]) + 1) for start, stop in zip(starts, stops, strict=True)]


class ShardReader:
    """Reads byte ranges of one shard with `pread`: a short file is an error, never a crash or garbage."""

    def __init__(self, path: Path, entry: ShardEntry, first_text: int, tokens: int, manifest: Manifest) -> None:
        self.path, self.entry, self.first_text = path, entry, first_text
        states = manifest.states
        self.row_bytes = states.width * np.dtype(STORED_AS[states.dtype]).itemsize
        self.descriptor: int | None = None
        try:
            self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            size = os.fstat(self.descriptor).st_size
        except OSError as error:
            raise FaultError(f"cannot read {path}: {error.strerror}; extract again") from None
        if size != entry.size or len(entry.crc32) != -(-size // BLOCK_BYTES):
            raise FaultError(f"{path} has {size} bytes, the manifest says {entry.size}: remove it and extract again")
        for layer in states.layers:
            hidden = entry.hidden.get(str(layer))
            end = hidden.offset + tokens * self.row_bytes if hidden else -1
            if hidden is None or hidden.shape != (tokens, states.width) or not 0 <= hidden.offset <= end <= size:
                raise FaultError(f"{path}: the manifest's place of layer {layer} is wrong; extract again")
        self.checked = np.zeros(len(entry.crc32), dtype=bool)

    def read_into(self, layer: int, start: int, out: np.ndarray) -> None:
        """Fill `out` (tokens, d) with the states from token `start` on; checks blocks not seen before."""
        offset = self.entry.hidden[str(layer)].offset + start * self.row_bytes
        self._check_blocks(offset, out.nbytes)
        self._pread_into(memoryview(out).cast("B"), offset)

    def _check_blocks(self, offset: int, count: int) -> None:
        first, last = offset // BLOCK_BYTES, (offset + max(count, 1) - 1) // BLOCK_BYTES
        for block in np.flatnonzero(~self.checked[first : last + 1]) + first:
            begin = int(block) * BLOCK_BYTES
            data = bytearray(min(BLOCK_BYTES, self.entry.size - begin))
            self._pread_into(memoryview(data), begin)
            if zlib.crc32(data) != self.entry.crc32[block]:
                raise FaultError(
                    f"{self.path} is damaged in bytes {begin} to {begin + len(data)}: remove the file and extract again"
                )
            self.checked[block] = True

    def _pread_into(self, view: memoryview, offset: int) -> None:
        while view:
            count = os.preadv(self.descriptor, [view], offset)
            if count == 0:
                raise FaultError(f"{self.path} ends too soon; remove the file and extract again")
            view, offset = view[count:], offset + count

    def close(self) -> None:
        """Close the file."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
