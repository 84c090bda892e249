"""Whatever a cache says, the answer is a result or one line: no crash, no hang, no gigabytes, nothing from outside."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glot.store.columns import STORED_DTYPES
from glot.store.layout import Manifest
from glot.store.places import file_system
from glot.store.plan import Plan
from glot.store.recover import recover_manifest
from glot.store.shards import adopt_shard
from tests.faults import hostile
from tests.faults.hostile import SLOW_USES, USES, Files, Guarded, TooLong, Use, confined, limits, use
from tests.faults.runs import Zygote

pytestmark = pytest.mark.slow  # with the others of this folder a minute

slow = pytest.mark.slow


def counts(few: int, many: int) -> pytest.MarkDecorator:
    """How many inputs a test tries: a few in the quick tests, many in the slow ones."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=slow)])


def fuzz(check: Callable[[Any], None], strategy: st.SearchStrategy, count: int) -> None:
    """Try so many inputs, the same ones every time, and show the simplest that fails."""
    options = {"max_examples": count, "deadline": None, "derandomize": True, "database": None}
    settings(**options, suppress_health_check=list(HealthCheck))(given(strategy)(check))()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(hostile.make_cache(tmp_path_factory.mktemp("hostile") / "cache"))


@pytest.fixture(scope="module")
def linked_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(hostile.make_linked(tmp_path_factory.mktemp("linked") / "cache"))


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    watch = Guarded(tmp_path / "outside")
    yield watch
    assert not watch.touched(), "a file outside of the cache was opened"
    watch.close()


URL = "memory://hostile/cache"


