"""Files that appear whole or not at all: temporary name, flush, fsync, rename, fsync of the folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

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


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is fsynced and renamed, else removed.

    Raises FaultError naming the file when the disk is full or the write fails.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
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


def one_line(error: Exception) -> str:
    """What an error says, without the line breaks that HDF5 puts into it."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())


def fsync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power loss (no-op where folders cannot be opened)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, for other languages cannot read them."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_hdf5(path: Path, fill: Callable[[h5py.File], None]) -> str:
    """Write an HDF5 file atomically; returns its SHA-256.

    The file is built in memory: HDF5 itself prints tracebacks, and can crash, where the disk or a quota is full.
    """
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        image = file.id.get_file_image()
    with atomic_path(path) as temporary:
        temporary.write_bytes(image)
    return hashlib.sha256(image).hexdigest()


def read_json(path: Path) -> Any:
    """Read a JSON file; raises UsageError where it is missing, FaultError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no {path}") from None
    except OSError as error:
        raise FaultError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise FaultError(f"{path} is damaged: {error}") from None


def file_sha256(*paths: Path) -> str:
    """SHA-256 over the bytes of one or more files, as hex."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
