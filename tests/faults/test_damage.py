"""A byte that changed on the disk is never trained on, is named by `--verify`, and is made again by `--repair`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glot.commands import app as cli
from glot.errors import FaultError, GlotError
from glot.extract.backbone import Backbone
from glot.extract.repair import repair_cache
from glot.fit.run import FitOptions, make_configs
from glot.fit.train import fit_head
from glot.store.layout import Manifest
from glot.store.reader import Cache
from glot.store.verify import verify_cache
from tests.faults import runs

ROWS = 12
LAYERS = (1, 2)
OPTIONS: dict[str, Any] = {"rows": ROWS, "layers": LAYERS, "shard_bytes": 30 * 2 * runs.TOKEN_BYTES}


@dataclass
class Place:
    """A byte of a file, and what lies there."""

    file: str
    byte: int
    texts: tuple[int, ...] = ()  # whose states (or scales) it belongs to
    layer: int = -1
    column: str = ""


def places(folder: Path, step: int) -> Iterator[Place]:
    """Every `step`-th byte of the column files, and where columns begin and end."""
    cache = Cache(folder)
    entries = [cache.manifest.plan.data, *(entry.data for entry in cache.manifest.examples.values())]
    for data in entries:
        for byte in range(0, data.size, step):
            yield Place(data.file, byte)
    for number, entry in cache.manifest.shards.items():
        first, stop = cache.plan.shard_range(number)
        start = cache.plan.token_start[first : stop + 1] - cache.plan.token_start[first]
        bytes_of = {byte for byte in range(number * 7, entry.data.size, step)}
        for column in entry.data.columns.values():
            bytes_of |= {column.offset, column.offset + column.nbytes - 1} if column.nbytes else set()
        for byte in sorted(bytes_of):
            place = Place(entry.data.file, byte)
            for name, column in entry.data.columns.items():
                if column.offset <= byte < column.offset + column.nbytes:
                    place.column = name
                    row = (byte - column.offset) // column.row_bytes
                    if name.startswith(("hidden/", "scale/")):
                        place.layer = int(name.split("/")[1])
                        place.texts = (first + int(np.searchsorted(start, row, side="right")) - 1,)
            yield place


def read_states(folder: Path) -> dict[int, list[bytes]]:
    """The bytes of each text's states and scales, layer by layer."""
    cache = Cache(folder)
    found = {}
    for layer in cache.manifest.states.layers:
        texts = [cache.read_texts(layer, np.asarray([text])) for text in range(len(cache.plan))]
        found[layer] = [item.values.tobytes() + (b"" if item.scale is None else item.scale.tobytes()) for item in texts]
    cache.close()
    return found


def read_rest(folder: Path) -> list[Any]:
    """All of plan and examples that a run reads."""
    cache = Cache(folder)
    plan, count = cache.plan, len(cache.plan)
    sets = [cache.examples(name) for name in cache.manifest.examples]
    columns = [getattr(item, name) for item in sets for name in ("index", "text_id", "label")]
    columns += [plan.hashes(), plan.token_ids(0, count), plan.token_kinds(0, count), plan.truncated(0, count)]
    read = [column.tolist() for column in columns] + [plan.texts(0, count), plan.vocabulary]
    cache.close()
    return read


def fit(folder: Path, run: Path, **options: Any) -> None:
    cache = Cache(folder)
    options = {"pooler": "mean", "hidden": 4, "epochs": 1, "backend": "dense", "device": "cpu", **options}
    fit_head(cache, make_configs(cache, FitOptions(**options))[0], run)


