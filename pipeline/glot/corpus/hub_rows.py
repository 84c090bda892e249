"""Anybody's dataset on the hub: its splits by their names, each read row by row like a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from glot.corpus.examples import SPLIT_NAMES, UnfitRow
from glot.corpus.hub import class_index, each_row, load_dataset
from glot.corpus.labels import ONE_LABEL
from glot.corpus.request import HubDataset
from glot.corpus.rows import Rows
from glot.errors import UsageError
from glot.registry.tasks import Columns

ELSEWHERE = "check the name, or pass a file of your own with --data"


class HubRows(Rows):
    """One split of a dataset, streamed anew each time it is iterated.

    Where the dataset names its classes, a label is such a name, and -1 (no label) is None.
    """

    same_columns = True

    def __init__(
        self, stream: Iterable[dict], source: str, columns: Columns, label_needed: bool, bad_rows: str
    ) -> None:
        self.stream, self.source = stream, source
        self.columns, self.label_needed, self.bad_rows = columns, label_needed, bad_rows
        # None where the format of the files does not say.
        feature = (getattr(stream, "features", None) or {}).get(columns.label)
        if hasattr(feature, "feature") or isinstance(feature, list):
            raise UsageError(
                f"{source}: column {columns.label!r} holds lists, and an example has one label: {ONE_LABEL}"
            )
        self.classes = tuple(getattr(feature, "names", None) or ())

    def cells(self) -> Iterator[tuple[str, dict[str, Any] | UnfitRow]]:
        """See `Rows`."""
        for number, row in enumerate(each_row(self.stream, self.source, ELSEWHERE), start=1):
            where = f"{self.source} row {number}"
            yield where, self._named(row, where) if self.classes and self.columns.label in row else row

    def _named(self, row: dict, where: str) -> dict | UnfitRow:
        try:
            label = class_index(row[self.columns.label], self.classes, where)
        except UnfitRow as error:
            return error
        return {**row, self.columns.label: None if label is None else self.classes[label]}


def open_splits(dataset: HubDataset, columns: Columns, bad_rows: str = "stop") -> dict[str, HubRows]:
    """The splits of a dataset that are called train, validation (or valid, val, dev) and test; test may lack labels.

    Raises:
        UsageError: `datasets` is not installed, the hub cannot be reached or has no such data, there is no train
            split, or the label column holds lists.
    """
    found = load_dataset(str(dataset), ELSEWHERE, dataset.name, dataset.config)
    if not isinstance(found, Mapping) or "train" not in found:
        there = ", ".join(found) if isinstance(found, Mapping) else "none"
        raise UsageError(f"{dataset} has no split train (its splits: {there}): pass a file of your own with --data")
    splits = {}
    for split, names in SPLIT_NAMES.items():
        name = next((name for name in names if name in found), None)
        if name is not None:
            splits[split] = HubRows(found[name], f"{dataset} {name}", columns, split != "test", bad_rows)
    return splits
