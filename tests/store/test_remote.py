"""Caches at URLs: read from a real S3 server, and what is told when it, or what lies there, fails."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from glot.errors import AccessError, FaultError, UsageError
from glot.store import blocks, remote
from glot.store.combine import copy_cache, merge_caches, subset_cache
from glot.store.places import RemoteFolder, file_system, place_of, told
from glot.store.reader import Cache
from glot.store.verify import verify_cache
from tests.s3 import S3Server, upload

URL = "s3://made/some/cache"
BLOCK = 2000
TEXTS = [4, 0, 6, 4, 2, 1, 3, 5]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some wide texts lie across blocks; a shard has ten or more."""
    monkeypatch.setattr(remote, "BLOCK_BYTES", BLOCK)


def settle() -> None:
    """Wait for what readers have begun to fetch ahead."""
    remote._threads().shutdown()
    remote._threads.cache_clear()


def kept(tmp_path: Path) -> list[Path]:
    settle()
    return sorted(path for path in (tmp_path / "blocks").rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_what_is_read_is_what_lies_there(s3: S3Server, make_cache: Callable, dtype: str) -> None:
    made = make_cache(dtype=dtype, width=96)
    upload(made.folder, URL)
    here, there = Cache(made.folder), Cache(URL)
    assert str(there.folder) == URL
    assert there.manifest == here.manifest
    assert there.plan.texts(0, 7) == here.plan.texts(0, 7)
    assert (there.examples("train").text_id == here.examples("train").text_id).all()
    for layer in made.identity.layers:
        expected, found = here.read_texts(layer, np.asarray(TEXTS)), there.read_texts(layer, np.asarray(TEXTS))
        np.testing.assert_array_equal(found.values, expected.values)
        if dtype == "int8":
            np.testing.assert_array_equal(found.scale, expected.scale)
    assert verify_cache(there) == []


def test_nothing_is_fetched_twice(s3: S3Server, make_cache: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not where a block comes between the look for it and its request."""
    upload(make_cache().folder, URL)
    every = np.arange(7)
    first = Cache(URL).read_texts(3, every).values
    settle()
    fetched = [line for line in s3.misbehave() if line.startswith("GET")]
    assert any("shard" in line for line in fetched)
    assert len(set(fetched)) == len(fetched)
    holds = blocks.BlockCache.holds
    for look in (holds, lambda *_: False):
        monkeypatch.setattr(blocks.BlockCache, "holds", look)
        np.testing.assert_array_equal(Cache(URL).read_texts(3, every).values, first)
        settle()
        assert {line.rpartition("/")[2] for line in s3.misbehave() if line.startswith("GET")} == {"manifest.json"}


def test_who_reads_on_finds_the_next_blocks(s3: S3Server) -> None:
    """A look at one place fetches one block; the second of two in order, those that follow, each by one request."""
    file_system("s3").pipe_file(f"{URL}/object", bytes(20 * BLOCK))
    opened = remote.RemoteFile(RemoteFolder(f"{URL}/object"), 20 * BLOCK, "object")

    def fetched(place: int) -> list[int]:
        s3.misbehave()
        opened.prepare([(place, 100)])
        settle()
        ranges = [re.search(r"bytes=(\d+)-(\d+)$", line) for line in s3.misbehave() if line.startswith("GET")]
        assert all(int(found[2]) - int(found[1]) == BLOCK - 1 for found in ranges if found)
        return sorted(int(found[1]) // BLOCK for found in ranges if found)

    assert fetched(5 * BLOCK) == [5]
    assert fetched(0) == [0]
    assert fetched(BLOCK) == [1, 2, 3, 4, *range(6, 2 + remote.AHEAD)]  # but for what is there


def test_the_block_cache_stays_within_its_size(
    s3: S3Server, make_cache: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upload(make_cache().folder, URL)
    whole = Cache(URL).read_texts(3, np.arange(7)).values
    size = sum(path.stat().st_size for path in kept(tmp_path))
    monkeypatch.setenv("GLOT_CACHE_DIR", str(tmp_path / "blocks" / "small"))
    monkeypatch.setenv("GLOT_CACHE_GB", str(12000 / 2**30))
    for _ in range(3):
        np.testing.assert_array_equal(Cache(URL).read_texts(3, np.arange(7)).values, whole)
    small = sum(path.stat().st_size for path in kept(tmp_path) if "small" in path.parts)
    assert small <= 12000 < size


def test_readers_that_share_a_block_cache(
    make_cache: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that is too small for any of them: what one removes, another is reading."""
    monkeypatch.setenv("GLOT_CACHE_DIR", str(tmp_path / "blocks"))
    monkeypatch.setenv("GLOT_CACHE_GB", str(9000 / 2**30))
    made = make_cache(width=96)
    upload(made.folder, "memory://shared/cache")
    whole = Cache(made.folder).read_texts(3, np.arange(7)).values

    def read(_: int) -> bool:
        cache = Cache("memory://shared/cache")
        return all((cache.read_texts(3, np.arange(7)).values == whole).all() for _ in range(20))

    with ThreadPoolExecutor(4) as readers:
        assert all(readers.map(read, range(4)))
    assert not [path for path in kept(tmp_path) if ".tmp-" in path.name]


@pytest.mark.parametrize("damage", ["flip", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("cut", "empty"))])
def test_a_damaged_block_cache_is_fetched_again(
    s3: S3Server, make_cache: Callable, tmp_path: Path, damage: str
) -> None:
    """Plan and example sets too: all that lies in the block cache is spoilt."""
    upload(make_cache().folder, URL)
    whole = Cache(URL).read_texts(3, np.arange(7)).values
    for path in kept(tmp_path):
        data = bytearray(path.read_bytes())
        data[::50] = bytes(255 - byte for byte in data[::50])
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-1]), "empty": b""}[damage])
    again = Cache(URL)
    np.testing.assert_array_equal(again.read_texts(3, np.arange(7)).values, whole)
    assert again.examples("train").label.tolist() == [1, 0, 1]


