"""The real SST-2, as the tests take rows of it."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from tests import pages

CLASSES = ("negative", "positive")


def sst2_folder() -> Path:
    """The folder of its files; the test is skipped where there is none."""
    folder = Path(os.environ.get("GLUE_DIR") or pages.ROOT.parent / "shared/data/glue") / "SST-2"
    if not (folder / "train.tsv").is_file():
        pytest.skip(f"needs SST-2 in the official GLUE layout, and {folder} is not there: set GLUE_DIR")
    return folder


def read_sst2(path: Path, rows: slice) -> list[list[str]]:
    """Text and class of some rows; their quotes are text."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [[text, CLASSES[int(label)]] for text, label in (line.split("\t") for line in lines[rows])]


def write_csv(path: Path, head: list[str], rows: list[list[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
