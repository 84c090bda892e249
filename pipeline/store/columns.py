"""Column files: HDF5 files whose datasets are plain bytes at known places.

Every file of a cache is one. HDF5 is what other tools read; we write and read the bytes themselves, at the places that
the manifest names, so no foreign HDF5 structure is ever followed and a full disk is an error like any other.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from pipeline.errors import FaultError
from pipeline.store.files import fsync_folder, one_line, open_plain, publish, temporary_name

ALIGNMENT = 4096  # columns start on a page, so that they can be read directly
CHUNK_BYTES = 8 * 2**20  # what is read and checked at a time: small enough for memory, large enough for a disk
SELF_CHECK = "xxh3"  # the column that holds the XXH3-64 of every other, in the order of their names; 0 for states
ABOUT = "about"  # the column of plan and example sets that holds what the manifest says of them, as JSON
STORED_DTYPES = ("|u1", "|i1", "<u2", "<u4", "<u8", "<i8", "<f2", "<f4", "<f8")


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
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole column."""
        return self.shape[0] * self.row_bytes


@dataclass(frozen=True)
class ColumnFile:
    """A file of a cache as the manifest describes it: name, size in bytes, XXH3-64 over all of it, and columns."""

    file: str
    size: int
    xxh3: str
    columns: dict[str, Column]


class ColumnWriter:
    """Writes one column file under a temporary name; `finish` makes it appear, leaving the block removes it.

    Args:
        path: the file's final name.
        columns: name ("group/name" for a group) -> (shape, NumPy dtype).
        attributes: of the file itself. column_attributes: name -> those of a column.
        exclusive: True never replaces a file of that name: who comes second keeps nothing.

    Raises FaultError naming the file where the disk is full or a write fails.
    """

    def __init__(
        self,
        path: Path,
        columns: dict[str, tuple[tuple[int, ...], str]],
        attributes: dict[str, Any] | None = None,
        column_attributes: dict[str, dict[str, Any]] | None = None,
        exclusive: bool = False,
    ) -> None:
        self.path, self.exclusive = path, exclusive
        columns = columns | {SELF_CHECK: ((len(columns),), "<u8")}
        self.temporary = temporary_name(path)
        self.descriptor: int | None = None
        try:
            # Room for the structure is tried with a plain write: HDF5 can crash where the disk or a quota is full.
            self.temporary.write_bytes(bytes(2**16))
            self.columns = _preallocate(self.temporary, columns, attributes or {}, column_attributes or {})
            self.descriptor = os.open(self.temporary, os.O_RDWR)
        except (OSError, RuntimeError) as error:
            self.abandon()
            raise self._fault(error) from error
        self.hashes = {name: xxhash.xxh3_64() for name in columns if name != SELF_CHECK}

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
        data, place = memoryview(np.ascontiguousarray(values)).cast("B"), column.offset + start * column.row_bytes
        try:
            while data:
                count = os.pwrite(self.descriptor, data, place)
                data, place = data[count:], place + count
        except OSError as error:
            raise self._fault(error) from error

    def finish(self, unchecked: tuple[str, ...] = ()) -> ColumnFile:
        """Fsync the file, give it its name, fsync the folder; returns what the manifest says of it.

        `unchecked` columns get no checksum of their own. Raises FileExistsError where an `exclusive` file is there.
        """
        checks = {name: 0 if name in unchecked else self.hashes[name].intdigest() for name in self.hashes}
        self.hashes[SELF_CHECK] = xxhash.xxh3_64()
        self.append(SELF_CHECK, 0, np.asarray([checks[name] for name in sorted(checks)], dtype="<u8"))
        try:
            os.fsync(self.descriptor)
            size, digest = os.fstat(self.descriptor).st_size, file_xxh3(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = None
            self._publish()
            fsync_folder(self.path.parent)
        except FileExistsError:
            raise
        except OSError as error:
            raise self._fault(error) from error
        finally:
            self.abandon()
        columns = {
            name: Column(
                column.offset, column.shape, column.dtype, "" if name in unchecked else self.hashes[name].hexdigest()
            )
            for name, column in sorted(self.columns.items())
        }
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
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> ColumnWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def _fault(self, error: Exception) -> FaultError:
        return FaultError(
            f"cannot write {self.path}: {one_line(error)}; finished shards are whole: make room and run again"
        )


def _preallocate(
    path: Path,
    columns: dict[str, tuple[tuple[int, ...], str]],
    attributes: dict[str, Any],
    column_attributes: dict[str, dict[str, Any]],
) -> dict[str, Column]:
    """Write the HDF5 structure with room for every column; returns where each starts."""
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_layout(h5py.h5d.CONTIGUOUS)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    early.set_obj_track_times(False)  # the same content is the same bytes, whenever it was written
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    options = {"alignment_threshold": ALIGNMENT, "alignment_interval": ALIGNMENT}
    made = {}
    with h5py.File(path, "w", libver=("earliest", "v110"), **options) as file:
        file.attrs.update(attributes)
        for name, (shape, dtype) in columns.items():
            space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype))
            dataset = h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=early, lcpl=links)
            h5py.Dataset(dataset).attrs.update(column_attributes.get(name, {}))
            made[name] = Column(dataset.get_offset() or 0, tuple(shape), dtype)
    return made


