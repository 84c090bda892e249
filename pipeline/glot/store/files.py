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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar, get_origin, get_type_hints

import numpy as np

from glot.errors import AccessError, FaultError, GlotError, UsageError
from glot.store.positions import BINARY


def make_folder(path: Path) -> Path:
    """Make a folder and its parents; raises UsageError where that is not possible."""
    refuse_url(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {path}: {error.strerror}; choose another with --out") from None
    if not os.access(path, os.W_OK):
        raise UsageError(f"cannot write to the folder {path}; choose another with --out")
    return path


def refuse_url(path: Path) -> None:
    """Raise UsageError where what is to be written is named by a URL."""
    match = URL.fullmatch(str(path))
    if match is not None:
        url = f"{match[1]}://{match[2]}"
        raise UsageError(f"cannot write to {url}: write to a folder; `glot cache push FOLDER {url}` then sends a cache")


def nearest_there(folder: Path) -> Path:
    """The folder, or the nearest of its parents that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def check_parent(path: Path, option: str = "--out") -> None:
    """Raise UsageError where a file or folder cannot be made at `path`: before anything slow, and without making it."""
    refuse_url(path)
    parent = nearest_there(path.absolute().parent)
    if not parent.is_dir():
        raise UsageError(f"cannot make {path}: {parent} is a file; choose another with {option}")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"cannot make {path}: {parent} cannot be written to; choose another with {option}")


def check_output(path: Path, suffixes: Sequence[str], option: str = "--output") -> None:
    """Raise UsageError where a file cannot be made at `path`, or its suffix is none of these; nothing is made."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file with {option}")
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} {path}: the suffix must be one of {', '.join(suffixes)}")
    check_parent(path, option)


def check_readable_folder(folder: Path) -> None:
    """Raise UsageError where there is no such folder, AccessError where it may not be looked into."""
    if not folder.exists():
        raise UsageError(f"there is no folder {folder}")
    check_access(folder)


def worker_name() -> str:
    """This process among all that may share a folder: host and process id, fit for a file's name."""
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', socket.gethostname())}-{os.getpid()}"


# scheme and rest; one slash where a Path has made it of two
URL = re.compile(r"([a-z][a-z0-9+]+):/+(.*)", re.DOTALL)
UNFINISHED = ".tmp-"  # in the names of files that are not finished
KEPT = ".part"  # ends the names of files that were left unfinished, for whoever goes on
READ_PLAIN = os.O_RDONLY | BINARY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
MAX_TEXT = 2**30  # bytes of a text file that is read whole
_names = itertools.count()
Entry = TypeVar("Entry")


class Digest(Protocol):
    """What hashes bytes piece by piece."""

    def update(self, data: bytes, /) -> None:
        """Add some."""


def temporary_name(path: Path) -> Path:
    """A new name beside `path` for a file that is not finished; no other worker's."""
    return path.with_name(f"{path.name}{UNFINISHED}{worker_name()}-{next(_names)}")


def is_unfinished(path: Path) -> bool:
    """Whether a file is being written, or was left before it was finished."""
    return UNFINISHED in path.name or path.name.endswith(KEPT)


def holds_something(folder: Path) -> bool:
    """Whether a folder holds anything but what was left unfinished."""
    return any(not is_unfinished(path) for path in folder.iterdir())


def remove_leftovers(folder: Path, files: Iterable[str]) -> None:
    """Remove what was left unfinished of files (patterns of names) that nobody else writes in a folder."""
    for file in files:
        for path in find_unfinished(folder, file):
            path.unlink(missing_ok=True)


