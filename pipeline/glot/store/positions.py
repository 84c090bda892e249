"""Reading and writing at a place in a file: one call of the system where it has such, else seek and read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

BINARY = getattr(os, "O_BINARY", 0)  # on Windows a file is text without it, and bytes are changed
_seeking = threading.Lock()


def read_into_at(descriptor: int, view: memoryview | bytearray, offset: int) -> int:
    """Fill `view` from `offset` on; returns how many bytes there were, 0 at the file's end."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], offset)
    with _at(descriptor, offset):
        data = os.read(descriptor, len(view))
    view[: len(data)] = data
    return len(data)


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """At most `size` bytes from `offset` on; none at the file's end."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    with _at(descriptor, offset):
        return os.read(descriptor, size)


def write_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Write bytes from `offset` on; returns how many were taken."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    with _at(descriptor, offset):
        return os.write(descriptor, data)


@contextmanager
def _at(descriptor: int, offset: int) -> Iterator[None]:
    """The file's position, for one thread at a time, and back."""
    with _seeking:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, offset, os.SEEK_SET)
        try:
            yield
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)
