"""A run may die at any moment: the next one goes on from there and ends with the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from xxhash import xxh3_64_hexdigest

from glot.errors import FaultError, UsageError
from glot.extract import repair, run, worker
from glot.extract.backbone import Backbone
from glot.extract.run import ExtractOptions
from glot.extract.source import ModelSource
from glot.store import column_reader, columns
from glot.store.claims import Owner
from glot.store.example_set import ExampleSet
from glot.store.layout import Manifest, shard_file
from glot.store.plan import CONTENT, PlanWriter
from glot.store.reader import Cache
from glot.store.shards import ShardWriter, write_sidecar
from glot.store.verify import verify_cache
from tests.faults import runs

SHARD_BYTES = 24 * 32 * 2  # 24 tokens of width 32 in float16
NUM_SHARDS = 6  # of the small corpus
SMALL_BATCH = 48  # padded tokens


@pytest.fixture
def bert(backbone_folders: dict[str, Path]) -> Path:
    return backbone_folders["bert"]


@pytest.fixture
def unbroken(extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path) -> Manifest:
    """The manifest of the same extraction without a mishap."""
    extract(make_corpus(), bert, tmp_path / "unbroken", shard_bytes=SHARD_BYTES)
    manifest = Cache(tmp_path / "unbroken").manifest
    assert len(manifest.shards) == NUM_SHARDS
    return manifest


def texts_of(cache: Cache) -> list[str]:
    return cache.plan.texts(0, len(cache.plan))


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each shard was written last, and its bytes."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.glob("shard-*.h5"))}


def assert_same(folder: Path, other: Path) -> None:
    """Two caches are the same, file by file and byte by byte; only the order within the manifest may differ."""
    files = [
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (folder, other)
    ]
    manifests = [json.loads(found.pop("manifest.json")) for found in files]
    assert manifests[0] == manifests[1]
    assert {name: xxh3_64_hexdigest(data) for name, data in files[0].items()} == {
        name: xxh3_64_hexdigest(data) for name, data in files[1].items()
    }


def assert_no_leftovers(folder: Path) -> None:
    manifest = Manifest.load(folder)
    named = {"manifest.json", manifest.plan.data.file, *(entry.data.file for entry in manifest.examples.values())}
    named |= {entry.data.file for entry in manifest.shards.values()}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == named


# Each is a moment at which a run dies: the call of a function that is never made.
MOMENTS = [
    (PlanWriter, "finish", 1),
    (ExampleSet, "save", 1),
    (Manifest, "save", 1),
    (Manifest, "save", 2),  # the last sidecar is there, the manifest lists no shard
    (ShardWriter, "finish", 1),
    (ShardWriter, "finish", 3),
    (ShardWriter, "write", 1),
    (ShardWriter, "write", 6),
    (columns, "publish", 1),  # the first shard is written whole, and has no name yet
    (columns, "publish", NUM_SHARDS),
    (worker, "write_sidecar", 1),  # the first shard has its name, and no sidecar yet
    (worker, "write_sidecar", 4),
    (worker, "write_sidecar", NUM_SHARDS),
]


@pytest.mark.parametrize(
    ("owner", "name", "call"), MOMENTS, ids=lambda item: getattr(item, "__name__", str(item)).rpartition(".")[2]
)
def test_a_run_that_died_is_finished_without_doing_anything_twice(
    owner: type | ModuleType,
    name: str,
    call: int,
    unbroken: Manifest,
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
    crash_at: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    crash_at(owner, name, call)
    with pytest.raises(KeyboardInterrupt):
        extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES)
    monkeypatch.undo()
    before = stamps(out)
    done = {int(name[6:11]) for name in before}
    if (name, call) == ("save", 2):
        assert Cache(out).manifest == unbroken  # nothing is missing but the list
    else:
        with pytest.raises(UsageError):
            Cache(out)  # whatever is there, nobody takes it for finished
    summary = extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES)
    assert {name: stamp for name, stamp in stamps(out).items() if name in before} == before
    missing = sum(entry.texts for number, entry in unbroken.shards.items() if number not in done)
    assert summary.forwarded <= missing  # less where a shard was begun
    assert_same(out, tmp_path / "unbroken")
    assert_no_leftovers(out)


# A run that dies in the middle of a shard


@pytest.fixture
def one_shard(extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path) -> Manifest:
    """The manifest of an unbroken extraction whose cache is one shard, forwarded in small batches."""
    extract(make_corpus(), bert, tmp_path / "unbroken", token_budget=SMALL_BATCH)
    manifest = Cache(tmp_path / "unbroken").manifest
    assert len(manifest.shards) == 1
    return manifest


@pytest.fixture
def stop_in_shard(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`stop_in_shard(3)`: stop the extraction of one shard at its third forward; gives what it said."""

    def stop(call: int, error: type[BaseException] = KeyboardInterrupt, **options: Any) -> list[str]:
        said: list[str] = []
        left, forward = iter(range(call - 1)), Backbone.hidden_states

        def dying(*args: Any) -> Any:
            if next(left, None) is None:
                raise error
            return forward(*args)

        with monkeypatch.context() as patch:
            patch.setattr(Backbone, "hidden_states", dying)
            with pytest.raises((error, FaultError)):
                extract(make_corpus(), bert, tmp_path / "out", token_budget=SMALL_BATCH, say=said.append, **options)
        return said

    return stop


