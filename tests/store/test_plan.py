from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import FaultError
from pipeline.store.example_set import ExampleSet
from pipeline.store.files import file_sha256
from pipeline.store.plan import Plan, text_hash

LENGTHS, SHARDS = [3, 1, 5, 2], [0, 0, 1, 1]


@pytest.mark.parametrize("texts", [True, False])
def test_a_saved_plan_loads_the_same(make_plan: Callable[..., Plan], tmp_path: Path, texts: bool) -> None:
    plan = make_plan(LENGTHS, SHARDS, texts)
    digest = plan.save(tmp_path / "plan.h5")
    loaded = Plan.load(tmp_path / "plan.h5")
    for name in ("hash", "length", "shard", "row", "truncated", "token_ids", "token_kind"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(plan, name), err_msg=name)
        assert getattr(loaded, name).dtype == getattr(plan, name).dtype
    assert (loaded.texts, loaded.vocabulary) == (plan.texts, plan.vocabulary)
    assert digest == file_sha256(tmp_path / "plan.h5")


def test_an_empty_plan_loads_too(tmp_path: Path) -> None:
    Plan.empty(keep_texts=True).save(tmp_path / "plan.h5")
    loaded = Plan.load(tmp_path / "plan.h5")
    assert (len(loaded), loaded.num_shards, loaded.texts) == (0, 0, [])


def test_a_plan_without_texts_holds_no_text(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan(LENGTHS, SHARDS, texts=False)
    plan.save(tmp_path / "plan.h5")
    assert Plan.load(tmp_path / "plan.h5").name_text(1) == f"text 1 (hash {plan.hash[1].tobytes().hex()})"


def test_ranges_of_texts_and_tokens(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(LENGTHS, SHARDS)
    assert [plan.shard_range(number) for number in range(plan.num_shards)] == [(0, 2), (2, 4)]
    assert [len(plan.tokens_of(number)) for number in range(4)] == LENGTHS
    assert plan.tokens_of(2).tolist() == [4, 5, 6, 0, 1]


def test_the_hash_of_a_text_never_changes() -> None:
    # A cache written today must know its texts for ever.
    assert text_hash("naïve 文").hex() == "80b42b9752a31e79b958b01577d25fc3"


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("length", [3, 0, 5, 3]),  # a text without tokens
        ("length", [3, 1, 5, 3]),  # more tokens than there are
        ("shard", [1, 1, 2, 2]),
        ("shard", [0, 0, 2, 2]),
        ("shard", [0, 1, 0, 1]),
        ("shard", [0, 0, 1]),
        ("row", [0, 1, 1, 0]),
        ("token_kind", [0]),
        ("texts", ["one"]),
    ],
)
def test_columns_that_do_not_fit_together(
    make_plan: Callable[..., Plan], tmp_path: Path, column: str, values: list
) -> None:
    plan = make_plan(LENGTHS, SHARDS)
    values = values if column == "texts" else np.asarray(values, dtype=getattr(plan, column).dtype)
    replace(plan, **{column: values}).save(tmp_path / "plan.h5")
    with pytest.raises(FaultError, match=r"plan\.h5 is damaged"):
        Plan.load(tmp_path / "plan.h5")


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all" * 100])
def test_a_plan_that_is_no_hdf5(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan.h5").write_bytes(content)
    with pytest.raises(FaultError, match=r"plan\.h5 cannot be read"):
        Plan.load(tmp_path / "plan.h5")


@pytest.mark.parametrize("label", [[1, 0, 1], [0.5, -1.0, 2.25], None])
@pytest.mark.parametrize("pairs", [True, False])
def test_a_saved_example_set_loads_the_same(tmp_path: Path, pairs: bool, label: list | None) -> None:
    examples = ExampleSet(
        np.asarray([7, 3, 9]),
        np.asarray([0, 2, 2]),
        np.asarray([1, 1, 0]) if pairs else None,
        None if label is None else np.asarray(label),
    )
    digest = examples.save(tmp_path / "train.h5")
    loaded = ExampleSet.load(tmp_path / "train.h5", num_texts=3)
    for name in ("index", "text_id", "text_id_b", "label"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(examples, name), err_msg=name)
    assert label is None or loaded.label.dtype == examples.label.dtype
    assert digest == file_sha256(tmp_path / "train.h5")


def test_an_example_set_must_fit_its_plan(tmp_path: Path) -> None:
    ids = np.asarray([0, 5])
    ExampleSet(np.arange(2), ids, None, None).save(tmp_path / "train.h5")
    with pytest.raises(FaultError, match=r"train\.h5 is damaged: it names texts"):
        ExampleSet.load(tmp_path / "train.h5", num_texts=5)
    ExampleSet(np.arange(2), ids - 1, None, None).save(tmp_path / "train.h5")
    with pytest.raises(FaultError, match="names texts"):
        ExampleSet.load(tmp_path / "train.h5", num_texts=5)
    ExampleSet(np.arange(2), ids, None, np.arange(3)).save(tmp_path / "train.h5")
    with pytest.raises(FaultError, match="columns do not fit"):
        ExampleSet.load(tmp_path / "train.h5", num_texts=6)


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
    print_ = examples.fingerprint(plan.hash)
    assert turned.fingerprint(plan.hash[[0, 2, 1, 3]]) == print_  # other ids, the same texts
    assert turned.fingerprint(plan.hash) != print_
    assert replace(examples, label=np.asarray([1, 1])).fingerprint(plan.hash) != print_
    assert replace(examples, index=np.asarray([0, 2])).fingerprint(plan.hash) != print_
    assert replace(examples, text_id_b=np.asarray([1, 2])).fingerprint(plan.hash) != print_


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("name", ["plan.h5", "train.h5"])
def test_a_failed_write_keeps_the_old_file(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    path = tmp_path / name
    thing = make_plan(LENGTHS, SHARDS) if name == "plan.h5" else ExampleSet(np.arange(2), np.arange(2), None, None)
    digest = thing.save(path)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(FaultError, match=rf"cannot write .*{name}: No space left"):
        thing.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert file_sha256(path) == digest
