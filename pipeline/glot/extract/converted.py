"""Where converted models are kept, so that a backbone is converted once: a folder each in the user's cache folder.

A folder appears whole or not at all, also where two processes convert the same backbone. `about.json` holds the
checksums of its files, which are compared at each start: a model whose weights are damaged would make wrong states.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import xxhash

from glot.errors import FaultError, GlotError, UsageError
from glot.extract.forward import Backbone
from glot.store.files import (
    atomic_folder,
    find_unfinished,
    folder_bytes,
    json_sha256,
    read_json,
    update_from_file,
    write_json,
)

FORMAT = 1  # of what is converted: counted up with each change of what `glot.extract.openvino` makes
ABOUT = "about.json"
DAY = 86400.0


def models_folder() -> Path:
    """The folder of all converted models."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("glot", appauthor=False)) / "openvino"


def model_key(backbone: Backbone) -> str:
    """Of all that a converted model depends on; how it is compiled is not among it."""
    parts = [
        FORMAT,
        *(backbone.weights_sha256, backbone.loader_sha256, backbone.compute_dtype, backbone.pads),
        *(version(name) for name in ("openvino", "torch", "transformers")),
        backbone.model.config._attn_implementation,
    ]
    return json_sha256(parts)[:32]


@dataclass(frozen=True)
class Kept:
    """What is known of a backbone's conversion: its folder, or the reason why it does not serve."""

    folder: Path | None
    reason: str = ""


def find_model(backbone: Backbone) -> Kept | None:
    """What is kept of a backbone; None where it has not been converted, or its files are damaged."""
    return find_folder(model_key(backbone))


def find_folder(key: str) -> Kept | None:
    """What is kept under a name that `model_key` gave."""
    folder = models_folder() / key
    try:
        about = read_json(folder / ABOUT)
        if reason := about.get("reason"):
            return Kept(None, str(reason))
        if about["files"] == _checksums(folder):
            return Kept(folder)
    except (UsageError, FaultError, OSError, KeyError, TypeError, AttributeError):
        pass
    return None


def keep_model(backbone: Backbone, write: Callable[[Path], None]) -> Path:
    """Keep what `write` puts into a folder, and return that folder; another process may have been first.

    Raises GlotError, or what `write` raises, where nothing can be written there.
    """
    return _keep(backbone, {}, write)


def keep_reason(backbone: Backbone, reason: str) -> None:
    """Remember why a backbone's conversion does not serve, so that the next start does not try again."""
    with suppress(GlotError):  # else it does
        _keep(backbone, {"reason": reason}, lambda folder: None)


def _keep(backbone: Backbone, about: dict[str, str], write: Callable[[Path], None]) -> Path:
    folder = models_folder() / model_key(backbone)
    _sweep(folder.parent)
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would have been found
    try:
        with atomic_folder(folder) as work:
            write(work)
            write_json(work / ABOUT, {"backbone": backbone.name, **about, "files": _checksums(work)})
    except GlotError:
        if find_model(backbone) is None:  # no other process was first
            raise
    return folder


def _sweep(folder: Path) -> None:
    """Remove what was left by processes that were killed more than a day ago."""
    for path in find_unfinished(folder, "*"):
        if time.time() - path.stat().st_mtime > DAY:
            shutil.rmtree(path, ignore_errors=True)


def _checksums(folder: Path) -> dict[str, str]:
    """XXH3-64 of each file of a model."""
    sums = {}
    for path in sorted(folder.glob("model.*")):
        digest = xxhash.xxh3_64()
        update_from_file(digest, path)
        sums[path.name] = digest.hexdigest()
    return sums


def kept_bytes() -> int:
    """Bytes of all converted models."""
    return folder_bytes(models_folder())
