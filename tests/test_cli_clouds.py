"""`glot` on caches at gs:// and az://: gcsfs against an emulator, adlfs against what stands for Azure here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from glot.errors import UsageError
from glot.store.places import file_system
from glot.store.reader import Cache
from glot.store.transfer import push_cache
from tests.s3 import ROOT, upload
from tests.test_cli_remote import FIT, Glot, files_of, scores

pytestmark = pytest.mark.slow
# The account and key that Microsoft gives its own emulator.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextmanager
def serving(module: str) -> Iterator[str]:
    """The address of a server of the tests, in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", module], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        port = process.stdout.readline()
        assert port, f"{module} did not start"
        yield f"http://127.0.0.1:{int(port)}"
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True)
class Cloud:
    """A store: its scheme, and the URL of a cache in its one bucket."""

    scheme: str
    url: str

    def files(self) -> dict[str, bytes]:
        """What lies there, by its name below the URL."""
        root = self.url.partition("://")[2]
        system = file_system(self.scheme)
        return {path.removeprefix(f"{root}/"): system.cat_file(path) for path in system.find(root)}


@pytest.fixture(scope="session")
def addresses() -> Iterator[dict[str, str]]:
    with serving("tests.gcs_server") as gs, serving("tests.azure_server") as az:
        yield {"gs": gs, "az": az}


@pytest.fixture(params=["gs", "az"])
def cloud(
    request: pytest.FixtureRequest, addresses: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cloud]:
    scheme: str = request.param
    address = addresses[scheme]
    endpoint = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={address}/{ACCOUNT};"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", endpoint)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    monkeypatch.setenv("GLOT_CACHE_DIR", str(tmp_path / "blocks"))
    file_system.cache_clear()
    if scheme == "az":
        file_system("az").mkdir("made", exist_ok=True)
    yield Cloud(scheme, f"{scheme}://made/{tmp_path.name}/cache")
    file_system.cache_clear()


@pytest.fixture
def cache(make_fit_cache: Callable[..., Path]) -> Path:
    return make_fit_cache(train=64, validation=32, shards=4)


def test_what_is_pushed_is_trained_on_and_comes_back(glot: Glot, cloud: Cloud, cache: Path) -> None:
    code, out, err = glot("cache", "push", cache, cloud.url, "--verify")
    assert code == 0, err
    assert cloud.files() == files_of(cache)
    code, out, err = glot("cache", "push", cache, cloud.url)
    assert (code, "0 files sent (0 bytes), 7 were there" in out) == (0, True), out + err
    code, out, err = glot("inspect", cloud.url, "--verify")
    assert (code, "every checksum fits" in out) == (0, True), err
    code, here, err = glot("fit", "--cache", cache, *FIT, "--out", "here")
    assert code == 0, err
    code, found, err = glot("fit", "--cache", cloud.url, *FIT, "--out", "there")
    assert (code, scores(found)) == (0, scores(here)), err
    assert Path("there/head.safetensors").read_bytes() == Path("here/head.safetensors").read_bytes()
    code, _, err = glot("cache", "pull", cloud.url, "back")
    assert code == 0, err
    assert files_of(Path("back")) == files_of(cache)


def test_a_cache_is_made_there(glot: Glot, cloud: Cloud, table: Path, backbone_folders: dict[str, Path]) -> None:
    extract = ["extract", "--model", backbone_folders["bert"], "--data", table]
    extract += ["--text", "sentence", "--label", "kind", "--max-tokens", 24]
    assert glot(*extract, "--out", "here")[0] == 0
    code, out, err = glot(*extract, "--out", cloud.url)
    assert (code, f"{cloud.url}: every file is there" in out) == (0, True), out + err
    assert cloud.files() == files_of(Path("here"))
    code, _, err = glot(*extract, "--out", cloud.url)
    assert (code, err.count("\n"), f"{cloud.url} holds a cache already" in err) == (2, 1, True), err


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_nothing_is_trained_on_damage(glot: Glot, cloud: Cloud, cache: Path, damage: str) -> None:
    upload(cache, cloud.url)
    shard = f"{cloud.url}/shard-00001.h5"
    if damage == "missing":
        file_system(cloud.scheme).rm_file(shard)
    else:
        file_system(cloud.scheme).pipe_file(shard, (cache / "shard-00001.h5").read_bytes()[:-1])
    code, out, err = glot("fit", "--cache", cloud.url, *FIT, "--out", "there")
    assert (code, out, err.count("\n"), f"{shard} " in err) == (1, "", 1, True), err
    assert not list(Path().glob("there/head*"))


def test_a_bucket_that_is_not_there(glot: Glot, cloud: Cloud, cache: Path) -> None:
    url = f"{cloud.scheme}://nowhere/x"
    for words in (["fit", "--cache", url], ["inspect", url], ["cache", "push", cache, url]):
        code, out, err = glot(*words)
        assert (code, out, err.count("\n"), url in err) == (2, "", 1, True), err


@pytest.mark.parametrize("cloud", ["az"], indirect=True)
def test_no_rights(glot: Glot, cloud: Cloud, cache: Path) -> None:
    for words in (["inspect", "az://denied/x"], ["cache", "push", cache, "az://denied/x"]):
        code, out, err = glot(*words)
        assert (code, out, err.count("\n"), "check your credentials" in err) == (1, "", 1, True), err


@pytest.mark.parametrize("cloud", ["az"], indirect=True)
@pytest.mark.parametrize("key", ["", "notb64!"], ids=["none", "damaged"])
def test_no_account(glot: Glot, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """adlfs looks for one before it asks the store for anything."""
    account = f"AccountName={ACCOUNT};AccountKey={key};BlobEndpoint=http://127.0.0.1:9/{ACCOUNT};"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", account if key else "")
    file_system.cache_clear()
    code, out, err = glot("inspect", cloud.url)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert "check your" in err
    assert "credentials" in err


@pytest.mark.parametrize("cloud", ["az"], indirect=True)
def test_two_that_push_at_once(cloud: Cloud, cache: Path, make_fit_cache: Callable[..., Path]) -> None:
    """Another cache's manifest comes to lie there meanwhile: the store itself keeps it."""
    data = (make_fit_cache("other", train=64, validation=30, shards=4) / "manifest.json").read_bytes()

    def be_faster(done: int, total: int) -> None:
        if done == total:
            file_system(cloud.scheme).pipe_file(f"{cloud.url}/manifest.json", data)

    with pytest.raises(UsageError, match="holds another cache"):
        push_cache(Cache(cache), cloud.url, progress=be_faster)
    assert cloud.files()["manifest.json"] == data
