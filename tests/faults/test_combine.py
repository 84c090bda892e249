"""Copies, parts and unions of caches hold what their sources hold."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glot.errors import FaultError, UsageError
from glot.store import combine
from glot.store.combine import copy_cache, merge_caches, subset_cache
from glot.store.layout import Manifest
from glot.store.plan import PlanWriter
from glot.store.reader import Cache
from glot.store.recover import recover_manifest
from glot.store.verify import verify_cache
from tests.faults import runs

pytestmark = pytest.mark.slow  # with the others of this folder a minute

OPTIONS: dict[str, Any] = {"layers": (0, 1, 2), "shard_bytes": 3 * runs.SHARD_BYTES}


def examples_of(folder: Path, name: str) -> list[tuple[int, int, str, bytes]]:
    """Row, label, text and fingerprint-free identity (its hash) of each example, in the cache's order."""
    cache = Cache(folder)
    held, plan = cache.examples(name), cache.plan
    texts, hashes = plan.texts(0, len(plan)), plan.hashes()
    rows = zip(held.index.tolist(), held.label.tolist(), held.text_id.tolist(), strict=True)
    return [(index, label, texts[text], hashes[text].tobytes()) for index, label, text in rows]


def by_text(folder: Path) -> dict[str, dict[str, Any]]:
    """All that a cache knows of each text: states a layer, token ids and kinds, whether it was cut."""
    cache = Cache(folder)
    plan, found = cache.plan, {}
    for number, text in enumerate(plan.texts(0, len(plan))):
        states = {layer: cache.read_texts(layer, np.asarray([number])) for layer in cache.manifest.states.layers}
        ids = plan.token_ids(number, number + 1).tolist()
        found[text] = {
            "states": {layer: item.values.tobytes() for layer, item in states.items()},
            "scales": {layer: None if item.scale is None else item.scale.tobytes() for layer, item in states.items()},
            "tokens": [(token, plan.vocabulary[token]) for token in ids],
            "kinds": plan.token_kinds(number, number + 1).tolist(),
            "cut": plan.truncated(number, number + 1).tolist(),
        }
    assert len(found) == len(plan), "a text is there twice"
    return found


@pytest.fixture
def whole(made_caches: Callable) -> Path:
    return made_caches(**OPTIONS)


# copy


@pytest.mark.parametrize("options", [{}, {"dtype": "int8"}, {"keep_texts": False}], ids=str)
def test_a_copy_is_the_same_bytes(options: dict, made_caches: Callable, tmp_path: Path) -> None:
    source = made_caches(**OPTIONS, **options)
    manifest = copy_cache(source, tmp_path / "copy", verify=True)
    assert runs.contents(tmp_path / "copy") == runs.contents(source)
    assert manifest == Manifest.load(source)


def test_a_copy_of_an_unfinished_cache_can_be_finished(bert: Path, whole: Path, tmp_path: Path) -> None:
    runs.extract(bert, tmp_path / "part", **OPTIONS, part=(0, 2))
    copy_cache(tmp_path / "part", tmp_path / "copy", verify=True)
    assert not Cache(tmp_path / "copy", allow_unfinished=True).manifest.complete
    runs.extract(bert, tmp_path / "copy", **OPTIONS)
    assert runs.contents(tmp_path / "copy") == runs.contents(whole)


# subset


