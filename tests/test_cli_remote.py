"""`glot` on caches at URLs: fit, inspect, push and pull, over a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from glot.errors import UsageError
from glot.store.claims import Owner
from glot.store.places import file_system
from glot.store.reader import Cache
from glot.store.transfer import push_cache
from tests.s3 import S3Server, upload
from tests.work import make_work

URL = "s3://made/a/cache"
FIT = ["--epochs", 1, "--hidden", 8, "--device", "cpu", "--no-yardsticks", "--json"]
Glot = Callable[..., tuple[int, str, str]]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def there(url: str = URL) -> dict[str, bytes]:
    system = file_system("s3")
    root = url.removeprefix("s3://")
    return {path.removeprefix(f"{root}/"): system.cat_file(path) for path in system.find(root)}


@pytest.fixture
def cache(make_fit_cache: Callable[..., Path]) -> Path:
    return make_fit_cache(train=64, validation=32, shards=4)


@pytest.fixture(scope="module")
def work(backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache and a run."""
    return make_work(tmp_path_factory.mktemp("work"), backbone_folders["bert"])


def scores(out: str) -> object:
    return [(run["best"], run["last"], run["best_epoch"]) for run in json.loads(out)["runs"]]


def test_a_head_trained_from_a_store_is_the_same(glot: Glot, s3: S3Server, cache: Path) -> None:
    upload(cache, URL)
    code, here, err = glot("fit", "--cache", cache, *FIT, "--out", "here")
    assert code == 0, err
    code, found, err = glot("fit", "--cache", URL, *FIT, "--out", "there")
    assert code == 0, err
    assert scores(found) == scores(here)
    assert Path("there/head.safetensors").read_bytes() == Path("here/head.safetensors").read_bytes()
    Path("there/metrics.json").unlink()
    code, found, err = glot("fit", "--resume", "there", "--json", "--no-yardsticks")  # finds the URL in the config
    assert (code, scores(found)) == (0, scores(here)), err


def test_where_blocks_are_kept(glot: Glot, s3: S3Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(cache, URL)
    for name in ("GLOT_CACHE_DIR", "GLOT_CACHE_GB"):  # what options set goes when the test ends
        monkeypatch.setenv(name, "")
    code, _, err = glot("cache", "subset", URL, "small", "--limit", 3, "--cache-dir", "kept", "--cache-gb", 0.5)
    assert code == 0, err
    assert [path for path in Path("kept").rglob("*") if path.is_file()]
    code, _, err = glot("inspect", URL, "--cache-gb", "much")
    assert (code, "--cache-gb, or GLOT_CACHE_GB, is the size of the local block cache in GiB" in err) == (2, True), err


@pytest.mark.slow
def test_listings_that_lag_and_a_put_that_is_tried_again(glot: Glot, s3: S3Server, cache: Path) -> None:
    """The store never lists what was put there, and is too busy for the first shard at first."""
    s3.misbehave(unlisted=True, busy=1, method="PUT", part="shard-")
    code, out, err = glot("cache", "push", cache, URL, "--verify")
    assert (code, "7 files sent" in out) == (0, True), err
    seen = s3.misbehave(unlisted=True)
    assert there() == {}  # by a listing
    assert sum(line.startswith("PUT") and "shard-" in line for line in seen) == 5  # four, and one again
    code, out, err = glot("fit", "--cache", URL, *FIT, "--out", "there")
    assert code == 0, err
    code, out, err = glot("cache", "pull", URL, "back")
    assert code == 0, err
    assert files_of(Path("back")) == files_of(cache)


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_nothing_is_trained_on_damage(glot: Glot, s3: S3Server, cache: Path, damage: str) -> None:
    upload(cache, URL)
    data = (cache / "shard-00001.h5").read_bytes()
    offset = Cache(cache).manifest.shards[1].data.columns[f"hidden/{Cache(cache).resolve_layer(-1)}"].offset
    if damage == "missing":
        file_system("s3").rm_file(f"{URL}/shard-00001.h5")
    else:
        changed = data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]
        file_system("s3").pipe_file(f"{URL}/shard-00001.h5", data[:-1] if damage == "cut" else changed)
    code, out, err = glot("fit", "--cache", URL, *FIT, "--out", "there")
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert f"{URL}/shard-00001.h5 " in err
    assert not list(Path().glob("there/head*"))