def check_every(step: int, out: Path, fitted: int) -> int:
    """Flip one byte after the other; returns how many. `fitted` of them also go through a training run."""
    states, rest = read_states(out), read_rest(out)
    all_places = list(places(out, step))
    of_states = [place for place in all_places if place.texts]
    trained = {(place.file, place.byte) for place in of_states[:: max(1, len(of_states) // fitted)]}
    for place in all_places:
        path = out / place.file
        runs.flip(path, place.byte)
        if place.texts:
            assert_named(out, place)
            cache = Cache(out)
            with pytest.raises(FaultError, match=rf"{place.file} is damaged in text {place.texts[0]} \("):
                cache.read_texts(place.layer, np.asarray(place.texts))
            for text in set(range(len(cache.plan))) - set(place.texts):
                cache.read_texts(place.layer, np.asarray([text]))  # its neighbours can still be read
            if (place.file, place.byte) in trained:
                for memory in (None, 0):  # held in memory, or streamed
                    with pytest.raises(FaultError, match=rf"{place.file} is damaged in text {place.texts[0]} \("):
                        fit(out, path.parent.parent / "run", layer=place.layer, max_memory=memory)
                    shutil.rmtree(path.parent.parent / "run")
        else:
            assert_named(out, place)
            try:
                same = read_states(out) == states and read_rest(out) == rest
                assert same, f"{place} is read as if it were right"
            except FaultError as error:
                if Path(place.file).name not in str(error):
                    raise AssertionError(f"{place}: {error}") from error
        runs.flip(path, place.byte)
    assert verify_cache(Cache(out)) == []
    return len(all_places)


def assert_named(out: Path, place: Place) -> None:
    """`verify_cache` names the file, the shard, and the texts, and nothing that is whole."""
    cache = Cache(out, allow_unfinished=True)
    damages = verify_cache(cache)
    assert [damage.file for damage in damages] == [place.file], f"{place}: {damages}"
    damage = damages[0]
    if not place.file.startswith("shard-"):
        assert (damage.shard, damage.texts) == (None, ()), f"{place}: {damage}"
        return
    number = int(place.file[6:11])
    assert damage.shard == number, f"{place}: {damage}"
    if place.texts:
        assert damage.texts == place.texts, f"{place}: {damage}"
    elif place.column.startswith("check/"):
        assert len(damage.texts) == 1, f"{place}: {damage}"  # its states or its checksum: either is made again
    else:
        assert damage.texts == (), f"{place}: {damage}"
        assert "beside the states" in damage.what, f"{place}: {damage}"


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_changed_byte_is_never_read_as_if_it_were_right(dtype: str, copy_of: Callable) -> None:
    assert check_every(1999, copy_of(**OPTIONS, dtype=dtype), fitted=2) > 40


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_any_changed_byte_is_never_read_as_if_it_were_right(dtype: str, copy_of: Callable) -> None:
    assert check_every(97, copy_of(**OPTIONS, dtype=dtype), fitted=20) > 500


def check_manifest(out: Path, step: int) -> None:
    """Nothing guards the manifest itself but its readers: whatever it says, no other states come out."""
    states, path = read_states(out), out / "manifest.json"
    whole = path.read_bytes()
    for byte in range(0, len(whole), step):
        for mask in (0x01, 0x80):
            path.write_bytes(whole[:byte] + bytes([whole[byte] ^ mask]) + whole[byte + 1 :])
            what = f"byte {byte} ^ {mask:#x} in {whole[max(0, byte - 30) : byte + 10]!r}"
            try:
                found = read_states(out)
                changed = [layer for layer in found if found[layer] != states.get(layer)]
                assert not changed, f"{what}: other states"
                verify_cache(Cache(out))
            except GlotError:
                continue
            except Exception as error:
                raise AssertionError(f"{what}: {error!r}") from error
    path.write_bytes(whole)


def test_a_changed_byte_of_the_manifest_gives_no_other_states(copy_of: Callable) -> None:
    check_manifest(copy_of(**OPTIONS), 211)


@pytest.mark.slow
def test_any_changed_byte_of_the_manifest_gives_no_other_states(copy_of: Callable) -> None:
    check_manifest(copy_of(**OPTIONS), 7)


@pytest.mark.parametrize("file", ["plan.h5", "examples/train.h5", "shard-00001.h5"])
@pytest.mark.parametrize("change", ["cut", "longer", "gone", "empty"])
def test_a_file_of_another_size_is_found_when_it_is_opened(file: str, change: str, copy_of: Callable) -> None:
    out = copy_of(**OPTIONS)
    path = out / file
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-1], "longer": data + b"\0", "gone": b"", "empty": b""}[change])
    if change == "gone":
        path.unlink()
    message = "cannot be read" if change == "gone" else "bytes, the manifest says"
    with pytest.raises(FaultError, match=rf"{path.name} .*{message}.*again"):
        read_rest(out), read_states(out)
    damages = verify_cache(Cache(out, allow_unfinished=True))
    assert file in [damage.file for damage in damages]
    if file.startswith("shard"):
        cache = Cache(out)
        assert [damage.texts for damage in damages] == [tuple(range(*cache.plan.shard_range(1)))]


# Repair


def tokens_of(cache: Cache, texts: list[int]) -> list[tuple[int, ...]]:
    return sorted(tuple(cache.plan.token_ids(text, text + 1).tolist()) for text in texts)


def spoil_text(out: Path, text: int, layer: int = 2, column: str = "hidden") -> None:
    """Change a byte of a text's states."""
    cache = Cache(out, allow_unfinished=True)
    number = int(cache.plan.shard_of(np.asarray([text]))[0])
    entry = cache.manifest.shards[number].data
    start = int(cache.plan.token_start[text] - cache.plan.token_start[cache.plan.shard_start[number]])
    place = entry.columns[f"{column}/{layer}"]
    runs.flip(out / entry.file, place.offset + start * place.row_bytes + 1)


