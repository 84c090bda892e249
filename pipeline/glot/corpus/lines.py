"""Bytes as lines of text, the same for files and standard input.

A line ends at "\\n", and a "\\r" before it belongs to the end; other marks at which Unicode breaks lines are text. Only
where there is no "\\n" at all does "\\r" alone end a line, as in files of old Macs. A byte-order mark at the beginning
says the encoding and is no text; without one, text is UTF-8 unless another encoding is named.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from glot.errors import UsageError
from glot.store.files import no_access

UTF8 = "utf-8"
_MARKS = (  # UTF-32's little-endian mark begins as UTF-16's does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD_BYTES = 4
_MARK = "\ufeff"  # what is left of a byte-order mark that the codec itself does not take away
_SHOWN = {"utf-8": "UTF-8", "utf-16": "UTF-16", "utf-32": "UTF-32"}


class _FromTheStart(io.RawIOBase):
    """A stream whose first bytes were taken already, with them before the rest."""

    def __init__(self, head: bytes, rest: IO[bytes] | io.BufferedIOBase) -> None:
        self._head = head
        self._read = getattr(rest, "read1", rest.read)  # a pipe gives what it has, and is not waited for

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data, self._head = self._head or self._read(len(buffer)), b""
        buffer[: len(data)] = data
        return len(data)


def check_encoding(encoding: str | None) -> None:
    """Raise UsageError where the name is none of an encoding of text."""
    if encoding is None:
        return
    try:
        "".encode(encoding)  # codecs that are no encodings of text, such as base64, refuse this
    except (LookupError, ValueError) as error:
        raise UsageError(f"unknown --encoding {encoding}: pass one as in utf-8, latin-1, utf-16-le") from error


def check_file(path: Path, wanted: str) -> None:
    """Raise UsageError, which says what is `wanted`, where there is no such file, or it is a folder."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: pass {wanted}")
    if not path.is_file():
        raise UsageError(f"no file {path}: pass {wanted}")


def read_lines(stream: IO[bytes] | io.BufferedIOBase, encoding: str | None = None) -> Iterator[str]:
    """The lines of a stream, each with its end; UnicodeDecodeError where they are not in the encoding.

    `encoding` None: what the byte-order mark says, else UTF-8.
    """
    head = stream.read(_HEAD_BYTES)
    name = encoding or _encoding_of(head)
    if encoding is None and name == UTF8 and b"\0" in head:
        position = head.index(0)
        raise UnicodeDecodeError(UTF8, head, position, position + 1, "UTF-16 without its mark is --encoding utf-16-le")
    reader = io.BufferedReader(_FromTheStart(head, stream))
    with io.TextIOWrapper(reader, name, newline="\n") as text:
        first = next(text, "").removeprefix(_MARK)
        if not first.endswith("\n") and "\r" in first:  # then it is all there is
            yield from (f"{line}\n" for line in first.removesuffix("\r").split("\r"))
            return
        if first:
            yield first
        yield from text


def read_file(path: Path, encoding: str | None = None) -> Iterator[str]:
    """The lines of a file; see `read_lines`."""
    with path.open("rb") as stream:
        yield from read_lines(stream, encoding)


def read_stdin(encoding: str | None = None) -> Iterator[str]:
    """The lines of standard input; see `read_lines`."""
    return read_lines(sys.stdin.buffer, encoding)


def bare(line: str) -> str:
    """A line without its end."""
    return line.removesuffix("\n").removesuffix("\r")


def encoding_of(path: Path, encoding: str | None) -> str:
    """The encoding of a file for people to read: "UTF-8", or as it was named."""
    if encoding is None:
        with path.open("rb") as stream:
            encoding = _encoding_of(stream.read(_HEAD_BYTES))
    return encoding_name(encoding)


def encoding_name(encoding: str | None) -> str:
    """An encoding as people write it; None is UTF-8."""
    return _SHOWN.get((encoding or UTF8).lower().replace("_", "-"), str(encoding))


def _encoding_of(head: bytes) -> str:
    return next((name for mark, name in _MARKS if head.startswith(mark)), UTF8)


@contextmanager
def readable(
    name: str | Path, encoding: str | None = None, advice: str = "save it as UTF-8, or name its encoding"
) -> Iterator[None]:
    """Turn what goes wrong in reading text into one line that names the file."""
    try:
        yield
    except UnicodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x}, " if isinstance(error, UnicodeDecodeError) else ""
        reason = getattr(error, "reason", str(error))
        what = encoding or "UTF-8"
        if encoding is None and "name its encoding" in advice and "--encoding" not in reason:
            advice += ", as in --encoding latin-1"
        raise UsageError(f"{name} is not {what} text ({byte}{reason}): {advice}") from error
    except PermissionError as error:
        raise no_access(error, Path(name)) from None
    except OSError as error:
        raise UsageError(f"cannot read {name} ({error.strerror or error}): pass a file that can be read") from error