@pytest.mark.parametrize(
    ("split", "limit", "layers"),
    [
        (None, None, None),
        (["train"], None, None),
        (["validation"], 5, None),
        (None, 7, (-1,)),
        (["validation", "train"], 1, (0, 2)),
        (None, 10**6, (1,)),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_subset_holds_its_part(
    dtype: str, split: list | None, limit: int | None, layers: tuple | None, made_caches: Callable, tmp_path: Path
) -> None:
    source, target = made_caches(**OPTIONS, dtype=dtype), tmp_path / "subset"
    subset_cache(source, target, split, limit, layers, shard_bytes=runs.SHARD_BYTES, verify=True)
    kept = {None: (0, 1, 2), (-1,): (2,)}.get(layers, layers)
    assert Cache(target).manifest.states.layers == kept
    used = set()
    for name in split or ["train", "validation"]:
        expected = examples_of(source, name)[:limit]
        assert examples_of(target, name) == expected
        used |= {text for _, _, text, _ in expected}
    assert set(Cache(target).manifest.examples) == set(split or ["train", "validation"])
    everything = by_text(source)
    for text, held in by_text(target).items():
        old = everything[text]
        old = {**old, **{key: {layer: old[key][layer] for layer in kept} for key in ("states", "scales")}}
        assert held == old
    assert set(by_text(target)) == used
    assert runs.leftovers(target) == []
    fingerprints = [Cache(place).manifest.examples for place in (source, target)]
    for name, entry in fingerprints[1].items():
        is_whole = limit is None or limit >= fingerprints[0][name].examples
        assert (entry.fingerprint == fingerprints[0][name].fingerprint) == is_whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": ["test"]}, "no example set 'test'"),
        ({"layers": (9,)}, "has no layer 9"),
    ],
)
def test_a_subset_of_what_is_not_there(options: dict, message: str, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        subset_cache(whole, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_subset_can_grow_again(bert: Path, whole: Path, tmp_path: Path) -> None:
    """It has the settings of its source: an extraction of all texts adds those that are missing."""
    target = tmp_path / "subset"
    subset_cache(whole, target, ["train"], 9, shard_bytes=runs.SHARD_BYTES)
    before = runs.published(target)
    summary = runs.extract(bert, target, **OPTIONS)
    assert summary.forwarded == len(Cache(whole).plan) - 9
    assert {name: runs.published(target)[name] for name in before} == before
    assert {text: held["tokens"] for text, held in by_text(target).items()} == {
        text: held["tokens"] for text, held in by_text(whole).items()
    }


# merge


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_two_subsets_join_to_the_whole(dtype: str, made_caches: Callable, tmp_path: Path) -> None:
    whole = made_caches(**OPTIONS, dtype=dtype)
    subset_cache(whole, tmp_path / "a", ["train"])
    subset_cache(whole, tmp_path / "b", ["validation"])
    merge_caches([tmp_path / "a", tmp_path / "b"], tmp_path / "both", runs.SHARD_BYTES, verify=True)
    assert by_text(tmp_path / "both") == by_text(whole)
    for name in ("train", "validation"):
        assert examples_of(tmp_path / "both", name) == examples_of(whole, name)
    assert runs.leftovers(tmp_path / "both") == []


def test_sets_of_one_name_are_joined_and_texts_kept_once(bert: Path, whole: Path, tmp_path: Path) -> None:
    """Two extractions of overlapping data: 48 rows, and 30 of them again."""
    runs.extract(bert, tmp_path / "less", rows=30, **OPTIONS)
    merge_caches([whole, tmp_path / "less"], tmp_path / "both", runs.SHARD_BYTES, verify=True)
    assert by_text(tmp_path / "both") == by_text(whole)
    for name in ("train", "validation"):
        assert examples_of(tmp_path / "both", name) == examples_of(whole, name) + examples_of(tmp_path / "less", name)


def test_parts_of_one_plan_join_to_the_whole(bert: Path, whole: Path, tmp_path: Path) -> None:
    """Two machines without a common disk: each takes a copy of the plan and makes its share."""
    runs.extract(bert, tmp_path / "plan", **OPTIONS, plan_only=True)
    parts = [tmp_path / "0", tmp_path / "1"]
    for number, part in enumerate(parts):
        copy_cache(tmp_path / "plan", part)
        runs.extract(bert, part, **OPTIONS, part=(number, 2))
    shares = [set(Cache(part, allow_unfinished=True).manifest.shards) for part in parts]
    assert not shares[0] & shares[1]
    merge_caches(parts, tmp_path / "both", verify=True)
    assert runs.contents(tmp_path / "both") == runs.contents(whole)
    # One of them alone is unfinished, and joining it with itself does not change that.
    manifest = merge_caches([parts[0], parts[0]], tmp_path / "half", verify=True)
    assert not manifest.complete


def test_unfinished_caches_of_different_texts_are_not_joined(bert: Path, whole: Path, tmp_path: Path) -> None:
    runs.extract(bert, tmp_path / "part", rows=20, **OPTIONS, part=(0, 2))
    with pytest.raises(UsageError, match="unfinished"):
        merge_caches([whole, tmp_path / "part"], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_other_settings_are_named(made_caches: Callable, whole: Path, tmp_path: Path) -> None:
    other = made_caches(**{**OPTIONS, "layers": (1,)})
    with pytest.raises(UsageError, match=r"has other settings than .* \(layers: \(0, 1, 2\) -> \(1,\)\)"):
        merge_caches([whole, other], tmp_path / "both")
    assert list(tmp_path.iterdir()) == []


def test_another_task_is_refused(whole: Path, tmp_path: Path) -> None:
    subset_cache(whole, tmp_path / "a", limit=3)
    subset_cache(whole, tmp_path / "b", limit=4)
    manifest = Manifest.load(tmp_path / "b")
    entry = manifest.examples["train"]
    manifest.examples["train"] = replace(entry, task=replace(entry.task, classes=("a", "b", "c")))
    manifest.save(tmp_path / "b")
    with pytest.raises(UsageError, match="train examples of these caches belong to different tasks"):
        merge_caches([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert not (tmp_path / "both").exists()


# A lost manifest


@pytest.mark.parametrize("way", ["copy", "subset", "merge"])
def test_a_lost_manifest_is_rebuilt_whatever_made_the_cache(
    way: str, bert: Path, whole: Path, tmp_path: Path, forwarded: list
) -> None:
    """A smaller extraction into the same folder then meets what is there: it never takes its place."""
    out, options = tmp_path / "out", {**OPTIONS, "shard_bytes": runs.SHARD_BYTES}
    {
        "copy": lambda: copy_cache(whole, out),
        "subset": lambda: subset_cache(whole, out, ["train"], 30, shard_bytes=runs.SHARD_BYTES),
        "merge": lambda: merge_caches([whole, subset_of(whole, tmp_path / "less")], out, runs.SHARD_BYTES),
    }[way]()
    before = Manifest.load(out)
    (out / "manifest.json").unlink()
    states = runs.published(out)
    with pytest.raises(UsageError, match=f"already holds {before.examples['train'].examples} examples of train"):
        runs.extract(bert, out, rows=8, **options)
    assert runs.published(out) == states
    assert recover_manifest(out, before.created_by) == replace(before, shards={}, plan=replace(before.plan, request=""))
    if way == "copy":
        runs.extract(bert, out, **OPTIONS)
        assert (runs.contents(out), forwarded) == (runs.contents(whole), [])


def subset_of(whole: Path, target: Path) -> Path:
    subset_cache(whole, target, ["validation"], 5)
    return target


def test_a_cache_that_cannot_be_rebuilt_is_refused_and_left_as_it_is(
    bert: Path, whole: Path, tmp_path: Path, glot: Callable
) -> None:
    """What merge and subset wrote before their files said what they are, without its manifest."""
    out = tmp_path / "old"
    subset_cache(whole, out)
    plan = Cache(out).plan
    writer = PlanWriter(out, keep_texts=True)
    writer.copy(plan)
    writer.finish(out / "plan.h5", 10**6)  # with no word of the states
    writer.close()
    (out / "manifest.json").unlink()
    before = runs.contents(out)
    data = ["--data", runs.write_csv(tmp_path / "less.csv", 8), "--max-tokens", runs.WIDTH, "--layers", "0..2"]
    code, _, err = glot("extract", "--model", bert, *data, "--out", out)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "holds states, its manifest.json is lost" in err
    assert "--out" in err
    assert runs.contents(out) == before


# What may go wrong with any of them


def ways(source: Path) -> dict[str, Callable[[Path], Manifest]]:
    return {
        "copy": lambda target: copy_cache(source, target, verify=True),
        "subset": lambda target: subset_cache(source, target, limit=20, verify=True),
        "merge-plan": lambda target: merge_caches([source, source], target, verify=True),
    }


WAYS = pytest.mark.parametrize("way", ["copy", "subset", "merge-plan"])


@WAYS
def test_what_is_there_is_left_alone(way: str, whole: Path, tmp_path: Path) -> None:
    for name, write in {"cache": lambda p: shutil.copytree(whole, p), "file": lambda p: p.write_text("mine")}.items():
        write(tmp_path / name)
        before = runs.contents(tmp_path)
        with pytest.raises(UsageError, match=f"{name} is there already: choose another place"):
            ways(whole)[way](tmp_path / name)
        assert runs.contents(tmp_path) == before


@WAYS
def test_a_damaged_source_is_refused(way: str, copy_of: Callable, tmp_path: Path) -> None:
    source = copy_of(**OPTIONS)
    cache = Cache(source)
    number = int(cache.plan.shard_of(cache.examples("train").text_id[:1])[0])
    for name, column in cache.manifest.shards[number].data.columns.items():
        if name.startswith("hidden/"):
            runs.flip(source / f"shard-{number:05d}.h5", column.offset)
    text = int(cache.plan.shard_start[number])
    if way == "subset":  # any text of the subset
        assert text in cache.examples("train").text_id[:20].tolist() + cache.examples("validation").text_id.tolist()
    with pytest.raises(FaultError, match=rf"shard-{number:05d}\.h5 is damaged"):
        ways(source)[way](tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


@WAYS
@pytest.mark.parametrize("failing", [1, 3, 6])
def test_a_full_disk_leaves_nothing(
    way: str, failing: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def fill(original: Callable) -> Callable:
        def write(*args: Any, **options: Any) -> Any:
            written.append(1)
            if len(written) >= failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, **options)

        return write

    monkeypatch.setattr(os, "pwrite", fill(os.pwrite))
    monkeypatch.setattr(combine, "shutil", shutil)
    monkeypatch.setattr(shutil, "copyfile", fill(shutil.copyfile))
    monkeypatch.setattr(shutil, "copyfileobj", fill(shutil.copyfileobj))
    with pytest.raises(FaultError, match=r"No space left on device.*make room"):
        ways(whole)[way](tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    ways(whole)[way](tmp_path / "out")
    assert verify_cache(Cache(tmp_path / "out")) == []