@pytest.mark.slow
def test_a_block_that_is_damaged_while_it_is_read_again(s3: S3Server, make_cache: Callable, tmp_path: Path) -> None:
    """Checksums are compared at every reading, not at the first one alone."""
    upload(make_cache().folder, URL)
    cache = Cache(URL)
    whole = cache.read_texts(3, np.arange(7)).values
    for path in kept(tmp_path):
        if path.stat().st_size == BLOCK:
            path.write_bytes(b"\1" * BLOCK)
    np.testing.assert_array_equal(cache.read_texts(3, np.arange(7)).values, whole)


def test_damage_there_is_told(s3: S3Server, make_cache: Callable) -> None:
    made = make_cache()
    upload(made.folder, URL)
    data = bytearray((made.folder / "shard-00001.h5").read_bytes())
    offset = made.manifest.shards[1].data.columns["hidden/3"].offset
    data[offset] ^= 1
    file_system("s3").pipe_file(f"{URL}/shard-00001.h5", bytes(data))
    with pytest.raises(FaultError, match=rf"{URL}/shard-00001.h5 is damaged in text 3 .*push the cache there again"):
        Cache(URL).read_texts(3, np.asarray([3]))
    assert [(damage.file, damage.texts) for damage in verify_cache(Cache(URL))] == [("shard-00001.h5", (3,))]


@pytest.mark.parametrize(
    "file",
    ["shard-00001.h5", *(pytest.param(file, marks=pytest.mark.slow) for file in ("plan.h5", "examples/train.h5"))],
)
def test_missing_and_truncated_objects(s3: S3Server, make_cache: Callable, file: str) -> None:
    made = make_cache()
    upload(made.folder, URL)

    def use() -> None:
        cache = Cache(URL)
        cache.examples("train")
        cache.read_texts(3, np.arange(7))

    data = (made.folder / file).read_bytes()
    file_system("s3").pipe_file(f"{URL}/{file}", data[:-5])
    with pytest.raises(FaultError, match=rf"{URL}/{file} has {len(data) - 5} bytes, the manifest says {len(data)}"):
        use()
    file_system("s3").rm_file(f"{URL}/{file}")
    with pytest.raises(FaultError, match=rf"{URL}/{file} is not there: push"):
        use()
    assert file in {damage.file for damage in verify_cache(Cache(URL))}


def test_an_answer_that_lacks_its_end(s3: S3Server, make_cache: Callable) -> None:
    upload(make_cache().folder, URL)
    cache = Cache(URL)
    s3.misbehave(cut=True, part="shard-00000")
    with pytest.raises(FaultError, match=rf"{URL}/shard-00000.h5 ends too soon"):
        cache.read_texts(3, np.asarray([0]))
    s3.misbehave()
    assert cache.read_texts(3, np.asarray([0])).values.shape == (3, 6)


@pytest.mark.slow
def test_a_store_that_is_slow_and_busy(s3: S3Server, make_cache: Callable) -> None:
    """503 now and then is waited out; 503 for ever is a line that says so."""
    made = make_cache()
    upload(made.folder, URL)
    s3.misbehave(busy=1, slow=0.02)
    cache = Cache(URL)
    np.testing.assert_array_equal(
        cache.read_texts(3, np.arange(7)).values, Cache(made.folder).read_texts(3, np.arange(7)).values
    )
    s3.misbehave(busy=10**6)
    with pytest.raises(FaultError, match=rf"cannot read {URL}/manifest.json: the store is too busy .*tried several"):
        Cache(URL)


