"""A store that dies under a command: one line, nothing half-written, and the same command goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glot.errors import FaultError
from glot.fit.config import FitOptions
from glot.fit.run import finish_runs, make_configs, prepare_runs
from glot.store.places import file_system
from glot.store.reader import Cache
from glot.store.transfer import pull_cache, push_cache
from tests.s3 import S3Server, upload

pytestmark = pytest.mark.slow

URL = "s3://made/a/cache"


@pytest.fixture
def cache(make_fit_cache: Callable[..., Path]) -> Path:
    return make_fit_cache(train=256, validation=64, shards=8)


@pytest.fixture
def start(remote_settings: Callable[[str], None], cache: Path) -> Iterator[Callable[[bool], S3Server]]:
    """`start(has_cache)` starts a server with an empty bucket, or with the cache in it."""
    started: list[S3Server] = []

    def make(has_cache: bool) -> S3Server:
        started.append(S3Server())
        remote_settings(started[-1].address)
        file_system("s3").mkdir("made")
        if has_cache:
            upload(cache, URL)
        return started[-1]

    yield make
    for server in started:
        server.kill()


def train(cache: Path | str, folder: Path, progress: Callable[..., None] = lambda *_: None) -> list:
    """The epochs of a head whose states are read as they are needed, two shards at a time."""
    opened = Cache(cache)
    if not folder.exists():
        prepare_runs(
            make_configs(opened, FitOptions(epochs=3, hidden=8, device="cpu", seeds=(0,), max_memory=1)), folder
        )
    results = finish_runs(folder, opened, progress)
    return [(epoch.losses, epoch.scores) for epoch in results[folder].epochs]


def test_a_fit_goes_on_when_the_store_is_back(
    start: Callable, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block cache is far smaller than a shard, so that every epoch fetches anew."""
    monkeypatch.setattr("glot.fit.run.STREAM_WINDOW", 2)
    monkeypatch.setattr("glot.store.remote.BLOCK_BYTES", 2000)
    monkeypatch.setenv("GLOT_CACHE_GB", str(20000 / 2**30))
    expected = train(cache, tmp_path / "here")
    server = start(True)

    def kill(epoch: int, *_: object) -> None:
        if epoch == 2:
            server.kill()

    with pytest.raises(FaultError, match=rf"cannot reach {URL}/shard-0000\d.h5 .*tried several times"):
        train(URL, tmp_path / "there", kill)
    server = start(True)
    server.misbehave(every=20, slow=0.001)
    assert train(URL, tmp_path / "there") == expected
    assert len(server.misbehave()) > 100


def test_a_push_goes_on_when_the_store_is_back(start: Callable, cache: Path, glot: Callable[..., tuple]) -> None:
    """The second server has some of what was sent to the first."""
    first = start(False)
    with pytest.raises(FaultError, match=rf"cannot reach {URL}/"):
        push_cache(Cache(cache), URL, progress=lambda done, total: first.kill() if done > total / 3 else None)
    start(False)
    sent = sorted(cache.glob("shard-*.h5"))[6:]
    for path in sent:
        file_system("s3").pipe_file(f"{URL}/{path.name}", path.read_bytes())
    code, out, err = glot("cache", "push", cache, URL)
    assert (code, f"{len(sent)} were there" in out) == (0, True), out + err
    assert Cache(URL).manifest == Cache(cache).manifest


def test_a_pull_goes_on_when_the_store_is_back(start: Callable, cache: Path, glot: Callable[..., tuple]) -> None:
    server = start(True)
    with pytest.raises(FaultError, match=rf"cannot reach {URL}/"):
        pull_cache(URL, Path("back"), lambda done, total: server.kill() if done > total / 3 else None)
    left = {path.name for path in Path("back").rglob("*") if path.is_file()}
    assert "manifest.json" not in left
    assert not any(".tmp-" in name for name in left)
    start(True)
    code, _, err = glot("cache", "pull", URL, "back")
    assert code == 0, err
    expected = {path.relative_to(cache): path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    assert {
        path.relative_to("back"): path.read_bytes() for path in Path("back").rglob("*") if path.is_file()
    } == expected
