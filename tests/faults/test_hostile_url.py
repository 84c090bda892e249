"""Caches at URLs that somebody made to do harm: nothing that is downloaded is believed, as nothing in a folder is."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from glot.errors import GlotError
from glot.store.places import file_system
from tests.faults import hostile
from tests.faults.hostile import Files, confined, limits, use
from tests.faults.test_hostile import counts, fuzz, manifest_edits, put

URL = "memory://hostile/cache"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(hostile.make_cache(tmp_path_factory.mktemp("hostile") / "cache"))


@pytest.fixture
def tried(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`tried(changed files)` puts a cache with them at a URL and does what a user could do with it."""
    monkeypatch.setenv("GLOT_CACHE_DIR", str(tmp_path / "blocks"))
    monkeypatch.setattr("glot.store.remote.BLOCK_BYTES", 3000)
    system, expected = file_system("memory"), hostile.read_states(files.folder)

    def attempt(changed: dict[str, bytes], is_honest: bool = False) -> None:
        for name, data in {**files.whole, **changed}.items():
            system.pipe_file(f"{URL}/{name}", data)
        with limits(), confined(tmp_path):
            use(URL, hostile.USES)
            if is_honest:
                _same_or_refused(expected)

    attempt({})
    return attempt


def _same_or_refused(expected: dict[int, bytes]) -> None:
    try:
        found = hostile.read_states(URL)
    except GlotError:
        return
    assert all(found[layer] == expected[layer] for layer in found if layer in expected)


@counts(30, 300)
def test_edits_of_the_manifest(count: int, files: Files, tried: Callable) -> None:
    def check(edits: list) -> None:
        manifest = copy.deepcopy(files.manifest)
        for path, value in edits:
            put(manifest, path, copy.deepcopy(value))
        tried({"manifest.json": json.dumps(manifest).encode()}, is_honest=True)

    fuzz(check, manifest_edits(files), count)


@counts(30, 300)
def test_changed_bytes(count: int, files: Files, tried: Callable) -> None:
    """One byte of any file is another, or a file is cut: the states are those that were written, or there is a line."""
    places = st.sampled_from(sorted(files.whole)).flatmap(
        lambda name: st.tuples(st.just(name), st.integers(0, len(files.whole[name]) - 1), st.integers(0, 255))
    )

    def check(edit: tuple[str, int, int]) -> None:
        name, place, mask = edit
        data = files.whole[name]
        tried(
            {name: data[:place] + (bytes([data[place] ^ mask]) + data[place + 1 :] if mask else b"")},
            name != "manifest.json",
        )

    fuzz(check, places, count)
