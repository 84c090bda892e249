"""Example sets of pairs without labels: their negatives are kept, checked, cut and joined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glot.errors import FaultError
from glot.store.combine import merge_caches, subset_cache
from glot.store.example_set import ExampleSet
from glot.store.layout import ExamplesEntry, Manifest
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

PAIRS = ExampleSet(
    np.arange(3), np.asarray([2, 0, 2]), np.asarray([1, 3, 4]), None, np.asarray([[5, 6], [-1, -1], [3, -1]])
)
TASK = TaskSpec("pairs", 2, "contrastive", metrics=("mrr@10",))


def add(folder: Path, examples: ExampleSet) -> None:
    """Put a set into a made cache in place of its own."""
    cache = Cache(folder)
    manifest, data = cache.manifest, examples.save(folder / "examples/pairs.h5")
    print_ = examples.fingerprint(cache.plan.hashes())
    entry = ExamplesEntry(print_, len(examples), 0, False, "made", TASK, data)
    Manifest("test", manifest.states, manifest.plan, {"train": entry}, manifest.shards).save(folder)


def texts_of(folder: Path) -> list[list[str]]:
    """The texts of each example, its negatives last."""
    cache = Cache(folder)
    texts, examples = cache.plan.texts(0, len(cache.plan)), cache.examples("train")
    rows = np.stack(examples.text_columns, axis=1).tolist()
    return [[texts[number] for number in row if number >= 0] for row in rows]


def test_negatives_come_back(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    entry = PAIRS.save(tmp_path / "examples/train.h5")
    assert entry.columns["negatives"].shape == (3, 2)
    loaded = ExampleSet.load(tmp_path, entry, num_texts=7)
    np.testing.assert_array_equal(loaded.negatives, PAIRS.negatives)
    assert loaded.label is None
    assert sorted(loaded.used_ids().tolist()) == [0, 1, 2, 2, 3, 3, 4, 5, 6]
    assert loaded.subset(np.asarray([2])).negatives.tolist() == [[3, -1]]
    with pytest.raises(FaultError, match="it names texts"):
        ExampleSet.load(tmp_path, entry, num_texts=6)
    for wrong, message in [(PAIRS.negatives - 1, "names texts"), (np.arange(3), "columns do not fit")]:
        entry = replace(PAIRS, negatives=wrong).save(tmp_path / "examples/train.h5")
        with pytest.raises(FaultError, match=message):
            ExampleSet.load(tmp_path, entry, num_texts=7)


def test_a_set_without_negatives_has_the_file_it_always_had(tmp_path: Path) -> None:
    entry = replace(PAIRS, negatives=None, label=np.arange(3)).save(tmp_path / "train.h5")
    assert set(entry.columns) == {"index", "text_id", "text_id_b", "label"}


def test_the_fingerprint_is_of_the_negatives_texts() -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (7, 16)).astype(np.uint8)
    known = PAIRS.fingerprint(hashes)
    turn = np.asarray([0, 1, 2, 3, 4, 6, 5])
    assert PAIRS.renumbered(turn).fingerprint(hashes[turn]) == known
    assert PAIRS.renumbered(turn).fingerprint(hashes) != known
    others = [None, PAIRS.negatives[:, :1], np.where(PAIRS.negatives == 3, -1, PAIRS.negatives)]
    assert len({known, *(replace(PAIRS, negatives=item).fingerprint(hashes) for item in others)}) == 4


def test_a_cache_of_pairs_is_cut_and_joined(make_cache: Callable, tmp_path: Path) -> None:
    source = make_cache("source").folder
    add(source, PAIRS)
    assert Cache(source).examples_entry("train").is_trainable
    assert Cache(source).examples_entry("train").texts_each == 4
    before = texts_of(source)
    subset_cache(source, tmp_path / "cut", limit=2, verify=True)
    assert texts_of(tmp_path / "cut") == before[:2]

    other = make_cache("other", lengths=(3, 1, 5, 2, 9, 4, 1, 2), shards=(0, 0, 0, 1, 1, 2, 2, 2)).folder
    add(other, ExampleSet(np.asarray([8]), np.asarray([7]), np.asarray([0]), None))
    merge_caches([tmp_path / "cut", other], tmp_path / "joined", verify=True)
    assert texts_of(tmp_path / "joined") == before[:2] + texts_of(other)


def test_pairs_have_two_texts(make_cache: Callable) -> None:
    folder = make_cache().folder
    add(folder, PAIRS)
    path = folder / "manifest.json"
    for old, new in [('"num_texts": 2', '"num_texts": 1'), ('"contrastive"', '"contrast"')]:
        text = path.read_text()
        path.write_text(text.replace(old, new))
        with pytest.raises(FaultError, match="damaged"):
            Cache(folder)
        path.write_text(text)
    assert len(Cache(folder).examples("train")) == 3
