"""Reading column files: byte ranges at the offsets that the manifest names, from a folder or from a store."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from glot.errors import FaultError
from glot.store.blocks import blocks
from glot.store.columns import CHUNK_BYTES, HEAD, HEAD_LINE, Column, ColumnFile, rest_xxh3
from glot.store.files import one_line, open_inside
from glot.store.places import Place, RemoteFolder
from glot.store.positions import read_at, read_into_at
from glot.store.remote import REMEDY, RemoteFile, open_whole


class DamageError(FaultError):
    """A file of a cache is not what it was when it was written."""


class ColumnReader:
    """Reads byte ranges of a column file with `pread`: what is short, moved or damaged is an error, never a crash.

    Args:
        folder: where the cache lies. Of a URL the file is fetched whole, and its every byte compared.
        streamed: of a URL, fetch blocks of it as they are read instead: for shards, whose texts have checksums.

    Raises FaultError where the file is missing, has another size, or a column lies outside it.
    """

    def __init__(self, folder: Place, entry: ColumnFile, remedy: str, streamed: bool = False) -> None:
        self.path, self.entry, self.remedy = folder / entry.file, entry, remedy
        self.descriptor = -1  # closed
        self.remote: RemoteFile | None = None
        if isinstance(folder, RemoteFolder):
            size = self._fetch(streamed and not folder.is_fresh)
        else:
            try:
                self.descriptor = open_inside(folder, entry.file)
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

    def _fetch(self, streamed: bool) -> int:
        """Open an object of a store, whole unless it is streamed; returns its size."""
        place, entry = self.path, self.entry
        assert isinstance(place, RemoteFolder)
        self.remedy, size = REMEDY, place.size()
        if size is None:
            raise self.damage("is not there")
        if size != entry.size:
            return size
        key = f"{place}\n{size}\n{entry.xxh3}"
        if streamed:
            self.remote = RemoteFile(place, size, key)
            return size
        self.descriptor = open_whole(place, size, key)
        if not place.is_fresh and not self._is_whole():
            self.close()  # what the block cache held, or what came over the network, was damaged: once again
            blocks().forget(key)
            self.descriptor = open_whole(place, size, key)
            self.check_file()
        return size

    def _is_whole(self) -> bool:
        try:
            self.check_file()
        except DamageError:
            return False
        return True

    def damage(self, what: str) -> DamageError:
        """An error that names the file, what is wrong with it, and what to do."""
        return DamageError(f"{self.path} {what}: {self.remedy}")

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
            if self.remote is not None and _xxh3(out) != column.xxh3:
                self.remote.forget([(column.offset, column.nbytes)])
                out = self.read_unchecked(name, start, stop)
            self._compare(name, _xxh3(out))
        return out

    def read_unchecked(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows of a column as a new array, whatever they hold."""
        column = self._column(name)
        stop = column.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= column.shape[0]:
            raise self.damage(f"has no rows {start} to {stop} in its column {name}")
        out = np.empty((stop - start, *column.shape[1:]), column.dtype)
        if out.size:
            self.read_into(out.data.cast("B"), column.offset + start * column.row_bytes)
        return out

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """A column in pieces of a few MiB, its checksum compared after the last."""
        column = self._column(name)
        digest, rows = xxhash.xxh3_64(), max(1, CHUNK_BYTES // max(1, column.row_bytes))
        for start in range(0, column.shape[0], rows):
            out = self.read_unchecked(name, start, min(start + rows, column.shape[0]))
            digest.update(out.data)
            yield out
        if column.xxh3:
            self._compare(name, digest.hexdigest())

    def check(self, name: str) -> None:
        """Read a column once and compare its checksum; raises FaultError where it differs."""
        for _ in self.chunks(name):
            pass

    def check_file(self) -> None:
        """Compare every byte with its checksum; raises FaultError where one differs."""
        try:
            found, _ = _describe(self.descriptor, self.entry.file)
        except OSError as error:
            raise self.damage(f"cannot be read ({one_line(error)})") from None
        except (KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
            raise self.damage(f"is damaged ({one_line(error)})") from None
        if found != self.entry:
            raise self.damage("is damaged (it is not what the manifest says)")

    def _compare(self, name: str, digest: str) -> None:
        if digest != self.entry.columns[name].xxh3:
            raise self.damage(f"is damaged in its column {name}")

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` with the bytes from `offset` on."""
        if self.remote is not None:
            self.remote.read_into(view, offset)
            return
        while view:
            try:
                count = read_into_at(self.descriptor, view, offset)
            except OSError as error:
                raise self.damage(f"cannot be read ({one_line(error)})") from None
            if count == 0:
                raise self.damage("ends too soon")
            view, offset = view[count:], offset + count

    def close(self) -> None:
        """Close the file."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def _xxh3(values: np.ndarray) -> str:
    return xxhash.xxh3_64_hexdigest(values.data if values.size else b"")


def describe_file(folder: Path, file: str, finished: bool = True) -> tuple[ColumnFile, dict[str, Any]]:
    """What a manifest would say of a column file that lies there, and what the file is about, from its own head.

    For a cache whose manifest is lost. Every byte is compared with the checksums in the head; raises ValueError where
    it is no whole column file. Of one that need not be `finished` the head alone is compared.
    """
    try:
        descriptor = open_inside(folder, file)
        try:
            return _describe(descriptor, file, finished)
        finally:
            os.close(descriptor)
    except (OSError, KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f"{folder / file} does not describe itself: {one_line(error)}") from None


def _describe(descriptor: int, file: str, finished: bool = True) -> tuple[ColumnFile, dict[str, Any]]:
    first = read_at(descriptor, HEAD_LINE, 0).partition(b"\n")[0]
    match = re.fullmatch(rf"{HEAD} (\d{{1,9}}) ([0-9a-f]{{16}}) ([0-9a-f]{{16}})".encode(), first)
    if match is None:
        raise ValueError("it does not begin as a column file of this version")
    size, start, stop = os.fstat(descriptor).st_size, len(first) + 1, len(first) + 1 + int(match[1])
    if stop > size:
        raise ValueError("it ends too soon")
    text = read_at(descriptor, stop - start, start)
    if xxhash.xxh3_64_hexdigest(text) != match[2].decode():
        raise ValueError("its head is damaged")
    head = json.loads(text)
    rest = match[3].decode()
    if finished and rest != rest_xxh3(descriptor, stop):
        raise ValueError("it is damaged")
    data = ColumnFile.from_json({"file": file, "size": size, "xxh3": rest, "columns": head["columns"]})
    return data, dict(head["about"])
