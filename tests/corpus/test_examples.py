from __future__ import annotations

import gc
import io
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glot.corpus.examples import (
    BadRows,
    Example,
    ExampleTable,
    Split,
    UnfitRow,
    label_column,
    labels_or_nan,
    pack,
    take,
)
from glot.corpus.spool import Spool
from glot.errors import FaultError, UsageError

TEXT = st.text(st.characters(exclude_categories=())) | st.sampled_from(["", "\ud800", "a\x00b", "ß" * 300])
LABELS = {
    "classes": st.integers(0, 2**53) | st.none(),
    "scores": st.floats(allow_nan=False),
    "none": st.none(),
}


def rows_of(kind: str) -> st.SearchStrategy[list[Example]]:
    return st.lists(st.builds(Example, st.integers(0, 2**62), TEXT, TEXT | st.none(), LABELS[kind]), max_size=40)


ROWS = st.sampled_from(sorted(LABELS)).flatmap(rows_of)


def exactly(examples: object) -> list:
    """Examples with the types of their labels, for 1 == 1.0."""
    return [(*example, type(example.label)) for example in examples]


@settings(deadline=None)
@given(ROWS, st.sampled_from([0, 50, 10**6]))
def test_a_table_gives_back_what_it_took(rows: list[Example], in_memory: int) -> None:
    table = ExampleTable(rows, Spool(in_memory))
    assert exactly(table) == exactly(rows)
    assert exactly(table[place] for place in range(-len(rows), len(rows))) == exactly([*rows, *rows])
    assert table == rows
    assert rows == table
    assert len(table) == len(rows)
    assert np.array_equal(table.labels, labels_or_nan(rows), equal_nan=True)


@settings(deadline=None)
@given(ROWS, st.data())
def test_views_follow_their_positions(rows: list[Example], data: st.DataObject) -> None:
    table = ExampleTable(rows, Spool(30))
    places = st.lists(st.integers(0, len(rows) - 1), max_size=60) if rows else st.just([])
    chosen = data.draw(places)
    view = table.take(np.asarray(chosen, dtype=np.int64))
    expected = [rows[place] for place in chosen]
    assert exactly(view) == exactly(expected)
    assert exactly(view[place] for place in range(-len(view), len(view))) == exactly([*expected, *expected])
    assert np.array_equal(view.labels, labels_or_nan(expected), equal_nan=True)
    assert exactly(view.take(np.arange(len(view))[::-2])) == exactly(expected[::-2])
    assert exactly(view[1:-1:3]) == exactly(expected[1:-1:3])
    assert take(table, np.asarray(chosen, dtype=np.int64)) == take(rows, np.asarray(chosen, dtype=np.int64))
    texts = [(row.index, row.text, row.text_b, row.negatives) for row in expected]
    for packed in (pack(table, chosen), pack(rows, chosen), pack(view, range(len(view)))):
        assert list(pickle.loads(pickle.dumps(packed))) == texts


@settings(deadline=None)
@given(ROWS)
def test_labels_are_one_column(rows: list[Example]) -> None:
    labels = [row.label for row in rows]
    for column in (label_column(rows), label_column(ExampleTable(rows)), label_column(ExampleTable(rows)[:])):
        if None in labels:
            assert column is None
        elif column is not None:
            assert column.tolist() == labels
            assert column.dtype == (np.float64 if any(isinstance(label, float) for label in labels) else np.int64)


def test_rows_far_apart_and_blocks_longer_than_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Example(i, chr(97 + i % 26) * 20_000, None, i % 2) for i in range(1500)]  # 30 MB, 20 MB a block
    table = ExampleTable(rows, Spool(1 << 20))
    sizes = []
    read = Spool.read
    monkeypatch.setattr(Spool, "read", lambda spool, a, b: sizes.append(b - a) or read(spool, a, b))
    assert list(table) == rows
    assert list(table.take([1499, 0, 700])) == [rows[1499], rows[0], rows[700]]
    assert max(sizes) <= 4 << 20
    sizes.clear()
    assert list(table.take(range(3, 300, 3))) == rows[3:300:3][:99]
    assert len(sizes) == 99
    sizes.clear()
    assert list(table.take(range(3, 150, 3))) == rows[3:150:3]
    assert len(sizes) == 1


