"""Column files: what is written is read back, by us and by HDF5, and whatever is wrong with one is said."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from xxhash import xxh3_64_hexdigest

from glot.errors import FaultError
from glot.store.column_reader import ColumnReader, describe_file
from glot.store.columns import (
    ALIGNMENT,
    CHUNK_BYTES,
    STORED_DTYPES,
    Column,
    ColumnFile,
    ColumnWriter,
    strings_columns,
    write_columns,
)

REMEDY = "make it again"


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    """A column of every dtype: flat ones, wide ones in a group, an empty one, and one that is larger than a page."""
    random = np.random.default_rng(0)
    made = {
        f"group/{dtype[1:]}": random.integers(0, 100, (5, 3)).astype(dtype) if dtype != "<f8" else random.random(7)
        for dtype in STORED_DTYPES
    }
    return {
        **made,
        "empty": np.empty((0, 4), "<f4"),
        "large": random.random((700, 2)),
        "last": np.arange(3, dtype="|u1"),
    }


@pytest.fixture
def entry(columns: dict[str, np.ndarray], tmp_path: Path) -> ColumnFile:
    return write_columns(tmp_path / "made.h5", columns, {"format": "test"})


def open_file(folder: Path, entry: ColumnFile) -> ColumnReader:
    return ColumnReader(folder, entry, REMEDY)


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def test_what_is_written_is_read_back(entry: ColumnFile, columns: dict[str, np.ndarray], tmp_path: Path) -> None:
    reader = open_file(tmp_path, entry)
    for name, values in columns.items():
        read = reader.read(name)
        assert (read.dtype, reader.shape(name), name in reader) == (values.dtype, values.shape, True)
        np.testing.assert_array_equal(read, values)
        np.testing.assert_array_equal(reader.read(name, 0, 0), values[:0])
        if len(values) > 2:
            np.testing.assert_array_equal(reader.read(name, 1, len(values) - 1), values[1:-1])
    reader.check_file()
    assert entry.size == (tmp_path / "made.h5").stat().st_size


def test_hdf5_and_a_plain_read_see_the_same_values(
    entry: ColumnFile, columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "made.h5") as file:
        assert file.userblock_size == ALIGNMENT
        for name, values in columns.items():
            dataset, column = file[name], entry.columns[name]
            assert dataset.chunks is dataset.compression is dataset.external is None  # contiguous, in this file
            np.testing.assert_array_equal(dataset, values)
            assert dataset.dtype == values.dtype
            if values.size:
                assert dataset.id.get_offset() == column.offset
            plain = np.fromfile(tmp_path / "made.h5", values.dtype, values.size, offset=column.offset)
            np.testing.assert_array_equal(plain.reshape(values.shape), values)


def test_the_head_says_what_the_manifest_would(entry: ColumnFile, tmp_path: Path) -> None:
    assert describe_file(tmp_path, "made.h5") == (entry, {"format": "test"})
    line, rest = (tmp_path / "made.h5").read_bytes().split(b"\n", 1)  # readable without us
    name, size, own, others = line.decode().split()
    head = rest[: int(size)]
    assert (name, own, others) == ("glot-columns", xxh3_64_hexdigest(head), xxh3_64_hexdigest(rest[int(size) :]))
    assert entry.xxh3 == others
    values = json.loads(head)
    assert values["about"] == {"format": "test"}
    assert values["columns"]["large"]["offset"] == entry.columns["large"].offset


def test_a_head_of_any_size(tmp_path: Path) -> None:
    columns = {f"group/{number}": np.arange(3) for number in range(200)}
    about = {"source": "naïve \ud800 " * 2000}
    entry = write_columns(tmp_path / "made.h5", columns, about)
    assert describe_file(tmp_path, "made.h5") == (entry, about)
    with h5py.File(tmp_path / "made.h5") as file:
        assert file["group/199"][:].tolist() == [0, 1, 2]


@pytest.mark.parametrize("place", [0, 5, 14, 20, 40, 55, 90, 900])
def test_every_byte_of_the_head_is_guarded(entry: ColumnFile, tmp_path: Path, place: int) -> None:
    flip(tmp_path / "made.h5", place)
    with pytest.raises(ValueError, match=r"made\.h5 does not describe itself: .*(begin|damaged|too soon)"):
        describe_file(tmp_path, "made.h5")


def test_large_columns_start_on_a_page(entry: ColumnFile, columns: dict[str, np.ndarray]) -> None:
    large = [name for name, values in columns.items() if values.nbytes >= ALIGNMENT]
    assert large == ["large"]
    assert all(entry.columns[name].offset % ALIGNMENT == 0 for name in large)
    places = sorted(
        (column.offset, column.offset + column.nbytes) for column in entry.columns.values() if column.nbytes
    )
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(places))  # none in another


def test_the_same_values_are_the_same_file(entry: ColumnFile, columns: dict[str, np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert write_columns(tmp_path / "again" / "made.h5", columns, {"format": "test"}) == entry


def test_a_column_larger_than_a_chunk_is_given_out_in_pieces(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (CHUNK_BYTES // 1000 + 300, 1000)).astype("|u1")
    entry = write_columns(tmp_path / "made.h5", {"large": values})
    pieces = list(open_file(tmp_path, entry).chunks("large"))
    assert len(pieces) == 2
    np.testing.assert_array_equal(np.concatenate(pieces), values)
    flip(tmp_path / "made.h5", entry.columns["large"].offset + len(values) * 1000 - 1)
    with pytest.raises(FaultError, match="is damaged in its column large"):
        open_file(tmp_path, entry).check("large")


def test_strings_are_two_columns(tmp_path: Path) -> None:
    strings = [b"one", b"", "naïve 文 🙂".encode()]
    entry = write_columns(tmp_path / "made.h5", strings_columns(strings, "texts"))
    reader = open_file(tmp_path, entry)
    offsets, data = reader.read("texts/offsets").tolist(), reader.read("texts/bytes").tobytes()
    assert [data[a:b] for a, b in itertools.pairwise(offsets)] == strings


# Damage


def test_every_byte_of_a_column_is_guarded(entry: ColumnFile, columns: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "made.h5"
    for name, column in entry.columns.items():
        stop = column.offset + column.nbytes
        for offset in {*range(column.offset, stop, max(1, column.nbytes // 30)), *range(stop - 1, column.offset, -99)}:
            flip(path, offset)
            for look in (ColumnReader.read, ColumnReader.check):
                with pytest.raises(FaultError, match=rf"made\.h5 is damaged in its column {name}: {REMEDY}"):
                    look(open_file(tmp_path, entry), name)
            other = "last" if name != "last" else "large"
            open_file(tmp_path, entry).read(other)  # no other column is blamed
            flip(path, offset)


def test_every_byte_of_the_file_is_guarded(entry: ColumnFile, tmp_path: Path) -> None:
    path = tmp_path / "made.h5"
    for offset in [*range(0, entry.size, 211), entry.size - 1]:
        flip(path, offset)
        with pytest.raises(FaultError, match=rf"made\.h5 is damaged \(.*\): {REMEDY}"):
            open_file(tmp_path, entry).check_file()
        flip(path, offset)
    open_file(tmp_path, entry).check_file()


@pytest.mark.parametrize("change", ["shorter", "longer", "empty", "missing", "link", "pipe", "folder"])
def test_a_file_of_another_size_or_kind_is_found_when_it_is_opened(
    entry: ColumnFile, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "made.h5"
    whole = path.read_bytes()
    path.unlink()
    if change == "link":
        (tmp_path / "elsewhere").write_bytes(whole)
        path.symlink_to(tmp_path / "elsewhere")
    elif change == "pipe":
        os.mkfifo(path)  # must not wait for a writer
    elif change == "folder":
        path.mkdir()
    elif change != "missing":
        path.write_bytes({"shorter": whole[:-1], "longer": whole + b"\0", "empty": b""}[change])
    with pytest.raises(FaultError, match=rf"made\.h5 (has \d+ bytes, the manifest says|cannot be read).*{REMEDY}"):
        open_file(tmp_path, entry)


def test_a_file_that_is_cut_while_it_is_open(entry: ColumnFile, tmp_path: Path) -> None:
    reader = open_file(tmp_path, entry)
    os.truncate(tmp_path / "made.h5", entry.columns["large"].offset + 10)
    with pytest.raises(FaultError, match=rf"made\.h5 ends too soon: {REMEDY}"):
        reader.read("large")


@pytest.mark.parametrize(
    "column", [Column(10**6, (1,), "|u1"), Column(0, (2**60, 2**60), "<f8"), Column(2**70, (1,), "|u1")]
)
def test_a_column_outside_its_file_is_found_when_it_is_opened(
    entry: ColumnFile, tmp_path: Path, column: Column
) -> None:
    with pytest.raises(FaultError, match=r"made\.h5 ends before its column large does"):
        open_file(tmp_path, replace(entry, columns={**entry.columns, "large": column}))


def test_rows_and_columns_that_are_not_there(entry: ColumnFile, tmp_path: Path) -> None:
    reader = open_file(tmp_path, entry)
    for start, stop in ((-1, 2), (0, 4), (2, 1), (4, None)):
        with pytest.raises(FaultError, match=r"made\.h5 has no rows .* in its column last"):
            reader.read("last", start, stop)
    with pytest.raises(FaultError, match=r"made\.h5 has no column first"):
        reader.read("first")


def test_a_kernel_that_reads_and_writes_a_few_bytes_at_a_time(
    columns: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: pwrite(file, data[:7], place))
    monkeypatch.setattr(os, "preadv", lambda file, views, *place: preadv(file, [view[:100] for view in views], *place))
    reader = open_file(tmp_path, write_columns(tmp_path / "made.h5", columns))
    for name, values in columns.items():
        np.testing.assert_array_equal(reader.read(name), values)


def test_a_disk_that_cannot_be_read(entry: ColumnFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_file(tmp_path, entry)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(FaultError, match=rf"made\.h5 cannot be read \(Input/output error\): {REMEDY}"):
        reader.read("last")


# Writing


SHAPES = {"numbers": ((4,), "<u8"), "wide": ((4, 3), "<f4")}


def filled(path: Path, exclusive: bool, number: int = 0) -> ColumnWriter:
    writer = ColumnWriter(path, SHAPES, exclusive=exclusive)
    writer.append("numbers", 0, np.full(4, number, dtype="<u8"))
    writer.write("wide", 0, np.ones((4, 3), dtype="<f4"))
    return writer


def test_who_publishes_second_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made.h5"
    first = filled(path, True, 1)
    monkeypatch.setattr("glot.store.files.worker_name", lambda: "other-1")
    second = filled(path, True, 2)
    assert len(list(tmp_path.iterdir())) == 2
    entry = second.finish(unchecked=("wide",))
    whole = path.read_bytes()
    with pytest.raises(FileExistsError):
        first.finish()
    assert [file.name for file in tmp_path.iterdir()] == ["made.h5"]
    assert path.read_bytes() == whole
    assert open_file(tmp_path, entry).read("numbers").tolist() == [2] * 4
    assert (entry.columns["wide"].xxh3, len(entry.columns["numbers"].xxh3)) == ("", 16)


def test_who_publishes_second_after_the_first_tidied_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes a stale claim over removes the temporary file of the one before."""
    path = tmp_path / "made.h5"
    first = filled(path, True, 1)
    first.temporary.unlink()
    monkeypatch.setattr("glot.store.files.worker_name", lambda: "other-1")
    filled(path, True, 2).finish()
    with pytest.raises(FileExistsError):
        first.finish()
    assert [file.name for file in tmp_path.iterdir()] == ["made.h5"]