@pytest.mark.slow
def test_a_look_at_a_cache_in_a_store(glot: Glot, s3: S3Server, cache: Path) -> None:
    upload(cache, URL)
    code, out, err = glot("inspect", URL, "--verify")
    assert (code, "every checksum fits" in out) == (0, True), err
    code, here, err = glot("inspect", cache, "--json")
    code, found, err = glot("inspect", URL, "--json")
    assert code == 0, err
    expected = json.loads(here) | {"folder": URL}
    left_out = ("bytes", "bytes_per_token")  # of a folder with the manifest
    assert {k: v for k, v in json.loads(found).items() if k not in left_out} == {
        k: v for k, v in expected.items() if k not in left_out
    }


def test_what_is_pushed_comes_back(glot: Glot, s3: S3Server, cache: Path) -> None:
    code, out, err = glot("cache", "push", cache, URL, "--verify")
    assert code == 0, err
    assert there() == files_of(cache)
    puts = [line.split()[1] for line in s3.misbehave() if line.startswith("PUT")]
    assert puts[0].startswith("/made/a/cache/shard-")
    assert puts[-1] == "/made/a/cache/manifest.json"
    code, out, err = glot("cache", "push", cache, URL)
    assert (code, "0 files sent (0 bytes), 7 were there" in out) == (0, True), out + err
    code, out, err = glot("cache", "pull", URL, "back")
    assert code == 0, err
    assert files_of(Path("back")) == files_of(cache)
    code, out, err = glot("cache", "pull", URL, "back")
    assert (code, "0 files sent (0 bytes), 7 were there" in out) == (0, True), out + err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("predict", "--run", "run", "--split", "validation", "--cache"),
        ("evaluate", "--run", "run", "--json", "--cache"),
        ("explain", "--run", "run", "--index", "3", "--json", "--cache"),
        ("inspect", "--list-texts"),
    ],
    ids=lambda words: words[0],
)
def test_a_url_stands_where_a_folder_may(
    glot: Glot, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("GLOT_CACHE_DIR", str(tmp_path / "blocks"))
    url = "memory://anywhere/cache"
    upload(work / "cache", url)
    given = [work / word if word == "run" else word for word in words]
    code, here, err = glot(*given, work / "cache")
    assert code == 0, err
    code, found, err = glot(*given, url)
    assert (code, found.replace(url, str(work / "cache"))) == (0, here), err


@pytest.mark.slow
def test_heads_and_joins_of_a_url(glot: Glot, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glot import fit_cache

    monkeypatch.setenv("GLOT_CACHE_DIR", str(tmp_path / "blocks"))
    url = "memory://joined/cache"
    upload(work / "cache", url)
    fitted = [
        fit_cache(place, out=out, epochs=1, hidden=8, device="cpu")
        for place, out in ((url, "a"), (work / "cache", "b"))
    ]
    assert fitted[0].result.best == fitted[1].result.best
    code, out, err = glot("tune", "--cache", url, "--minutes", 0, "--device", "cpu", "--out", "study")
    assert (code, "winner: " in out) == (0, True), err
    assert (
        glot("cache", "merge", url, url, "there")[0]
        == glot("cache", "merge", work / "cache", work / "cache", "here")[0]
        == 0
    )
    assert {path: data for path, data in files_of(Path("there")).items() if path.endswith(".h5")} == {
        path: data for path, data in files_of(Path("here")).items() if path.endswith(".h5")
    }


@pytest.mark.slow
def test_a_sweep_over_ray_reads_from_the_store(glot: Glot, s3: S3Server, cache: Path) -> None:
    """By a Ray of this machine alone, where no address is given; the heads say what those of the folder's cache do."""
    pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")
    upload(cache, URL)
    sweep = ["sweep", "--preset", "published", "--tau", "0.1,0.5", "--epochs", 1, "--hidden", 8]
    sweep += ["--lr", 0.01, "--batch-size", 8]  # the made task and its defaults are not known to workers
    code, _, err = glot(*sweep, "--cache", cache, "--devices", "cpu", "--out", "here")
    assert code == 0, err
    code, out, err = glot(*sweep, "--cache", URL, "--launcher", "ray", "--workers", 1, "--out", "there")
    assert (code, "workers by Ray: 1" in err) == (0, True), out + err
    found = sorted(path.relative_to("there") for path in Path("there").rglob("head.safetensors"))
    assert len(found) == 2
    for name in found:  # another number of threads rounds otherwise
        ours = load_file("there" / name)
        for key, values in load_file("here" / name).items():
            torch.testing.assert_close(ours[key], values, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_nothing_is_replaced(glot: Glot, s3: S3Server, cache: Path, make_fit_cache: Callable[..., Path]) -> None:
    other = make_fit_cache("other", train=32, validation=16, shards=2)
    assert glot("cache", "push", other, URL)[0] == 0
    before = there()
    code, _, err = glot("cache", "push", cache, URL)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{URL} holds another cache: nothing was changed: choose another place" in err
    file_system("s3").rm_file(f"{URL}/manifest.json")  # an interrupted push of the other one
    code, _, err = glot("cache", "push", cache, URL)
    assert (code, "is there and is another file: nothing was changed" in err) == (2, True), err
    before.pop("manifest.json")
    assert there() == before
    assert glot("cache", "push", cache, "s3://made/b")[0] == 0
    code, _, err = glot("cache", "pull", "s3://made/b", other)
    assert (code, "holds another cache" in err) == (2, True), err


@pytest.mark.slow
@pytest.mark.parametrize("file", ["shard-00000.h5", "manifest.json"])
def test_two_that_push_at_once(s3: S3Server, cache: Path, make_fit_cache: Callable[..., Path], file: str) -> None:
    """Another cache's file comes to lie there after it was looked for: the store itself keeps it."""
    other = make_fit_cache("other", train=64, validation=30, shards=4)
    data = (other / file).read_bytes()

    def be_faster(done: int, total: int) -> None:
        if file != "manifest.json" or done == total:
            file_system("s3").pipe_file(f"{URL}/{file}", data)

    with pytest.raises(
        UsageError, match="is there and is another file" if file.startswith("shard") else "holds another cache"
    ):
        push_cache(Cache(cache), URL, progress=be_faster)
    assert there()[file] == data


@pytest.mark.slow
def test_a_push_goes_on_where_it_was(glot: Glot, s3: S3Server, cache: Path) -> None:
    """The store refuses a shard; what was sent before is kept, and there is no manifest yet."""
    s3.misbehave(denied=True, part="shard-00001")
    code, _, err = glot("cache", "push", cache, URL)
    assert (code, "check your credentials" in err, err.count("\n")) == (1, True, 1), err
    s3.misbehave(busy=10**6, part="shard-00002")
    code, _, err = glot("cache", "push", cache, URL)
    assert (code, f"{URL}/shard-00002.h5: the store is too busy" in err) == (1, True), err
    assert "manifest.json" not in there()
    s3.misbehave()
    code, _, err = glot("cache", "push", cache, URL)
    assert code == 0, err
    assert there() == files_of(cache)


@pytest.mark.slow
def test_a_pull_goes_on_where_it_was(glot: Glot, s3: S3Server, cache: Path) -> None:
    upload(cache, URL)
    data = (cache / "shard-00002.h5").read_bytes()
    file_system("s3").pipe_file(f"{URL}/shard-00002.h5", data[:-1] + bytes([data[-1] ^ 1]))
    code, _, err = glot("cache", "pull", URL, "back")
    assert (code, f"{URL}/shard-00002.h5 is damaged" in err, err.count("\n")) == (1, True, 1), err
    assert not {"shard-00002.h5", "manifest.json"} & set(files_of(Path("back")))
    file_system("s3").pipe_file(f"{URL}/shard-00002.h5", data)
    s3.misbehave()
    code, _, err = glot("cache", "pull", URL, "back")
    assert code == 0, err
    assert files_of(Path("back")) == files_of(cache)
    assert not any("shard-00000" in line for line in s3.misbehave())


@pytest.mark.slow
def test_texts_that_are_left_out(glot: Glot, s3: S3Server, cache: Path) -> None:
    code, out, err = glot("cache", "push", cache, URL, "--no-texts", "--verify")
    assert code == 0, err
    assert not any(b"word1 " in data or b"word-1 " in data for data in there().values())
    assert not Cache(URL).plan.has_texts
    code, out, err = glot("cache", "push", cache, URL, "--no-texts")
    assert (code, "7 were there" in out) == (0, True), err
    code, _, err = glot("fit", "--cache", URL, *FIT, "--out", "there")
    assert code == 0, err


@pytest.fixture
def extraction(table: Path, backbone_folders: dict[str, Path]) -> list[object]:
    columns = ["--text", "sentence", "--label", "kind", "--max-tokens", 24]
    return ["extract", "--model", backbone_folders["bert"], "--data", table, *columns]


def test_a_cache_is_made_at_a_url(
    glot: Glot, s3: S3Server, extraction: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of a folder; while the store fails, shards are made all the same, and the command goes on."""
    monkeypatch.setattr("glot.store.sending.SECONDS", 0.01)
    assert glot(*extraction, "--out", "here")[0] == 0
    s3.misbehave(busy=10**6, part=".h5")
    code, _, err = glot(*extraction, "--out", URL)
    assert (code, "the store is too busy" in err) == (1, True), err
    assert there() == {}
    s3.misbehave()
    code, out, err = glot(*extraction, "--out", URL)
    assert (code, f"{URL}: every file is there" in out, "forwarded 0 texts" in out) == (0, True, True), out + err
    assert there() == files_of(Path("here"))
    puts = [line.split()[1] for line in s3.misbehave() if line.startswith("PUT")]
    assert puts[-1] == "/made/a/cache/manifest.json"
    assert not list(Path("blocks/made").iterdir())
    code, _, err = glot(*extraction, "--out", URL)
    assert (code, err.count("\n"), f"{URL} holds a cache already" in err) == (2, 1, True), err


@pytest.mark.slow
def test_two_that_make_one_cache(glot: Glot, s3: S3Server, extraction: list[object]) -> None:
    elsewhere = {**asdict(Owner.me()), "host": "elsewhere", "machine": "another"}
    file_system("s3").pipe_file(f"{URL}/extract.claim", json.dumps(elsewhere).encode())
    code, _, err = glot(*extraction, "--out", URL)
    assert (code, err.count("\n")) == (2, 1), err
    assert f"on elsewhere since {elsewhere['since']} is making {URL}: wait, or remove {URL}/extract.claim" in err
    gone = {**asdict(Owner.me()), "started": 1}  # this process id, of a process that has ended
    file_system("s3").pipe_file(f"{URL}/extract.claim", json.dumps(gone).encode())
    code, _, err = glot(*extraction, "--out", URL)
    assert code == 0, err
    assert "extract.claim" not in there()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["inspect", "ftp://host/x"], "ftp:// is none of the places"),
        (["cache", "push", "{cache}", "there"], "there is a folder: use `glot cache copy`"),
        (["cache", "push", "memory://a/b", "memory://a/c"], "there is no memory://a/b/manifest.json"),
        (["cache", "pull", "{cache}", "there"], "is a folder: use `glot cache copy`"),
        (["cache", "pull", "memory://a/b", "there"], "there is no memory://a/b/manifest.json"),
        (["cache", "copy", "{cache}", "s3://made/x"], "cannot write to s3://made/x: write to a folder"),
        (["cache", "merge", "{cache}", "{cache}", "s3://made/x"], "cannot write to s3://made/x"),
        (["extract", "--model", "m", "--data", "d.csv", "--out", "s3://made/x", "--plan"], "--plan needs a folder"),
        (
            ["extract", "--model", "m", "--data", "d.csv", "--out", "s3://made/x", "--launcher", "ray"],
            "--launcher needs a folder",
        ),
        (["extract", "--model", "m", "--data", "d.csv", "--out", "hf://datasets/a/b"], "the Hub, and several"),
        (["fit", "--cache", "{cache}", "--out", "s3://made/x"], "cannot write to s3://made/x"),
    ],
)
def test_wrong_use_is_a_line(glot: Glot, cache: Path, words: list[str], line: str) -> None:
    code, _, err = glot(*(word.format(cache=cache) for word in words))
    assert (code, err.count("\n")) == (2, 1), err
    assert line in err
    assert not Path("s3:").exists()


@pytest.mark.parametrize("words", [["fit", "--cache"], ["cache", "push", "{cache}"]], ids=["fit", "push"])
def test_a_client_that_is_not_installed(glot: Glot, no_clients: None, cache: Path, words: list[str]) -> None:
    code, _, err = glot(*(word.format(cache=cache) for word in words), "gs://bucket/x")
    assert (code, err.count("\n"), "gs:// needs gcsfs, which is not installed" in err) == (2, 1, True), err


def test_a_bucket_that_is_not_there(glot: Glot, s3: S3Server, cache: Path, extraction: list[object]) -> None:
    """Told before anything slow, whatever is to be done there."""
    commands = [["fit", "--cache"], ["inspect"], ["cache", "push", cache], [*extraction, "--out"]]
    for words in commands:
        code, out, err = glot(*words, "s3://nowhere/x")
        assert (code, out, err.count("\n"), "s3://nowhere/x" in err) == (2, "", 1, True), err
        assert "bucket" in err
    assert not list(Path().glob("blocks/made/*"))


def test_nothing_is_repaired_or_added_at_a_url(glot: Glot, s3: S3Server, cache: Path) -> None:
    upload(cache, URL)
    code, _, err = glot("inspect", URL, "--repair")
    assert (code, "is no folder of this machine: pull it" in err) == (2, True), err
