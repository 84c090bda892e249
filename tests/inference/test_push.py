"""Uploads, with a Hub that is made up: what is asked of it, and one line for each refusal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from glot.errors import FaultError, GlotError, UsageError
from glot.inference.push import check_push, push_folder


class FakeHub:
    """Stands for `HfApi`; `refusal` is raised by whatever asks first."""

    refusal: Exception | None = None
    asked: list[tuple] = []  # noqa: RUF012 -- set anew for each test

    def whoami(self) -> dict:
        self._ask("whoami")
        return {"name": "somebody"}

    def create_repo(self, repo_id: str, exist_ok: bool) -> str:
        self._ask("create_repo", repo_id, exist_ok)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
        self._ask("upload_folder", repo_id, folder_path)

    def _ask(self, *what: object) -> None:
        self.asked.append(what)
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "asked", [])
    return FakeHub


def answer(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    return kind(f"{status} says\nthe hub", response=SimpleNamespace(status_code=status, headers={}, request=None))


def test_a_folder_goes_to_the_hub(hub: type[FakeHub], tmp_path: Path) -> None:
    check_push("somebody/mine")
    assert push_folder(tmp_path, "somebody/mine") == "https://huggingface.co/somebody/mine"
    assert hub.asked == [
        ("whoami",),
        ("create_repo", "somebody/mine", True),
        ("upload_folder", "somebody/mine", tmp_path),
    ]


@pytest.mark.parametrize("name", ["mine", "a/b/c", "some body/mine", "../mine", ""])
def test_a_name_that_is_none(hub: type[FakeHub], name: str) -> None:
    with pytest.raises(UsageError, match="user/name"):
        check_push(name)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("refusal", "kind", "message"),
    [
        (LocalTokenNotFoundError("no token"), UsageError, "needs a token"),
        (answer(401), UsageError, "does not take this token"),
        (answer(403), UsageError, "no right to write to somebody/mine"),
        (answer(404, RepositoryNotFoundError), UsageError, "no right to write"),
        (answer(500), FaultError, "refused somebody/mine: 500 says the hub"),
        (OSError("no route\nto host"), FaultError, "cannot reach the Hub"),
        (ConnectionError("offline mode"), FaultError, "cannot reach the Hub"),
    ],
)
def test_a_refusal_is_one_line(
    hub: type[FakeHub], refusal: Exception, kind: type[GlotError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "refusal", refusal)
    for ask in (lambda: check_push("somebody/mine"), lambda: push_folder(Path("x"), "somebody/mine")):
        with pytest.raises(kind, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)
