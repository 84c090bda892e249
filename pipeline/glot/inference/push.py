"""A folder to the Hugging Face Hub, and a run from there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glot.errors import FaultError, GlotError, UsageError, reason_of
from glot.store.files import atomic_folder

RUN_PATTERNS = ("*.json", "*.safetensors", "README.md")  # of a run, or in the folders of an ensemble's heads
COPIES = "glot"  # in the folder of a repository, where the Hub's client keeps it
LOGIN = "run `hf auth login` with a token that may write (or set HF_TOKEN)"


def check_push(repo: str, option: str = "--push") -> None:
    """Ask the Hub who we are, before any long work.

    Raises UsageError for a name that is none, and without a token; FaultError where the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1:
        raise UsageError(f"{option} takes the name of a repository on the Hub, as in user/name")
    with one_line_of_hub(repo):
        HfApi().whoami()


def push_folder(folder: Path, repo: str) -> str:
    """Upload a folder to the model repository `repo`, made where it is not there; returns its address.

    Raises UsageError where the token may not write there, FaultError where the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with one_line_of_hub(repo):
        address = api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a GLOT model")
    return str(address)


@contextmanager
def one_line_of_hub(repo: str) -> Iterator[None]:
    """Make one line of what the Hub's client raises about a repository, see `check_push`."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except GlotError:
        raise
    except LocalTokenNotFoundError:
        raise UsageError(f"pushing to {repo} needs a token of the Hub: {LOGIN}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            raise UsageError(f"the Hub does not take this token: {LOGIN}") from None
        if status in (403, 404):
            raise UsageError(
                f"this token has no right to write to {repo}: {LOGIN}, or push to a name of yours"
            ) from None
        raise FaultError(f"the Hub refused {repo}: {reason_of(error)}") from None
    except Exception as error:  # the hub client's network errors have changed their class with every major version
        raise FaultError(f"cannot reach the Hub for {repo} ({type(error).__name__}): {reason_of(error)}") from None


def fetch_run(repo: str, revision: str | None = None) -> Path:
    """The folder of a run on the Hub, downloaded or found where it was downloaded before.

    Raises UsageError where the Hub has no such repository, it is gated, or it cannot be reached, FaultError where there
    is no room for it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        snapshot = Path(snapshot_download(repo, revision=revision, allow_patterns=list(RUN_PATTERNS)))
    except GatedRepoError:
        raise UsageError(f"{repo} is gated: accept its licence on the hub, then run `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UsageError(f"the hub has no model {repo!r} (or it is private: run `hf auth login`)") from None
    except Exception as error:  # the hub client's network errors have changed their class with every major version
        raise UsageError(
            f"there is no folder {repo}, and the hub cannot be asked for it ({type(error).__name__}): "
            f"{reason_of(error)}"
        ) from None
    return _without_links(snapshot)


def _without_links(snapshot: Path) -> Path:
    """A copy of a snapshot, made once: the Hub's client keeps files as links, and no run is read through links."""
    copy = snapshot.parents[1] / COPIES / snapshot.name
    try:
        if not copy.exists():
            with atomic_folder(copy) as folder:
                shutil.copytree(snapshot, folder, dirs_exist_ok=True)
    except GlotError:
        if not copy.exists():  # else another process made it meanwhile
            raise
    return copy