def test_appending_after_reading() -> None:
    table = ExampleTable([Example(0, "a", None, 0)], Spool(0))
    view = table.take([0])
    assert table.labels.tolist() == view.labels.tolist() == [0.0]
    table.append(Example(5, "b", "c", 1))
    assert list(table) == [Example(0, "a", None, 0), Example(5, "b", "c", 1)]
    assert list(view) == [Example(0, "a", None, 0)]


def test_a_table_is_like_a_list() -> None:
    table = ExampleTable([Example(0, "a", None, 0), Example(1, "b", None, 1)])
    assert table != [Example(0, "a", None, 0)]
    assert table != [Example(0, "a", None, 0), Example(1, "b", None, 0)]
    assert Split("train", table, "here") == Split("train", list(table), "here")
    assert table + table == [*table, *table]
    assert table[np.int64(1)] == Example(1, "b", None, 1)
    for place in (2, -3):
        with pytest.raises(IndexError):
            table[place]


def test_few_bytes_stay_in_memory_and_the_file_goes_with_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc/self/fd to count open files in")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where no other process puts anything
    gc.collect()
    before = open_files()
    small = ExampleTable([Example(0, "x" * 100, None, 0)])
    assert open_files() == before
    large = ExampleTable([Example(0, "x" * 100, None, 0)], Spool(99))
    assert open_files() == before + 1
    assert os.listdir(tmp_path) == []  # it has no name
    view = large.take([0])
    del large
    assert view[0].text == small[0].text
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        del view
        gc.collect()
    assert not complaints
    assert open_files() == before


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: io.FileIO("/dev/full", "r+"))
    with pytest.raises(FaultError, match=r"cannot keep the texts in .* \(No space left on device\): free some space"):
        ExampleTable([Example(0, "x", None, 0)], Spool(0))


def test_bad_rows() -> None:
    with pytest.raises(UsageError, match=r"unknown way with bad rows 'warn': choose --on-bad-row stop\|skip"):
        BadRows("warn")
    with pytest.raises(UsageError, match="a line 1"):
        BadRows("stop").meet(UnfitRow("a line 1"))
    bad = BadRows("skip")
    bad.meet(UnfitRow("a line 1"))
    bad.meet(UnfitRow("a line 3"))
    assert (bad.count, bad.first) == (2, "a line 1")


_MEASURE = """
import random, re, sys
sys.path[:0] = sys.argv[1:]
import numpy as np
from pathlib import Path
from glot.corpus.examples import Example, ExampleTable, Split
from glot.corpus.load import _hold_out
from glot.store.task_spec import TaskSpec

def held():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def example(i):
    return Example(i, f"text {i} " + "word " * 100, None, i * 7 % 2)

before = held()
table = ExampleTable(example(i) for i in range(300_000))  # 153 MB of text
train, validation = _hold_out(TaskSpec("t", 1, "classes", ("a", "b")), Split("train", table, "t"))
rows = sum(1 for _ in train.examples) + sum(1 for _ in validation.examples)
grown = held() - before
assert all(table[i] == example(i) for i in random.Random(0).choices(range(300_000), k=50))
print(rows, grown)
"""


def test_memory_stays_small() -> None:
    if "RssAnon" not in (Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""):
        pytest.skip("this system does not say how much anonymous memory a process holds")
    run = [sys.executable, "-c", _MEASURE, *sys.path]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    rows, grown = done.stdout.split()
    assert int(rows) == 300_000
    assert float(grown) < 60  # as a list: 200
