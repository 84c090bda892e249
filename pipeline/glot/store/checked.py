"""Dataclasses rebuilt from JSON that somebody else may have made."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, get_origin, get_type_hints

Entry = TypeVar("Entry")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def checked(kind: type[Entry], values: dict[str, Any]) -> Entry:
    """A dataclass of values read from JSON: its words, flags and counts must be such, so that no reader trips later.

    Raises ValueError, or TypeError where fields are missing or unknown.
    """
    hints = _hints(kind)
    for name, value in values.items():
        wanted = get_origin(hints.get(name)) or hints.get(name)
        counts = value if wanted in (tuple, list) else [value] if wanted is int else []
        is_sort = isinstance(value, wanted) if wanted in (str, bool, tuple, list) else True
        if not is_sort or not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"{name} is {value!r}")
    return kind(**values)
