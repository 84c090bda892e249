from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glot.errors import FaultError, UsageError
from glot.store import reader as store_reader
from glot.store.column_reader import describe_file
from glot.store.columns import ALIGNMENT
from glot.store.layout import STORED_AS, Manifest, StatesIdentity
from glot.store.plan import Plan
from glot.store.reader import Cache
from glot.store.shards import (
    ShardReader,
    ShardWriter,
    adopt_shard,
    finished_shard,
    list_shards,
    load_manifest,
    write_sidecar,
)

DTYPES = sorted(STORED_AS)
MadeCache = Any  # the dataclass of conftest.py
MakeCache = Callable[..., MadeCache]
ROOT = Path(store_reader.__file__).parents[2]


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


@pytest.fixture
def made_once(make_cache: MakeCache) -> MadeCache:
    return make_cache()


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_read_back_bit_for_bit(make_cache: MakeCache, dtype: str) -> None:
    made = make_cache(dtype=dtype)
    cache = Cache(made.folder)
    for layer in made.identity.layers:
        read = cache.read_texts(layer, np.arange(7))
        assert (read.dtype, read.values.dtype) == (dtype, STORED_AS[dtype])
        np.testing.assert_array_equal(read.values, made.naive(layer, range(7)))
        if dtype == "int8":
            np.testing.assert_array_equal(read.scale, np.concatenate(made.scales[layer]))
        else:
            assert read.scale is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_shard_is_plain_bytes_that_hdf5_and_numpy_both_read(make_cache: MakeCache, dtype: str) -> None:
    made = make_cache(dtype=dtype, lengths=(700, 300, 900), shards=(0, 0, 1))
    for number, entry in made.manifest.shards.items():
        first, stop = made.plan.shard_range(number)
        path = made.folder / entry.data.file
        assert path.stat().st_size == entry.data.size
        about = describe_file(made.folder, entry.data.file)[1]
        assert (about["kind"], about["first_text"], about["dtype"]) == ("shard", first, dtype)
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["offsets"], np.cumsum([0, *made.plan.length[first:stop]]))
            assert sorted(file["hidden"]) == ["1", "3"]
            for layer in made.identity.layers:
                dataset, column = file["hidden"][str(layer)], entry.data.columns[f"hidden/{layer}"]
                assert dataset.chunks is dataset.compression is dataset.external is None  # contiguous, in this file
                assert column.offset == dataset.id.get_offset()
                assert column.offset % ALIGNMENT == 0
                assert (dataset.dtype, dataset.attrs["dtype"]) == (np.dtype(STORED_AS[dtype]), dtype)
                expected = made.naive(layer, range(first, stop))
                plain = np.fromfile(path, STORED_AS[dtype], expected.size, offset=column.offset).reshape(column.shape)
                np.testing.assert_array_equal(dataset, expected)
                np.testing.assert_array_equal(plain, expected)
                # Anyone can check a text: its bytes, then those of its scales.
                scales = [np.empty(0, "<f4")] * 3 if dtype != "int8" else made.scales[layer]
                data = [made.states[layer][text].tobytes() + scales[text].tobytes() for text in range(first, stop)]
                assert file[f"check/{layer}"][()].tolist() == [xxhash.xxh3_64_intdigest(item) for item in data]


def test_bfloat16_lies_in_the_file_as_its_16_bits(make_cache: MakeCache) -> None:
    import torch

    made = make_cache(dtype="bfloat16")
    with h5py.File(made.folder / "shard-00000.h5") as file:
        bits = file["hidden/1"][()]
    assert bits.dtype == np.uint16
    values = torch.from_numpy(bits).view(torch.bfloat16).float().numpy()
    original = np.random.default_rng(0).standard_normal((3, 6))  # conftest's first text
    np.testing.assert_allclose(values[:3], original, rtol=2**-7)


@pytest.fixture(params=["float16", "int8"])
def made_any(make_cache: MakeCache, request: pytest.FixtureRequest) -> MadeCache:
    return make_cache(dtype=request.param)


