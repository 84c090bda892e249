"""`glot cache push` to the Hub, with a client that only looks like the Hub's: the Hub itself cannot be reached here."""

from __future__ import annotations

import fnmatch
import re
import shutil
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

URL = "hf://datasets/somebody/states"
Glot = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a made Hub keeps the files of its repositories."""
    folder = tmp_path / "hub"

    class Api:
        """What we use of the client, with its names of arguments."""

        def whoami(self) -> dict:
            return {"name": "somebody"}

        def create_repo(self, repo_id: str, *, exist_ok: bool, private: bool, repo_type: str) -> None:
            assert (exist_ok, private, repo_type) == (True, True, "dataset")
            (folder / repo_id).mkdir(parents=True, exist_ok=True)

        def file_exists(self, repo_id: str, filename: str, *, repo_type: str) -> bool:
            return (folder / repo_id / filename).exists()

        def hf_hub_download(self, repo_id: str, filename: str, *, repo_type: str) -> str:
            return str(folder / repo_id / filename)

        def upload_folder(
            self,
            *,
            repo_id: str,
            folder_path: Path,
            path_in_repo: str | None,
            repo_type: str,
            commit_message: str,
            allow_patterns: list[str] | None,
        ) -> None:
            for path in sorted(folder_path.glob("**/*")):
                name = path.relative_to(folder_path).as_posix()
                if path.is_file() and (
                    allow_patterns is None or any(fnmatch.fnmatch(name, one) for one in allow_patterns)
                ):
                    target = folder / repo_id / (path_in_repo or "") / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)

    for name in ("create_repo", "file_exists", "hf_hub_download", "upload_folder"):  # the real client takes the same
        real = signature(getattr(huggingface_hub.HfApi, name)).parameters
        assert set(signature(getattr(Api, name)).parameters) <= set(real), name
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cache_on_the_hub_is_the_cache_and_a_card(
    glot: Glot, hub: Path, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = glot("cache", "push", extracted, URL, "--license", "cc-by-4.0")
    assert code == 0, err
    there = files_of(hub / "somebody/states")
    card = there.pop("README.md").decode()
    assert there == files_of(extracted)
    assert "license: cc-by-4.0" in card
    assert "- layers 2 of 0 to 2, width 32, stored as float16" in card
    assert "| `train` | train | 240 | " in card
    assert "The texts themselves lie in `plan.h5`." in card
    monkeypatch.chdir(hub / "somebody/states")
    names: dict[str, np.ndarray] = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], names)
    assert names["states"].shape[1] == 32
    assert names["states"].dtype == np.float16


def test_what_is_there_stays(glot: Glot, hub: Path, extracted: Path) -> None:
    """Another cache is refused; a card that its owner wrote is kept, and so is what lies beside a cache in a folder."""
    repository = hub / "somebody/states"
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
def test_urls_that_are_no_place_on_the_hub(glot: Glot, hub: Path, extracted: Path, url: str) -> None:
    code, _, err = glot("cache", "push", extracted, url)
    assert (code, err.count("\n")) == (2, 1), err
    assert not hub.exists()
