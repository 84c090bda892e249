"""A lost manifest is rebuilt: every file of a cache says of itself what the manifest said of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from glot.store.column_reader import describe_file
from glot.store.columns import ColumnFile, write_columns
from glot.store.example_set import ExampleSet
from glot.store.layout import Manifest, PlanEntry
from glot.store.plan import Plan, PlanWriter
from glot.store.recover import recover_manifest

MadeCache = Any  # the dataclass of conftest.py


@pytest.fixture
def made(make_cache: Callable[..., MadeCache]) -> MadeCache:
    """A cache whose files say what a real one's do."""
    made = make_cache()
    manifest, counts = made.manifest, {"truncated": 1, "empty": 0, "order_seed": 3}
    writer = PlanWriter(made.folder, keep_texts=True)
    writer.copy(made.plan)
    data = writer.finish(made.folder / "plan.h5", 100, {"states": asdict(made.identity), "plan": counts})
    writer.close()
    plan = manifest.plan
    manifest.plan = PlanEntry(plan.texts, plan.tokens, shards=plan.shards, request="", data=data, **counts)
    add_examples(made, "train", [2, 0, 2])
    add_examples(made, "other.train", [1, 4])
    manifest.save(made.folder)
    return made


def add_examples(made: MadeCache, name: str, text_ids: list[int], file: str = "") -> None:
    examples = ExampleSet(np.arange(len(text_ids)), np.asarray(text_ids), None, np.zeros(len(text_ids), dtype=np.int64))
    values = {
        "fingerprint": examples.fingerprint(made.plan.hashes()),
        "examples": len(examples),
        "skipped": 2,
        "labelled": True,
        "source": "made — naïve",
    }
    task = made.manifest.examples["train"].task
    path = made.folder / (file or f"examples/{name}.h5")
    data = examples.save(path, {**values, "name": name, "task": task.to_json()})
    made.manifest.examples[name] = replace(made.manifest.examples["train"], **values, data=data)


def test_a_manifest_is_rebuilt_but_for_its_shards(made: MadeCache) -> None:
    (made.folder / "manifest.json").unlink()
    assert recover_manifest(made.folder, "test") == replace(made.manifest, shards={})


def test_the_newest_plan_and_sets_are_taken(made: MadeCache) -> None:
    """Two versions are there where a run died between a file and the manifest, or before it removed the old one."""
    add_examples(made, "train", [2, 0, 2, 5], "examples/train-2.h5")
    shutil.copy(made.folder / "plan.h5", made.folder / "plan-2.h5")
    expected = replace(made.manifest, shards={})
    expected.plan = replace(expected.plan, data=replace(expected.plan.data, file="plan-2.h5"))
    assert recover_manifest(made.folder, "test") == expected
    os.truncate(made.folder / "plan-2.h5", 9000)
    assert recover_manifest(made.folder, "test") == replace(made.manifest, shards={})


def test_sets_that_do_not_fit_are_left_out(made: MadeCache) -> None:
    add_examples(made, "far", [0, 6])
    damaged = bytearray((made.folder / "examples/far.h5").read_bytes())
    damaged[made.manifest.examples["far"].data.columns["text_id"].offset] ^= 1
    (made.folder / "examples/far.h5").write_bytes(damaged)
    (made.folder / "examples/strange.h5").write_bytes(b"strange")
    write_columns(made.folder / "examples/bare.h5", {"index": np.arange(3)})
    assert set(recover_manifest(made.folder, "test").examples) == {"train", "other.train"}


@pytest.mark.parametrize("change", ["missing", "empty", "torn", "strange", "link", "no about", "damaged"])
def test_without_a_whole_plan_there_is_nothing_to_rebuild(made: MadeCache, tmp_path: Path, change: str) -> None:
    path, entry = made.folder / "plan.h5", made.manifest.plan.data
    whole = path.read_bytes()
    path.unlink()
    if change == "link":
        (tmp_path / "elsewhere").write_bytes(whole)
        path.symlink_to(tmp_path / "elsewhere")
    elif change == "no about":
        write_columns(path, {name: np.zeros(column.shape, column.dtype) for name, column in entry.columns.items()})
    elif change == "damaged":
        place = entry.columns["token_ids"].offset
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    elif change != "missing":
        path.write_bytes({"empty": b"", "torn": whole[:9000], "strange": b"strange" * 1000}[change])
    assert recover_manifest(made.folder, "test") is None


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"plan": {}, "states": {}},
        {"plan": 1, "states": []},
        {"plan": {"truncated": "x", "empty": 0, "order_seed": 0}},
        {"states": {"layers": [99]}},
    ],
)
def test_what_a_plan_says_of_itself_is_checked(made: MadeCache, about: dict) -> None:
    whole = {"states": asdict(made.identity), "plan": {"truncated": 1, "empty": 0, "order_seed": 3}}
    states = {**whole["states"], **about["states"]} if about.get("states") else whole["states"]
    about = {**whole, **about, "states": states} if about else {}
    writer = PlanWriter(made.folder, keep_texts=True)
    writer.copy(made.plan)
    writer.finish(made.folder / "plan.h5", 100, about)
    writer.close()
    found = recover_manifest(made.folder, "test")
    if found is not None:
        assert (about.get("plan"), found.states) == (whole["plan"], made.identity)
        found.save(made.folder)
        assert Manifest.load(made.folder) == found


# A file that says of itself what a manifest would


def test_a_file_describes_itself_as_its_manifest_would(made: MadeCache) -> None:
    entries = [made.manifest.plan.data, *(entry.data for entry in made.manifest.shards.values())]
    for entry in entries:
        data, about = describe_file(made.folder, entry.file)
        assert data == entry
        assert about["kind"] == entry.file[: len(about["kind"])]


def test_every_checked_byte_is_compared(made: MadeCache) -> None:
    entry: ColumnFile = made.manifest.plan.data
    path = made.folder / entry.file
    whole = path.read_bytes()
    for column in entry.columns.values():
        for place in {column.offset, column.offset + column.nbytes - 1}:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ValueError, match=r"plan\.h5"):
                describe_file(made.folder, entry.file)


def test_a_file_of_another_program_is_not_described(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(5)
        file["a/b/c"] = np.arange(5)
        file["words"] = "text"
    (tmp_path / "folder").mkdir()
    for name in ("other.h5", "folder", "missing.h5"):
        with pytest.raises(ValueError, match=f"{name} does not describe itself"):
            describe_file(tmp_path, name)


def test_plans_of_the_same_texts_are_the_same_bytes(made: MadeCache, tmp_path: Path) -> None:
    """A damaged plan is only made again where it comes to the same bytes."""
    entries = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        writer = PlanWriter(tmp_path / name, keep_texts=True)
        writer.copy(Plan(made.folder, made.manifest.plan.data))
        entries.append(writer.finish(tmp_path / name / "plan.h5", 100, {"states": {}}))
        writer.close()
    assert entries[0] == entries[1]
