"""Writing shards: HDF5 files whose states are plain bytes at a known place, seen only when whole."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import FaultError
from pipeline.store.files import fsync_folder, one_line
from pipeline.store.layout import (
    ALIGNMENT,
    BLOCK_BYTES,
    STORED_AS,
    HiddenEntry,
    ShardEntry,
    StatesIdentity,
    shard_file,
)
from pipeline.store.plan import Plan


class ShardWriter:
    """Writes one shard under a temporary name; `finish` makes it appear, leaving the block removes it.

    Texts may come in any order: each goes to its own rows of the preallocated states.

    Raises FaultError naming the file where the disk is full or a write fails.
    """

    def __init__(self, folder: Path, number: int, plan: Plan, identity: StatesIdentity) -> None:
        self.path = folder / shard_file(number)
        self.temporary = folder / f"{shard_file(number)}.tmp-{os.getpid()}"
        self.first, self.stop = plan.shard_range(number)
        self.start = plan.token_start[self.first : self.stop + 1] - plan.token_start[self.first]  # (texts + 1,)
        self.identity = identity
        self.row_bytes = identity.width * np.dtype(STORED_AS[identity.dtype]).itemsize
        self.written = np.zeros((self.stop - self.first, len(identity.layers)), dtype=bool)
        self.descriptor: int | None = None
        try:
            # Room for all but the states is tried with a plain write: HDF5 can crash where the disk or a quota is full.
            self.temporary.write_bytes(bytes(2**16 + 16 * len(self.written)))
            self.hidden = self._preallocate(plan.shard_digest(number))
            self.descriptor = os.open(self.temporary, os.O_RDWR)
        except (OSError, RuntimeError) as error:
            self.abandon()
            raise self._fault(error) from error

    def _preallocate(self, digest: str) -> dict[str, HiddenEntry]:
        """Write the HDF5 structure with room for the states; returns where each layer's states start."""
        tokens = int(self.start[-1])
        shape = (tokens, self.identity.width)
        dtype = STORED_AS[self.identity.dtype]
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_layout(h5py.h5d.CONTIGUOUS)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        early.set_obj_track_times(False)  # the same states are the same bytes, whenever they were written
        # Only states are aligned: the threshold leaves the small datasets packed.
        options = {"alignment_threshold": tokens * self.row_bytes, "alignment_interval": ALIGNMENT}
        hidden = {}
        with h5py.File(self.temporary, "w", libver=("earliest", "v110"), **options) as file:
            file.attrs["format"] = "glot-shard"
            file.attrs["texts_sha256"] = digest
            file.attrs["states_sha256"] = self.identity.digest()
            file.attrs["first_text"] = self.first
            file.create_dataset("text_id", data=np.arange(self.first, self.stop, dtype="<u8"))
            file.create_dataset("offsets", data=self.start.astype("<u8"))
            group = file.create_group("hidden")
            for layer in self.identity.layers:
                space = h5py.h5s.create_simple(shape)
                dataset = h5py.h5d.create(
                    group.id, str(layer).encode(), h5py.h5t.py_create(np.dtype(dtype)), space, dcpl=early
                )
                h5py.Dataset(dataset).attrs["dtype"] = self.identity.dtype
                hidden[str(layer)] = HiddenEntry(dataset.get_offset(), shape, self.identity.dtype)
        return hidden

    def write(self, layer: int, text_id: int, states: np.ndarray) -> None:
        """Write one text's states, shape (L, d), in the stored dtype, to its own rows."""
        row = text_id - self.first
        length = int(self.start[row + 1] - self.start[row])
        if states.shape != (length, self.identity.width) or states.dtype != STORED_AS[self.identity.dtype]:
            raise ValueError(f"text {text_id}: states of shape {states.shape} and dtype {states.dtype} do not fit")
        place = self.hidden[str(layer)].offset + int(self.start[row]) * self.row_bytes
        data = memoryview(np.ascontiguousarray(states)).cast("B")
        try:
            while data:
                count = os.pwrite(self.descriptor, data, place)
                data, place = data[count:], place + count
        except OSError as error:
            raise self._fault(error) from error
        self.written[row, self.identity.layers.index(layer)] = True

    def finish(self) -> ShardEntry:
        """Flush, fsync and rename the shard; returns its manifest entry with checksums."""
        if not self.written.all():
            raise ValueError(f"{self.path.name}: {int((~self.written).sum())} texts were never written")
        try:
            os.fsync(self.descriptor)
            entry = describe_shard(self.temporary, self.path.name, self.hidden, len(self.written))
            os.replace(self.temporary, self.path)
            fsync_folder(self.path.parent)
        except OSError as error:
            raise self._fault(error) from error
        self.abandon()
        return entry

    def abandon(self) -> None:
        """Close and remove the temporary file, if it is still there."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def _fault(self, error: Exception) -> FaultError:
        return FaultError(
            f"cannot write {self.path}: {one_line(error)}; finished shards are whole: make room and run again"
        )


def describe_shard(path: Path, name: str, hidden: dict[str, HiddenEntry], texts: int) -> ShardEntry:
    """The manifest entry of a shard file, its checksums computed from the bytes that are there."""
    checksums = []
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            checksums.append(zlib.crc32(block))
    tokens = next(iter(hidden.values())).shape[0]
    return ShardEntry(name, path.stat().st_size, texts, tokens, hidden, checksums)


def adopt_shard(folder: Path, number: int, plan: Plan, identity: StatesIdentity) -> ShardEntry | None:
    """The entry of a whole shard that a killed run renamed but did not list; None where there is none that fits."""
    path = folder / shard_file(number)
    if not path.exists():
        return None
    first, stop = plan.shard_range(number)
    tokens = int(plan.token_start[stop] - plan.token_start[first])
    try:
        with h5py.File(path, "r") as file:
            made_of = file.attrs.get("texts_sha256"), file.attrs.get("states_sha256")
            if made_of != (plan.shard_digest(number), identity.digest()):
                return None
            hidden = {}
            for layer in identity.layers:
                dataset = file["hidden"][str(layer)]
                if dataset.shape != (tokens, identity.width) or dataset.attrs["dtype"] != identity.dtype:
                    return None
                hidden[str(layer)] = HiddenEntry(dataset.id.get_offset(), dataset.shape, identity.dtype)
    except (OSError, KeyError, RuntimeError):
        return None
    return describe_shard(path, path.name, hidden, stop - first)
