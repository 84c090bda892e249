"""Column files: HDF5 files whose datasets are plain bytes at known offsets.

Every file of a cache is one. HDF5 is what other tools read; we write and read the bytes themselves, at the offsets
that the manifest names, so no foreign HDF5 structure is ever followed and a full disk is an error like any other.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from glot.errors import FaultError, GlotError
from glot.store.files import KEPT, checked, fsync_folder, one_line, publish, temporary_name, write_error
from glot.store.positions import BINARY, read_into_at, write_at

ALIGNMENT = 4096  # columns start on a page, so that they can be read directly
CHUNK_BYTES = 8 * 2**20  # what is read and checked at a time: small enough for memory, large enough for a disk
HEAD = "glot-columns"  # how each file begins; HDF5 leaves that place, its user block, to us
HEAD_LINE = 80  # bytes in which the first line ends
NO_CHECKSUM = "0" * 16  # in the head of a file that is still being written, in place of its checksum
MAX_WIDTH = 2**24  # of a column's rows
STORED_DTYPES = ("|u1", "|i1", "<u2", "<u4", "<u8", "<i8", "<f2", "<f4", "<f8")


@cache
def _item_bytes(dtype: str) -> int:
    return np.dtype(dtype).itemsize


@dataclass(frozen=True)
class Column:
    """Where a dataset lies in its file: byte offset, shape, NumPy dtype, and the XXH3-64 of its bytes in hex.

    States have no checksum here: they have one a text (see `shard_columns`).
    """

    offset: int
    shape: tuple[int, ...]
    dtype: str
    xxh3: str = ""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (one element of a flat column)."""
        return math.prod(self.shape[1:]) * _item_bytes(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole column."""
        return self.shape[0] * self.row_bytes


@dataclass(frozen=True)
class ColumnFile:
    """A file of a cache as the manifest describes it: name, size in bytes, XXH3-64 of all after its head, columns."""

    file: str
    size: int
    xxh3: str
    columns: dict[str, Column]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ColumnFile:
        """Rebuild an entry, its offsets and shapes checked; raises KeyError, TypeError, ValueError, AttributeError."""
        columns = {}
        for name, column in values["columns"].items():
            shape = tuple(column["shape"])
            columns[name] = checked(Column, {**column, "shape": shape})
            # No dimension after the first is 0, so that a file's size bounds the number of rows.
            is_sane = len(shape) == 1 or (len(shape) == 2 and 0 < shape[1] < MAX_WIDTH)
            if column["dtype"] not in STORED_DTYPES or not is_sane:
                raise ValueError(f"column {name} has the shape {shape} and the dtype {column['dtype']}")
        entry = checked(cls, {**values, "columns": columns})
        for name, column in columns.items():
            if column.offset + column.nbytes > entry.size:
                raise ValueError(f"column {name} ends after its file")
        if entry.size >= 2**63:
            raise ValueError(f"a file of {entry.size} bytes")
        return entry


NO_FILE = ColumnFile("", 0, "", {})  # of what lies in no file, or not yet


class ColumnWriter:
    """Writes one column file under a temporary name; `finish` makes it appear, leaving the block removes it.

    Args:
        path: the file's final name.
        columns: name ("group/name" for a group) -> (shape, NumPy dtype).
        about: what else the file says of itself, as JSON in its head.
        attributes: name -> HDF5 attributes of a column.
        exclusive: True never replaces a file of that name: who comes second keeps nothing.

    Raises FaultError naming the file where the disk is full or a write fails.
    """

    def __init__(
        self,
        path: Path,
        columns: dict[str, tuple[tuple[int, ...], str]],
        about: dict[str, Any] | None = None,
        attributes: dict[str, dict[str, Any]] | None = None,
        exclusive: bool = False,
    ) -> None:
        self.path, self.exclusive, self.about = path, exclusive, about or {}
        room = _head_room(columns, self.about)
        self.temporary = temporary_name(path)
        self.descriptor = -1  # closed
        try:
            # Room for the structure is tried with a plain write: HDF5 can crash where the disk or a quota is full.
            self.temporary.write_bytes(bytes(room + 2**16))
            self.columns = _preallocate(self.temporary, columns, attributes or {}, room)
            self.descriptor = os.open(self.temporary, os.O_RDWR | BINARY)
            _write_all(self.descriptor, memoryview(_head(self.columns, self.about, NO_CHECKSUM)), 0)
        except (OSError, RuntimeError) as error:
            self.abandon()
            raise self._fault(error) from error
        self.hashes = {name: xxhash.xxh3_64() for name in columns}

    def append(self, name: str, start: int, values: np.ndarray) -> None:
        """Write rows from `start` on and add them to the column's checksum: in order, each row once."""
        data = np.ascontiguousarray(values, dtype=self.columns[name].dtype)
        self.hashes[name].update(data.data if data.size else b"")
        self.write(name, start, data)

    def write(self, name: str, start: int, values: np.ndarray) -> None:
        """Write rows from `start` on, in any order, without a checksum."""
        column = self.columns[name]
        if values.dtype != column.dtype or start + len(values) > column.shape[0]:
            raise ValueError(f"{name}: {values.dtype} rows {start} to {start + len(values)} do not fit {column}")
        if not values.size:
            return
        data = np.ascontiguousarray(values).data.cast("B")
        try:
            _write_all(self.descriptor, data, column.offset + start * column.row_bytes)
        except OSError as error:
            raise self._fault(error) from error

    def finish(self, unchecked: tuple[str, ...] = ()) -> ColumnFile:
        """Fsync the file, give it its name, fsync the folder; returns what the manifest says of it.

        `unchecked` columns get no checksum of their own. Raises FileExistsError where an `exclusive` file is there.
        """
        columns = {
            name: replace(column, xxh3="" if name in unchecked else self.hashes[name].hexdigest())
            for name, column in sorted(self.columns.items())
        }
        try:
            digest = rest_xxh3(self.descriptor, len(_head(columns, self.about, NO_CHECKSUM)))
            _write_all(self.descriptor, memoryview(_head(columns, self.about, digest)), 0)
            os.fsync(self.descriptor)
            size = os.fstat(self.descriptor).st_size
            self._close()
            self._publish()
            fsync_folder(self.path.parent)
        except FileExistsError:
            self.abandon()
            raise
        except OSError as error:
            raise self._fault(error) from error
        self.abandon()
        return ColumnFile(self.path.name, size, digest, columns)

    def _publish(self) -> None:
        if not self.exclusive:
            os.replace(self.temporary, self.path)
            return
        try:
            publish(self.temporary, self.path)
        except FileNotFoundError:  # who published first has tidied up
            if self.path.exists():
                raise FileExistsError(self.path) from None
            raise

    def abandon(self) -> None:
        """Remove the temporary file, if it is still there."""
        self._close()
        self.temporary.unlink(missing_ok=True)

    def keep(self) -> None:
        """Close the file unfinished, and leave it for `find_unfinished`; not if it is published already."""
        self._close()
        with suppress(FileNotFoundError):
            os.replace(self.temporary, self.path.with_name(self.path.name + KEPT))

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1  # closed for good, even where closing says that it failed
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> ColumnWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def _fault(self, error: Exception) -> GlotError:
        if isinstance(error, PermissionError):
            return write_error(self.path, error)
        return FaultError(
            f"cannot write {self.path}: {one_line(error)}; finished shards are whole: make room and run again"
        )


def _preallocate(
    path: Path,
    columns: dict[str, tuple[tuple[int, ...], str]],
    attributes: dict[str, dict[str, Any]],
    head: int,
) -> dict[str, Column]:
    """Write the HDF5 structure with room for every column after `head` free bytes; returns where each starts."""
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_layout(h5py.h5d.CONTIGUOUS)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    early.set_obj_track_times(False)  # the same content is the same bytes, whenever it was written
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    options = {"alignment_threshold": ALIGNMENT, "alignment_interval": ALIGNMENT}
    made = {}
    with h5py.File(path, "w", libver=("earliest", "v110"), userblock_size=head, **options) as file:
        for name, (shape, dtype) in columns.items():
            space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype))
            dataset = h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=early, lcpl=links)
            h5py.Dataset(dataset).attrs.update(attributes.get(name, {}))
            made[name] = Column(dataset.get_offset() or 0, tuple(shape), dtype)
    return made