def test_places_that_cannot_be_read(s3: S3Server, make_cache: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(make_cache().folder, URL)
    with pytest.raises(
        UsageError, match=r"there is no s3://other/x/manifest.json \(The specified bucket does not exist"
    ):
        Cache("s3://other/x")
    with pytest.raises(UsageError, match=r"there is no s3://made/x/manifest.json \(nothing is there"):
        Cache("s3://made/x")
    s3.misbehave(denied=True)
    with pytest.raises(AccessError, match=rf"cannot read {URL}/manifest.json: .*check your credentials"):
        Cache(URL)
    s3.misbehave()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    file_system.cache_clear()
    with pytest.raises(AccessError, match="Unable to locate credentials; check your credentials"):
        Cache(URL)


@pytest.mark.slow
def test_a_server_that_dies(remote_settings: Callable, make_cache: Callable) -> None:
    made = make_cache()
    server = S3Server()
    try:
        remote_settings(server.address)
        file_system("s3").mkdir("made")
        upload(made.folder, URL)
        cache = Cache(URL)
        cache.read_texts(3, np.asarray([0]))
    finally:
        server.kill()
    with pytest.raises(FaultError, match=rf"cannot reach {URL}/shard-0000\d.h5 .*tried several times"):
        cache.read_texts(3, np.arange(7))
    with pytest.raises(FaultError, match=rf"cannot reach {URL}/manifest.json"):
        Cache(URL)


def test_a_store_that_other_clients_cannot_reach_is_told_so() -> None:
    """gcsfs raises what its HTTP library does, which is no ConnectionError."""
    aiohttp = pytest.importorskip("aiohttp", reason="aiohttp, which comes with s3fs, is not installed")

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            await session.get("http://127.0.0.1:9")  # the discard port: nobody listens

    line = r"^cannot reach gs://made/x \(.*\), tried several times: check address and network"
    with pytest.raises(FaultError, match=line), told("gs://made/x"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("ftp://host/x", "ftp:// is none of the places where a cache may lie"),
        ("s3://", "names no place"),
        ("s3://made/../x", "names no place"),
        ("memory://a::s3://b", "names no place"),
    ],
)
def test_urls_that_name_no_place(given: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        place_of(given)


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("az", "adlfs")])
def test_a_store_whose_client_is_not_installed(no_clients: None, scheme: str, package: str) -> None:
    with pytest.raises(UsageError, match=f"{scheme}:// needs {package}, which is not installed: pip install {package}"):
        place_of(f"{scheme}://bucket/x")


def test_a_path_of_a_url_is_that_url(tmp_path: Path) -> None:
    assert place_of(Path("memory://a/b/")) == RemoteFolder("memory://a/b")
    assert place_of(f"file://{tmp_path}") == tmp_path
    assert place_of(tmp_path) == tmp_path


def test_a_block_cache_that_cannot_be(make_cache: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    upload(make_cache().folder, "memory://blocks/cache")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(blocks.FOLDER, str(tmp_path / "file" / "x"))
    with pytest.raises(UsageError, match=r"cannot make the folder .*GLOT_CACHE_DIR"):
        _ = Cache("memory://blocks/cache").plan
    monkeypatch.setenv(blocks.FOLDER, str(tmp_path / "blocks"))
    monkeypatch.setenv(blocks.SIZE, "much")
    with pytest.raises(UsageError, match=r"GLOT_CACHE_GB, is the size .* got 'much'"):
        _ = Cache("memory://blocks/cache").plan


@pytest.mark.slow
def test_copies_subsets_and_joins_of_what_lies_elsewhere(s3: S3Server, make_cache: Callable, tmp_path: Path) -> None:
    made, other = make_cache(), make_cache("other", lengths=(2, 3, 4), shards=(0, 1, 1))
    upload(made.folder, URL)
    copy_cache(URL, tmp_path / "copy", verify=True)
    files = {path.relative_to(made.folder): path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    found = {path.relative_to(tmp_path / "copy"): path for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == files
    for source, name in ((made.folder, "here"), (URL, "there")):
        subset_cache(source, tmp_path / f"subset-{name}", layers=(3,))
        merge_caches([source, other.folder], tmp_path / f"merged-{name}")
    for what in ("subset", "merged"):
        shards = [tmp_path / f"{what}-{name}" / "shard-00000.h5" for name in ("here", "there")]
        assert shards[0].read_bytes() == shards[1].read_bytes()