def find_unfinished(folder: Path, file: str) -> list[Path]:
    """What was left of a file (or a pattern of names) that is written in a folder."""
    return [*folder.glob(f"{file}{KEPT}"), *folder.glob(f"{file}{UNFINISHED}*")]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is fsynced and renamed, else removed.

    The file gets the permissions of any new file, whatever writes it: some libraries leave 0600.

    Raises FaultError naming the file when the disk is full or the write fails, AccessError where that is not allowed.
    """
    temporary = temporary_name(path)
    try:
        mode = _new_file(temporary)
        yield temporary
        _open_to_others(temporary, mode)
        with open(temporary, "rb+") as file:  # Windows makes durable only what may be written
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(PermissionError):  # where the folder may not be entered there is no file either
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target`, which may be there if it is empty; on success it is renamed, else removed.

    Its files get permissions as `atomic_path` gives them.

    Raises UsageError where the target cannot be made or holds something, FaultError where writing fails.
    """
    refuse_url(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already: choose another place")
    make_folder(target.parent)
    folder = temporary_name(target)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield make_folder(folder)
        probe = temporary_name(folder / "mode")
        mode = _new_file(probe)
        probe.unlink()
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                _open_to_others(path, mode)
        for inner in (path for path in folder.rglob("*") if path.is_dir()):
            fsync_folder(inner)
        fsync_folder(folder)
        os.replace(folder, target)
        fsync_folder(target.parent)
    except OSError as error:
        raise write_error(target, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new_file(path: Path) -> int:
    """Make an empty file; returns its permissions, which follow the umask (asking for that would change it)."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _open_to_others(path: Path, mode: int) -> None:
    """Give a file the permissions `mode`, unless it has them."""
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def write_error(path: Path, error: Exception) -> GlotError:
    """What to raise where `path` could not be written: no permission is another matter than no room.

    Nor is it `path` that fails where another file may not be read on the way.
    """
    if isinstance(error, PermissionError):
        if error.filename and not str(error.filename).startswith(str(path)):  # its temporary name begins so too
            return no_access(error)
        return AccessError(f"cannot write {path}: {one_line(error)}; ask its owner for access, or write elsewhere")
    return FaultError(f"cannot write {path}: {one_line(error)}; make room and run again")


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
        raise write_error(folder or Path(tempfile.gettempdir()), error) from None
    return file


def open_plain(path: Path) -> int:
    """Open a plain file for reading; raises OSError for a link (it could lead anywhere), a pipe or a device.

    Raises AccessError for a file that is there and may not be read.
    """
    try:
        descriptor = os.open(path, READ_PLAIN)
    except PermissionError as error:
        raise no_access(error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file")
    return descriptor


def no_access(error: PermissionError, path: Path | str = "") -> AccessError:
    """What to raise where a file or folder may not be read."""
    where = path or error.filename or "a file"
    return AccessError(f"cannot read {where}: {one_line(error)}; ask its owner for access")


def check_access(*paths: Path) -> None:
    """Raise AccessError for the first of some files that is there and may not be read, before a library meets it.

    Libraries hide it: safetensors says that there is no such file.
    """
    for path in paths:
        try:
            if path.is_dir():  # Windows opens no folders
                os.scandir(path).close()
            else:
                os.close(os.open(path, os.O_RDONLY))
        except PermissionError as error:
            raise no_access(error, path) from None
        except OSError:  # missing or strange: whoever reads it says so
            continue


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


def read_versioned(path: Path, newest: int, build: Callable[[dict[str, Any]], Entry], remedy: str = "") -> Entry:
    """What `build` makes of the values of a JSON file that has a version.

    Raises UsageError where it is missing or of a newer version, FaultError, with the remedy, where it is damaged, or
    `build` raises what values of the wrong kind lead to.
    """
    data = read_json(path)
    try:
        check_version(path, data, newest)
        return build(data)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise FaultError(f"{path} is damaged: {error!r}{remedy}") from None


def parse_json(name: str, data: bytes) -> Any:
    """The values in the bytes of a JSON file; raises FaultError, by its name, where it is damaged."""
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FaultError(f"{name} is damaged: {one_line(error)}") from None


def checked(kind: type[Entry], values: dict[str, Any]) -> Entry:
    """A dataclass rebuilt from JSON that somebody else may have made: its words, flags and counts must be such.

    Raises ValueError, or TypeError where fields are missing or unknown.
    """
    dataclass: Any = kind  # for mypy a type variable is not sure to be hashable
    sorts = _sorts(dataclass)
    for name, value in values.items():  # for each shard of a manifest: no generator, no call that is not needed
        wanted = sorts.get(name)
        if wanted is None:
            continue
        is_sort = (type(value) is int and value >= 0) if wanted is int else isinstance(value, wanted)
        if is_sort and (wanted is tuple or wanted is list):
            for count in value:
                is_sort = is_sort and type(count) is int and count >= 0
        if not is_sort:
            raise ValueError(f"{name} is {value!r}")
    return kind(**values)


@cache
def _sorts(kind: type) -> dict[str, type]:
    """The types that `checked` looks at of a dataclass' fields."""
    hints = {name: get_origin(hint) or hint for name, hint in get_type_hints(kind).items()}
    return {name: hint for name, hint in hints.items() if hint in (int, str, bool, tuple, list)}


def check_version(path: Path, data: dict[str, Any], newest: int) -> None:
    """Refuse a file of a version that this program does not know; one without a version is of the first.

    Raises UsageError for a newer version, TypeError or AttributeError for what is none.
    """
    version = data.get("version", 1)
    if type(version) is not int or version < 1:
        raise TypeError(f"its version is {version!r:.20}")
    if version > newest:
        raise UsageError(
            f"{path} has version {version}, this program reads version {newest}: use the version of glot that wrote it"
        )


def json_sha256(values: Any) -> str:
    """SHA-256 over values as JSON with sorted keys, as hex."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def file_sha256(*paths: Path) -> str:
    """SHA-256 over the bytes of one or more files, as hex."""
    digest = hashlib.sha256()
    for path in paths:
        update_from_file(digest, path)
    return digest.hexdigest()


def update_from_file(digest: Digest, path: Path) -> None:
    """Add the bytes of a file to a digest, of hashlib or of xxhash."""
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