def test_a_stop_in_a_shard_keeps_what_was_forwarded(
    one_shard: Manifest, stop_in_shard: Callable, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    forwarded = [int(line.split(" texts")[0].rpartition(" ")[2]) for call in (2, 2) for line in stop_in_shard(call)]
    assert len(forwarded) == 2
    assert all(forwarded)
    assert [path.name for path in out.glob("shard-*")] == ["shard-00000.h5.part"]
    summary = extract(make_corpus(), bert, out, token_budget=SMALL_BATCH)
    assert summary.forwarded == one_shard.plan.texts - sum(forwarded)  # nothing was forwarded twice
    assert_same(out, tmp_path / "unbroken")
    assert_no_leftovers(out)


def test_a_stop_while_texts_are_taken_over_loses_none(
    one_shard: Manifest,
    stop_in_shard: Callable,
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
    crash_at: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (said,) = stop_in_shard(4)
    crash_at(ShardWriter, "write", 2)
    with pytest.raises(KeyboardInterrupt):
        extract(make_corpus(), bert, tmp_path / "out", token_budget=SMALL_BATCH)
    monkeypatch.undo()
    summary = extract(make_corpus(), bert, tmp_path / "out", token_budget=SMALL_BATCH)
    assert f"{one_shard.plan.texts - summary.forwarded} texts" in said
    assert_same(tmp_path / "out", tmp_path / "unbroken")
    assert_no_leftovers(tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_text_kept_damaged_is_forwarded_again(
    dtype: str, stop_in_shard: Callable, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = {"layers": (0, -1), "dtype": dtype}
    extract(make_corpus(), bert, tmp_path / "unbroken", token_budget=SMALL_BATCH, **options)
    stop_in_shard(4, **options)
    (part,) = out.glob("shard-*")
    entry, _ = column_reader.describe_file(out, part.name, finished=False)
    data = bytearray(part.read_bytes())
    column = entry.columns["hidden/0"]
    first = next(place for place in range(column.offset, column.offset + column.nbytes) if data[place])
    data[first] ^= 1
    part.write_bytes(data)
    summary = extract(make_corpus(), bert, out, token_budget=SMALL_BATCH, **options)
    assert 0 < summary.forwarded < summary.distinct
    assert_same(out, tmp_path / "unbroken")


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_what_is_left_torn_of_a_shard_is_of_no_use_and_goes(
    size: int,
    one_shard: Manifest,
    stop_in_shard: Callable,
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    stop_in_shard(4)
    (part,) = out.glob("shard-*")
    os.truncate(part, size)
    shutil.copy(part, out / "shard-00000.h5.tmp-host-1")
    assert extract(make_corpus(), bert, out, token_budget=SMALL_BATCH).forwarded == one_shard.plan.texts
    assert_same(out, tmp_path / "unbroken")
    assert_no_leftovers(out)


def test_what_is_left_of_other_settings_is_not_taken(
    one_shard: Manifest,
    stop_in_shard: Callable,
    extract: Callable,
    make_corpus: Callable,
    make_backbone_folder: Callable,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    stop_in_shard(4)
    for name in ("manifest.json", "plan.h5"):
        (out / name).unlink()
    other = make_backbone_folder("bert", seed=1)
    extract(make_corpus(), other, tmp_path / "other", token_budget=SMALL_BATCH)
    summary = extract(make_corpus(), other, out, token_budget=SMALL_BATCH)
    assert summary.forwarded == summary.distinct
    assert_same(out, tmp_path / "other")


def test_a_fault_in_a_shard_keeps_what_was_forwarded(
    one_shard: Manifest, stop_in_shard: Callable, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    stop_in_shard(4, torch.OutOfMemoryError)
    summary = extract(make_corpus(), bert, tmp_path / "out", token_budget=SMALL_BATCH)
    assert 0 < summary.forwarded < summary.distinct
    assert_same(tmp_path / "out", tmp_path / "unbroken")


def test_a_shard_that_cannot_be_published_is_kept(
    one_shard: Manifest,
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(columns, "publish", full)
    with pytest.raises(FaultError, match="No space left on device"):
        extract(make_corpus(), bert, tmp_path / "out", token_budget=SMALL_BATCH)
    monkeypatch.undo()
    assert extract(make_corpus(), bert, tmp_path / "out", token_budget=SMALL_BATCH).forwarded == 0
    assert_same(tmp_path / "out", tmp_path / "unbroken")
    assert_no_leftovers(tmp_path / "out")


def test_without_room_for_two_the_unfinished_shard_gives_way(
    one_shard: Manifest,
    stop_in_shard: Callable,
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop_in_shard(4)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4096))
    summary = extract(make_corpus(), bert, tmp_path / "out", token_budget=SMALL_BATCH)
    assert summary.forwarded == summary.distinct
    assert_same(tmp_path / "out", tmp_path / "unbroken")


def test_sidecars_that_were_not_removed_are_removed(
    unbroken: Manifest, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path, forwarded: list
) -> None:
    """The run died between the manifest that lists all shards and the removal of what listed them before."""
    out = tmp_path / "unbroken"
    forwarded.clear()
    for number in (2, 5):
        write_sidecar(out, number, unbroken.shards[number])
    assert Cache(out).manifest == unbroken
    extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES)
    assert_no_leftovers(out)
    assert (Cache(out).manifest, forwarded) == (unbroken, [])


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path

from glot.corpus.examples import Corpus, Example, Split
from glot.extract import worker
from glot.extract.source import ModelSource
from glot.extract.run import ExtractOptions, extract_states
from glot.store.shards import ShardWriter
from glot.store.task_spec import TaskSpec

worker.NOTE_SECONDS = float("inf")  # nothing of the torn shard is known, however slow this machine is
calls = 0
finish = ShardWriter.finish


def killed(self):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return finish(self)


ShardWriter.finish = killed
texts = Path(sys.argv[1]).read_text("utf-8").split("\\n")
examples = [Example(row, text, None, row % 2) for row, text in enumerate(texts)]
corpus = Corpus(TaskSpec("made", 1, "classes", ("no", "yes")), {"train": Split("train", examples, "made train")})
options = ExtractOptions(max_tokens=32, shard_bytes=int(sys.argv[4]))
extract_states(corpus, ModelSource("tiny-bert", sys.argv[2]), Path(sys.argv[3]), options)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_process_leaves_whole_shards(
    unbroken: Manifest, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    corpus, out = make_corpus(), tmp_path / "out"
    texts = tmp_path / "texts"
    texts.write_text("\n".join(example.text for example in corpus.splits["train"].examples), "utf-8")
    root = Path(run.__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(texts), str(bert), str(out), str(SHARD_BYTES)]
    process = subprocess.run(
        command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    before = stamps(out)
    assert list(before) == [shard_file(0), shard_file(1)]
    assert list(out.glob("*.tmp-*"))  # the torn third shard, under a name that no reader knows
    with pytest.raises(UsageError, match="2 of "):
        Cache(out)
    summary = extract(corpus, bert, out, shard_bytes=SHARD_BYTES)
    after = stamps(out)
    assert {name: after[name] for name in before} == before
    assert summary.forwarded == unbroken.plan.texts - unbroken.shards[0].texts - unbroken.shards[1].texts
    assert_same(out, tmp_path / "unbroken")


def test_a_finished_cache_is_left_as_it_is(
    unbroken: Manifest, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path, forwarded: list
) -> None:
    out = tmp_path / "unbroken"
    before = stamps(out)
    forwarded.clear()
    summary = extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES)
    assert (summary.forwarded, summary.forwarded_tokens, forwarded) == (0, 0, [])
    assert stamps(out) == before
    assert Cache(out).manifest == unbroken


@pytest.mark.parametrize("damage", ["removed", "shorter", "empty"])
def test_a_lost_shard_is_made_again(
    damage: str, unbroken: Manifest, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    out = tmp_path / "unbroken"
    path = out / shard_file(2)
    whole = path.read_bytes()
    path.unlink()
    if damage != "removed":
        path.write_bytes(whole[: len(whole) // 2] if damage == "shorter" else b"")
    before = {name: stamp for name, stamp in stamps(out).items() if name != path.name}
    summary = extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES)
    assert summary.forwarded == unbroken.shards[2].texts
    after = stamps(out)
    assert after.pop(path.name)[1] == whole
    assert after == before
    assert Cache(out).manifest == unbroken


FINISHED = pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "unfinished"])


@FINISHED
def test_states_of_other_weights_are_never_adopted(
    is_finished: bool,
    extract: Callable,
    make_corpus: Callable,
    make_backbone_folder: Callable,
    bert: Path,
    tmp_path: Path,
    crash_at: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever removes some files, to start again with another backbone, must not get the old one's states, nor lose."""
    other, out = make_backbone_folder("bert", seed=1), tmp_path / "out"
    leave_behind(is_finished, lambda: extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES), crash_at, monkeypatch)
    (out / "manifest.json").unlink()
    with pytest.raises(UsageError, match="made with other settings"):  # the plan says so too
        extract(make_corpus(), other, out, shard_bytes=SHARD_BYTES)
    (out / "plan.h5").unlink()
    before = stamps(out)
    with pytest.raises(FaultError, match=r"holds states, its manifest\.json is lost"):
        extract(make_corpus(), other, out, shard_bytes=SHARD_BYTES)
    assert stamps(out) == before


@FINISHED
def test_states_of_other_texts_are_never_adopted(
    is_finished: bool,
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
    crash_at: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    leave_behind(is_finished, lambda: extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES), crash_at, monkeypatch)
    (out / "manifest.json").write_text("{")
    (out / "plan.h5").unlink()
    before = stamps(out)
    with pytest.raises(FaultError, match=r"holds states, its manifest\.json is damaged"):
        extract(make_corpus({"train": 12, "validation": 4}), bert, out, shard_bytes=SHARD_BYTES, order_seed=1)
    assert stamps(out) == before


@FINISHED
def test_a_cache_grows_although_its_manifest_is_lost(
    is_finished: bool,
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
    crash_at: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, more = tmp_path / "out", make_corpus({"train": 12, "validation": 4})
    leave_behind(is_finished, lambda: extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES), crash_at, monkeypatch)
    before = stamps(out)
    (out / "manifest.json").unlink()
    summary = extract(more, bert, out, shard_bytes=SHARD_BYTES)
    assert {name: stamp for name, stamp in stamps(out).items() if name in before} == before
    extract(make_corpus(), bert, tmp_path / "grown", shard_bytes=SHARD_BYTES)
    extract(more, bert, tmp_path / "grown", shard_bytes=SHARD_BYTES)
    assert_same(out, tmp_path / "grown")
    entries = Cache(out).manifest.shards
    assert summary.forwarded == summary.distinct - sum(entries[int(name[6:11])].texts for name in before)


def leave_behind(
    is_finished: bool, extract: Callable[[], object], crash_at: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole cache, or one with three sidecars and one more shard (or two) that nothing lists."""
    if is_finished:
        extract()
        return
    crash_at(worker, "write_sidecar", 4)
    with pytest.raises(KeyboardInterrupt):
        extract()
    monkeypatch.undo()


# Damage


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def no_manifest(out: Path, _: object) -> None:
    (out / "manifest.json").unlink()


@FINISHED
@pytest.mark.parametrize(
    "damage",
    [
        lambda out, plan: os.truncate(out / "manifest.json", 1000),
        lambda out, plan: os.truncate(out / "manifest.json", 0),
        no_manifest,
        lambda out, plan: os.truncate(out / "plan.h5", 5000),
        lambda out, plan: (out / "plan.h5").unlink(),
        lambda out, plan: flip(out / "plan.h5", plan.columns["hash"].offset),
        lambda out, plan: flip(out / "plan.h5", plan.columns["shard_start"].offset),
        lambda out, plan: flip(out / "plan.h5", 9),  # a byte of HDF5's own
    ],
    ids=["torn manifest", "empty manifest", "no manifest", "torn plan", "no plan", "hash", "shard_start", "structure"],
)
def test_a_damaged_manifest_or_plan_is_made_again_without_a_forward(
    damage: Callable,
    is_finished: bool,
    unbroken: Manifest,
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
    crash_at: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, said = tmp_path / "out", []
    leave_behind(is_finished, lambda: extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES), crash_at, monkeypatch)
    before = stamps(out)
    damage(out, unbroken.plan.data)
    summary = extract(make_corpus(), bert, out, said.append, shard_bytes=SHARD_BYTES)
    missing = [number for number in unbroken.shards if shard_file(number) not in before]
    assert summary.forwarded == sum(unbroken.shards[number].texts for number in missing)
    assert not missing if is_finished else missing
    assert {name: stamp for name, stamp in stamps(out).items() if name in before} == before
    assert_same(out, tmp_path / "unbroken")
    assert bool(said) == (damage is not no_manifest)


def test_a_damaged_plan_is_made_again_by_the_same_backbone_of_another_name(
    unbroken: Manifest, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    shutil.copytree(bert, tmp_path / "copied")
    (tmp_path / "unbroken" / "plan.h5").unlink()
    summary = extract(make_corpus(), tmp_path / "copied", tmp_path / "unbroken", shard_bytes=SHARD_BYTES)
    assert (summary.forwarded, Cache(tmp_path / "unbroken").manifest.shards) == (0, unbroken.shards)


def test_a_shard_of_an_unfinished_cache_is_repaired(
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
    crash_at: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the repaired states differ in their last bits, as another device's do."""
    out = tmp_path / "out"
    leave_behind(False, lambda: extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES), crash_at, monkeypatch)
    cache = Cache(out, allow_unfinished=True)
    flip(out / shard_file(1), cache.manifest.shards[1].data.columns["hidden/2"].offset)
    forward_batch = repair.forward_batch

    def differ(*arguments: object) -> object:
        batch = forward_batch(*arguments)
        batch.layers[0].values *= 1.01
        return batch

    monkeypatch.setattr(repair, "forward_batch", differ)
    assert repair.repair_cache(cache, verify_cache(cache), str(bert)) == 1
    repaired = Cache(out, allow_unfinished=True)
    repaired.read_texts(2, np.arange(*cache.plan.shard_range(1)))
    assert verify_cache(repaired) == []


def test_a_damaged_shard_that_nothing_lists_is_made_again(
    unbroken: Manifest, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    out = tmp_path / "unbroken"
    whole = stamps(out)
    (out / "manifest.json").unlink()
    flip(out / shard_file(3), unbroken.shards[3].data.columns["hidden/2"].offset + 5)
    summary = extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES)
    assert summary.forwarded == unbroken.shards[3].texts
    after = stamps(out)
    assert after.pop(shard_file(3))[1] == whole.pop(shard_file(3))[1]
    assert after == whole
    assert Cache(out).manifest == unbroken


# Adding to a cache


@pytest.mark.parametrize(
    ("splits", "more"),
    [
        ({"train": 8}, {"train": 8, "validation": 6}),
        ({"train": 8}, {"train": 14}),
        ({"train": 8}, {"validation": 6}),
    ],
)
def test_more_texts_are_added_and_the_old_ones_stay(
    splits: dict,
    more: dict,
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    direct_states: Callable,
    tmp_path: Path,
    forwarded: list,
) -> None:
    first = extract(make_corpus(splits), bert, tmp_path, shard_bytes=SHARD_BYTES)
    old, before = Cache(tmp_path), stamps(tmp_path)
    old_texts = texts_of(old)
    forwarded.clear()
    summary = extract(make_corpus(more), bert, tmp_path, shard_bytes=SHARD_BYTES)
    cache = Cache(tmp_path)
    texts = texts_of(cache)
    assert texts[: len(old_texts)] == old_texts
    assert len(forwarded) == summary.forwarded == summary.distinct - first.distinct > 0
    after = stamps(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(cache.manifest.examples) == {*splits, *more}
    assert_no_leftovers(tmp_path)
    for name, split in make_corpus({**splits, **more}).splits.items():
        examples = cache.examples(name)
        assert [texts[number] for number in examples.text_id] == [split.examples[row].text for row in examples.index]
    for number, text in enumerate(texts):
        expected = direct_states(bert, text, -1)
        read = cache.read_texts(2, np.asarray([number])).values.astype(np.float32)
        np.testing.assert_allclose(read, expected, rtol=2**-10, atol=2e-5)


def test_counts_are_of_the_whole_cache(extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path) -> None:
    extract(make_corpus({"train": 8}), bert, tmp_path)
    summary = extract(make_corpus({"train": 8, "validation": 8}), bert, tmp_path)
    texts = texts_of(Cache(tmp_path))
    assert (summary.empty, summary.truncated) == (texts.count(""), 2)
    assert summary.distinct == len(texts) == len(set(texts))


@pytest.mark.parametrize(
    ("owner", "name", "call"), [(Manifest, "save", 1), (ExampleSet, "save", 1), (PlanWriter, "finish", 1)]
)
def test_a_crash_while_adding_leaves_the_old_cache_whole(
    owner: type,
    name: str,
    call: int,
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
    crash_at: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extract(make_corpus({"train": 8}), bert, tmp_path, shard_bytes=SHARD_BYTES)
    old = Cache(tmp_path)
    old_manifest, states = old.manifest, old.read_texts(2, np.arange(len(old.plan))).values
    more = make_corpus({"train": 12, "validation": 6})
    crash_at(owner, name, call)
    with pytest.raises(KeyboardInterrupt):
        extract(more, bert, tmp_path, shard_bytes=SHARD_BYTES)
    monkeypatch.undo()
    cache = Cache(tmp_path)
    assert cache.manifest == old_manifest
    assert len(cache.examples("train")) == 8
    np.testing.assert_array_equal(cache.read_texts(2, np.arange(len(cache.plan))).values, states)
    extract(more, bert, tmp_path, shard_bytes=SHARD_BYTES)
    assert len(Cache(tmp_path).examples("train")) == 12
    assert_no_leftovers(tmp_path)


def test_new_labels_of_old_texts_cost_no_forward(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path, forwarded: list
) -> None:
    corpus = make_corpus()
    extract(corpus, bert, tmp_path)
    before = stamps(tmp_path)
    forwarded.clear()
    examples = corpus.splits["train"].examples
    examples[:] = [example._replace(label=1 - example.label) for example in examples]
    extract(corpus, bert, tmp_path)
    cache = Cache(tmp_path)
    labels = cache.examples("train").label
    assert labels.tolist() == [examples[row].label for row in cache.examples("train").index]
    assert (forwarded, stamps(tmp_path)) == ([], before)
    assert_no_leftovers(tmp_path)


# Refusals


def test_a_smaller_set_is_refused(extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path) -> None:
    extract(make_corpus({"train": 8}), bert, tmp_path)
    before = Cache(tmp_path).manifest
    with pytest.raises(UsageError, match=r"already holds 8 examples of train, more than these 5: .*--out"):
        extract(make_corpus({"train": 5}), bert, tmp_path)
    assert Cache(tmp_path).manifest == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"max_tokens": 16}, "max_tokens: 32 -> 16"),
        ({"dtype": "float32"}, "dtype: float16 -> float32"),
        ({"layers": (0, -1)}, r"layers: \(2,\) -> \(0, 2\)"),
        ({"compute_dtype": "bfloat16", "dtype": "float16"}, "compute_dtype: float32 -> bfloat16"),
    ],
)
def test_other_settings_are_refused(
    options: dict, difference: str, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    extract(make_corpus(), bert, tmp_path)
    before = stamps(tmp_path), Cache(tmp_path).manifest
    with pytest.raises(UsageError, match=rf"made with other settings \({difference}\): choose another folder"):
        extract(make_corpus({"train": 20}), bert, tmp_path, **options)
    assert (stamps(tmp_path), Cache(tmp_path).manifest) == before


def test_the_same_layers_by_another_number_are_the_same(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path, forwarded: list
) -> None:
    extract(make_corpus(), bert, tmp_path, layers=(-1, 0))
    forwarded.clear()
    extract(make_corpus(), bert, tmp_path, layers=(0, 2, -3))
    assert forwarded == []


def test_several_layers_are_int8_and_their_size_is_told(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    extract(make_corpus(), bert, tmp_path, layers=(0, -1), say=told.append)
    cache = Cache(tmp_path)
    assert cache.manifest.states.dtype == "int8"
    tokens = cache.plan.tokens
    size = tokens * 2 * (cache.manifest.states.width + 4)  # a byte a number, and a scale a token and layer
    line = f"2 layers as int8: {size:,} bytes for {tokens:,} tokens; one forward gives them all, in about the time of"
    assert [some for some in told if some.startswith(line)]


def test_a_cache_keeps_the_dtype_it_began_with(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    extract(make_corpus({"train": 8}), bert, tmp_path, layers=(0, -1), dtype="float16")
    extract(make_corpus({"train": 12}), bert, tmp_path, layers=(0, -1))
    states = Cache(tmp_path).manifest.states
    assert (states.dtype, Cache(tmp_path).examples_entry("train").examples) == ("float16", 12)
    with pytest.raises(UsageError, match="dtype: float16 -> int8"):
        extract(make_corpus({"train": 12}), bert, tmp_path, layers=(0, -1), dtype="int8")


@pytest.mark.parametrize(("what", "other"), [("weights", "seed"), ("tokenizer", "tokenizer")])
def test_another_backbone_is_refused(
    what: str,
    other: str,
    extract: Callable,
    make_corpus: Callable,
    make_backbone_folder: Callable,
    bert: Path,
    tmp_path: Path,
) -> None:
    folder = make_backbone_folder("bert", seed=1 if other == "seed" else 0)
    if other == "tokenizer":
        path = folder / "tokenizer.json"
        path.write_text(path.read_text("utf-8").replace('"lowercase": true', '"lowercase": false'), "utf-8")
    extract(make_corpus(), bert, tmp_path)
    with pytest.raises(UsageError, match=rf"{what}_sha256: \w{{64}} -> \w{{64}}"):
        extract(make_corpus(), folder, tmp_path)


def test_the_same_backbone_from_another_folder_is_the_same(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path, forwarded: list
) -> None:
    shutil.copytree(bert, tmp_path / "copied")
    extract(make_corpus(), bert, tmp_path / "out")
    forwarded.clear()
    extract(make_corpus(), tmp_path / "copied", tmp_path / "out")
    assert forwarded == []


# Faults


def spoil(folder: Path, word: str, value: float) -> None:
    """Make the embedding of one word of a saved tiny model something that no sane model has."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    number = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(word)
    weights = load_file(folder / "model.safetensors")
    weights[next(name for name in weights if "embed_tokens" in name or "word_embeddings" in name)][number] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("keep_texts", [True, False])
@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (float("nan"), {}, "are NaN or infinite as the backbone computes them in float32"),
        (float("inf"), {"dtype": "float32"}, "are NaN or infinite"),
        (float("nan"), {"dtype": "int8"}, "are NaN or infinite"),
        (float("inf"), {"dtype": "int8", "layers": (0,)}, "are NaN or infinite"),
        (float("nan"), {"dtype": "bfloat16"}, "are NaN or infinite"),
        (1e6, {"layers": (0,)}, "do not fit float16: pass --on-overflow float32-shard or --dtype float32"),
    ],
)
def test_states_that_are_not_numbers_name_their_text(
    keep_texts: bool,
    value: float,
    options: dict,
    message: str,
    extract: Callable,
    make_corpus: Callable,
    make_backbone_folder: Callable,
    tmp_path: Path,
) -> None:
    folder = make_backbone_folder("mistral")
    spoil(folder, "Z", value)  # a letter that no other text has
    corpus, out = make_corpus({"train": 20}), tmp_path / "out"
    examples = corpus.splits["train"].examples
    examples[7] = examples[7]._replace(text="Z marks the spot")
    options = {"shard_bytes": 100 * 32 * 2, "keep_texts": keep_texts, **options}
    name = r"text \d+ \('Z marks the spot'\)" if keep_texts else r"text \d+ \(hash \w{32}\)"
    with pytest.raises(FaultError, match=rf"layer \d: states of {name} {message}.*; finished shards are whole"):
        extract(corpus, folder, out, **options)
    assert not list(out.glob("*.tmp-*"))
    number = len(stamps(out))
    cache = Cache(out, allow_unfinished=True)
    assert number == len(cache.manifest.shards) < cache.plan.num_shards
    plan = cache.plan
    z = next(token for token, piece in plan.vocabulary.items() if piece == "Z")
    bad = next(text_id for text_id in range(len(plan)) if z in plan.token_ids(text_id, text_id + 1))
    assert plan.shard_of(np.asarray([bad])) == [number]  # all shards before the text's own are there
    if value == 1e6:
        summary = extract(corpus, folder, tmp_path / "as told", **{**options, "dtype": "float32"})
        assert summary.forwarded == summary.distinct


def test_a_full_disk_is_foreseen(
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forwarded: list,
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(FaultError, match=r"out needs \d\.\d+ GiB .* are free: make room, or choose another"):
        extract(make_corpus(), bert, tmp_path / "out")
    assert forwarded == []
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_only_the_room_that_is_still_needed_counts(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(make_corpus(), bert, tmp_path, shard_bytes=SHARD_BYTES)
    entries = Cache(tmp_path).manifest.shards
    for number in (1, 2):
        (tmp_path / shard_file(number)).unlink()
    needed = (entries[1].tokens + entries[2].tokens) * 32 * 2
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(FaultError, match="are free"):
        extract(make_corpus(), bert, tmp_path, shard_bytes=SHARD_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    extract(make_corpus(), bert, tmp_path, shard_bytes=SHARD_BYTES)


def test_a_backbone_without_memory_says_what_to_turn(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Backbone, "hidden_states", full)
    with pytest.raises(FaultError, match=r"no memory for 352 tokens a forward: pass a smaller --token-budget"):
        extract(make_corpus(), bert, tmp_path, token_budget=640)
    assert not list(tmp_path.glob("*.tmp-*"))


def test_texts_that_are_there_are_not_said_to_be_left_out(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    extract(make_corpus({"train": 8}), bert, tmp_path / "with")
    with pytest.raises(UsageError, match=r"already holds its texts: .*--no-texts"):
        extract(make_corpus({"train": 12}), bert, tmp_path / "with", keep_texts=False)
    extract(make_corpus({"train": 8}), bert, tmp_path / "without", keep_texts=False)
    extract(make_corpus({"train": 12}), bert, tmp_path / "without")  # licensed data stays out, whatever is forgotten
    assert not Cache(tmp_path / "without").plan.has_texts
    texts = [text.encode() for text in texts_of(Cache(tmp_path / "with")) if len(text.split()) > 3]
    for name, count in (("with", len(texts)), ("without", 0)):
        files = b"".join(path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file())
        assert sum(text in files for text in texts) == count


def test_a_disk_that_fills_up_on_the_way(
    unbroken: Manifest,
    extract: Callable,
    make_corpus: Callable,
    bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The write fails in the writing thread, and still reaches the user as one error."""
    out, pwrite = tmp_path / "out", os.pwrite

    def fill(descriptor: int, data: memoryview, place: int) -> int:
        if (out / shard_file(0)).exists():  # others are written after it
            raise OSError(28, os.strerror(28))
        return pwrite(descriptor, data, place)

    monkeypatch.setattr(os, "pwrite", fill)
    with pytest.raises(FaultError, match=r"cannot write .*shard-0000\d\.h5: No space left on device.*run again"):
        extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES)
    monkeypatch.undo()
    before = stamps(out)
    assert before
    assert not list(out.glob("*.tmp-*"))
    extract(make_corpus(), bert, out, shard_bytes=SHARD_BYTES)
    assert Cache(out).manifest.shards == unbroken.shards
    assert {name: stamps(out)[name] for name in before} == before


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_way_of_the_folder(
    below: str, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match=r"cannot make the folder .*file.*--out"):
        extract(make_corpus(), bert, tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_that_cannot_be_written(extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user (root?) may write anywhere")
    for out in (folder, folder / "deeper"):
        with pytest.raises(UsageError, match=r"locked.*choose another with --out"):
            extract(make_corpus(), bert, out)


@pytest.mark.parametrize("family", ["bert", "roberta", "mistral"])
def test_more_tokens_than_the_backbone_has_positions(
    family: str, extract: Callable, make_corpus: Callable, backbone_folders: dict, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=rf"--max-tokens 49: tiny-{family} takes at most 48 tokens a text"):
        extract(make_corpus(), backbone_folders[family], tmp_path / "out", max_tokens=49)
    summary = extract(make_corpus(), backbone_folders[family], tmp_path / "out", max_tokens=48)
    assert (summary.truncated, int(Cache(tmp_path / "out").plan.length.max())) == (1, 48)


@pytest.mark.parametrize(("family", "least"), [("bert", 3), ("roberta", 3), ("mistral", 2), ("bare", 1)])
def test_too_few_tokens_for_any_text(
    family: str, least: int, extract: Callable, make_corpus: Callable, backbone_folders: dict, tmp_path: Path
) -> None:
    for max_tokens in (least - 1, 0, -1):
        with pytest.raises(UsageError, match=rf"--max-tokens {max_tokens} leaves no token .* at least {least}"):
            extract(make_corpus(), backbone_folders[family], tmp_path / "out", max_tokens=max_tokens)
    extract(make_corpus(), backbone_folders[family], tmp_path / "out", max_tokens=least)
    plan = Cache(tmp_path / "out").plan
    cut = np.flatnonzero(plan.truncated(0, len(plan))).tolist()
    assert cut
    assert all((plan.token_kinds(number, number + 1) == CONTENT).any() for number in cut)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (3,)}, r"has the layers 0 to 2 \(or -1 to -3\)"),
        ({"layers": (-4,)}, "has the layers 0 to 2"),
        ({"layers": ()}, "has the layers 0 to 2"),
        ({"dtype": "int4"}, "unknown --dtype 'int4': choose auto, float16, bfloat16, float32, int8"),
        ({"on_overflow": "clip"}, "unknown --on-overflow 'clip': choose stop or float32-shard"),
        ({"compute_dtype": "int8"}, "unknown compute dtype 'int8'"),
        ({"device": "warp"}, "--device warp cannot be used: .*pass --device cpu"),
    ],
)
def test_options_that_do_not_exist(
    options: dict, message: str, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        extract(make_corpus(), bert, tmp_path, **options)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--device cuda cannot be used: .*pass --device cpu"):
        extract(make_corpus(), bert, tmp_path, device="cuda")


def test_progress_counts_every_token_once(make_corpus: Callable, bert: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    options = ExtractOptions(max_tokens=32, shard_bytes=SHARD_BYTES, token_budget=40)
    source = ModelSource("tiny", str(bert))
    summary = run.extract_states(make_corpus(), source, tmp_path, options, lambda *counts: seen.append(counts))
    done = [done for done, _ in seen]
    assert done == sorted(done)
    assert {total for _, total in seen} == {summary.tokens}
    assert (seen[0], seen[-1]) == ((0, summary.tokens), (summary.tokens, summary.tokens))
    (tmp_path / shard_file(1)).unlink()
    seen.clear()
    run.extract_states(make_corpus(), source, tmp_path, options, lambda *counts: seen.append(counts))
    assert 0 < seen[0][0] < summary.tokens == seen[-1][0]


@pytest.mark.parametrize(
    "name", ["plan.claim", "plan.claim.takeover", "plan.claim.tmp-host-1", "plan.h5.tmp-host-1", "clock.tmp-host-1"]
)
def test_what_a_first_run_left_when_it_was_killed_is_no_strange_file(
    name: str, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "examples").mkdir(parents=True)
    owner = replace(Owner.me(), started=0)  # another process, long gone
    (tmp_path / "out" / name).write_text(json.dumps(asdict(owner)) if name == "plan.claim" else "")
    extract(make_corpus(), bert, tmp_path / "out")
    assert Cache(tmp_path / "out").manifest.complete


def test_the_last_worker_removes_what_a_killed_one_left(make_corpus: Callable, bert: Path, tmp_path: Path) -> None:
    """A worker that begins before another is killed finds no leftovers at its beginning, only at its end."""
    left = ["clock.tmp-host-1", "plan.claim.tmp-host-1", "plan.claim.takeover", "manifest.json.tmp-host-1"]
    left += ["shard-00001.claim.tmp-host-1", "shard-00001.claim.takeover", "shard-00000.h5.tmp-host-1"]

    def kill_another(done: int, total: int) -> None:
        for name in left:
            (tmp_path / name).touch()

    options = ExtractOptions(max_tokens=32, shard_bytes=SHARD_BYTES, token_budget=40)
    run.extract_states(make_corpus(), ModelSource("tiny", str(bert)), tmp_path, options, kill_another)
    assert runs.leftovers(tmp_path) == []


def test_a_folder_that_is_no_cache_is_left_alone(extract, make_corpus, backbone_folders, tmp_path: Path) -> None:
    (tmp_path / "project/examples").mkdir(parents=True)
    kept = [tmp_path / "project/examples/mine.py", tmp_path / "project/plan-b.h5"]
    for path in kept:
        path.write_text("mine")
    with pytest.raises(UsageError, match=r"plan-b\.h5 is in it"):
        extract(make_corpus(), backbone_folders["bert"], tmp_path / "project")
    assert sorted(path for path in (tmp_path / "project").rglob("*") if path.is_file()) == kept


def test_a_users_file_in_a_cache_is_left_alone(extract, make_corpus, backbone_folders, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    extract(make_corpus(), backbone_folders["bert"], out)
    (out / "examples/notes.txt").write_text("mine")
    (out / "examples/more").mkdir()
    (out / "shard-00000.h5.tmp-1").write_text("left by a killed run")
    extract(make_corpus({"train": 12, "validation": 6}), backbone_folders["bert"], out)
    assert (out / "examples/notes.txt").read_text() == "mine"
    assert not (out / "shard-00000.h5.tmp-1").exists()


def test_labels_of_another_task_are_refused(extract, make_corpus, backbone_folders, tmp_path: Path) -> None:
    corpus = make_corpus()
    extract(corpus, backbone_folders["bert"], tmp_path / "cache")
    other = replace(corpus, spec=replace(corpus.spec, classes=("a", "b", "c")))
    with pytest.raises(UsageError, match="another task"):
        extract(other, backbone_folders["bert"], tmp_path / "cache")


def test_a_damaged_example_set_is_written_again(extract, make_corpus, backbone_folders, tmp_path: Path) -> None:
    extract(make_corpus(), backbone_folders["bert"], tmp_path / "cache")
    path = tmp_path / "cache/examples/train.h5"
    flip(path, Cache(tmp_path / "cache").manifest.examples["train"].data.columns["label"].offset)
    with pytest.raises(FaultError, match="run the same `glot extract` again"):
        Cache(tmp_path / "cache").examples("train")
    extract(make_corpus(), backbone_folders["bert"], tmp_path / "cache")
    assert len(Cache(tmp_path / "cache").examples("train")) == 12
