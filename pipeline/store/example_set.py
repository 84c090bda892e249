"""Example sets: which texts belong together under which label. Small, any number over the same states."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import FaultError
from pipeline.store.files import one_line, write_hdf5


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
        digest.update(text_hashes[self.text_id].tobytes())
        if self.text_id_b is not None:
            digest.update(text_hashes[self.text_id_b].tobytes())
        if self.label is not None:
            digest.update(str(self.label.dtype.kind).encode() + self.label.tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> str:
        """Write the set to HDF5 atomically; returns the file's SHA-256."""

        def fill(file: h5py.File) -> None:
            for name in ("index", "text_id", "text_id_b", "label"):
                column = getattr(self, name)
                if column is not None:
                    file.create_dataset(name, data=column)

        return write_hdf5(path, fill)

    @classmethod
    def load(cls, path: Path, num_texts: int) -> ExampleSet:
        """Read a set; raises FaultError where it is unreadable or names texts that the plan lacks."""
        try:
            with h5py.File(path, "r") as file:
                columns = [
                    file[name][()] if name in file else None for name in ("index", "text_id", "text_id_b", "label")
                ]
        except (OSError, RuntimeError) as error:
            raise FaultError(f"{path} cannot be read: {one_line(error)}; extract again") from None
        index, text_id, text_id_b, label = columns
        ids = [column for column in (text_id, text_id_b) if column is not None]
        present = [column for column in columns if column is not None]
        if index is None or text_id is None or any(column.shape != index.shape for column in present):
            raise FaultError(f"{path} is damaged: its columns do not fit together; extract again")
        if any(len(column) and not (column.min() >= 0 and column.max() < num_texts) for column in ids):
            raise FaultError(f"{path} is damaged: it names texts that the plan does not have; extract again")
        return cls(index, text_id, text_id_b, label)