def _head_json(columns: dict[str, Column], about: dict[str, Any]) -> bytes:
    values = {"about": about, "columns": {name: asdict(column) for name, column in sorted(columns.items())}}
    return json.dumps(values, sort_keys=True, allow_nan=False).encode()


def _head(columns: dict[str, Column], about: dict[str, Any], rest: str) -> bytes:
    """How a file begins: a line (a name, the bytes of the JSON, XXH3-64 of it and of all that follows), the JSON."""
    text = _head_json(columns, about)
    return f"{HEAD} {len(text)} {xxhash.xxh3_64_hexdigest(text)} {rest}\n".encode() + text


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = write_at(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _head_room(columns: dict[str, tuple[tuple[int, ...], str]], about: dict[str, Any]) -> int:
    """Bytes for the head, whatever offsets and checksums it gets; HDF5 wants a power of two."""
    longest = {name: Column(2**63, tuple(shape), dtype, "f" * 16) for name, (shape, dtype) in columns.items()}
    return max(ALIGNMENT, 1 << (HEAD_LINE + len(_head_json(longest, about)) - 1).bit_length())


def rest_xxh3(descriptor: int, start: int) -> str:
    """XXH3-64 over the bytes of a file from `start` on, as hex."""
    digest, buffer = xxhash.xxh3_64(), bytearray(CHUNK_BYTES)
    while count := read_into_at(descriptor, buffer, start):
        digest.update(memoryview(buffer)[:count])
        start += count
    return digest.hexdigest()


STRINGS = {"bytes": "|u1", "offsets": "<u8"}  # the two columns of strings


def strings_columns(strings: list[bytes], prefix: str) -> dict[str, np.ndarray]:
    """Strings as the two columns `<prefix>/bytes` and `<prefix>/offsets`."""
    offsets = np.zeros(len(strings) + 1, dtype="<u8")
    np.cumsum([len(item) for item in strings], out=offsets[1:])
    return {f"{prefix}/bytes": np.frombuffer(b"".join(strings), dtype="|u1"), f"{prefix}/offsets": offsets}


def write_columns(path: Path, columns: dict[str, np.ndarray], about: dict[str, Any] | None = None) -> ColumnFile:
    """Write small arrays as a column file, atomically."""
    kinds = {name: (values.shape, values.dtype.newbyteorder("<").str) for name, values in columns.items()}
    with ColumnWriter(path, kinds, about) as writer:
        for name, values in columns.items():
            writer.append(name, 0, values)
        return writer.finish()
