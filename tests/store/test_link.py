"""Linked caches: what is read of one is what its parts hold, and what is wrong with a part is one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glot.errors import FaultError, UsageError
from glot.store.combine import copy_cache, link_caches, merge_caches, subset_cache
from glot.store.layout import Manifest, shard_file
from glot.store.reader import Cache
from glot.store.verify import verify_cache
from tests.store.conftest import MadeCache

OF_A = {"lengths": (3, 1, 5, 2, 9, 4, 1), "shards": (0, 0, 0, 1, 1, 2, 2)}
OF_B = {"lengths": (3, 1, 5, 2, 9, 4, 1, 6, 2, 8), "shards": (0, 0, 0, 0, 1, 1, 1, 1, 2, 2)}  # 7 texts of a, 3 more


@pytest.fixture
def parts(make_cache: Callable[..., MadeCache]) -> list[MadeCache]:
    """Two caches, `parts/a` and `parts/b`, of 7 and 10 texts."""
    return [make_cache("parts/a", **OF_A), make_cache("parts/b", **OF_B)]


@pytest.fixture
def linked(parts: list[MadeCache], tmp_path: Path) -> Path:
    link_caches([part.folder for part in parts], tmp_path / "parts" / "all", verify=True)
    return tmp_path / "parts" / "all"


def states_by_text(folder: Path) -> dict[str, dict[int, bytes]]:
    """What the cache gives out for each text that it numbers first."""
    cache = Cache(folder)
    found: dict[str, dict[int, bytes]] = {}
    for number, text in enumerate(cache.plan.texts(0, len(cache.plan))):
        layers = cache.manifest.states.layers
        read = {layer: cache.read_texts(layer, np.asarray([number])).values.tobytes() for layer in layers}
        found.setdefault(text, read)
    return found


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_it_reads_what_the_parts_hold(dtype: str, make_cache: Callable[..., MadeCache], tmp_path: Path) -> None:
    a, b = make_cache("a", **OF_A, dtype=dtype), make_cache("b", **OF_B, dtype=dtype)
    manifest = link_caches([a.folder, b.folder], tmp_path / "all", verify=True)
    assert sorted(path.name for path in (tmp_path / "all").rglob("*")) == [
        "examples",
        "manifest.json",
        "plan.h5",
        "train.h5",
    ]
    cache = Cache(tmp_path / "all")
    assert (cache.manifest, len(manifest.shards), manifest.texts, manifest.plan.texts) == (manifest, 6, 10, 17)
    order = np.random.default_rng(0).permutation(17)
    for layer in (1, 3):
        states = [*a.states[layer], *b.states[layer]]
        scales = [*a.scales[layer], *b.scales[layer]]
        read = cache.read_texts(layer, order)
        np.testing.assert_array_equal(read.values, np.concatenate([states[number] for number in order]))
        if dtype == "int8":
            np.testing.assert_array_equal(read.scale, np.concatenate([scales[number] for number in order]))
    assert cache.examples("train").text_id.tolist() == [2, 0, 2]  # those of b are of the same rows, texts and labels
    assert verify_cache(cache) == []


def test_examples_of_a_text_in_two_parts_use_the_first(linked: Path, parts: list[MadeCache], tmp_path: Path) -> None:
    subset_cache(parts[1].folder, tmp_path / "less", limit=2)
    link_caches([parts[0].folder, tmp_path / "less"], tmp_path / "all")
    assert Cache(tmp_path / "all").examples("train").text_id.tolist() == [2, 0, 2, 2, 0]


@pytest.mark.parametrize("make", ["merge", "subset"])
def test_a_cache_made_of_it_is_one_made_of_the_parts(
    make: str, linked: Path, parts: list[MadeCache], tmp_path: Path
) -> None:
    folders = [part.folder for part in parts]
    merge_caches(folders, tmp_path / "joined", shard_bytes=200)
    if make == "merge":
        merge_caches([linked, folders[1]], tmp_path / "made", shard_bytes=200, verify=True)
        assert states_by_text(tmp_path / "made") == states_by_text(tmp_path / "joined") == states_by_text(linked)
    else:
        subset_cache(linked, tmp_path / "made", verify=True)
        subset_cache(tmp_path / "joined", tmp_path / "again")
        assert states_by_text(tmp_path / "made") == states_by_text(tmp_path / "again")
    assert Manifest.load(tmp_path / "made").parts == ()


def test_a_link_of_links_names_the_parts_themselves(
    linked: Path, make_cache: Callable[..., MadeCache], tmp_path: Path
) -> None:
    more = make_cache("more", lengths=(3, 2, 4), shards=(0, 0, 0))
    manifest = link_caches([linked, more.folder], tmp_path / "larger", verify=True)
    assert [(part.folder, part.shards) for part in manifest.parts] == [
        ("../parts/a", 3),
        ("../parts/b", 3),
        ("../more", 1),
    ]
    shutil.rmtree(linked)
    read = Cache(tmp_path / "larger").read_texts(3, np.asarray([18]))
    np.testing.assert_array_equal(read.values, more.states[3][1])
    with pytest.raises(UsageError, match=r"the cache \.\./more would be a part twice: name it once"):
        link_caches([tmp_path / "larger", more.folder], tmp_path / "twice")


def test_parts_and_link_may_be_moved_together(linked: Path, tmp_path: Path) -> None:
    before = states_by_text(linked)
    (tmp_path / "parts").rename(tmp_path / "elsewhere")
    assert states_by_text(tmp_path / "elsewhere" / "all") == before
    (tmp_path / "way").symlink_to(tmp_path / "elsewhere" / "all")  # seen through a link, `..` leads elsewhere
    assert states_by_text(tmp_path / "way") == before


def test_a_link_moved_alone_or_a_part_gone_is_a_line(linked: Path, tmp_path: Path) -> None:
    line = r"is linked to the cache \S*/a, which is not there: link its parts again with `glot cache link`"
    shutil.copytree(linked, tmp_path / "far" / "all")
    with pytest.raises(UsageError, match=line):
        Cache(tmp_path / "far" / "all")
    (linked.with_name("a") / "manifest.json").unlink()
    with pytest.raises(UsageError, match=line):
        Cache(linked)


def test_damage_in_a_part_is_found_and_its_file_named(linked: Path) -> None:
    cache = Cache(linked)
    path = linked.with_name("b") / shard_file(1)
    entry = cache.manifest.shards[4]
    with open(path, "r+b") as file:
        file.seek(entry.data.columns["hidden/3"].offset)
        file.write(b"\xff\xff")
    [damage] = verify_cache(cache)
    assert (Path(damage.file), damage.shard, damage.texts) == (path.resolve(), 4, (11,))
    with pytest.raises(FaultError, match=r"b/shard-00001\.h5 is damaged in text 11 .*`glot inspect --repair \S*/b`"):
        cache.read_texts(3, np.asarray([11]))


def test_a_part_that_was_made_anew_is_a_line(
    linked: Path, make_cache: Callable[..., MadeCache], tmp_path: Path
) -> None:
    """Of as many bytes, but of other states."""
    other = make_cache("other", **{**OF_B, "lengths": OF_B["lengths"][::-1]})
    before = linked.with_name("b") / shard_file(0)
    shutil.rmtree(before.parent)
    other.folder.rename(before.parent)
    with pytest.raises(FaultError, match=r"b/shard-00000\.h5 .* where it was made anew, link its parts again"):
        Cache(linked).read_texts(3, np.asarray([7]))
    assert {damage.shard for damage in verify_cache(Cache(linked))} == {3, 4, 5}


def test_a_part_that_grew_serves_as_before(linked: Path, parts: list[MadeCache]) -> None:
    """An extraction adds to plan and manifest, and unfinished shards; what was there stays."""
    before = states_by_text(linked)
    edit(parts[0].folder, lambda values: values["plan"].update(shards=4))
    (parts[0].folder / "shard-00003.h5.part").write_bytes(b"x")
    assert states_by_text(linked) == before


def test_what_cannot_be_linked_is_a_line(
    parts: list[MadeCache], make_cache: Callable[..., MadeCache], tmp_path: Path
) -> None:
    other = make_cache("other", dtype="float32")
    wide = make_cache("unfinished")
    edit(wide.folder, lambda values: values["shards"].pop())
    refused = {
        "has other settings than .*dtype: float16 -> float32": other.folder,
        r"is unfinished \(2 of 3 shards\)": wide.folder,
        "is no folder of this machine: pull it with `glot cache pull`, and link the copy": "memory://a/b",
        "would be a part twice": os.path.relpath(parts[0].folder),
        "there is no cache at": tmp_path / "nothing",
    }
    for line, folder in refused.items():
        with pytest.raises(UsageError, match=line):
            link_caches([parts[0].folder, folder], tmp_path / "all")
        assert not (tmp_path / "all").exists()


def test_a_folder_of_any_name(parts: list[MadeCache], tmp_path: Path) -> None:
    """What could not be read back from a manifest is not written into one."""
    folders = [part.folder for part in parts]
    odd = folders[0].rename(tmp_path / "ein Ordner\u3000文")
    link_caches([odd, folders[1]], tmp_path / "all", verify=True)
    odd = odd.rename(tmp_path / "two\nlines")
    with pytest.raises(UsageError, match=r"two\\nlines' cannot be named in a manifest") as caught:
        link_caches([odd, folders[1]], tmp_path / "more")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "more").exists()


def test_other_caches_keep_their_version(linked: Path, parts: list[MadeCache], tmp_path: Path) -> None:
    """A program that knows version 3 alone refuses a linked cache by its version, and reads all others."""
    values = json.loads((linked / "manifest.json").read_text())
    assert (values["version"], values["repeated"]) == (4, 7)
    assert values["parts"] == [{"folder": "../a", "shards": 3}, {"folder": "../b", "shards": 3}]
    copy_cache(parts[0].folder, tmp_path / "copy")
    before, after = ((folder / "manifest.json").read_bytes() for folder in (parts[0].folder, tmp_path / "copy"))
    assert before == after
    values = json.loads(before)
    assert (values["version"], "parts" in values, "repeated" in values) == (3, False, False)


@pytest.mark.parametrize(
    "parts_now",
    [
        *(
            [],
            {},
            None,
            [{"folder": "../a", "shards": 3}],
            [{"folder": "../a", "shards": 6}, {"folder": "", "shards": 0}],
        ),
        *([{"folder": name, "shards": 6}] for name in ("", "\0", "a\nb", "\ud800", 3, None)),
        [{"folder": "../a", "shards": 7}, {"folder": "../b", "shards": -1}],
        [{"folder": "../a", "shards": 6, "file": "x"}],
    ],
)
def test_parts_that_do_not_fit_are_damage(parts_now: object, linked: Path) -> None:
    edit(linked, lambda values: values.update(parts=parts_now))
    with pytest.raises(FaultError, match=r"manifest\.json is damaged .*link its parts again") as caught:
        Cache(linked)
    assert "\n" not in str(caught.value)


def test_a_sidecar_beside_the_manifest_of_a_link_counts_for_nothing(linked: Path) -> None:
    entry = Manifest.load(linked.with_name("a")).shards[0]
    (linked / "shard-00000.json").write_text(json.dumps(entry.to_json()))
    (linked / "shard-00004.json").write_text(json.dumps(entry.to_json()))
    assert Cache(linked).manifest == Manifest.load(linked)
