from __future__ import annotations

import errno
import itertools
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glot.errors import FaultError
from glot.store.column_reader import ColumnReader
from glot.store.columns import ColumnFile, strings_columns, write_columns
from glot.store.example_set import ExampleSet
from glot.store.plan import CONTENT, SPECIAL, Plan, PlanWriter, text_hash

LENGTHS, SHARDS = [3, 1, 5, 2], [0, 0, 1, 1]
TEXTS = ["", "text 1 — naïve 文 🙂", "text 2 — naïve 文 🙂", "text 3 — naïve 文 🙂"]  # conftest's


@pytest.mark.parametrize("texts", [True, False])
def test_a_written_plan_reads_the_same(make_plan: Callable[..., Plan], texts: bool) -> None:
    plan = make_plan(LENGTHS, SHARDS, texts)
    assert (len(plan), plan.tokens, plan.num_shards, plan.has_texts) == (4, 11, 2, texts)
    assert plan.length.tolist() == LENGTHS
    assert [row.tobytes() for row in plan.hashes()] == [text_hash(text) for text in TEXTS]
    assert plan.truncated(0, 4).tolist() == [0, 0, 0, 0]
    assert plan.token_ids(0, 4).tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]
    kinds = [SPECIAL, CONTENT, CONTENT, SPECIAL, SPECIAL, CONTENT, CONTENT, CONTENT, CONTENT, SPECIAL, CONTENT]
    assert plan.token_kinds(0, 4).tolist() == kinds
    assert plan.vocabulary == {number: f"Ġ{number}é" if number else "" for number in range(7)}
    assert not texts or plan.texts(0, 4) == TEXTS


