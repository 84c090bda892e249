"""What every source of this room hands on: examples in splits, and the task they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.store.task_spec import TaskSpec


class Example(NamedTuple):
    """One labelled text or pair of texts.

    Attributes:
        index: the row in the source, counted from 0; in GLUE's test files this is their `index` column.
        text: the (first) text.
        text_b: the second text of a pair, else None.
        label: an int index into the task's classes, a float score, or None where the source has no label.
    """

    index: int
    text: str
    text_b: str | None
    label: int | float | None


@dataclass
class Split:
    """The examples of one split, in the order of their source.

    Attributes:
        name: "train", "validation", "test", and for MNLI "validation_mismatched" and "test_mismatched".
        examples: the examples.
        source: where they come from, for people to read: "MRPC/train.tsv", "nyu-mll/glue mrpc train".
    """

    name: str
    examples: list[Example]
    source: str


@dataclass
class Corpus:
    """A task's spec and its splits by name."""

    spec: TaskSpec
    splits: dict[str, Split]