def assert_repaired(out: Path, before: dict[int, list[bytes]], texts: list[int], dtype: str) -> None:
    """Every checksum fits, other texts are bit for bit what they were, the damaged ones are so to rounding."""
    assert verify_cache(Cache(out)) == []
    assert runs.leftovers(out) == []
    after = read_states(out)
    for layer, texts_before in before.items():
        for text, old in enumerate(texts_before):
            if text not in texts:
                assert after[layer][text] == old
            elif dtype == "float16":
                values = [np.frombuffer(data, "<f2").astype(np.float32) for data in (old, after[layer][text])]
                np.testing.assert_allclose(*values, atol=0.01)
            else:
                assert len(after[layer][text]) == len(old)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_repair_forwards_the_damaged_texts_alone(
    dtype: str, copy_of: Callable, bert: Path, forwarded: list[tuple[int, ...]]
) -> None:
    out = copy_of(**OPTIONS, dtype=dtype)
    before, count = read_states(out), len(Cache(out).plan)
    damaged = [0, 3, count - 1]
    for text in damaged:
        spoil_text(out, text, layer=1 if text else 2)
    if dtype == "int8":
        spoil_text(out, 5, column="scale")
        damaged.append(5)
    cache = Cache(out)
    damages = verify_cache(cache)
    assert sorted(text for damage in damages for text in damage.texts) == sorted(damaged)
    forwarded.clear()
    assert repair_cache(cache, damages, str(bert), "cpu") == len(damaged)
    assert sorted(forwarded) == tokens_of(cache, damaged)
    assert_repaired(out, before, damaged, dtype)


def test_repair_beside_the_states_needs_no_backbone(copy_of: Callable, forwarded: list) -> None:
    out = copy_of(**OPTIONS)
    before = runs.contents(out)
    runs.flip(out / "shard-00001.h5", Manifest.load(out).shards[1].data.columns["offsets"].offset)
    cache = Cache(out)
    forwarded.clear()
    assert repair_cache(cache, verify_cache(cache), "a model that is nowhere", "cpu") == 0
    assert forwarded == []
    assert runs.differences(out, before) == []


@pytest.mark.parametrize("change", ["cut", "gone"])
def test_repair_makes_a_lost_shard_again(change: str, copy_of: Callable, bert: Path, forwarded: list) -> None:
    out = copy_of(**OPTIONS)
    before, path = read_states(out), out / "shard-00001.h5"
    path.unlink() if change == "gone" else path.write_bytes(path.read_bytes()[:-100])
    cache = Cache(out)
    texts = list(range(*cache.plan.shard_range(1)))
    forwarded.clear()
    assert repair_cache(cache, verify_cache(cache), str(bert), "cpu") == len(texts)
    assert sorted(forwarded) == tokens_of(cache, texts)
    assert_repaired(out, before, texts, "float16")


def test_repair_of_an_unfinished_cache_stays_repaired(tmp_path: Path, made_caches: Callable, bert: Path) -> None:
    """Its finished shards are known by their sidecars, which must not vouch for the old bytes."""
    out = tmp_path / "part"
    options = {**OPTIONS, "dtype": "float16"}
    runs.extract(bert, out, **options, part=(0, 2))
    first = Cache(out, allow_unfinished=True).plan.shard_range(2)[0]
    spoil_text(out, first)
    cache = Cache(out, allow_unfinished=True)
    # Forwarded alone the text may come to other last bits: as if it had.
    rounding = RoundOtherwise()
    with rounding:
        assert repair_cache(cache, verify_cache(cache), str(bert), "cpu") == 1
    cache = Cache(out, allow_unfinished=True)
    assert verify_cache(cache) == []
    cache.read_texts(2, np.asarray([first]))
    runs.extract(bert, out, **options)
    assert_repaired(out, read_states(made_caches(**options)), [first], "float16")


class RoundOtherwise:
    """A backbone whose states differ in their last bits from those of another batch, as a GPU's do."""

    def __enter__(self) -> None:
        self.forward = forward = Backbone.hidden_states
        Backbone.hidden_states = lambda *args: [states * 1.001 for states in forward(*args)]

    def __exit__(self, *_: object) -> None:
        Backbone.hidden_states = self.forward


def test_another_backbone_repairs_nothing(copy_of: Callable, make_backbone_folder: Callable, forwarded: list) -> None:
    out = copy_of(**OPTIONS)
    spoil_text(out, 3)
    before = runs.contents(out)
    cache = Cache(out)
    forwarded.clear()  # the copied cache may have been made just now
    with pytest.raises(GlotError, match=r"is not the backbone that made .* \(weights_sha256 differs\)"):
        repair_cache(cache, verify_cache(cache), str(make_backbone_folder("bert", seed=3)), "cpu")
    assert forwarded == []
    assert runs.differences(out, before) == []


