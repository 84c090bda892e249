"""Example sets: which texts belong together under which label. Small, any number over the same states."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store.columns import ColumnFile, ColumnReader, write_columns

PIECE = 2**16  # hashes copied at a time
# The columns of a set, and the dtypes that each may have.
KINDS = {"index": ("<i8",), "text_id": ("<i8",), "text_id_b": ("<i8",), "label": ("<i8", "<f8")}


def set_name(group: str, split: str) -> str:
    """The name of a split's set: "train", or in a group of sets with other labels "group.train"."""
    return f"{group}.{split}" if group else split


def split_of(name: str) -> str:
    """The split that a set holds: "train" of "group.train"."""
    return name.rpartition(".")[2]


def group_of(name: str) -> str:
    """The group that a set belongs to, "" for the cache's own."""
    return name.rpartition(".")[0]


@dataclass
class ExampleSet:
    """The m examples of a split, in the cache's (permuted) order.

    Attributes:
        index: (m,) int64, each example's row in its source.
        text_id: (m,) int64 ids of the (first) text.
        text_id_b: (m,) int64 ids of the second text, or None for single texts.
        label: (m,) int64 class indices or float64 scores, or None where the split has no labels.
    """

    index: np.ndarray
    text_id: np.ndarray
    text_id_b: np.ndarray | None
    label: np.ndarray | None

    def __len__(self) -> int:
        return len(self.index)

    def subset(self, chosen: np.ndarray) -> ExampleSet:
        """The examples at the given positions (int indices or a bool mask), in that order."""

        def pick(column: np.ndarray | None) -> np.ndarray | None:
            return None if column is None else column[chosen]

        return ExampleSet(self.index[chosen], self.text_id[chosen], pick(self.text_id_b), pick(self.label))

    def fingerprint(self, text_hashes: np.ndarray) -> str:
        """SHA-256 over rows, texts and labels: equal for equal data, whatever else the cache holds."""
        digest = hashlib.sha256(self.index.astype("<i8").tobytes())
        for ids in (self.text_id, self.text_id_b):
            for start in range(0, 0 if ids is None else len(ids), PIECE):
                digest.update(text_hashes[ids[start : start + PIECE]].tobytes())
        if self.label is not None:
            digest.update(str(self.label.dtype.kind).encode() + self.label.tobytes())
        return digest.hexdigest()

    def save(self, path: Path, about: dict[str, Any] | None = None) -> ColumnFile:
        """Write the set atomically; returns what the manifest says of the file.

        `about` is kept in its head, for the day when the manifest is lost.
        """
        columns = {name: getattr(self, name) for name in KINDS}
        present = {name: column for name, column in columns.items() if column is not None}
        entry = write_columns(path, present, {"kind": "examples", **(about or {})})
        return replace(entry, file=f"{path.parent.name}/{path.name}")

    @classmethod
    def load(cls, folder: Path, entry: ColumnFile, num_texts: int) -> ExampleSet:
        """Read a set; raises FaultError where it is damaged or names texts that the plan lacks."""
        file = ColumnReader(folder, entry, "run the same `glot extract` again")
        columns = entry.columns
        required, there = {"index", "text_id"}, set(columns)
        shape = file.shape("index")
        fits = all(column.shape == shape and column.dtype in KINDS.get(name, ()) for name, column in columns.items())
        if not (required <= there and fits and len(shape) == 1):
            raise file.damage("is damaged: its columns do not fit together")
        columns = {name: file.read(name) if name in file else None for name in KINDS}
        file.close()
        for name in ("text_id", "text_id_b"):
            ids = columns[name]
            if ids is not None and len(ids) and not (ids.min() >= 0 and ids.max() < num_texts):
                raise file.damage("is damaged: it names texts that the plan does not have")
        return cls(**columns)
