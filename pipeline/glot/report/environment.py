"""What a report was made with: versions, machine and dates, recorded beside the numbers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import glot
from glot.errors import GlotError
from glot.report.results import BASELINE, Result
from glot.store.files import read_json


@dataclass(frozen=True)
class Environment:
    """Versions and machine are those that wrote the report; devices, dates and programs are those of the runs.

    Attributes:
        python, torch, numpy, dgl: versions; None where a package is not installed.
        platform: as in "Linux x86_64". processors: those that this process may use. gpu: its name, where torch is
            loaded and sees one. machine: where the runs ran, in the user's words; "" where nothing was said.
        commit: of the checkout that the program runs from, with "+changes" where files differ; None elsewhere.
        devices: that the runs' configs name, as in ("cpu",). created_by: programs and versions that made the runs.
        first_run, last_run: the dates of the oldest and newest result file, ISO 8601 in UTC; None without results.
        written: when the report was written, likewise.
    """

    python: str
    torch: str | None
    numpy: str | None
    dgl: str | None
    platform: str
    processors: int
    gpu: str | None
    machine: str
    commit: str | None
    devices: tuple[str, ...]
    created_by: tuple[str, ...]
    first_run: str | None
    last_run: str | None
    written: str


def collect_environment(results: Sequence[Result], machine: str = "") -> Environment:
    """Collect it for a report of these results; what cannot be known is None, and nothing is raised."""
    configs = [_config(result.path) for result in results if result.setting != BASELINE]
    trains = [config.get("train") for config in configs]
    times = sorted(_changed(result) for result in results)
    return Environment(
        python=platform.python_version(),
        torch=_version("torch"),
        numpy=_version("numpy"),
        dgl=_version("dgl"),
        platform=f"{platform.system()} {platform.machine()}",
        processors=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpu=_gpu(),
        machine=machine,
        commit=_commit(),
        devices=_words(train.get("device") for train in trains if isinstance(train, dict)),
        created_by=_words(config.get("created_by") for config in configs),
        first_run=_date(times[0]) if times else None,
        last_run=_date(times[-1]) if times else None,
        written=_date(datetime.now(timezone.utc).timestamp()),
    )


def _config(run: Path) -> dict:
    try:
        config = read_json(run / "config.json")
    except GlotError:
        return {}
    return config if isinstance(config, dict) else {}


def _words(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if isinstance(value, str)}))


def _changed(result: Result) -> float:
    path = result.path if result.setting == BASELINE else result.path / "metrics.json"
    return path.stat().st_mtime


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu() -> str | None:
    torch = sys.modules.get("torch")  # loading it for a name would take seconds
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def _commit() -> str | None:
    """The checkout's commit; None for an installed package, even one inside somebody else's checkout."""
    root = Path(glot.__file__).resolve().parents[2]
    try:
        top, commit = _git(root, "rev-parse", "--show-toplevel", "HEAD").split("\n")
        if Path(top).resolve() != root:
            return None
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()
