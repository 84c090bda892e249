"""The folders that a backbone is loaded from: its own, or an adapter's and that of the adapter's base."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from glot.errors import UsageError
from glot.extract.foreign_code import check_code
from glot.extract.source import ModelSource, check_model_access, fetch_model

ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")


@dataclass(frozen=True)
class ModelFolders:
    """Where the parts of a backbone lie.

    Attributes:
        name: what messages call it. revision: the hub's commit of what was asked for, "" for local files.
        model, tokenizer: folders of config and weights, and of the tokenizer. gguf_file: in that folder, or None.
        adapter: the folder of peft's adapter that goes into the weights, or None.
    """

    name: str
    revision: str
    model: Path
    tokenizer: Path
    gguf_file: str | None = None
    adapter: Path | None = None


def find_folders(source: ModelSource, trust_remote_code: bool = False) -> ModelFolders:
    """The folders of a backbone, after a download where it is on the hub; of an adapter, those of its base too.

    Raises UsageError where it cannot be had, or an adapter lies beside a model or names no base that can.
    """
    folder, revision = fetch_model(source, trust_remote_code)
    check_model_access(folder, source.gguf_file)
    adapter = folder / ADAPTER_CONFIG
    if source.gguf_file or not adapter.is_file():
        return ModelFolders(source.location, revision, folder, folder, source.gguf_file)
    if (folder / "config.json").exists():
        raise UsageError(
            f"{source.location} holds a model and an adapter for it ({ADAPTER_CONFIG}): give each a folder of its own"
        )
    base, commit = _base(adapter, source)
    try:
        model, _ = fetch_model(base, trust_remote_code, commit)
    except UsageError as error:
        raise UsageError(f"{source.location} is an adapter, and its base cannot be had: {error}") from None
    check_model_access(model)
    if not (model / "config.json").is_file():
        raise UsageError(f"{source.location} is an adapter, and its base {base.location} is no model: it has no config")
    own = any((folder / name).exists() for name in TOKENIZER_FILES)
    return ModelFolders(source.location, revision, model, folder if own else model, adapter=folder)


def _base(path: Path, source: ModelSource) -> tuple[ModelSource, str | None]:
    """The base that an adapter's config names (a folder, seen from here or the adapter, or a hub id) and its commit."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        name = settings["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        name = None
    if not name or not isinstance(name, str):
        raise UsageError(f"{source.location} is an adapter, and its {ADAPTER_CONFIG} names no base model")
    for folder in (Path(name), path.parent / name):
        if folder.is_dir():
            return ModelSource(folder.name, str(folder)), None
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise UsageError(
            f"{source.location} is an adapter, and its base {name} is not there: put the folder in "
            f"{ADAPTER_CONFIG} as base_model_name_or_path"
        )
    revision = settings.get("revision")
    return ModelSource(name.rpartition("/")[2], name), revision if isinstance(revision, str) else None


def check_peft(name: str) -> None:
    """Raise UsageError where peft is missing."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UsageError(f"{name} is an adapter, which takes peft: pip install 'glot-pipeline[peft]'") from None


def check_source(source: ModelSource, trust_remote_code: bool) -> None:
    """Raise UsageError early for what a folder on this machine lacks: trust in its code, or peft for an adapter."""
    folder = Path(source.location)
    if source.gguf_file is None and (folder / ADAPTER_CONFIG).is_file():
        check_peft(source.location)
    check_code(folder, source.location, trust_remote_code)
