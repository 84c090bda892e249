from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import FaultError, UsageError
from pipeline.store import writer as store_writer
from pipeline.store.layout import ALIGNMENT, BLOCK_BYTES, STORED_AS, StatesIdentity
from pipeline.store.plan import Plan
from pipeline.store.reader import Cache
from pipeline.store.writer import ShardWriter, adopt_shard

DTYPES = sorted(STORED_AS)
MadeCache = Any  # the dataclass of conftest.py
MakeCache = Callable[..., MadeCache]


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_read_back_bit_for_bit(make_cache: MakeCache, dtype: str) -> None:
    made = make_cache(dtype=dtype)
    cache = Cache(made.folder)
    for layer in made.identity.layers:
        read = cache.read_texts(layer, np.arange(7))
        assert read.dtype == STORED_AS[dtype]
        np.testing.assert_array_equal(read, made.naive(layer, range(7)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_shard_is_plain_bytes_that_hdf5_and_numpy_both_read(make_cache: MakeCache, dtype: str) -> None:
    made = make_cache(dtype=dtype, lengths=(700, 300, 900), shards=(0, 0, 1))
    for number, entry in made.manifest.shards.items():
        first, stop = made.plan.shard_range(number)
        path = made.folder / entry.file
        assert path.stat().st_size == entry.size
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["text_id"], np.arange(first, stop))
            np.testing.assert_array_equal(file["offsets"], np.cumsum([0, *made.plan.length[first:stop]]))
            assert sorted(file["hidden"]) == ["1", "3"]
            for layer in made.identity.layers:
                dataset, place = file["hidden"][str(layer)], entry.hidden[str(layer)]
                assert dataset.chunks is dataset.compression is dataset.external is None  # contiguous, in this file
                assert place.offset == dataset.id.get_offset()
                assert place.offset % ALIGNMENT == 0
                assert (dataset.dtype, dataset.attrs["dtype"]) == (np.dtype(STORED_AS[dtype]), dtype)
                expected = made.naive(layer, range(first, stop))
                plain = np.fromfile(path, STORED_AS[dtype], expected.size, offset=place.offset).reshape(place.shape)
                np.testing.assert_array_equal(dataset, expected)
                np.testing.assert_array_equal(plain, expected)


def test_bfloat16_lies_in_the_file_as_its_16_bits(make_cache: MakeCache) -> None:
    import torch

    made = make_cache(dtype="bfloat16")
    with h5py.File(made.folder / "shard-00000.h5") as file:
        bits = file["hidden/1"][()]
    assert bits.dtype == np.uint16
    values = torch.from_numpy(bits).view(torch.bfloat16).float().numpy()
    original = np.random.default_rng(0).standard_normal((3, 6))  # conftest's first text
    np.testing.assert_allclose(values[:3], original, rtol=2**-7)


@given(st.lists(st.integers(0, 6), max_size=20))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_are_read_in_any_order_and_with_repeats(made_once: MadeCache, text_ids: list[int]) -> None:
    cache = Cache(made_once.folder)
    np.testing.assert_array_equal(
        cache.read_texts(3, np.asarray(text_ids, dtype=np.int64)), made_once.naive(3, text_ids)
    )
    cache.close()


@pytest.fixture
def made_once(make_cache: MakeCache) -> MadeCache:
    return make_cache()


def test_every_byte_of_a_shards_states_is_guarded(made_once: MadeCache) -> None:
    entry = made_once.manifest.shards[1]
    path = made_once.folder / entry.file
    for place in entry.hidden.values():
        row_bytes = place.shape[1] * 2
        for offset in range(place.offset, place.offset + place.shape[0] * row_bytes, 7):
            flip(path, offset)
            with pytest.raises(FaultError, match=r"shard-00001\.h5 is damaged in bytes 0 to \d+.*extract again"):
                Cache(made_once.folder).read_texts(1, np.asarray([3]))
            flip(path, offset)
    Cache(made_once.folder).read_texts(1, np.asarray([3]))


def test_damage_is_found_in_the_block_that_has_it(make_cache: MakeCache) -> None:
    # Layer 1 fills more than two blocks; the last text lies in the last of them.
    made = make_cache(lengths=(5000, 5000, 10), shards=(0, 0, 0), width=512)
    entry = made.manifest.shards[0]
    offset = entry.hidden["3"].offset + 10009 * 512 * 2
    assert offset // BLOCK_BYTES >= 4
    flip(made.folder / entry.file, offset)
    cache = Cache(made.folder)
    np.testing.assert_array_equal(cache.read_texts(1, np.asarray([0])), made.states[1][0])
    with pytest.raises(FaultError, match=rf"in bytes {offset // BLOCK_BYTES * BLOCK_BYTES} to "):
        cache.read_texts(3, np.asarray([2]))
    with pytest.raises(FaultError, match="is damaged"):  # a second look is no more trusting
        cache.read_texts(3, np.asarray([2]))


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
    with pytest.raises(FaultError, match=r"shard-00001\.h5.*extract again"):
        cache.read_texts(1, np.asarray([0, 3]))


def test_layers_are_named_from_either_end(made_once: MadeCache) -> None:
    cache = Cache(made_once.folder)
    assert [cache.resolve_layer(layer) for layer in (3, -1, 1, -3)] == [3, 3, 1, 1]
    for layer in (2, 0, -2, 4, -5, 99):
        with pytest.raises(UsageError, match=f"no layer {layer}: it keeps 1, 3 of 0 to 3"):
            cache.resolve_layer(layer)


# Writing


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    return make_plan([3, 1, 5, 2], [0, 0, 1, 1])


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


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
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


def test_a_kernel_that_writes_a_few_bytes_at_a_time(make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: pwrite(descriptor, data[:5], place))
    made = make_cache()
    np.testing.assert_array_equal(Cache(made.folder).read_texts(3, np.arange(7)), made.naive(3, range(7)))


def test_a_kernel_that_reads_a_few_bytes_at_a_time(made_once: MadeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda descriptor, views, place: preadv(descriptor, [v[:1000] for v in views], place)
    )
    expected = made_once.naive(1, range(7))
    np.testing.assert_array_equal(Cache(made_once.folder).read_texts(1, np.arange(7)), expected)


def test_nothing_appears_before_every_text_is_written(plan: Plan, identity: StatesIdentity, tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, plan, identity) as writer:
        writer.write(1, 0, np.zeros((3, 6), dtype="<f2"))
        with pytest.raises(ValueError, match="never written"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_the_same_states_are_the_same_bytes_whenever_they_are_written(
    make_cache: MakeCache,
) -> None:
    first = make_cache("first")
    time.sleep(1.1)  # HDF5 keeps times to the second, unless told not to
    assert make_cache("second").manifest == first.manifest


@pytest.mark.parametrize(("shape", "dtype"), [((2, 6), "<f2"), ((3, 5), "<f2"), ((3, 6), "<f4"), ((3, 6), "<u2")])
def test_states_that_do_not_fit_are_not_written(
    plan: Plan, identity: StatesIdentity, tmp_path: Path, shape: tuple[int, int], dtype: str
) -> None:
    with ShardWriter(tmp_path, 0, plan, identity) as writer, pytest.raises(ValueError, match="do not fit"):
        writer.write(1, 0, np.zeros(shape, dtype=dtype))


NO_ROOM = """
import resource, sys
from pathlib import Path

import numpy as np

from pipeline.errors import FaultError
from pipeline.store.example_set import ExampleSet
from pipeline.store.layout import StatesIdentity
from pipeline.store.plan import Plan
from pipeline.store.writer import ShardWriter

folder, count = Path(sys.argv[1]), 2000
random = np.random.default_rng(0)
ones, numbers = np.ones(count, dtype=np.uint32), np.arange(count, dtype=np.uint32)
hashes = random.integers(0, 256, (count, 16)).astype(np.uint8)
texts = [str(number) * 20 for number in random.random(count)]
plan = Plan(hashes, ones, ones * 0, numbers, hashes[:, 0], numbers, hashes[:, 0], texts)
identity = StatesIdentity("x", "", "0", "0", "decoder", 64, 3, "{text}", 9, (1, 3), "float16", "float32")
for room in (10, 5000, 40000, 90000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    for save in (
        lambda: plan.save(folder / "plan.h5"),
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
    root = Path(store_writer.__file__).parents[2]
    command = [sys.executable, "-c", NO_ROOM, str(tmp_path)]
    process = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert len(lines) == 12
    assert all(line.startswith("cannot write /") and line.endswith("run again") for line in lines)
    assert list(tmp_path.iterdir()) == []


# Adopting what a killed run renamed but did not list


def test_a_whole_shard_is_adopted_with_the_entry_it_would_have_had(made_once: MadeCache) -> None:
    for number, entry in made_once.manifest.shards.items():
        assert adopt_shard(made_once.folder, number, made_once.plan, made_once.identity) == entry


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


def test_a_shard_of_other_texts_is_not_adopted(made_once: MadeCache) -> None:
    plan, folder = made_once.plan, made_once.folder
    order = np.asarray([2, 1, 0, 3, 4, 5, 6])
    assert adopt_shard(folder, 0, replace(plan, hash=plan.hash[order]), made_once.identity) is None
    assert adopt_shard(folder, 7 - 4, replace(plan, shard=plan.shard + 1), made_once.identity) is None  # no file


def test_a_broken_file_is_not_adopted(made_once: MadeCache) -> None:
    path = made_once.folder / "shard-00000.h5"
    whole = path.read_bytes()
    for content in (b"", b"nonsense" * 1000, whole[:100], whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert adopt_shard(made_once.folder, 0, made_once.plan, made_once.identity) is None