class ColumnReader:
    """Reads byte ranges of a column file with `pread`: what is short, moved or damaged is an error, never a crash.

    Raises FaultError where the file is missing, has another size, or a column lies outside it.
    """

    def __init__(self, folder: Path, entry: ColumnFile, remedy: str) -> None:
        self.path, self.entry, self.remedy = folder / entry.file, entry, remedy
        self.descriptor: int | None = None
        try:
            if self.path.parent != folder and self.path.parent.is_symlink():
                raise OSError(errno.ELOOP, "its folder is a link")
            self.descriptor = open_plain(self.path)
            size = os.fstat(self.descriptor).st_size
        except OSError as error:
            raise self.damage(f"cannot be read ({one_line(error)})") from None
        if size != entry.size:
            self.close()
            raise self.damage(f"has {size} bytes, the manifest says {entry.size}")
        for name, column in entry.columns.items():
            if column.offset + column.nbytes > size:
                self.close()
                raise self.damage(f"ends before its column {name} does")

    def damage(self, what: str) -> FaultError:
        """An error that names the file, what is wrong with it, and what to do."""
        return FaultError(f"{self.path} {what}: {self.remedy}")

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a column."""
        return self._column(name).shape

    def __contains__(self, name: str) -> bool:
        return name in self.entry.columns

    def _column(self, name: str) -> Column:
        if name not in self.entry.columns:
            raise self.damage(f"has no column {name}")
        return self.entry.columns[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows of a column as a new array; a whole column is compared with its checksum."""
        out = self.read_unchecked(name, start, stop)
        column = self._column(name)
        if len(out) == column.shape[0] and column.xxh3:
            self._compare(name, xxhash.xxh3_64_hexdigest(out.data if out.size else b""))
        return out

    def read_unchecked(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows of a column as a new array, whatever they hold."""
        column = self._column(name)
        stop = column.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= column.shape[0]:
            raise self.damage(f"has no rows {start} to {stop} in its column {name}")
        out = np.empty((stop - start, *column.shape[1:]), column.dtype)
        if out.size:
            self.read_into(memoryview(out).cast("B"), column.offset + start * column.row_bytes)
        return out

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """A column in pieces of a few MiB, its checksum compared after the last."""
        column = self._column(name)
        digest, rows = xxhash.xxh3_64(), max(1, CHUNK_BYTES // max(1, column.row_bytes))
        for start in range(0, column.shape[0], rows):
            out = np.empty((min(rows, column.shape[0] - start), *column.shape[1:]), column.dtype)
            self.read_into(memoryview(out).cast("B"), column.offset + start * column.row_bytes)
            digest.update(out.data)
            yield out
        if column.xxh3:
            self._compare(name, digest.hexdigest())

    def check(self, name: str) -> None:
        """Read a column once and compare its checksum; raises FaultError where it differs."""
        for _ in self.chunks(name):
            pass

    def check_file(self) -> None:
        """Compare the whole file's checksum; raises FaultError where it differs."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        if file_xxh3(self.descriptor) != self.entry.xxh3:
            raise self.damage("is damaged (its checksum is not the manifest's)")

    def _compare(self, name: str, digest: str) -> None:
        if digest != self.entry.columns[name].xxh3:
            raise self.damage(f"is damaged in its column {name}")

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` with the bytes from `offset` on."""
        while view:
            try:
                count = os.preadv(self.descriptor, [view], offset)
            except OSError as error:
                raise self.damage(f"cannot be read ({one_line(error)})") from None
            if count == 0:
                raise self.damage("ends too soon")
            view, offset = view[count:], offset + count

    def close(self) -> None:
        """Close the file."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __del__(self) -> None:
        self.close()


def describe_file(path: Path) -> tuple[ColumnFile, dict[str, Any]]:
    """What a manifest would say of a column file that lies there, and its attributes, read from its own HDF5.

    For a cache whose manifest is lost. Raises ValueError where it is no whole column file, or a column does not fit
    its checksum.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path} is no file")
    columns: dict[str, Column] = {}
    try:
        with h5py.File(path, "r") as file:
            attributes = {key: value for key, value in file.attrs.items() if isinstance(value, str | np.integer)}
            for name in _dataset_names(file):
                columns[name] = _dataset_column(file, name)
    except (OSError, KeyError, RuntimeError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
    bare = ColumnFile(path.name, path.stat().st_size, "", columns)
    try:
        reader = ColumnReader(path.parent, bare, "")
        checks = reader.read(SELF_CHECK).tolist()
        names = sorted(name for name in columns if name != SELF_CHECK)
        expected = dict(zip(names, (f"{check:016x}" if check else "" for check in checks), strict=True))
        expected[SELF_CHECK] = xxhash.xxh3_64_hexdigest(reader.read(SELF_CHECK).data)
        checked = {name: replace(column, xxh3=expected[name]) for name, column in sorted(columns.items())}
        data = replace(bare, xxh3=file_xxh3(path), columns=checked)
        reader = ColumnReader(path.parent, data, "")
        for name, digest in expected.items():
            if digest:
                reader.check(name)
    except FaultError as error:
        raise ValueError(str(error)) from None
    return data, attributes


def _dataset_names(group: h5py.Group, prefix: str = "") -> Iterator[str]:
    """Names of the datasets in a file, groups one level deep: "length", "texts/bytes"."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{prefix}{name} is a link")
        item = group[name]
        if isinstance(item, h5py.Group) and not prefix:
            yield from _dataset_names(item, f"{name}/")
        else:
            yield f"{prefix}{name}"


def _dataset_column(file: h5py.File, name: str) -> Column:
    """Where a dataset's bytes lie; ValueError where they are not plain bytes of this very file."""
    dataset = file[name]
    shape, dtype = dataset.shape, dataset.dtype.newbyteorder("<").str
    if dtype not in STORED_DTYPES or len(shape) not in (1, 2) or 0 in shape[1:]:
        raise ValueError(f"{name} has the shape {shape} and the dtype {dtype}")
    layout = dataset.id.get_create_plist().get_layout()
    offset = dataset.id.get_offset()
    if layout != h5py.h5d.CONTIGUOUS or dataset.external is not None or (offset is None and 0 not in shape):
        raise ValueError(f"{name} is not contiguous")
    return Column(offset or 0, shape, dtype)


def file_xxh3(file: Path | int) -> str:
    """XXH3-64 over the bytes of a file, or of an open one from where it stands, as hex."""
    digest = xxhash.xxh3_64()
    with open(file, "rb", buffering=0, closefd=not isinstance(file, int)) as file:
        buffer = bytearray(CHUNK_BYTES)
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def strings_columns(strings: list[bytes], prefix: str) -> dict[str, np.ndarray]:
    """Strings as the two columns `<prefix>/bytes` and `<prefix>/offsets`."""
    offsets = np.zeros(len(strings) + 1, dtype="<u8")
    np.cumsum([len(item) for item in strings], out=offsets[1:])
    return {f"{prefix}/bytes": np.frombuffer(b"".join(strings), dtype="|u1"), f"{prefix}/offsets": offsets}


def about_column(about: dict[str, Any]) -> np.ndarray:
    """JSON as a column of bytes."""
    return np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype="|u1")


def write_columns(path: Path, columns: dict[str, np.ndarray], attributes: dict[str, Any] | None = None) -> ColumnFile:
    """Write small arrays as a column file, atomically."""
    kinds = {name: (values.shape, values.dtype.newbyteorder("<").str) for name, values in columns.items()}
    with ColumnWriter(path, kinds, attributes) as writer:
        for name, values in columns.items():
            writer.append(name, 0, values)
        return writer.finish()
