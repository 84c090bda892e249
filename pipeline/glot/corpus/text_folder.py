"""A folder of texts, one a file, in folders that are called as their labels are: `positive/17.txt`, `negative/2.txt`.

Files right in the folder have no label, and one in a folder below a label's has that label. Hidden files are passed by.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from glot.corpus.examples import SPLIT_NAMES, UnfitRow
from glot.corpus.lines import bare, read_file, readable
from glot.errors import UsageError
from glot.store.files import file_sha256, json_sha256

SUFFIXES = (".txt", "")
FILE, TEXT, LABEL = "file", "text", "label"  # its columns


def files_below(folder: Path) -> list[str]:
    """The places below a folder of all files in it, with slashes, in their order; hidden ones are left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(place.as_posix() for place in found if not any(part.startswith(".") for part in place.parts))


def check_text_folder(folder: Path) -> None:
    """Raise UsageError where no file in it can be a text, or its folders are splits and not labels."""
    files = files_below(folder)
    if not any(Path(name).suffix.lower() in SUFFIXES for name in files):
        raise UsageError(f"{folder} is a folder without texts: name a file, or a folder of .txt files for each label")
    tops = {name.partition("/")[0] for name in files if "/" in name}
    deep = sorted({name.partition("/")[0] for name in files if name.count("/") > 1})
    if deep and tops <= set(chain(*SPLIT_NAMES.values())):
        raise UsageError(f"{folder} holds {', '.join(sorted(tops))}: name each by itself, as in {folder / deep[0]}")


def folder_columns(folder: Path) -> dict[str, type]:
    """The names of its columns, each with its type: without a label where all files are right in the folder."""
    return dict.fromkeys(_columns(files_below(folder)), str)


def _columns(files: list[str]) -> tuple[str, ...]:
    return (FILE, TEXT, LABEL) if any("/" in name for name in files) else (FILE, TEXT)


def read_folder(folder: Path, encoding: str | None) -> Iterator[tuple[str, dict[str, Any] | UnfitRow]]:
    """Pairs of (where, the cells of a file or what is wrong with it), in the order of the files' places."""
    files = files_below(folder)
    columns = _columns(files)
    for name in files:
        where = f"{folder.name}/{name}"
        if Path(name).suffix.lower() not in SUFFIXES:
            yield where, UnfitRow(f"{where} is no .txt file: move it elsewhere")
            continue
        try:
            with readable(where, encoding):
                text = bare("".join(read_file(folder / name, encoding)))
        except UsageError as error:
            yield where, UnfitRow(str(error))
            continue
        cells = {FILE: name, TEXT: text, LABEL: name.partition("/")[0] if "/" in name else None}
        yield where, {column: cells[column] for column in columns}


def content_sha256(path: Path) -> str:
    """SHA-256 of a file; of a folder that of the places below it and of what is in each."""
    if not path.is_dir():
        return file_sha256(path)
    return json_sha256([[name, file_sha256(path / name)] for name in files_below(path)])
