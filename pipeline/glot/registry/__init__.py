"""Tables to which anyone may add an entry: poolers, GNN layers, edge rules, tasks, backbones.

A module named in the environment variable GLOT_PLUGINS (several: with commas) is imported when a table is first read;
it adds its entries as those of the package are added, by `Registry.add`.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Generic, Protocol, TypeVar

from glot.errors import UsageError, kind_and_reason


class Named(Protocol):
    """An entry: anything with a name."""

    @property
    def name(self) -> str:
        """What users call it."""


E = TypeVar("E", bound=Named)
_loaded: set[str] = set()


class Registry(Generic[E]):
    """Entries of one kind by their names, in the order in which they were added.

    Args:
        kind: what an entry is, for messages: "pooler".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, E] = {}

    def add(self, entry: E) -> E:
        """Add an entry and give it back; raises ValueError where the name is taken."""
        if entry.name in self._entries:
            raise ValueError(f"there is a {self.kind} {entry.name!r} already")
        self._entries[entry.name] = entry
        return entry

    def __getitem__(self, name: str) -> E:
        """The entry of this name; raises UsageError that names the nearest one and lists all."""
        load_plugins()
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name, self._entries, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"unknown {self.kind} {name!r}: {hint}choose from {', '.join(self._entries)}")

    def __contains__(self, name: object) -> bool:
        load_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[E]:
        load_plugins()
        return iter(list(self._entries.values()))

    def names(self) -> tuple[str, ...]:
        """The names of all entries."""
        return tuple(entry.name for entry in self)


@contextmanager
def _current_folder_last() -> Iterator[None]:
    """The current folder as the last place where modules are found, as `python -m` has it first and a command not."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def load_plugins() -> None:
    """Import the modules that GLOT_PLUGINS names, each once, from the Python path or the current folder.

    Raises UsageError for one that cannot be imported.
    """
    for name in filter(None, (part.strip() for part in os.environ.get("GLOT_PLUGINS", "").split(","))):
        if name in _loaded:
            continue
        _loaded.add(name)  # before the import: a plugin may read a table itself
        try:
            with _current_folder_last():
                import_module(name)
        except Exception as error:  # whatever its code raises, a name that is taken included
            _loaded.discard(name)  # who asks again is told again
            raise UsageError(
                f"GLOT_PLUGINS names {name!r}, which cannot be imported: {kind_and_reason(error)}"
            ) from error