@given(st.lists(st.integers(0, 6), max_size=20), st.sampled_from([1, 50, 8 * 2**20]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_are_read_in_any_order_and_with_repeats(made_any: MadeCache, text_ids: list[int], piece: int) -> None:
    made, is_int8 = made_any, made_any.identity.dtype == "int8"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_reader, "CHUNK_BYTES", piece)  # what is read and checked at a time
        patch.setattr(store_reader, "MAX_OPEN_FILES", 2)  # of three shards
        cache = Cache(made.folder)
        for _ in range(2):  # the second time nothing is compared
            read = cache.read_texts(3, np.asarray(text_ids, dtype=np.int64))
            np.testing.assert_array_equal(read.values, made.naive(3, text_ids))
            if is_int8:
                expected = np.concatenate([np.empty(0, "<f4"), *(made.scales[3][number] for number in text_ids)])
                np.testing.assert_array_equal(read.scale, expected)
        assert len(cache._open) <= 2
        cache.close()


# Damage


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_byte_of_a_shards_states_is_guarded(make_cache: MakeCache, dtype: str) -> None:
    """A damaged text is found when it is read, and named; the others are as good as before."""
    made = make_cache(dtype=dtype)
    entry = made.manifest.shards[1]  # the texts 3 (2 tokens) and 4 (9 tokens)
    path, columns = made.folder / entry.data.file, entry.data.columns
    for layer, other in ((1, 3), (3, 1)):
        kinds = ("hidden", "scale") if dtype == "int8" else ("hidden",)
        for column in (columns[f"{kind}/{layer}"] for kind in kinds):
            for offset in range(column.offset, column.offset + column.nbytes, 7):
                hit = 3 if offset < column.offset + 2 * column.row_bytes else 4
                flip(path, offset)
                cache = Cache(made.folder)
                with pytest.raises(FaultError, match=rf"shard-00001\.h5 is damaged in text {hit} \('text {hit} — na"):
                    cache.read_texts(layer, np.arange(7))
                cache.read_texts(layer, np.asarray([0, 7 - hit, 6]))
                cache.read_texts(other, np.arange(7))
                with pytest.raises(FaultError, match=r"glot inspect --verify.*glot inspect --repair"):
                    cache.read_texts(layer, np.asarray([hit]))  # a second look is no more trusting
                cache.close()
                flip(path, offset)
    Cache(made.folder).read_texts(1, np.arange(7))


@pytest.mark.parametrize("column", ["check/1", "check/3", "offsets"])
def test_the_other_columns_of_a_shard_are_guarded_too(made_once: MadeCache, column: str) -> None:
    entry = made_once.manifest.shards[1]
    place = entry.data.columns[column]
    for offset in range(place.offset, place.offset + place.nbytes):
        flip(made_once.folder / entry.data.file, offset)
        reader = ShardReader(made_once.folder, entry, made_once.plan, 1, made_once.identity)
        with pytest.raises(FaultError, match=rf"shard-00001\.h5 is damaged in its column {column}"):
            reader.read(column)
        flip(made_once.folder / entry.data.file, offset)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_damaged_texts_of_a_shard_are_listed(
    make_cache: MakeCache, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glot.store.shards.CHUNK_BYTES", 40)  # several texts are read at a time
    made = make_cache(dtype=dtype, lengths=(1, 2, 1, 9, 1, 1, 3), shards=(0,) * 7)
    entry = made.manifest.shards[0]
    columns, start = entry.data.columns, made.plan.token_start

    def damaged() -> list[int]:
        return ShardReader(made.folder, entry, made.plan, 0, made.identity).damaged_rows().tolist()

    assert damaged() == []
    flip(made.folder / entry.data.file, columns["hidden/3"].offset + int(start[3]) * columns["hidden/3"].row_bytes + 5)
    flip(made.folder / entry.data.file, columns["hidden/1"].offset + int(start[7]) * columns["hidden/1"].row_bytes - 1)
    if dtype == "int8":
        flip(made.folder / entry.data.file, columns["scale/1"].offset)
    assert damaged() == ([0, 3, 6] if dtype == "int8" else [3, 6])


@pytest.mark.parametrize("change", ["shorter", "longer", "empty", "missing", "link"])
def test_a_shard_of_another_size_is_refused(made_once: MadeCache, change: str) -> None:
    path = made_once.folder / "shard-00001.h5"
    whole = path.read_bytes()
    if change in ("missing", "link"):
        path.unlink()
    if change == "link":
        (made_once.folder / "elsewhere").write_bytes(whole)
        path.symlink_to(made_once.folder / "elsewhere")
    if change in ("shorter", "longer", "empty"):
        path.write_bytes({"shorter": whole[:-1], "longer": whole + b"\0", "empty": b""}[change])
    cache = Cache(made_once.folder)
    cache.read_texts(1, np.asarray([0, 1]))  # the other shards are as good as before
    with pytest.raises(FaultError, match=r"shard-00001\.h5 (has|cannot be read).*glot inspect --repair"):
        cache.read_texts(1, np.asarray([0, 3]))


def test_a_shard_of_another_cache_is_refused(make_cache: MakeCache, made_once: MadeCache) -> None:
    other = make_cache("other", lengths=(3, 1, 5, 3, 9, 4, 1))
    (made_once.folder / "shard-00001.h5").write_bytes((other.folder / "shard-00001.h5").read_bytes())
    manifest = Manifest.load(made_once.folder)
    manifest.shards[1] = other.manifest.shards[1]
    manifest.save(made_once.folder)
    with pytest.raises(FaultError, match=r"shard-00001\.h5 does not hold what the manifest's plan says"):
        Cache(made_once.folder).read_texts(1, np.asarray([3]))


def test_layers_are_named_from_either_end(made_once: MadeCache) -> None:
    cache = Cache(made_once.folder)
    assert [cache.resolve_layer(layer) for layer in (3, -1, 1, -3)] == [3, 3, 1, 1]
    for layer in (2, 0, -2, 4, -5, 99):
        with pytest.raises(UsageError, match=f"no layer {layer}: it keeps 1, 3 of 0 to 3"):
            cache.resolve_layer(layer)


# A shard in float32 within a float16 cache


@pytest.fixture
def mixed(made_once: MadeCache) -> MadeCache:
    """`made_once` with its shard 1 in float32, and values there that float16 does not have."""
    (made_once.folder / "shard-00001.h5").unlink()
    manifest = Manifest.load(made_once.folder)
    with ShardWriter(made_once.folder, 1, made_once.plan, made_once.identity, "float32") as writer:
        for layer, text_id in itertools.product(made_once.identity.layers, (3, 4)):
            states = made_once.states[layer][text_id].astype("<f4") * np.float32(1e6 + 1)
            made_once.states[layer][text_id] = states
            writer.write(layer, text_id, states)
        manifest.shards[1] = writer.finish()
    manifest.save(made_once.folder)
    return made_once


def test_a_mixed_cache_is_read_as_float32(mixed: MadeCache) -> None:
    cache = Cache(mixed.folder)
    assert [entry.dtype for entry in cache.manifest.shards.values()] == ["float16", "float32", "float16"]
    assert (cache.dtype, cache.manifest.states.dtype) == ("float32", "float16")
    for text_ids in (np.arange(7), np.asarray([5, 3, 0, 4, 4]), np.asarray([0, 1]), np.asarray([3])):
        for layer in (1, 3):
            read = cache.read_texts(layer, text_ids)
            assert (read.dtype, read.values.dtype) == ("float32", np.dtype("<f4"))
            expected = np.concatenate([mixed.states[layer][number].astype("<f4") for number in text_ids.tolist()])
            np.testing.assert_array_equal(read.values, expected)


@pytest.mark.parametrize(("number", "text_id"), [(0, 1), (1, 4), (2, 6)])
def test_a_mixed_cache_is_guarded_in_all_its_shards(mixed: MadeCache, number: int, text_id: int) -> None:
    manifest = Manifest.load(mixed.folder)
    data, rows = manifest.shards[number].data, mixed.plan.token_start
    row = int(rows[text_id] - rows[mixed.plan.shard_range(number)[0]])
    column = data.columns["hidden/3"]
    for byte in range(column.row_bytes):
        flip(mixed.folder / data.file, column.offset + row * column.row_bytes + byte)
        with pytest.raises(FaultError, match=rf"shard-0000{number}\.h5 is damaged in text {text_id} "):
            Cache(mixed.folder).read_texts(3, np.arange(7))
        flip(mixed.folder / data.file, column.offset + row * column.row_bytes + byte)
    Cache(mixed.folder).read_texts(3, np.arange(7))


@pytest.mark.parametrize(
    ("cache_dtype", "shard_dtype"), [("float32", "float16"), ("bfloat16", "float32"), ("int8", "float32")]
)
def test_no_other_mixture_is_read(make_cache: MakeCache, cache_dtype: str, shard_dtype: str) -> None:
    made = make_cache(dtype=cache_dtype)
    (made.folder / "shard-00001.h5").unlink()
    with ShardWriter(made.folder, 1, made.plan, made.identity, shard_dtype) as writer:
        for layer, text_id in itertools.product(made.identity.layers, (3, 4)):
            writer.write(layer, text_id, np.zeros((int(made.plan.length[text_id]), 6), STORED_AS[shard_dtype]))
        made.manifest.shards[1] = writer.finish()
    made.manifest.save(made.folder)
    with pytest.raises(FaultError, match="does not hold what the manifest's plan says"):
        Cache(made.folder).read_texts(1, np.asarray([3]))
    assert adopt_shard(made.folder, 1, made.plan, made.identity) is None


def test_a_float32_shard_is_adopted_by_a_float16_cache(mixed: MadeCache) -> None:
    manifest = Manifest.load(mixed.folder)
    assert adopt_shard(mixed.folder, 1, mixed.plan, mixed.identity) == manifest.shards[1]


# Writing


@pytest.fixture
def plan(make_plan: Callable[..., Plan], tmp_path: Path) -> Plan:
    """The folder holds nothing but the shards that a test writes."""
    (tmp_path / "plan").mkdir()
    made = make_plan([3, 1, 5, 2], [0, 0, 1, 1])
    (tmp_path / "plan.h5").unlink()  # open, so it can still be read
    (tmp_path / "plan").rmdir()
    return made


def fill(writer: ShardWriter, identity: StatesIdentity) -> None:
    for text_id, layer in itertools.product(range(writer.first, writer.stop), identity.layers):
        length = int(writer.start[text_id - writer.first + 1] - writer.start[text_id - writer.first])
        writer.write(layer, text_id, np.full((length, identity.width), text_id + layer, dtype="<f2"))


def test_a_full_disk_leaves_finished_shards_and_nothing_else(
    plan: Plan, identity: StatesIdentity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ShardWriter(tmp_path, 0, plan, identity) as writer:
        fill(writer, identity)
        writer.finish()
    finished = (tmp_path / "shard-00000.h5").read_bytes()
    calls = itertools.count()
    pwrite = os.pwrite

    def full(descriptor: int, data: memoryview, place: int) -> int:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, place)

    monkeypatch.setattr(os, "pwrite", full)
    with (
        pytest.raises(FaultError, match=r"cannot write .*shard-00001\.h5: No space left.*make room"),
        ShardWriter(tmp_path, 1, plan, identity) as writer,
    ):
        fill(writer, identity)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.h5"]
    assert (tmp_path / "shard-00000.h5").read_bytes() == finished


@pytest.mark.parametrize("call", ["fsync", "link", "open"])
def test_other_failures_leave_no_temporary_file(
    plan: Plan, identity: StatesIdentity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def attempt() -> None:
        with ShardWriter(tmp_path, 1, plan, identity) as writer:
            fill(writer, identity)
            monkeypatch.setattr(os, call, broken)
            writer.finish()

    if call == "open":
        monkeypatch.setattr(os, call, broken)
    with pytest.raises(FaultError, match=r"cannot write .*shard-00001\.h5: Input/output error"):
        attempt()
    assert list(tmp_path.iterdir()) == []


def test_of_two_who_finish_a_shard_the_first_stays(
    plan: Plan, identity: StatesIdentity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ShardWriter(tmp_path, 0, plan, identity) as slow:
        fill(slow, identity)
        monkeypatch.setattr("glot.store.files.worker_name", lambda: "other-1")
        with ShardWriter(tmp_path, 0, plan, identity) as fast:
            fill(fast, identity)
            fast.finish()
        before = (tmp_path / "shard-00000.h5").stat()
        with pytest.raises(FileExistsError):
            slow.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.h5"]
    assert (tmp_path / "shard-00000.h5").stat().st_ino == before.st_ino


def test_a_kernel_that_writes_a_few_bytes_at_a_time(make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: pwrite(descriptor, data[:5], place))
    made = make_cache()
    np.testing.assert_array_equal(Cache(made.folder).read_texts(3, np.arange(7)).values, made.naive(3, range(7)))


def test_a_kernel_that_reads_a_few_bytes_at_a_time(made_once: MadeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, *place: preadv(file, [view[:10] for view in views], *place))
    expected = made_once.naive(1, range(7))
    np.testing.assert_array_equal(Cache(made_once.folder).read_texts(1, np.arange(7)).values, expected)


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL])
def test_states_that_are_not_in_memory_are_read_from_disk(
    made_once: MadeCache, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    preadv, waited = os.preadv, []

    def read(descriptor: int, views: list, place: int, flags: int = 0) -> int:
        if flags:
            raise OSError(code, os.strerror(code))
        waited.append(place)
        return preadv(descriptor, views, place)

    monkeypatch.setattr(os, "preadv", read)
    for text_ids in ([5, 0, 3, 3], range(7)):
        read_back = Cache(made_once.folder).read_texts(3, np.asarray(text_ids))
        np.testing.assert_array_equal(read_back.values, made_once.naive(3, text_ids))
    assert waited


def test_nothing_appears_before_every_text_is_written(plan: Plan, identity: StatesIdentity, tmp_path: Path) -> None:
    for written in ([], [(1, 0), (3, 0)], [(1, 0), (1, 1)], [(1, 0), (1, 1), (3, 1)]):
        with ShardWriter(tmp_path, 0, plan, identity) as writer:
            for layer, text_id in written:
                writer.write(layer, text_id, np.zeros(((3, 1)[text_id], 6), dtype="<f2"))
            with pytest.raises(ValueError, match=r"shard-00000\.h5: text \d was not written"):
                writer.finish()
        assert list(tmp_path.iterdir()) == []


def test_the_same_states_are_the_same_bytes_whenever_they_are_written(make_cache: MakeCache) -> None:
    first = make_cache("first")
    second = int(time.time())
    while int(time.time()) == second:  # HDF5 keeps times to the second, unless told not to
        time.sleep(0.01)
    assert make_cache("second").manifest == first.manifest


@pytest.mark.parametrize(("shape", "dtype"), [((2, 6), "<f2"), ((3, 5), "<f2"), ((3, 6), "<f4"), ((3, 6), "<u2")])
def test_states_that_do_not_fit_are_not_written(
    plan: Plan, identity: StatesIdentity, tmp_path: Path, shape: tuple[int, int], dtype: str
) -> None:
    with ShardWriter(tmp_path, 0, plan, identity) as writer, pytest.raises(ValueError, match="do not fit"):
        writer.write(1, 0, np.zeros(shape, dtype=dtype))


@pytest.mark.parametrize(("dtype", "scale"), [("float16", np.ones(3, "<f4")), ("int8", None), ("int8", np.ones(3))])
def test_scales_are_there_where_they_are_wanted(
    plan: Plan, identity: StatesIdentity, tmp_path: Path, dtype: str, scale: np.ndarray | None
) -> None:
    identity = replace(identity, dtype=dtype)
    with ShardWriter(tmp_path, 0, plan, identity) as writer, pytest.raises(ValueError, match="do not fit"):
        writer.write(1, 0, np.zeros((3, 6), STORED_AS[dtype]), scale)


NO_ROOM = """
import resource, sys
from pathlib import Path

import numpy as np

from glot.errors import FaultError
from glot.store.example_set import ExampleSet
from glot.store.layout import StatesIdentity
from glot.store.plan import Plan, PlanWriter
from glot.store.shards import ShardWriter

folder, count = Path(sys.argv[1]), 2000
random = np.random.default_rng(0)


def save_plan():
    writer = PlanWriter(folder, True)
    try:
        ones, numbers = np.ones(count, dtype=np.uint32), np.arange(count, dtype=np.uint32)
        texts = [str(number).encode() * 20 for number in random.random(count)]
        writer.add(ones, random.bytes(16 * count), numbers, ones, ones, texts)
        return Plan(folder, writer.finish(folder / "plan.h5", 10**9))
    finally:
        writer.close()


plan = save_plan()
(folder / "plan.h5").unlink()
identity = StatesIdentity("x", "", "0", "0", "decoder", 64, 3, "{text}", 9, (1, 3), "float16", "float32")
for room in (10, 5000, 40000, 90000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    for save in (
        save_plan,
        lambda: ExampleSet(np.arange(9000), np.arange(9000), None, None).save(folder / "train.h5"),
        lambda: ShardWriter(folder, 0, plan, identity),
    ):
        try:
            save()
        except FaultError as error:
            print(str(error).replace(str(folder), ""))
"""


def test_hdf5_does_not_crash_where_there_is_no_room(tmp_path: Path) -> None:
    """A real limit of the system, as a quota is: HDF5 would print tracebacks and take the process with it."""
    pytest.importorskip("resource")
    command = [sys.executable, "-c", NO_ROOM, str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert len(lines) == 12
    assert all(line.startswith("cannot write ") and line.endswith("run again") for line in lines)
    assert list(tmp_path.iterdir()) == []


# What is finished is listed in sidecars, until the manifest lists all


@pytest.fixture
def growing(made_once: MadeCache) -> MadeCache:
    """`made_once` before its shards are listed: shard 0 has its sidecar, shard 1 is whole without one, 2 is missing."""
    write_sidecar(made_once.folder, 0, made_once.manifest.shards[0])
    (made_once.folder / "shard-00002.h5").unlink()
    replace(made_once.manifest, shards={}).save(made_once.folder)
    return made_once


def test_a_shard_is_finished_with_its_sidecar(growing: MadeCache) -> None:
    folder, entries = growing.folder, growing.manifest.shards
    bare = Manifest.load(folder)
    assert bare.shards == {}
    assert load_manifest(folder).shards == {0: entries[0]}
    assert [finished_shard(folder, number, bare) for number in range(3)] == [entries[0], None, None]
    with pytest.raises(UsageError, match=r"unfinished \(1 of 3 shards\)"):
        Cache(folder)
    read = Cache(folder, allow_unfinished=True).read_texts(3, np.arange(3))
    np.testing.assert_array_equal(read.values, growing.naive(3, range(3)))
    write_sidecar(folder, 1, entries[1])
    assert load_manifest(folder).shards == {0: entries[0], 1: entries[1]}


def test_the_last_sidecar_makes_a_whole_cache(made_once: MadeCache) -> None:
    replace(made_once.manifest, shards={}).save(made_once.folder)
    for number in (2, 0, 1):
        write_sidecar(made_once.folder, number, made_once.manifest.shards[number])
    cache = Cache(made_once.folder)
    assert cache.manifest == made_once.manifest
    np.testing.assert_array_equal(cache.read_texts(3, np.arange(7)).values, made_once.naive(3, range(7)))
    list_shards(made_once.folder, load_manifest(made_once.folder))
    assert Manifest.load(made_once.folder) == made_once.manifest
    assert not list(made_once.folder.glob("shard-*.json"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"texts": 1}', "null", "\x00"])
def test_a_torn_sidecar_is_no_sidecar(growing: MadeCache, content: str) -> None:
    (growing.folder / "shard-00000.json").write_text(content)
    assert load_manifest(growing.folder).shards == {}
    assert finished_shard(growing.folder, 0, Manifest.load(growing.folder)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry["data"].update(file="../shard-00000.h5"),
        lambda entry: entry["data"].update(file="shard-00001.h5"),
        lambda entry: entry["data"].update(size=-1),
        lambda entry: entry.update(dtype="float17"),
        lambda entry: entry.update(tokens="9"),
        lambda entry: entry["data"]["columns"]["offsets"].update(shape=[-1]),
        lambda entry: entry["data"]["columns"]["offsets"].update(dtype="O"),
    ],
)
def test_a_hostile_sidecar_is_no_sidecar(growing: MadeCache, change: Callable[[dict], None]) -> None:
    path = growing.folder / "shard-00000.json"
    entry = json.loads(path.read_text())
    change(entry)
    path.write_text(json.dumps(entry))
    assert load_manifest(growing.folder).shards == {}


def test_names_like_a_sidecars_are_left_alone(made_once: MadeCache) -> None:
    for name in ("shard-1.json", "shard-x.json", "shard-00009.json", "shard-00001.json.tmp-host-1"):
        (made_once.folder / name).write_text(json.dumps(asdict(made_once.manifest.shards[1])))
    assert load_manifest(made_once.folder) == made_once.manifest


@pytest.mark.parametrize("listed", [True, False])
def test_a_short_shard_is_not_finished(made_once: MadeCache, listed: bool) -> None:
    if not listed:
        write_sidecar(made_once.folder, 1, made_once.manifest.shards[1])
        replace(made_once.manifest, shards={}).save(made_once.folder)
    manifest = Manifest.load(made_once.folder)
    assert finished_shard(made_once.folder, 1, manifest) == made_once.manifest.shards[1]
    path = made_once.folder / "shard-00001.h5"
    os.truncate(path, path.stat().st_size - 1)
    assert finished_shard(made_once.folder, 1, manifest) is None
    path.unlink()
    assert finished_shard(made_once.folder, 1, manifest) is None


# Adopting what a killed run published but did not list


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_whole_shard_is_adopted_with_the_entry_it_would_have_had(make_cache: MakeCache, dtype: str) -> None:
    made = make_cache(dtype=dtype)
    for number, entry in made.manifest.shards.items():
        assert adopt_shard(made.folder, number, made.plan, made.identity) == entry


def test_the_name_of_the_backbone_does_not_matter(made_once: MadeCache) -> None:
    identity = replace(made_once.identity, backbone="another")
    assert adopt_shard(made_once.folder, 0, made_once.plan, identity) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "f" * 64},
        {"tokenizer_sha256": "f" * 64},
        {"revision": "abc"},
        {"layers": (1,)},
        {"layers": (0, 1, 3)},
        {"width": 7},
        {"dtype": "bfloat16"},
        {"compute_dtype": "bfloat16"},
        {"max_tokens": 17},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_shard_of_other_states_is_not_adopted(made_once: MadeCache, change: dict) -> None:
    identity = replace(made_once.identity, **change)
    assert adopt_shard(made_once.folder, 0, made_once.plan, identity) is None


def test_a_shard_of_other_texts_is_not_adopted(made_once: MadeCache, tmp_path: Path, write_plan: Callable) -> None:
    texts, lengths = made_once.plan.texts(0, 7), made_once.plan.length.tolist()

    def other(texts: list[str], lengths: list[int], cuts: list[int]) -> Plan:
        (tmp_path / "other").mkdir(exist_ok=True)
        return Plan(tmp_path / "other", write_plan(tmp_path / "other", texts, lengths, cuts))

    assert adopt_shard(made_once.folder, 0, other(texts, lengths, [3, 5]), made_once.identity) is not None
    turned = [texts[2], *texts[1:2], texts[0], *texts[3:]]
    assert adopt_shard(made_once.folder, 0, other(turned, lengths, [3, 5]), made_once.identity) is None
    assert adopt_shard(made_once.folder, 0, other(texts, lengths, [2, 5]), made_once.identity) is None
    assert adopt_shard(made_once.folder, 0, other(texts, [3, 1, 4, *lengths[3:]], [3, 5]), made_once.identity) is None
    more = other([*texts, "more"], [*lengths, 1], [3, 5, 7])
    assert adopt_shard(made_once.folder, 0, more, made_once.identity) is not None  # a plan that only grew
    assert adopt_shard(made_once.folder, 3, more, made_once.identity) is None  # no file


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_shard_with_a_damaged_text_is_not_adopted(make_cache: MakeCache, dtype: str) -> None:
    made = make_cache(dtype=dtype)
    entry = made.manifest.shards[0]
    path = made.folder / entry.data.file
    for name, column in entry.data.columns.items():
        for offset in {column.offset, column.offset + column.nbytes // 2, column.offset + column.nbytes - 1}:
            flip(path, offset)
            assert adopt_shard(made.folder, 0, made.plan, made.identity) is None, name
            flip(path, offset)
    assert adopt_shard(made.folder, 0, made.plan, made.identity) == entry


def test_a_broken_file_is_not_adopted(made_once: MadeCache) -> None:
    path = made_once.folder / "shard-00000.h5"
    whole = path.read_bytes()
    for content in (b"", b"nonsense" * 1000, whole[:100], whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert adopt_shard(made_once.folder, 0, made_once.plan, made_once.identity) is None
    path.unlink()
    (made_once.folder / "elsewhere").write_bytes(whole)
    path.symlink_to(made_once.folder / "elsewhere")
    assert adopt_shard(made_once.folder, 0, made_once.plan, made_once.identity) is None


@pytest.mark.parametrize(
    "trick", ["link", "external", "chunked", "compressed", "virtual", "group", "lost", "outer link"]
)
def test_a_hostile_shard_is_not_adopted(made_once: MadeCache, tmp_path: Path, trick: str) -> None:
    """Its marks are right, its values even, but they do not lie in it as plain bytes: nothing foreign is followed."""
    path = made_once.folder / "shard-00000.h5"
    with h5py.File(path, "r+") as file:
        values, marks = file["hidden/1"][()], dict(file["hidden/1"].attrs)
        del file["hidden/1"]
        if trick == "chunked":
            made = file.create_dataset("hidden/1", data=values, chunks=(2, 2))
        elif trick == "compressed":
            made = file.create_dataset("hidden/1", data=values, compression="gzip")
        elif trick == "external":
            values.tofile(tmp_path / "outside")
            place = [(str(tmp_path / "outside"), 0, values.nbytes)]
            made = file.create_dataset("hidden/1", values.shape, values.dtype, external=place)
        elif trick == "link":
            with h5py.File(tmp_path / "outside.h5", "w") as other:
                other["x"] = values
            file["hidden/1"] = h5py.ExternalLink(tmp_path / "outside.h5", "x")
        elif trick == "virtual":
            with h5py.File(tmp_path / "outside.h5", "w") as other:
                other["x"] = values
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[:] = h5py.VirtualSource(tmp_path / "outside.h5", "x", values.shape)
            made = file.create_virtual_dataset("hidden/1", layout)
        elif trick == "outer link":
            with h5py.File(tmp_path / "outside.h5", "w") as other:
                file.copy("hidden", other)
                other["hidden/1"] = values
            del file["hidden"]
            file["hidden"] = h5py.ExternalLink(tmp_path / "outside.h5", "hidden")
        elif trick == "group":
            file.create_group("hidden/1")
        if trick in ("chunked", "compressed", "external", "virtual"):
            made.attrs.update(marks)
            np.testing.assert_array_equal(made, values)
    assert adopt_shard(made_once.folder, 0, made_once.plan, made_once.identity) is None
