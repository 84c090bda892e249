"""Texts and labels that lie in memory, as rows like those of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from glot.corpus.rows import Rows
from glot.registry.tasks import Columns

SOURCE = "memory"


class MemoryRows(Rows):
    """n texts, or pairs of them, and n labels."""

    source, label_needed, bad_rows, same_columns, skippable = SOURCE, True, "stop", True, False

    def __init__(self, texts: Sequence[str], texts_b: Sequence[str] | None, labels: Sequence[Any]) -> None:
        self.columns = Columns("text", None if texts_b is None else "text_b", "label")
        self._texts, self._texts_b, self._labels = texts, texts_b, labels

    def cells(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """See `Rows`."""
        for index, (text, label) in enumerate(zip(self._texts, self._labels, strict=True)):
            cells = {"text": text, "label": label}
            if self._texts_b is not None:
                cells["text_b"] = self._texts_b[index]
            yield f"labels[{index}]", cells
