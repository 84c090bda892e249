"""What speaks against an extraction, told without torch: before a model, or the data, is read."""

from __future__ import annotations

import re
from pathlib import Path

from glot.errors import FaultError, UsageError
from glot.extract.options import COMPUTE_DTYPES, ON_OVERFLOW, TEXT, ExtractOptions
from glot.store.files import nearest_there
from glot.store.layout import MANIFEST_FILE, STORED_AS, Manifest

# The names that a cache's folder may hold before it has a manifest.
OURS = re.compile(
    r"((manifest\.json|plan(-\d+)?\.h5|shard-\d{5,}\.(h5|json)|(plan|shard-\d{5,})\.claim(\.takeover)?|clock)(\.tmp-.+)?"
    r"|manifest\.json\.damaged|examples)"
)


def check_options(options: ExtractOptions) -> None:
    """Raise UsageError for a value that no backbone takes, or options that do not go together."""
    if options.on_overflow not in ON_OVERFLOW:
        raise UsageError(f"unknown --on-overflow {options.on_overflow!r}: choose {' or '.join(ON_OVERFLOW)}")
    if options.dtype not in ("auto", *STORED_AS):
        raise UsageError(f"unknown --dtype {options.dtype!r}: choose auto, {', '.join(STORED_AS)}")
    if options.compute_dtype not in ("auto", *COMPUTE_DTYPES):
        raise UsageError(f"unknown compute dtype {options.compute_dtype!r}: choose auto, {', '.join(COMPUTE_DTYPES)}")
    if options.device is not None and options.device_map is not None:
        raise UsageError("--device places the whole model, --device-map spreads it: pass one of them")
    if options.template.count(TEXT) != 1:
        raise UsageError(
            f"--prompt {options.template!r} must hold {TEXT} once, where the text goes, as in 'Classify: {TEXT}'"
        )
    if not re.fullmatch(r"(\w[\w.-]*)?", options.group):  # it names files
        raise UsageError(
            f"--examples {options.group!r}: use letters, digits, '.', '_' and '-', a letter or digit first"
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but a cache: what killed runs left is cleaned up in it."""
    there = nearest_there(folder)
    if not there.is_dir():
        raise UsageError(f"cannot make the folder {folder}: {there} is a file; choose another with --out")
    if there != folder or (folder / MANIFEST_FILE).exists():
        return
    strange = [path.name for path in folder.iterdir() if not OURS.fullmatch(path.name)]
    if strange:
        raise UsageError(f"{folder} is no cache and not empty ({strange[0]} is in it): choose another with --out")


def is_planned(folder: Path, request: str) -> bool:
    """Whether a plan for this very request is there, so that a worker need not read the corpus."""
    try:
        return bool(request) and Manifest.load(folder).plan.request == request
    except (UsageError, FaultError):
        return False
