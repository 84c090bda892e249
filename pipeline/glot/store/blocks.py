"""The local block cache: pieces of objects that lie elsewhere, in a folder of bounded size.

Processes share it: a piece appears whole, a reader opens what it reads, and what was used least goes first. It holds
nothing that cannot be fetched again, so nothing is fsynced, and where the disk is full nothing is kept.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import xxhash

from glot.errors import AccessError, UsageError
from glot.store.files import UNFINISHED, open_plain, temporary_name, write_error

FOLDER, SIZE = "GLOT_CACHE_DIR", "GLOT_CACHE_GB"  # environment variables, or --cache-dir and --cache-gb
DEFAULT_GB = 32.0
TOUCH_SECONDS = 60.0  # how exactly the time of the last use is kept
ABANDONED_SECONDS = 3600.0  # after which an unfinished file is taken for a killed process'
SCANS = 16  # the folder is looked through whenever this process has added a 16th of its size


class BlockCache:
    """Pieces by a key, at most `most` bytes of them (every process may be a 16th over).

    Raises UsageError where the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self._added, self._lock = most, threading.Lock()  # so that the first piece looks through the folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot make the folder {folder}: {error.strerror}; name another with --cache-dir or {FOLDER}"
            ) from None
        if not os.access(folder, os.W_OK):
            raise UsageError(f"cannot write to the folder {folder}: name another with --cache-dir or {FOLDER}")

    def holds(self, key: str) -> bool:
        """Whether a piece is there, perhaps."""
        return self._path(key).exists()

    def open(self, key: str, size: int) -> int | None:
        """A descriptor of a piece of `size` bytes, which the caller closes; None where it is not there whole."""
        path = self._path(key)
        try:
            descriptor = open_plain(path)
        except (OSError, AccessError):
            return None
        status = os.fstat(descriptor)
        if status.st_size != size:
            os.close(descriptor)
            return None
        if time.time() - status.st_mtime > TOUCH_SECONDS:
            with suppress(OSError):
                os.utime(path)
        return descriptor

    def put(self, key: str, data: bytes) -> None:
        """Keep a piece, if there is room."""
        path = self._path(key)
        temporary = temporary_name(path)
        try:
            path.parent.mkdir(exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return
        self._count(len(data))

    def put_file(self, key: str, pieces: Iterable[bytes]) -> int:
        """Keep a file that comes in pieces; returns a descriptor of it, which the caller closes.

        Raises FaultError where there is no room, and what the pieces raise.
        """
        path = self._path(key)
        temporary = temporary_name(path)
        try:
            path.parent.mkdir(exist_ok=True)
            with open(temporary, "wb+") as file:
                file.writelines(pieces)
                size = file.tell()
                file.seek(0)
                descriptor = os.dup(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise write_error(path, error) from None
        finally:
            temporary.unlink(missing_ok=True)
        self._count(size)
        return descriptor

    def forget(self, key: str) -> None:
        """Remove a piece."""
        with suppress(OSError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        name = xxhash.xxh3_128_hexdigest(key.encode("utf-8", "surrogatepass"))
        return self.folder / name[:2] / name

    def _count(self, added: int) -> None:
        """Note that so many bytes were added; prune when it is due."""
        with self._lock:
            self._added += added
            is_due = self._added * SCANS >= self.most
            self._added = 0 if is_due else self._added
        if is_due:
            self._prune()

    def _prune(self) -> None:
        """Remove what was used least until a 16th of the size is free, and what killed processes left."""
        found, now = [], time.time()
        for path in self.folder.glob("??/*"):
            with suppress(OSError):  # another process may have removed it
                status = path.stat()
                if UNFINISHED not in path.name:
                    found.append((status.st_mtime, status.st_size, path))
                elif now - status.st_mtime > ABANDONED_SECONDS:
                    path.unlink()
        over = sum(size for _, size, _ in found) - self.most * (SCANS - 1) // SCANS
        for _, size, path in sorted(found):
            if over <= 0:
                return
            with suppress(OSError):
                path.unlink()
            over -= size


@cache
def open_blocks(folder: Path, most: int) -> BlockCache:
    """The block cache in a folder, one a process."""
    return BlockCache(folder, most)


def blocks() -> BlockCache:
    """The block cache that the environment asks for; raises UsageError where its size is no number."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get(FOLDER) or Path(home) / "glot" / "remote")
    given = os.environ.get(SIZE) or DEFAULT_GB
    try:
        most = int(float(given) * 2**30)
    except (ValueError, OverflowError):
        most = 0
    if most <= 0:
        raise UsageError(f"--cache-gb, or {SIZE}, is the size of the local block cache in GiB, as in 32; got {given!r}")
    return open_blocks(folder.absolute(), most)