def test_parts_of_a_plan(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(LENGTHS, SHARDS)
    assert [plan.shard_range(number) for number in range(plan.num_shards)] == [(0, 2), (2, 4)]
    assert [plan.shard_tokens(number) for number in range(plan.num_shards)] == [4, 7]
    assert plan.shard_of(np.asarray([3, 0, 1, 2, 2])).tolist() == [1, 0, 0, 1, 1]
    for first, stop in itertools.combinations_with_replacement(range(5), 2):
        assert plan.texts(first, stop) == TEXTS[first:stop]
        tokens = slice(sum(LENGTHS[:first]), sum(LENGTHS[:stop]))
        np.testing.assert_array_equal(plan.token_ids(first, stop), plan.token_ids(0, 4)[tokens])
        np.testing.assert_array_equal(plan.token_kinds(first, stop), plan.token_kinds(0, 4)[tokens])
        np.testing.assert_array_equal(plan.hashes(first, stop), plan.hashes()[first:stop])


def test_an_empty_plan_reads_too(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan([], [])
    assert (len(plan), plan.tokens, plan.num_shards) == (0, 0, 0)
    assert (plan.texts(0, 0), plan.vocabulary, plan.hashes().shape) == ([], {}, (0, 16))


def test_a_plan_without_texts_holds_no_text(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan(LENGTHS, SHARDS, texts=False)
    assert plan.name_text(1) == f"text 1 (hash {text_hash(TEXTS[1]).hex()})"
    assert "naïve".encode() not in (tmp_path / "plan.h5").read_bytes()
    with pytest.raises(FaultError, match=r"plan\.h5 has no column texts"):
        plan.texts(0, 1)


def test_a_text_is_named_by_its_beginning(make_plan: Callable[..., Plan]) -> None:
    assert make_plan(LENGTHS, SHARDS).name_text(2) == "text 2 ('text 2 — naïve 文 🙂')"


def test_the_hash_of_a_text_never_changes() -> None:
    # A cache written today must know its texts for ever.
    assert text_hash("naïve 文").hex() == "80b42b9752a31e79b958b01577d25fc3"


def test_a_shards_digest_is_of_its_texts_and_their_order(make_plan: Callable[..., Plan], write_plan: Callable) -> None:
    plan = make_plan(LENGTHS, SHARDS)
    digests = [plan.shard_digest(number) for number in range(2)]
    assert digests[0] != digests[1]

    def other(name: str, texts: list[str], lengths: list[int]) -> str:
        folder = plan.file.path.parent / name
        folder.mkdir()
        return Plan(folder, write_plan(folder, texts, lengths, [2])).shard_digest(0)

    assert other("same", [*TEXTS[:2], "x"], LENGTHS[:3]) == digests[0]  # what comes after does not matter
    assert other("turned", [TEXTS[1], TEXTS[0], "x"], [1, 3, 5]) != digests[0]
    assert other("longer", [*TEXTS[:2], "x"], [4, 1, 5]) != digests[0]


# Damage


def plan_columns() -> dict[str, np.ndarray]:
    columns = {
        "hash": np.frombuffer(b"".join(map(text_hash, TEXTS)), dtype="|u1").reshape(-1, 16),
        "length": np.asarray(LENGTHS, dtype="<u4"),
        "truncated": np.zeros(4, dtype="|u1"),
        "shard_start": np.asarray([0, 2, 4], dtype="<u8"),
        "token_ids": np.arange(11, dtype="<u2") % 7,
        "token_kind": np.zeros(11, dtype="|u1"),
        "vocabulary/ids": np.arange(7, dtype="<u4"),
    }
    columns |= strings_columns([text.encode() for text in TEXTS], "texts")
    return columns | strings_columns([b"piece"] * 7, "vocabulary")


def read_all(folder: Path, entry: ColumnFile) -> list[str]:
    plan = Plan(folder, entry)
    assert len(plan.vocabulary) == 7
    return plan.texts(0, 4)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("length", [3, 0, 5, 3]),  # a text without tokens
        ("length", [3, 1, 5, 3]),  # more tokens than there are
        ("length", [3, 1, 7]),
        ("shard_start", [0, 2]),
        ("shard_start", [0, 2, 5]),
        ("shard_start", [1, 2, 4]),
        ("shard_start", [0, 2, 2, 4]),
        ("shard_start", [0, 3, 2, 4]),
        ("shard_start", [2**64 - 1, 2, 4]),
        ("shard_start", []),
        ("truncated", [0]),
        ("token_kind", [0]),
        ("token_ids", [0] * 12),
        ("hash", [[0] * 16] * 3),
        ("hash", [[0] * 15] * 4),
        ("texts/offsets", [0, 1]),
        ("texts/offsets", [0, 5, 2, 5, 5]),
        ("texts/offsets", [0, 5, 5, 5, 10**6]),
        ("texts/offsets", [0, 8, 8, 8, 8]),  # within a character
        ("texts/bytes", [0xFF] * 75),
        ("vocabulary/offsets", [0, 5]),
        ("vocabulary/ids", [*range(8)]),
    ],
)
def test_columns_that_do_not_fit_together(tmp_path: Path, column: str, values: list) -> None:
    columns = plan_columns()
    assert read_all(tmp_path, write_columns(tmp_path / "plan.h5", columns)) == TEXTS
    columns[column] = np.asarray(values, dtype=columns[column].dtype)
    entry = write_columns(tmp_path / "plan.h5", columns)
    with pytest.raises(
        FaultError, match=r"plan\.h5 (is damaged|has no rows).*run the same `glot extract` into .* again"
    ):
        read_all(tmp_path, entry)


@pytest.mark.parametrize("column", ["hash", "length", "shard_start", "token_ids", "texts/bytes", "vocabulary/ids"])
def test_a_plan_that_lacks_a_column(tmp_path: Path, column: str) -> None:
    columns = plan_columns()
    del columns[column]
    entry = write_columns(tmp_path / "plan.h5", columns)
    with pytest.raises(FaultError, match=rf"plan\.h5 has no column {column}"):
        read_all(tmp_path, entry)


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all" * 100])
def test_a_plan_that_is_no_hdf5(make_plan: Callable[..., Plan], tmp_path: Path, content: bytes) -> None:
    entry = make_plan(LENGTHS, SHARDS).file.entry
    (tmp_path / "plan.h5").write_bytes(content)
    with pytest.raises(FaultError, match=rf"plan\.h5 has {len(content)} bytes, the manifest says"):
        Plan(tmp_path, entry)
    (tmp_path / "plan.h5").write_bytes((content * entry.size)[: entry.size].ljust(entry.size, b"x"))
    with pytest.raises(FaultError, match=r"plan\.h5 is damaged"):
        Plan(tmp_path, entry)


# Building


def add(writer: PlanWriter, lengths: list[int], token_id: int = 5, prefix: str = "") -> None:
    count, tokens = len(lengths), sum(lengths)
    texts = [f"{prefix}{number} é" for number in range(count)]
    kinds = np.zeros(tokens, dtype=np.uint8)
    ids, truncated = np.full(tokens, token_id), np.zeros(count)
    writer.add(np.asarray(lengths), b"".join(map(text_hash, texts)), ids, kinds, truncated, [t.encode() for t in texts])


@given(st.lists(st.lists(st.integers(1, 30), max_size=6), max_size=4), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_shards_are_filled_one_after_the_other_and_only_at_the_end(batches: list[list[int]], room: int) -> None:
    """Each growth of a plan leaves the old shards as they are."""
    with tempfile.TemporaryDirectory() as name:
        folder, plan = Path(name), None
        for number, lengths in enumerate(batches):
            writer = PlanWriter(folder, keep_texts=True)
            if plan is not None:
                writer.copy(plan)
            add(writer, lengths, prefix=f"{number}-")
            grown = Plan(folder, writer.finish(folder / f"plan-{number}.h5", room))
            writer.close()
            old = 0 if plan is None else plan.num_shards
            for shard in range(old):
                assert grown.shard_range(shard) == plan.shard_range(shard)
                assert grown.shard_digest(shard) == plan.shard_digest(shard)
            sizes = [grown.shard_tokens(shard) for shard in range(old, grown.num_shards)]
            starts = [grown.shard_range(shard)[0] for shard in range(old, grown.num_shards)]
            assert all(grown.length[start] == size for size, start in zip(sizes, starts, strict=True) if size > room)
            for shard, size in enumerate(sizes[:-1], old):  # no room was left for the next text
                assert size + grown.length[grown.shard_range(shard + 1)[0]] > room
            if plan is not None:
                assert grown.texts(0, len(plan)) == plan.texts(0, len(plan))
                np.testing.assert_array_equal(grown.token_ids(0, len(plan)), plan.token_ids(0, len(plan)))
            plan = grown


@pytest.mark.parametrize(("largest", "dtype"), [(2**16 - 1, "<u2"), (2**16, "<u4"), (200_000, "<u4")])
def test_token_ids_take_no_more_room_than_they_need(tmp_path: Path, largest: int, dtype: str) -> None:
    writer = PlanWriter(tmp_path, keep_texts=False)
    add(writer, [2, 1], token_id=7)
    add(writer, [1], token_id=largest, prefix="x")
    assert writer.missing_vocabulary() == [7, largest]
    writer.vocabulary = {7: "seven", largest: "last"}
    plan = Plan(tmp_path, writer.finish(tmp_path / "plan.h5", 10))
    assert plan.token_ids(0, 3).tolist() == [7, 7, 7, largest]
    assert plan.token_ids(0, 3).dtype == dtype
    assert plan.vocabulary == {7: "seven", largest: "last"}
    grown = PlanWriter(tmp_path, keep_texts=False)
    grown.copy(plan)
    assert grown.vocabulary == plan.vocabulary  # what is known of them comes along
    assert grown.missing_vocabulary() == []


def test_what_is_collected_leaves_nothing_behind(tmp_path: Path) -> None:
    writer = PlanWriter(tmp_path, keep_texts=True)
    add(writer, [3, 2])
    assert list(tmp_path.iterdir()) == []  # the temporary files have no names, so a killed run leaves none
    writer.close()


def test_a_disk_that_is_full_while_texts_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = PlanWriter(tmp_path, keep_texts=True)

    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(writer._spools, "token_ids", Full())
    with pytest.raises(FaultError, match=rf"cannot write {tmp_path}: No space left.*make room and run again"):
        add(writer, [3, 2])


# Example sets


@pytest.mark.parametrize("label", [[1, 0, 1], [0.5, -1.0, 2.25], None])
@pytest.mark.parametrize("pairs", [True, False])
def test_a_saved_example_set_loads_the_same(tmp_path: Path, pairs: bool, label: list | None) -> None:
    examples = ExampleSet(
        np.asarray([7, 3, 9]),
        np.asarray([0, 2, 2]),
        np.asarray([1, 1, 0]) if pairs else None,
        None if label is None else np.asarray(label),
    )
    (tmp_path / "examples").mkdir()
    entry = examples.save(tmp_path / "examples/train.h5")
    assert entry.file == "examples/train.h5"
    ColumnReader(tmp_path, entry, "").check_file()
    loaded = ExampleSet.load(tmp_path, entry, num_texts=3)
    for name in ("index", "text_id", "text_id_b", "label"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(examples, name), err_msg=name)
    assert label is None or loaded.label.dtype == examples.label.dtype


def test_an_empty_example_set_loads_too(tmp_path: Path) -> None:
    none = np.empty(0, dtype=np.int64)
    (tmp_path / "examples").mkdir()
    entry = ExampleSet(none, none, none, none).save(tmp_path / "examples/train.h5")
    assert len(ExampleSet.load(tmp_path, entry, num_texts=0)) == 0


def test_an_example_set_must_fit_its_plan(tmp_path: Path) -> None:
    ids = np.asarray([0, 5])
    (tmp_path / "examples").mkdir()

    def load(examples: ExampleSet, num_texts: int) -> ExampleSet:
        return ExampleSet.load(tmp_path, examples.save(tmp_path / "examples/train.h5"), num_texts)

    assert len(load(ExampleSet(np.arange(2), ids, None, None), 6)) == 2
    for wrong in (ids, ids - 1):
        with pytest.raises(FaultError, match=r"train\.h5 is damaged: it names texts.*`glot extract` again"):
            load(ExampleSet(np.arange(2), wrong, None, None), 5)
        with pytest.raises(FaultError, match="it names texts"):
            load(ExampleSet(np.arange(2), np.arange(2), wrong, None), 5)
    for wrong in (np.arange(3), np.arange(2, dtype=np.float32), np.zeros((2, 1), dtype=np.int64)):
        with pytest.raises(FaultError, match="columns do not fit"):
            load(ExampleSet(np.arange(2), ids, None, wrong), 6)


def test_a_subset_keeps_its_columns_together() -> None:
    examples = ExampleSet(np.asarray([7, 3, 9]), np.asarray([0, 1, 2]), np.asarray([3, 4, 5]), np.asarray([1, 0, 1]))
    chosen = examples.subset(np.asarray([2, 0]))
    assert [chosen.index.tolist(), chosen.text_id.tolist(), chosen.text_id_b.tolist(), chosen.label.tolist()] == [
        [9, 7],
        [2, 0],
        [5, 3],
        [1, 1],
    ]
    assert len(examples.subset(np.asarray([True, False, False]))) == 1


def test_the_fingerprint_is_of_the_data_not_of_its_numbers(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(LENGTHS, SHARDS)
    examples = ExampleSet(np.asarray([0, 1]), np.asarray([1, 2]), None, np.asarray([0, 1]))
    turned = ExampleSet(examples.index, np.asarray([2, 1]), None, examples.label)
    print_ = examples.fingerprint(plan.hashes())
    assert turned.fingerprint(plan.hashes()[[0, 2, 1, 3]]) == print_  # other ids, the same texts
    assert turned.fingerprint(plan.hashes()) != print_
    assert replace(examples, label=np.asarray([1, 1])).fingerprint(plan.hashes()) != print_
    assert replace(examples, index=np.asarray([0, 2])).fingerprint(plan.hashes()) != print_
    assert replace(examples, text_id_b=np.asarray([1, 2])).fingerprint(plan.hashes()) != print_


@pytest.mark.parametrize("call", ["pwrite", "fsync", "replace"])
@pytest.mark.parametrize("name", ["plan.h5", "train.h5"])
def test_a_failed_write_keeps_the_old_file(
    write_plan: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    def save() -> ColumnFile:
        if name == "plan.h5":
            return write_plan(tmp_path, TEXTS, LENGTHS, [2])
        return ExampleSet(np.arange(2), np.arange(2), None, None).save(tmp_path / name)

    entry = save()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(FaultError, match=rf"cannot write .*{name}: No space left"):
        save()
    assert [file.name for file in tmp_path.iterdir()] == [name]
    ColumnReader(tmp_path, replace(entry, file=name), "").check_file()
