"""Files that appear whole or not at all: temporary name, flush, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.errors import FaultError, UsageError


def make_folder(path: Path) -> Path:
    """Make a folder and its parents; raises UsageError where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {path}: {error.strerror}; choose another with --out") from None
    if not os.access(path, os.W_OK):
        raise UsageError(f"cannot write to the folder {path}; choose another with --out")
    return path


def nearest_there(folder: Path) -> Path:
    """The folder, or the nearest of its parents that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def worker_name() -> str:
    """This process among all that may share a folder: host and process id, fit for a file's name."""
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', socket.gethostname())}-{os.getpid()}"


MAX_TEXT = 2**30  # bytes of a text file that is read whole
_names = itertools.count()


def temporary_name(path: Path) -> Path:
    """A new name beside `path` for a file that is not finished; no other worker's."""
    return path.with_name(f"{path.name}.tmp-{worker_name()}-{next(_names)}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is fsynced and renamed, else removed.

    Raises FaultError naming the file when the disk is full or the write fails.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        raise FaultError(f"cannot write {path}: {one_line(error)}; make room and run again") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target`, which may be there if it is empty; on success it is renamed, else removed.

    Raises UsageError where the target cannot be made or holds something, FaultError where writing fails.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already: choose another place")
    make_folder(target.parent)
    folder = temporary_name(target)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield make_folder(folder)
        for inner in (path for path in folder.rglob("*") if path.is_dir()):
            fsync_folder(inner)
        fsync_folder(folder)
        os.replace(folder, target)
        fsync_folder(target.parent)
    except OSError as error:
        raise FaultError(f"cannot write {target}: {one_line(error)}; make room and run again") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def one_line(error: Exception) -> str:
    """What an error says, without the line breaks that HDF5 puts into it."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name, unless another has it already: then raise FileExistsError."""
    try:
        os.link(temporary, path)
        temporary.unlink()
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without hard links: two who come in the same moment may both pass, and the later file stays.
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.rename(temporary, path)


def fsync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power loss (no-op where folders cannot be opened)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8; half of a surrogate pair, which has none, becomes "?"."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def save_array(path: Path, values: np.ndarray) -> None:
    """Write an array as a `.npy` file, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, values, allow_pickle=False)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, for other languages cannot read them."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; those that go meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def nameless_file(folder: Path | None, size: int = 0) -> IO[bytes]:
    """A file in a folder (None: that for temporary files) that is gone when it is closed, with room for `size` bytes.

    Raises FaultError where the disk has no room: a file that is mapped must not find that out later.
    """
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the caller closes it
        if size:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # elsewhere the room is not kept
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        where = folder or tempfile.gettempdir()
        raise FaultError(f"cannot write to {where}: {one_line(error)}; make room and run again") from None
    return file


def open_plain(path: Path) -> int:
    """Open a plain file for reading; raises OSError for a link (it could lead anywhere), a pipe or a device."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file")
    return descriptor


def open_inside(folder: Path, file: str) -> int:
    """Open a plain file of a folder, or of one below it, for reading; raises OSError as `open_plain`."""
    path = folder / file
    if path.parent != folder and path.parent.is_symlink():
        raise OSError(errno.ELOOP, "its folder is a link")
    return open_plain(path)


def read_plain(path: Path) -> str:
    """The text of a small file that others may have made; raises OSError, also for one over 1 GiB, or ValueError."""
    with open(open_plain(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_TEXT:
            raise OSError(errno.EFBIG, "it is too large")
        return file.read().decode("utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; raises UsageError where it is missing, FaultError where it is damaged."""
    try:
        return json.loads(read_plain(path))
    except FileNotFoundError:
        raise UsageError(f"there is no {path}") from None
    except OSError as error:
        raise FaultError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise FaultError(f"{path} is damaged: {error}") from None


def file_sha256(*paths: Path) -> str:
    """SHA-256 over the bytes of one or more files, as hex."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
