from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glot.errors import FaultError, GlotError, UsageError
from glot.store.column_reader import ColumnReader
from glot.store.columns import STORED_DTYPES
from glot.store.layout import STORED_AS, Manifest, StatesIdentity, next_name
from glot.store.reader import Cache, find_cache
from glot.store.task_spec import TaskSpec

MadeCache = Any  # the dataclass of conftest.py
MakeCache = Callable[..., MadeCache]


@pytest.fixture
def made(make_cache: MakeCache) -> MadeCache:
    return make_cache()


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_saved_manifest_loads_the_same(made: MadeCache) -> None:
    loaded = Manifest.load(made.folder)
    assert loaded == made.manifest
    assert loaded.complete
    assert f"{made.folder}: " in repr(Cache(made.folder))
    assert repr(Cache(made.folder)).endswith(
        f" {loaded.plan.tokens:,} tokens; train {loaded.examples['train'].examples}>"
    )
    entry = made.manifest.examples["train"]
    score = TaskSpec("sts", 2, "score", (), (0.0, 5.0), ("spearman", "pearson"))
    made.manifest.examples["train"] = replace(entry, task=score)
    made.manifest.save(made.folder)
    assert Manifest.load(made.folder).examples["train"].task == score
    assert TaskSpec.from_json(json.loads(json.dumps(score.to_json()))) == score


def test_a_manifest_that_holds_defaults_of_training_loads_the_same(made: MadeCache) -> None:
    def freeze(data: dict) -> None:
        data["examples"]["train"]["task"]["recipe"] = {"layers": 4, "hidden": 64, "tau": 0.6, "lr": 1e-4}

    edit(made.folder, freeze)
    assert Manifest.load(made.folder) == made.manifest


def test_a_manifest_is_json_that_any_language_reads(made: MadeCache) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    data = json.loads((made.folder / "manifest.json").read_text("utf-8"), parse_constant=refuse)
    assert (data["format"], data["version"]) == ("glot-cache", 3)
    assert [shard["number"] for shard in data["shards"]] == [0, 1, 2]


def test_the_first_difference_is_named_with_both_values(identity: StatesIdentity) -> None:
    elsewhere = replace(identity, backbone="another name", source="another/place")
    assert identity.difference(elsewhere) is None
    assert identity.digest() == elsewhere.digest()
    for item in fields(StatesIdentity):
        if item.name in ("backbone", "source"):
            continue
        old = getattr(identity, item.name)
        new = "changed" if isinstance(old, str) else (0,) if isinstance(old, tuple) else old + 1
        other = replace(identity, **{item.name: new})
        shown = f"{old!r} -> {new!r}" if item.name == "template" else f"{old} -> {new}"
        assert identity.difference(other) == f"{item.name}: {shown}"
        assert identity.digest() != other.digest()


def test_another_backbone_is_told_by_its_name(identity: StatesIdentity) -> None:
    other = replace(identity, backbone="another name", weights_sha256="f" * 64)
    assert identity.difference(other) == f"backbone: {identity.backbone} -> another name"


def test_what_is_not_known_is_not_compared(identity: StatesIdentity) -> None:
    before = replace(identity, loader_sha256="")
    assert before.difference(identity) is identity.difference(before) is None
    assert before.other_backbone(identity) is identity.other_backbone(before) is None
    assert identity.other_backbone(replace(identity, loader_sha256="f")) == "loader_sha256"
    assert before.other_backbone(replace(identity, tokenizer_sha256="f")) == "tokenizer_sha256"
    # Shards of before were tied to all fields that there were.
    values = {key: value for key, value in asdict(before).items() if key not in ("backbone", "source", "loader_sha256")}
    assert before.digest() == hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def test_bytes_a_token(identity: StatesIdentity) -> None:
    sizes = {dtype: replace(identity, dtype=dtype).bytes_per_token for dtype in STORED_AS}
    assert sizes == {"float16": 24, "bfloat16": 24, "float32": 48, "int8": 20}  # 2 layers of width 6, int8 with scales