def test_what_is_not_exclusive_replaces(tmp_path: Path) -> None:
    for number in (1, 2):
        entry = filled(tmp_path / "made.h5", False, number).finish()
    assert open_file(tmp_path, entry).read("numbers").tolist() == [2] * 4
    assert [file.name for file in tmp_path.iterdir()] == ["made.h5"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def none(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", none)
    filled(tmp_path / "made.h5", True, 1).finish()
    with pytest.raises(FileExistsError):
        filled(tmp_path / "made.h5", True, 2).finish()
    assert [file.name for file in tmp_path.iterdir()] == ["made.h5"]


@pytest.mark.parametrize(
    ("call", "exclusive"),
    [("link", True), ("replace", False), *[(call, kind) for call in ("pwrite", "fsync", "open") for kind in (0, 1)]],
)
def test_a_failed_write_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, exclusive: bool
) -> None:
    path = tmp_path / "made.h5"
    filled(path, False, 1).finish()
    before = path.read_bytes()
    target = path if not exclusive else tmp_path / "other.h5"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def attempt() -> None:
        with ColumnWriter(target, SHAPES, exclusive=exclusive) as writer:
            writer.append("numbers", 0, np.zeros(4, dtype="<u8"))
            writer.write("wide", 0, np.ones((4, 3), dtype="<f4"))
            writer.finish()

    monkeypatch.setattr(os, call, full)
    with pytest.raises(FaultError, match=rf"cannot write .*{target.name}: No space left.*make room and run again"):
        attempt()
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["made.h5"]
    assert path.read_bytes() == before


def test_a_file_system_that_cannot_fsync_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems answer EINVAL: the file is there all the same, and that is no failure."""
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    entry = filled(tmp_path / "made.h5", True, 1).finish()
    assert open_file(tmp_path, entry).read("numbers").tolist() == [1] * 4


def test_an_abandoned_file_is_removed(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ColumnWriter(tmp_path / "made.h5", SHAPES):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda writer: writer.write("wide", 0, np.ones((4, 3), dtype="<f2")),
        lambda writer: writer.write("wide", 2, np.ones((3, 3), dtype="<f4")),
        lambda writer: writer.write("numbers", 4, np.ones(1, dtype="<u8")),
    ],
)
def test_values_that_do_not_fit_are_not_written(tmp_path: Path, write: Callable[[ColumnWriter], None]) -> None:
    with ColumnWriter(tmp_path / "made.h5", SHAPES) as writer, pytest.raises(ValueError, match="do not fit"):
        write(writer)
    assert list(tmp_path.iterdir()) == []
