"""Linked caches: they list the shards of other caches, their parts, and read them where they lie."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from glot.errors import UsageError
from glot.store.files import checked

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and bytes that are no UTF-8
LINK_AGAIN = "link its parts again with `glot cache link`"


@dataclass(frozen=True)
class Part:
    """A cache whose shards another one lists.

    Attributes:
        folder: where it lies, seen from the linked cache; or an absolute path.
        shards: how many of the linked cache's shards are its shards 0, 1, ...
    """

    folder: str
    shards: int

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Part:
        """Rebuild a part; raises TypeError, ValueError or AttributeError for what names no folder, or no shards."""
        part = checked(cls, dict(values.items()))
        if not part.folder or _UNFIT.search(part.folder) or not part.shards:
            raise ValueError(f"it has the part {part.folder!r} with {part.shards} shards")
        return part


def first_shards(parts: Iterable[Part]) -> list[int]:
    """The number that each part's first shard has in the linked cache."""
    return list(accumulate((part.shards for part in parts), initial=0))[:-1]


def part_of(firsts: list[int], number: int) -> int:
    """Which part a linked cache's shard comes from; `firsts` are from `first_shards`."""
    return bisect_right(firsts, number) - 1


def name_from(linked: Path, folder: Path) -> str:
    """How a linked cache that will lie at `linked` names a folder.

    From its own place, so that both may be moved together, unless they have nothing but the root in common. Raises
    UsageError for a name that no manifest may hold.
    """
    here, there = linked.parent.resolve() / linked.name, folder.resolve()
    try:
        is_near = Path(os.path.commonpath([here, there])) != Path(there.anchor)
    except ValueError:  # on Windows: two drives
        is_near = False
    name = (Path(os.path.relpath(there, here)) if is_near else there).as_posix()
    if _UNFIT.search(name):
        raise UsageError(f"the folder {name!r} cannot be named in a manifest: give it a name of plain characters")
    return name