def test_names_of_next_versions() -> None:
    names = ["plan.h5", "plan-2.h5", "plan-9.h5", "examples/train.h5", "examples/train-2.h5", "examples/a-b.h5"]
    assert [next_name(name) for name in names] == [
        "plan-2.h5",
        "plan-3.h5",
        "plan-10.h5",
        "examples/train-2.h5",
        "examples/train-3.h5",
        "examples/a-b-2.h5",
    ]


@pytest.mark.parametrize("version", [0, 1, 2, 5, "3", None])
def test_another_version_of_the_format_is_no_damage(made: MadeCache, version: object) -> None:
    edit(made.folder, lambda data: data.update(version=version))
    with pytest.raises(
        UsageError, match=rf"manifest\.json has format version {version!r}, this program reads versions 3 and 4"
    ):
        Cache(made.folder)


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"format": "zarr", "version": 1}'])
def test_json_that_is_no_manifest(made: MadeCache, content: str) -> None:
    (made.folder / "manifest.json").write_text(content)
    with pytest.raises(UsageError, match=r"manifest\.json is not the manifest of a glot cache"):
        Cache(made.folder)


def test_torn_json(made: MadeCache) -> None:
    path = made.folder / "manifest.json"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-3], b"\xff" + whole):
        path.write_bytes(content)
        with pytest.raises(FaultError, match=r"manifest\.json is damaged"):
            Cache(made.folder)


def test_a_manifest_that_lacks_something_says_how_to_get_it_back(made: MadeCache) -> None:
    edit(made.folder, lambda data: data.pop("plan"))
    with pytest.raises(FaultError, match=r"manifest\.json is damaged .*: run the same `glot extract` again"):
        Cache(made.folder)


TRICKS = [
    "../other.h5",
    "/etc/passwd",
    "examples/../../x.h5",
    "plan.h5/../../x",
    "examples/a/b.h5",
    "",
    "plan.h5\n",
    "shard-00000.h5",
]


@pytest.mark.parametrize("name", TRICKS)
@pytest.mark.parametrize("place", ["plan", "examples", "shard"])
def test_a_hostile_manifest_cannot_point_outside_its_folder(made: MadeCache, name: str, place: str) -> None:
    entry = {
        "plan": lambda data: data["plan"],
        "examples": lambda data: data["examples"]["train"],
        "shard": lambda data: data["shards"][1],
    }[place]
    edit(made.folder, lambda data: entry(data)["data"].update(file=name))
    with pytest.raises(FaultError, match=r"manifest\.json is damaged"):
        Cache(made.folder)


@pytest.mark.parametrize("place", ["plan", "examples", "shard"])
def test_a_link_cannot_lead_outside_its_folder(made: MadeCache, tmp_path: Path, place: str) -> None:
    path = made.folder / {"plan": "plan.h5", "examples": "examples/train.h5", "shard": "shard-00001.h5"}[place]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FaultError, match=rf"{path.name} cannot be read"):
        read_all(made.folder)


def read_all(folder: Path) -> tuple[np.ndarray, dict]:
    """Everything that a run reads of a cache: the states of its last layer, and all of plan and examples."""
    cache = Cache(folder)
    plan, count = cache.plan, len(cache.plan)
    columns = [cache.examples("train"), plan.texts(0, count), plan.vocabulary, plan.hashes(), plan.truncated(0, count)]
    columns += [plan.token_ids(0, count), plan.token_kinds(0, count)]
    states = cache.read_texts(cache.resolve_layer(-1), np.arange(count)).values
    cache.close()
    return states, columns


def leaves(data: object, path: tuple = ()) -> Iterator[tuple]:
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in children:
        yield (*path, key)
        yield from leaves(value, (*path, key))


