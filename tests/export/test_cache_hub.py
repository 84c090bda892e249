"""Caches on the Hub, by its real client over HTTP, from a server of this machine that answers as the Hub does."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glot.errors import FaultError, UsageError
from glot.export.cache_hub import cache_card
from glot.store import remote
from glot.store.reader import Cache
from tests.hub_server import HubServer, files_of

URL = "hf://datasets/somebody/states"
Glot = Callable[..., tuple[int, str, str]]


def test_a_cache_on_the_hub_is_the_cache_and_a_card(
    glot: Glot, hub: HubServer, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = glot("cache", "push", extracted, URL, "--license", "cc-by-4.0")
    assert code == 0, err
    there = files_of(hub.folder / "somebody/states")
    card = there.pop("README.md").decode()
    assert there == files_of(extracted)
    assert "license: cc-by-4.0" in card
    assert "- layers 2 of 0 to 2, width 32, stored as float16" in card
    assert "| `train` | train | 240 | " in card
    assert "The texts themselves lie in `plan.h5`." in card
    monkeypatch.chdir(hub.folder / "somebody/states")
    names: dict[str, np.ndarray] = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], names)
    assert names["states"].shape[1] == 32
    assert names["states"].dtype == np.float16


def test_what_is_there_stays(glot: Glot, hub: HubServer, extracted: Path) -> None:
    """Another cache is refused; a card that its owner wrote is kept, and so is what lies beside a cache in a folder."""
    repository = hub.folder / "somebody/states"
    repository.mkdir(parents=True)
    (repository / "README.md").write_text("mine")
    code, out, err = glot("cache", "push", extracted, URL)
    assert code == 0, err
    assert (repository / "README.md").read_text() == "mine"
    before = files_of(repository)
    code, out, err = glot("cache", "push", extracted, URL)
    assert (code, "0 files sent (0 bytes), 5 were there" in out) == (0, True), out + err
    assert glot("cache", "subset", extracted, "small", "--limit", 5)[0] == 0
    code, _, err = glot("cache", "push", "small", URL)
    assert (code, err.count("\n"), f"{URL} holds another cache" in err) == (2, 1, True), err
    assert files_of(repository) == before
    code, _, err = glot("cache", "push", "small", f"{URL}/small", "--no-texts")
    assert code == 0, err
    assert {name: data for name, data in files_of(repository).items() if not name.startswith("small/")} == before
    assert "texts can be guessed from them" in (repository / "small/README.md").read_text()
    assert b"the cat sat" not in (repository / "small/plan.h5").read_bytes()


@pytest.mark.parametrize(
    "url", ["hf://somebody/states", "hf://datasets/somebody", "hf://datasets/a b/c", "hf://spaces/a/b"]
)
def test_urls_that_are_no_place_on_the_hub(glot: Glot, hub: HubServer, extracted: Path, url: str) -> None:
    code, _, err = glot("cache", "push", extracted, url)
    assert (code, err.count("\n")) == (2, 1), err
    assert hub.seen == []


def test_a_head_is_trained_from_the_hub(
    glot: Glot, hub: HubServer, make_fit_cache: Callable[..., Path], tmp_path: Path
) -> None:
    """It is that of the folder, though the Hub is busy once; so is what is pulled."""
    cache = make_fit_cache(train=64, validation=32, shards=4)
    shutil.copytree(cache, hub.folder / "somebody/states")
    hub.busy = 1
    options = ["--epochs", 1, "--hidden", 8, "--device", "cpu", "--no-yardsticks"]
    for place, out in ((cache, "here"), (URL, "there")):
        code, _, err = glot("fit", "--cache", place, *options, "--out", out)
        assert code == 0, err
    assert Path("there/head.safetensors").read_bytes() == Path("here/head.safetensors").read_bytes()
    code, out, err = glot("inspect", URL, "--verify")
    assert (code, "every checksum fits" in out) == (0, True), err
    code, _, err = glot("cache", "pull", URL, "back")
    assert code == 0, err
    assert files_of(Path("back")) == files_of(cache)
    (hub.folder / "somebody/states/shard-00002.h5").write_bytes(b"damaged")
    code, _, err = glot("fit", "--cache", URL, *options, "--out", "again", "--cache-dir", tmp_path / "empty")
    assert (code, err.count("\n"), "states/shard-00002.h5 " in err) == (1, 1, True), err


def test_no_more_is_fetched_than_is_read(
    hub: HubServer, make_fit_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request is for a block."""
    monkeypatch.setattr(remote, "BLOCK_BYTES", 8000)
    shutil.copytree(make_fit_cache(train=64, validation=32, shards=4), hub.folder / "somebody/states")
    cache = Cache(URL)
    texts = np.arange(len(cache.plan))
    hub.seen.clear()
    cache.read_texts(cache.resolve_layer(-1), texts)
    ranges = [re.search(r"bytes=(\d+)-(\d+)$", line) for line in hub.seen]
    assert len(ranges) > 4
    assert all(found is not None and int(found[2]) - int(found[1]) < 8000 for found in ranges), hub.seen


def test_what_is_there_now_is_seen(hub: HubServer, extracted: Path) -> None:
    """In one process, as of a notebook: the client remembers what was not there, and what was."""
    with pytest.raises(UsageError, match=f"there is no {URL}/manifest.json"):
        Cache(URL)
    repository = shutil.copytree(extracted, hub.folder / "somebody/states")
    assert Cache(URL).manifest == Cache(extracted).manifest
    values = json.loads((repository / "manifest.json").read_text())
    (repository / "manifest.json").write_text(json.dumps({**values, "created_by": "another" * 100}))
    assert Cache(URL).manifest.created_by == "another" * 100
    (repository / "plan.h5").unlink()
    with pytest.raises(FaultError, match=f"{URL}/plan.h5 is not there"):
        Cache(URL).plan.texts(0, 1)


def test_the_card_names_the_revision_and_whose_licence_holds(extracted: Path) -> None:
    manifest = Cache(extracted).manifest
    manifest = replace(manifest, states=replace(manifest.states, source="owner/model", revision="abc123"))
    card = cache_card(manifest, URL, has_texts=True)
    assert "[owner/model](https://huggingface.co/owner/model), revision `abc123`" in card
    assert "licence of the data: not stated; that of the backbone and of the texts' owner hold beside it" in card