def test_repair_finds_the_backbone_by_what_the_cache_says(
    bert: Path, tmp_path: Path, glot: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was extracted from a folder, and no alias is called like that; then the folder goes."""
    model, out = tmp_path / "models/mine", tmp_path / "cache"
    shutil.copytree(bert, model)
    runs.extract(model, out, **OPTIONS)
    spoil_text(out, 3)
    monkeypatch.chdir(tmp_path / "models")
    code, said, wrong = glot("inspect", out, "--repair", "--device", "cpu")
    assert (code, wrong) == (0, "")
    assert "1 texts forwarded again" in said
    spoil_text(out, 3)
    model.rename(tmp_path / "moved")
    code, _, wrong = glot("inspect", out, "--repair", "--device", "cpu")
    assert (code, len(wrong.splitlines())) == (2, 1)
    assert f"the backbone that made {out}, {model}, is not there any more" in wrong
    assert "--model" in wrong
    assert glot("inspect", out, "--repair", "--device", "cpu", "--model", tmp_path / "moved")[0] == 0


@pytest.mark.parametrize("file", ["plan.h5", "examples/train.h5"])
def test_a_damaged_plan_or_set_is_made_again_by_extract(file: str, copy_of: Callable, bert: Path) -> None:
    out = copy_of(**OPTIONS)
    before = runs.contents(out)
    data = Manifest.load(out)
    columns = (data.plan if file == "plan.h5" else data.examples["train"]).data.columns
    runs.flip(out / file, columns["hash" if file == "plan.h5" else "label"].offset)
    cache = Cache(out)
    with pytest.raises(FaultError, match=rf"{Path(file).name} is damaged: run the same `glot extract` again"):
        repair_cache(cache, verify_cache(cache), str(bert), "cpu")
    runs.extract(bert, out, **OPTIONS)
    assert verify_cache(Cache(out)) == []
    assert {name for name in runs.differences(out, before) if name.startswith("shard-")} == set()
    assert runs.leftovers(out) == []


# The command


@pytest.fixture
def glot(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """`glot(words...)` runs a command line; gives its exit code, output and errors."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["glot", *map(str, words)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        out, err = capsys.readouterr()
        return int(leaving.value.code or 0), out, err

    return run


def test_the_command_names_repairs_and_is_content(copy_of: Callable, bert: Path, glot: Callable) -> None:
    out = copy_of(**OPTIONS)
    assert glot("inspect", out, "--verify")[0] == 0
    spoil_text(out, 3)
    number = int(Cache(out).plan.shard_of(np.asarray([3]))[0])
    text = Cache(out).plan.texts(3, 4)[0]
    code, said, wrong = glot("inspect", out, "--verify")
    assert code == 1
    assert f"shard-{number:05d}.h5: 1 damaged text" in said
    assert f"text 3 ({text[:60]!r})" in said
    assert len(wrong.splitlines()) == 1
    assert re.match(r"glot: .*1 damaged (file|text).* run `glot inspect --repair`", wrong)

    code, said, wrong = glot("inspect", out, "--verify", "--json")
    assert code == 1
    assert [(item["file"], item["texts"]) for item in json.loads(said)] == [(f"shard-{number:05d}.h5", [3])]

    code, said, wrong = glot("inspect", out, "--repair", "--model", bert, "--device", "cpu")
    assert (code, wrong) == (0, "")
    assert "1 texts forwarded again" in said or "1 text forwarded again" in said
    code, said, wrong = glot("inspect", out, "--verify", "--json")
    assert (code, json.loads(said), wrong) == (0, [], "")


def test_the_command_lists_texts(copy_of: Callable, glot: Callable) -> None:
    out = copy_of(**OPTIONS)
    plan = Cache(out).plan
    texts = plan.texts(0, len(plan))
    code, said, _ = glot("inspect", out, "--list-texts", "--json")
    rows = [json.loads(line) for line in said.splitlines()]
    assert (code, [row["text"] for row in rows]) == (0, texts)
    assert [row["tokens"] for row in rows] == plan.length.tolist()
    assert [row["shard"] for row in rows] == plan.shard_of(np.arange(len(plan))).tolist()
    code, said, _ = glot("inspect", out, "--list-texts")
    assert (code, [line.split("\t")[-1] for line in said.splitlines()]) == (0, texts)


def test_the_command_says_json(copy_of: Callable, glot: Callable) -> None:
    code, said, wrong = glot("inspect", copy_of(**OPTIONS), "--json")
    values = json.loads(said)
    assert (code, wrong, values["complete"], values["layers"]) == (0, "", True, list(LAYERS))


def test_repair_says_json_too(copy_of: Callable, bert: Path, glot: Callable) -> None:
    out = copy_of(**OPTIONS)
    spoil_text(out, 3)
    code, said, wrong = glot("inspect", out, "--repair", "--json", "--model", bert, "--device", "cpu")
    assert (code, wrong) == (0, "")
    json.loads(said)
