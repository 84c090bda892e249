"""Example sets: which texts belong together under which label. Small, any number over the same states."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from glot.store.column_reader import ColumnReader
from glot.store.columns import ColumnFile, write_columns
from glot.store.places import Place

PIECE = 2**16  # hashes copied at a time
EXTRACT_AGAIN = "run the same `glot extract` again"
# The columns of a set, and the dtypes that each may have.
IDS = ("text_id", "text_id_b", "negatives")
KINDS = {"index": ("<i8",), **dict.fromkeys(IDS, ("<i8",)), "label": ("<i8", "<f8")}
NO_TEXT = -1  # among the negatives of an example that has fewer of them than others


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
        negatives: (m, k) int64 ids of texts that do not answer the first one, where the second does; -1 where an
            example has fewer than k. None where no example has any.
        weight: (m,) float64, what each example counts in the loss, 1 in the mean; None: all alike. In memory alone: it
            is not saved, and not part of the fingerprint.
    """

    index: np.ndarray
    text_id: np.ndarray
    text_id_b: np.ndarray | None
    label: np.ndarray | None
    negatives: np.ndarray | None = None
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.index)

    def subset(self, chosen: np.ndarray) -> ExampleSet:
        """The examples at the given positions (int indices or a bool mask), in that order."""
        columns = (self.text_id_b, self.label, self.negatives, self.weight)
        others = (None if column is None else column[chosen] for column in columns)
        return ExampleSet(self.index[chosen], self.text_id[chosen], *others)

    @property
    def text_columns(self) -> list[np.ndarray]:
        """(m,) text ids each: of the first texts, then of the second ones and the negatives, where there are such."""
        given = [ids for ids in (self.text_id, self.text_id_b) if ids is not None]
        return given if self.negatives is None else [*given, *self.negatives.T]

    def used_ids(self) -> np.ndarray:
        """The ids of all texts of the examples, example by example."""
        ids = np.stack(self.text_columns, axis=1).ravel()
        return ids[ids != NO_TEXT]

    def renumbered(self, number: np.ndarray) -> ExampleSet:
        """The same examples where text i has become text `number[i]`."""
        ids = {name: getattr(self, name) for name in IDS}
        new = {name: np.where(old == NO_TEXT, NO_TEXT, number[old]) for name, old in ids.items() if old is not None}
        return replace(self, **new)

    def fingerprint(self, text_hashes: np.ndarray) -> str:
        """SHA-256 over rows, texts and labels: equal for equal data, whatever else the cache holds."""
        digest = hashlib.sha256(self.index.astype("<i8").tobytes())
        for ids in (self.text_id, self.text_id_b):
            if ids is not None:
                for start in range(0, len(ids), PIECE):
                    digest.update(text_hashes[ids[start : start + PIECE]].tobytes())
        if self.negatives is not None:
            digest.update(f"negatives {self.negatives.shape[1]}".encode())
            for start in range(0, len(self), PIECE):
                ids = self.negatives[start : start + PIECE]
                digest.update(np.where((ids == NO_TEXT)[..., None], 0, text_hashes[ids]).astype(np.uint8).tobytes())
        if self.label is not None:
            digest.update(str(self.label.dtype.kind).encode() + self.label.tobytes())
        return digest.hexdigest()

    def save(self, path: Path, about: dict[str, Any] | None = None) -> ColumnFile:
        """Write the set atomically, `about` in the file's head; returns what the manifest says of the file."""
        columns = {name: getattr(self, name) for name in KINDS}
        present = {name: column for name, column in columns.items() if column is not None}
        entry = write_columns(path, present, {"kind": "examples", **(about or {})})
        return replace(entry, file=f"{path.parent.name}/{path.name}")

    @classmethod
    def load(cls, folder: Place, entry: ColumnFile, num_texts: int, remedy: str = EXTRACT_AGAIN) -> ExampleSet:
        """Read a set; raises FaultError, with a remedy, where it is damaged or names texts that the plan lacks."""
        file = ColumnReader(folder, entry, remedy)
        columns = entry.columns
        required, there = {"index", "text_id"}, set(columns)
        shape = file.shape("index")
        fits = all(
            column.shape[:1] == shape
            and len(column.shape) == (2 if name == "negatives" else 1)
            and column.dtype in KINDS.get(name, ())
            for name, column in columns.items()
        )
        if not (required <= there and fits and len(shape) == 1):
            raise file.damage("is damaged: its columns do not fit together")
        found = {name: file.read(name) for name in KINDS if name in file}
        file.close()
        for name in IDS:
            ids = found.get(name)
            least = NO_TEXT if name == "negatives" else 0
            if ids is not None and ids.size and not (ids.min() >= least and ids.max() < num_texts):
                raise file.damage("is damaged: it names texts that the plan does not have")
        more = (found.get(name) for name in ("text_id_b", "label", "negatives"))
        return cls(found["index"], found["text_id"], *more)
