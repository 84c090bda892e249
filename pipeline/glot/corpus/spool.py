"""Bytes that are appended once and read anywhere: in memory while they are few, else in a temporary file."""

from __future__ import annotations

import mmap
import tempfile
import weakref
from typing import IO

from glot.errors import FaultError
from glot.store.positions import write_at

IN_MEMORY_BYTES = 64 << 20
_WRITE_BYTES = 1 << 20


class Spool:
    """An append-only store of bytes.

    Up to `in_memory` bytes it is memory alone; beyond, a nameless file in the folder for temporary files (TMPDIR
    says which) that is gone with the object. Reading moves no file position, so threads may read at once.
    """

    def __init__(self, in_memory: int = IN_MEMORY_BYTES):
        self._in_memory = in_memory
        self._tail = bytearray()  # what is not in the file yet
        self._written = 0
        self._file: IO[bytes] | None = None
        self._map: mmap.mmap | None = None  # of the file: texts are read one by one, in any order

    def append(self, data: bytes) -> int:
        """Add bytes at the end; return where they end. Raises FaultError where the temporary file takes no more."""
        self._tail += data
        if len(self._tail) > (self._in_memory if self._file is None else _WRITE_BYTES):
            self._flush()
        return self._written + len(self._tail)

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`, both within what was appended."""
        split = min(max(self._written, start), end)
        tail = bytes(memoryview(self._tail)[split - self._written : end - self._written]) if end > split else b""
        return self._read_file(start, split) + tail if split > start else tail

    def _read_file(self, start: int, end: int) -> bytes:
        assert self._file is not None  # so many bytes were appended
        if self._map is None or end > len(self._map):
            try:
                self._map = mmap.mmap(self._file.fileno(), self._written, access=mmap.ACCESS_READ)
            except (ValueError, OSError) as error:
                raise FaultError(
                    f"cannot read the texts back from {tempfile.gettempdir()} ({error}): try again, or set TMPDIR to a "
                    "folder elsewhere"
                ) from None
        return self._map[start:end]

    def _flush(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it lives as long as the spool)
                weakref.finalize(self, self._file.close)
            view, place = memoryview(self._tail), self._written
            while view:
                count = write_at(self._file.fileno(), view, place)
                view, place = view[count:], place + count
        except OSError as error:
            raise FaultError(
                f"cannot keep the texts in {tempfile.gettempdir()} ({error.strerror}): free some space there, "
                "or set TMPDIR to a folder with more"
            ) from error
        self._written += len(self._tail)
        self._tail = bytearray()