def test_whatever_a_manifest_says_the_answer_is_one_line(make_cache: MakeCache) -> None:
    """Each value in turn is removed or replaced: the cache reads as before, or says why not; it never crashes."""
    made = make_cache(lengths=(2, 1, 3), shards=(0, 0, 0))
    whole = json.loads((made.folder / "manifest.json").read_text())
    expected = made.naive(3, range(3))
    crashes = []
    for path in leaves(whole):
        others = STORED_DTYPES if path[-1] == "dtype" else ()
        for value in ("removed", None, "x", -1, 2**40, float("inf"), [], *others):
            data = copy.deepcopy(whole)
            place = data
            for key in path[:-1]:
                place = place[key]
            if value == "removed":
                del place[path[-1]]
            else:
                place[path[-1]] = value
            (made.folder / "manifest.json").write_text(json.dumps(data))
            try:
                states, _ = read_all(made.folder)
                np.testing.assert_array_equal(states, expected)
            except GlotError as error:
                if "\n" in str(error):
                    crashes.append((path, value, "two lines"))
            except Exception as error:
                crashes.append((path, value, repr(error)[:100]))
    assert not crashes


@pytest.mark.parametrize("file", ["plan.h5", "examples/train.h5"])
def test_every_byte_of_plan_and_examples_is_guarded(made: MadeCache, file: str) -> None:
    path = made.folder / file
    whole = path.read_bytes()
    name = Path(file).name.replace(".", r"\.")
    entry = made.manifest.plan.data if file == "plan.h5" else made.manifest.examples["train"].data
    for column in entry.columns.values():
        stop = column.offset + column.nbytes
        for place in {column.offset, *range(column.offset, stop, max(1, column.nbytes // 10)), stop - 1}:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(FaultError, match=f"{name} is damaged.*`glot extract`.* again"):
                read_all(made.folder)
    # The rest is HDF5's own and what a lost manifest is rebuilt from: --verify compares the whole file.
    for place in [*range(0, len(whole), len(whole) // 25), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(FaultError, match=f"{name} is damaged"):
            ColumnReader(made.folder, entry, "").check_file()
    path.unlink()
    with pytest.raises(FaultError, match=rf"{name} cannot be read \(No such file.*`glot extract`.* again"):
        read_all(made.folder)


def test_a_plan_of_another_cache_is_refused(make_cache: MakeCache, made: MadeCache) -> None:
    other = make_cache("other", lengths=(3, 1, 2), shards=(0, 0, 0))
    (made.folder / "plan.h5").write_bytes((other.folder / "plan.h5").read_bytes())
    edit(made.folder, lambda data: data["plan"].update(data=asdict(other.manifest.plan)["data"]))
    with pytest.raises(FaultError, match=r"plan\.h5 does not fit the manifest"):
        _ = Cache(made.folder).plan


def test_an_unfinished_cache_says_how_to_finish_it(made: MadeCache) -> None:
    edit(made.folder, lambda data: data["shards"].pop(1))
    with pytest.raises(UsageError, match=r"unfinished \(2 of 3 shards\): run the same `glot extract` again"):
        Cache(made.folder)
    assert not Cache(made.folder, allow_unfinished=True).manifest.complete


def test_an_unknown_example_set_names_those_there_are(made: MadeCache) -> None:
    with pytest.raises(UsageError, match=r"no example set 'test' \(it has train\)"):
        Cache(made.folder).examples("test")


def test_the_one_cache_below_a_folder_is_found(make_cache: MakeCache, tmp_path: Path) -> None:
    made = make_cache("task/first")
    assert find_cache(made.folder) == made.folder
    assert find_cache(tmp_path / "task") == made.folder
    (tmp_path / "task" / "no-cache").mkdir()
    (tmp_path / "task" / "notes.txt").write_text("x")
    assert find_cache(tmp_path / "task") == made.folder
    make_cache("task/second")
    with pytest.raises(UsageError, match=r"task holds several caches \(first, second\)"):
        Cache(tmp_path / "task")


def test_a_folder_without_a_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{tmp_path} holds no cache; make one with `glot extract`"):
        Cache(tmp_path)
    with pytest.raises(UsageError, match=r"there is no cache at .*nowhere"):
        Cache(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"there is no cache at .*file"):
        Cache(tmp_path / "file")