def put_at_url(folder: Path, url: str) -> None:
    """Make what is plain files in a folder all that lies at a URL."""
    system = file_system("memory")
    if system.exists(url):
        system.rm(url, recursive=True)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            system.pipe_file(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.fixture
def tried(files: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    yield from trying(files, monkeypatch)


@pytest.fixture
def tried_linked(linked_files: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    yield from trying(linked_files, monkeypatch)


def trying(files: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`tried(change)` makes a change and does what a user could do: what is quick always, one slow thing in turn.

    Every fourth input is tried as a cache at a URL too.
    """
    turn = itertools.count()
    blocks = files.folder.with_name("copied-blocks")
    monkeypatch.setenv("GLOT_CACHE_DIR", str(blocks))

    def attempt(change: Callable[[], None], *more: Use) -> None:
        number = next(turn)
        slow_use = [SLOW_USES[number // 4 % len(SLOW_USES)]] if number % 4 == 0 else []
        try:
            change()
            with limits(), confined(files.folder, files.folder.with_name("copied")):
                use(files.folder, [*USES, *slow_use, *more])
            if number % 4 == 1:
                put_at_url(files.folder, URL)
                with limits(), confined(blocks):
                    use(URL, USES)
        finally:
            files.restore()

    yield attempt
    files.restore()


# The manifest


def paths_of(data: Any, path: tuple = ()) -> Iterator[tuple]:
    """The way to every value of a JSON document, lists and dicts included."""
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in children:
        yield (*path, key)
        yield from paths_of(value, (*path, key))


def put(data: Any, path: tuple, value: Any) -> None:
    """Replace a value; `...` removes it. What is no longer there is left alone."""
    try:
        for key in path[:-1]:
            data = data[key]
        if value is ...:
            del data[path[-1]]
        else:
            data[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        return


NUMBERS = [0, 1, -1, 2, 3, 7, 4096, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64, 10**30, 0.5, 1e308]
NUMBERS += [float("inf"), float("nan")]
NAMES = ["", "x", "../x", "../outside/secret.h5", "/etc/passwd", "examples/../../outside/secret.h5", "..", "\0"]
NAMES += ["examples/train.h5", "examples/validation.h5", "shard-00000.h5", "shard-00001.h5", "plan-2.h5", "plan.h5\n"]
NAMES += ["examples/" + "a" * 300 + ".h5", "float32", "int8", "bfloat16", "train-1", "1", "a\nb", "\x1b[31m", "\ud800"]
NAMES += ["a\0b", "plan.h5", "é" * 300]
ODD = st.sampled_from(
    [..., None, True, False, *NUMBERS, *NAMES, *STORED_DTYPES, [], {}, [[]], [0], [1, 2, 3], [2**62, 2**62], {"a": 1}]
)


def odd_values() -> st.SearchStrategy:
    nested = st.recursive(ODD.filter(lambda value: value is not ...), st.lists, max_leaves=4)
    return st.one_of(ODD, st.integers(-5, 5000), nested)


def manifest_edits(files: Files) -> st.SearchStrategy:
    places = list(paths_of(files.manifest))
    edit = st.tuples(st.sampled_from(places), odd_values())
    return st.lists(edit, min_size=1, max_size=3)


@counts(100, 2500)
def test_edits_of_the_manifest(count: int, files: Files, tried: Callable, guarded: Guarded) -> None:
    """The files are whole: what is read is what was written, or there is one line."""
    expected = hostile.read_states(files.folder)

    def same_states(folder: Path) -> None:
        found = hostile.read_states(folder)
        assert all(found[layer] == expected[layer] for layer in found if layer in expected)

    def check(edits: list) -> None:
        manifest = copy.deepcopy(files.manifest)
        for path, value in edits:
            put(manifest, path, copy.deepcopy(value))
        files_now = {"manifest.json": json.dumps(manifest, ensure_ascii=True).encode()}
        tried(lambda: files.write(files_now), same_states)

    fuzz(check, manifest_edits(files), count)


@counts(60, 1500)
def test_edits_of_the_manifest_of_a_link(
    count: int, linked_files: Files, tried_linked: Callable, guarded: Guarded
) -> None:
    """Whatever it calls a part: only a folder that holds a cache is looked into, for shards that fit."""
    expected, manifest = hostile.read_states(linked_files.folder), linked_files.manifest
    folders = st.sampled_from(["parts/a", "parts/b", ".", "parts", "parts/a/../b", str(guarded.folder), "/proc/self"])
    places = [("parts",), ("repeated",), ("version",), *(("parts", *path) for path in paths_of(manifest["parts"]))]
    edit = st.tuples(st.sampled_from(places), st.one_of(folders, odd_values()))
    edits = st.one_of(manifest_edits(linked_files), st.lists(edit, min_size=1, max_size=3))

    def same_states(folder: Path) -> None:
        found = hostile.read_states(folder)
        assert all(found[layer] == expected[layer] for layer in found if layer in expected)

    def check(edits: list) -> None:
        now = copy.deepcopy(manifest)
        for path, value in edits:
            put(now, path, copy.deepcopy(value))
        tried_linked(lambda: linked_files.write({"manifest.json": json.dumps(now).encode()}), same_states)

    fuzz(check, edits, count)


VALUES = [None, -1, 2**40, "x", [], "removed", "../x", "\ud800", float("nan"), *STORED_DTYPES]


@pytest.mark.parametrize("value", [1e999, *(pytest.param(value, marks=slow) for value in VALUES)])
def test_every_value_of_the_manifest(value: object, files: Files, tried: Callable) -> None:
    """One after the other; all that goes wrong is listed."""
    wrong = []
    for path in paths_of(files.manifest):
        if value in STORED_DTYPES and path[-1] != "dtype":
            continue
        manifest = copy.deepcopy(files.manifest)
        put(manifest, path, ... if value == "removed" else value)
        data = {"manifest.json": json.dumps(manifest).encode()}
        try:
            tried(lambda data=data: files.write(data))
        except (AssertionError, TooLong) as error:
            wrong.append(f"{'.'.join(map(str, path))}: {error}")
    assert not wrong, f"{len(wrong)} values:\n" + "\n".join(wrong)


@counts(40, 700)
def test_manifests_that_are_hardly_json(count: int, files: Files, tried: Callable) -> None:
    whole = files.whole["manifest.json"]
    torn = st.integers(0, len(whole)).map(lambda end: whole[:end])
    flips = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4)

    def flipped(changes: list) -> bytes:
        data = bytearray(whole)
        for place, byte in changes:
            data[place] = byte
        return bytes(data)

    digits = re.compile(rb"\d+")
    tricks = st.sampled_from(
        [
            *(b"[" * 10**5, b'{"a":' * 10**5, b"", b"\0" * 100, b"\xff\xfe", b"1" * 10**5, b"null", b'"x"'),
            whole.replace(b"{", b'{"format": "glot-cache", "version": 3, ', 1),
            whole + whole,
            digits.sub(lambda match: match.group() * 500, whole, count=9),
            digits.sub(b"1e400", whole),
            whole.replace(b'"number": 0', b'"number": 1e400'),
            whole.replace(b'"number": 0', b'"number": NaN'),
            whole.replace(b'"number": 0', b'"number": ' + b"9" * 5000),
        ]
    )
    contents = st.one_of(torn, flips.map(flipped), tricks)
    fuzz(lambda data: tried(lambda: files.write({"manifest.json": data})), contents, count)


def test_a_deep_or_endless_manifest(files: Files, tried: Callable) -> None:
    version = b'{"format": "glot-cache", "version": ' + b"9" * 5000 + b"}"
    for data in (b"[" * 10**6, b'{"a":' * 10**6, b"9" * 10**6, version):
        tried(lambda data=data: files.write({"manifest.json": data}))


@counts(40, 500)
def test_edits_of_a_sidecar(count: int, files: Files, tried: Callable) -> None:
    """A cache that was stopped: its first shard is known by its sidecar alone."""
    entry = Manifest.load(files.folder).shards[0]
    whole = json.loads(json.dumps(asdict(entry)))
    edits = st.lists(st.tuples(st.sampled_from(list(paths_of(whole))), odd_values()), min_size=1, max_size=3)
    manifest = {**files.manifest, "shards": files.manifest["shards"][1:]}

    def check(changes: list) -> None:
        sidecar = copy.deepcopy(whole)
        for path, value in changes:
            put(sidecar, path, copy.deepcopy(value))
        now = {"manifest.json": json.dumps(manifest).encode(), "shard-00000.json": json.dumps(sidecar).encode()}
        tried(lambda: files.write(now))

    fuzz(check, edits, count)


# The files, with checksums that fit


WORDS = [0, 1, 2, 3, 4, 5, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
WORDS += [np.frombuffer(np.float64(value).tobytes(), "<u8")[0].item() for value in (np.nan, np.inf, -1.0, 1e300, 0.5)]


def column_edits(files: Files) -> st.SearchStrategy:
    """((file, column), [(element, value)]): the elements of any column but the states."""
    places = [(e["file"], name) for e in hostile.entries_of(files.manifest) for name in e["columns"]]
    places = [place for place in places if not place[1].startswith(("hidden/", "scale/"))]
    values = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(WORDS)), min_size=1, max_size=3)
    return st.lists(st.tuples(st.sampled_from(places), values), min_size=1, max_size=3)


@counts(80, 1400)
def test_columns_that_lie(count: int, files: Files, tried: Callable) -> None:
    """Offsets that go backwards or past the end, lengths and ids that lie, under checksums that fit."""

    def check(edits: list) -> None:
        manifest, now = copy.deepcopy(files.manifest), dict(files.whole)
        columns = {(e["file"], name): c for e in hostile.entries_of(manifest) for name, c in e["columns"].items()}
        for (file, name), values in edits:
            column, data = columns[file, name], bytearray(now[file])
            size, rows = np.dtype(column["dtype"]).itemsize, int(np.prod(column["shape"]))
            for place, value in values:
                start = column["offset"] + place % rows * size
                data[start : start + size] = value.to_bytes(8, "little")[:size]
            now[file] = bytes(data)
        hostile.reseal(now, manifest)
        now["manifest.json"] = json.dumps(manifest).encode()
        tried(lambda: files.write(now))

    fuzz(check, column_edits(files), count)


def shape_edits(files: Files) -> st.SearchStrategy:
    """(file, column, shape, dtype, offset): what the manifest says of a column, where it fits the file's size."""
    places = [(e["file"], name) for e in hostile.entries_of(files.manifest) for name in e["columns"]]
    sizes = st.one_of(st.integers(0, 40), st.sampled_from([2**20, 2**31, 2**40, 2**62, 2**63, 2**70]))
    shape = st.one_of(st.lists(sizes, min_size=1, max_size=2), st.tuples(st.just(0), sizes).map(list))
    offset = st.one_of(st.none(), st.integers(0, 9000), st.sampled_from([2**40, 2**63 - 1, 2**63, 2**64]))
    dtype = st.one_of(st.none(), st.sampled_from(STORED_DTYPES))
    edit = st.tuples(st.sampled_from(places), st.one_of(st.none(), shape), dtype, offset)
    return st.lists(edit, min_size=1, max_size=3)


@counts(80, 1600)
def test_shapes_that_lie(count: int, files: Files, tried: Callable) -> None:
    def check(edits: list) -> None:
        manifest, now = copy.deepcopy(files.manifest), dict(files.whole)
        columns = {(e["file"], name): c for e in hostile.entries_of(manifest) for name, c in e["columns"].items()}
        for place, shape, dtype, offset in edits:
            change = {"shape": shape, "dtype": dtype, "offset": offset}
            columns[place] |= {key: value for key, value in change.items() if value is not None}
        hostile.reseal(now, manifest)
        now["manifest.json"] = json.dumps(manifest).encode()
        tried(lambda: files.write(now))

    fuzz(check, shape_edits(files), count)


def byte_edits(files: Files) -> st.SearchStrategy:
    names = [name for name in files.whole if name.endswith(".h5")]
    flips = st.lists(st.tuples(st.integers(0, 2**14), st.integers(1, 255)), min_size=1, max_size=6)
    ends = st.one_of(st.none(), st.integers(0, 2**14))
    return st.tuples(st.sampled_from(names), flips, ends)


@counts(60, 1200)
def test_bytes_under_checksums_that_fit(count: int, files: Files, tried: Callable) -> None:
    def check(edit: tuple) -> None:
        name, flips, end = edit
        manifest, now = copy.deepcopy(files.manifest), dict(files.whole)
        data = bytearray(now[name])
        for place, mask in flips:
            data[place % len(data)] ^= mask
        now[name] = bytes(data[: end if end is None else end % (len(data) + 100)])
        hostile.reseal(now, manifest)
        now["manifest.json"] = json.dumps(manifest).encode()
        tried(lambda: files.write(now))

    fuzz(check, byte_edits(files), count)


# Names that lead elsewhere


def hide(path: Path, kind: str, outside: Path) -> None:
    """Put something else in the place of a file."""
    data = path.read_bytes() if path.is_file() else b""
    if path.exists():
        path.unlink()
    if kind == "link":
        (outside / "copy.h5").write_bytes(data)
        path.symlink_to(outside / "copy.h5")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "nowhere":
        path.symlink_to(outside / "nothing")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
        finally:
            os.chdir(here)


PLACES = ["manifest.json", "plan.h5", "examples/train.h5", "shard-00000.h5", "shard-00000.json", "plan.claim"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "loop", "nowhere", "device", "socket"])
def test_what_is_no_file(place: str, kind: str, files: Files, tmp_path: Path) -> None:
    folder, outside = tmp_path / "cache", Guarded(tmp_path / "outside")
    shutil.copytree(files.folder, folder)
    hide(folder / place, kind, outside.folder)
    outside.touched()
    with limits(), confined(folder, tmp_path / "copied"):
        use(folder, [*USES, *SLOW_USES])
    assert not outside.touched()
    outside.close()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "loop", "nowhere", "device", "socket"])
def test_what_is_no_file_in_a_part(kind: str, linked_files: Files, tmp_path: Path) -> None:
    folder, outside = tmp_path / "cache", Guarded(tmp_path / "outside")
    shutil.copytree(linked_files.folder, folder)
    hide(folder / "parts" / "b" / "shard-00001.h5", kind, outside.folder)
    outside.touched()
    with limits(), confined(folder, tmp_path / "copied"):
        use(folder, [*USES, *SLOW_USES])
    assert not outside.touched()
    outside.close()


@pytest.mark.parametrize("file", ["plan.h5", "examples/train.h5", "shard-00000.h5"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket"])
def test_what_is_no_file_but_has_the_right_size(file: str, kind: str, files: Files, tmp_path: Path) -> None:
    """A pipe's size is 0, so a manifest may say that of a file whose columns are empty."""
    folder = tmp_path / "cache"
    shutil.copytree(files.folder, folder)
    hide(folder / file, kind, tmp_path)
    manifest = copy.deepcopy(files.manifest)
    for entry in hostile.entries_of(manifest):
        if entry["file"] == file:
            entry["size"] = (folder / file).stat().st_size
            for column in entry["columns"].values():
                column |= {"shape": [0, *column["shape"][1:]], "offset": 0, "xxh3": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with limits(), confined(folder, tmp_path / "copied"):
        use(folder, [*USES, *SLOW_USES])


def test_a_folder_of_examples_that_leads_elsewhere(files: Files, tmp_path: Path) -> None:
    folder, outside = tmp_path / "cache", Guarded(tmp_path / "outside")
    shutil.copytree(files.folder, folder)
    for path in (folder / "examples").iterdir():
        path.rename(outside.folder / path.name)
    (folder / "examples").rmdir()
    (folder / "examples").symlink_to(outside.folder)
    outside.touched()
    with limits(), confined(folder, tmp_path / "copied"):
        use(folder, [*USES, *SLOW_USES])
    assert not outside.touched()
    outside.close()


@pytest.mark.parametrize("name", ["../../../evil", "/{outside}/evil", "..", "a/b", "a\0b", "x" * 300, "train\n", "é"])
@pytest.mark.parametrize("action", [hostile.subset, hostile.copy, hostile.merge])
def test_the_name_of_an_example_set_writes_nothing_elsewhere(
    name: str, action: Callable, files: Files, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "er" / "cache"
    shutil.copytree(files.folder, folder)
    (tmp_path / "outside").mkdir()
    manifest = copy.deepcopy(files.manifest)
    name = name.replace("/{outside}", str(tmp_path / "outside"))
    manifest["examples"] = {name: manifest["examples"]["train"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = sorted(tmp_path.rglob("*"))
    with limits(), confined(folder, folder.with_name("copied")):
        use(folder, [action])
    assert sorted(tmp_path.rglob("*")) == before


# Shards, plans and example sets that an extraction finds without a manifest: each says what it is in its head

FOUND = ("plan.h5", "examples/train.h5", "shard-00000.h5")


def take_up(folder: Path) -> None:
    """What an extraction does with what it finds."""
    manifest = Manifest.load(folder)
    plan = Plan(folder, manifest.plan.data)
    adopt_shard(folder, 0, plan, manifest.states)
    plan.close()


@counts(60, 1200)
def test_heads_that_lie(count: int, files: Files, tried: Callable, guarded: Guarded) -> None:
    """Checksums fit, but the columns, names and settings in the head are changed."""
    heads = {name: hostile.head_of(files.whole[name]) for name in FOUND}
    places = [(name, path) for name in FOUND for path in paths_of(heads[name])]
    edits = st.lists(st.tuples(st.sampled_from(places), odd_values()), min_size=1, max_size=3)

    def check(changes: list) -> None:
        changed = copy.deepcopy(heads)
        for (name, path), value in changes:
            put(changed[name], path, copy.deepcopy(value))
        now = {name: hostile.with_head(files.whole[name], changed[name])[0] for name, _ in dict(changes)}
        tried(lambda: files.write(now), hostile.recover, take_up)

    fuzz(check, edits, count)


@counts(100, 2000)
def test_found_files_with_changed_bytes(count: int, files: Files, tried: Callable) -> None:
    """A file with one changed byte, wherever that is, is not taken up, nor one that is cut."""
    places = st.sampled_from(FOUND).flatmap(
        lambda name: st.tuples(st.just(name), st.integers(0, len(files.whole[name]) - 1), st.integers(0, 255))
    )

    def check(edit: tuple[str, int, int]) -> None:
        name, place, mask = edit
        data = files.whole[name]
        now = data[:place] + (bytes([data[place] ^ mask]) + data[place + 1 :] if mask else b"")

        def is_left_out(folder: Path) -> None:
            manifest = Manifest.load(folder)
            if name == "shard-00000.h5":
                plan = Plan(folder, manifest.plan.data)
                assert adopt_shard(folder, 0, plan, manifest.states) is None
                plan.close()
            else:
                found = recover_manifest(folder, "test")
                assert found is None if name == "plan.h5" else "train" not in found.examples

        tried(lambda: files.write({name: now}), is_left_out)

    fuzz(check, places, count)


@pytest.mark.parametrize("trick", ["external-link", "external-storage", "virtual", "soft-link", "compressed"])
@pytest.mark.parametrize("has_head", [True, False])
def test_hdf5_is_never_followed(trick: str, has_head: bool, files: Files, tmp_path: Path) -> None:
    """A shard whose HDF5 leads elsewhere, with the head of a good one or none: its HDF5 is not even looked at."""
    folder, outside = tmp_path / "cache", Guarded(tmp_path / "outside")
    shutil.copytree(files.folder, folder)
    values = np.zeros((3, 2), "<f2")
    with h5py.File(outside.folder / "real.h5", "w") as other:
        other["x"] = values
    path = folder / "shard-00000.h5"
    with h5py.File(path, "w", userblock_size=hostile.HEAD_ROOM) as file:
        if trick == "external-link":
            file["hidden/0"] = h5py.ExternalLink(str(outside.folder / "real.h5"), "x")
        elif trick == "external-storage":
            place = [(str(outside.folder / "secret.h5"), 0, 4096)]
            file.create_dataset("hidden/0", values.shape, values.dtype, external=place)
        elif trick == "virtual":
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[:] = h5py.VirtualSource(str(outside.folder / "real.h5"), "x", values.shape)
            file.create_virtual_dataset("hidden/0", layout)
        elif trick == "soft-link":
            file["hidden/0"] = h5py.SoftLink("/hidden/0")
        else:
            file.create_dataset("hidden/0", data=values, compression="gzip")
    if has_head:
        path.write_bytes(hostile.with_head(path.read_bytes(), hostile.head_of(files.whole[path.name]))[0])
    shutil.copy(path, folder / "plan-2.h5")
    shutil.copy(path, folder / "examples/train-2.h5")
    manifest = Manifest.load(folder)
    plan = Plan(folder, manifest.plan.data)
    outside.touched()
    with limits(), confined(folder):
        assert adopt_shard(folder, 0, plan, manifest.states) is None
        assert adopt_shard(folder, 1, plan, manifest.states) == manifest.shards[1]
        found = recover_manifest(folder, "test")
    assert found.plan.data == manifest.plan.data
    assert sorted(found.examples) == ["train", "validation"]
    assert not outside.touched(), "a file outside of the cache was opened"
    plan.close()
    outside.close()


# The command


@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--json"], ["inspect", "--verify"], ["cache", "copy"]])
@pytest.mark.parametrize(
    "value",
    ["\ud800", "\x1b[2J[red]x[/blue]", *(pytest.param(word, marks=slow) for word in ("a\nb", "é" * 5000, "\0"))],
    ids=["surrogate", "escape", "lines", "long", "nul"],
)
def test_words_that_do_harm_to_a_terminal(
    words: list[str], value: str, files: Files, tmp_path: Path, zygote: Zygote
) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(files.folder, folder)
    manifest = copy.deepcopy(files.manifest)
    manifest["examples"]["train"]["source"] = value
    manifest["examples"]["train"]["task"]["name"] = value
    manifest["states"]["backbone"] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    pid = zygote.glot(*words, folder, *([tmp_path / "copied"] if "copy" in words else []))
    code, output = zygote.wait(pid), zygote.output(pid)
    assert "Traceback" not in output, output[-800:]
    assert code in (0, 1, 2)
    assert "\x1b[2J" not in output
