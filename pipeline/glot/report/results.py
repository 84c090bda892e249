"""Finished runs and baselines, wherever they lie: the one reader of what a report says.

A run lies at `<task>-<model>/<setting>/<method>/seed-<s>/` where `glot reproduce` made it, and anywhere else where
`glot fit` or `glot sweep` did. Such runs have the setting "own", and their methods are named by what tells them apart.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from glot.errors import FaultError, UsageError
from glot.fit.config import differing_settings
from glot.fit.result import FitResult, Scores
from glot.fit.run_folder import CONFIG_FILE, METRICS_FILE, RunConfig, is_ensemble, is_run
from glot.nn.registry import POOLERS
from glot.report.methods import METHODS
from glot.store.files import read_versioned

VERSION = 1  # of the files of baselines and costs
BASELINE = "yardstick"  # the setting of baselines, and the folder of their files
OWN = "own"  # the setting of runs that do not lie in the layout of `glot reproduce`
_STATES = ("max_tokens", "dtype", "compute_dtype", "template", "weights_sha256")
_SHORT = 8  # letters of a hash


@dataclass(frozen=True)
class Result:
    """What one run, or one baseline, scored.

    Attributes:
        task: "cola", "stress-published-0.9". model: the backbone's alias.
        method: cls, mean, max, adapool, glot, glot-loops, the name of a baseline; of own runs as in "glot, tau=0.3".
        setting: "published" (the published 3 epochs), "yardstick" (a baseline), "own", or the name of a recipe's group
            of runs.
        seed: the run's seed; 0 for baselines.
        best, best_published, last: the scores by each rule of `glot.fit.result.FitResult`.
        epochs: epochs trained. density: mean edge density of the token graphs; None where there is no graph.
        seconds: training time; of heads that trained side by side, each its share.
        path: the run's folder, or the baseline's file.
        kind: of the backbone, "encoder" or "decoder", as its states were recorded; None where it was not.
        examples: that it was trained on; 0 where that was not recorded.
    """

    task: str
    model: str
    method: str
    setting: str
    seed: int
    best: Scores
    best_published: Scores
    last: Scores
    epochs: int
    density: float | None
    seconds: float
    path: Path
    kind: str | None = None
    examples: int = 0


def _is_method(name: str) -> bool:
    return name in METHODS or name in POOLERS


@dataclass(frozen=True)
class _Run:
    """A run's two files."""

    folder: Path
    config: RunConfig
    metrics: FitResult

    @property
    def is_reproduced(self) -> bool:
        """Whether it lies at `<task>-<model>/<setting>/<method>/seed-<s>`, as its config says."""
        folder, config = self.folder.absolute(), self.config
        has_place = re.fullmatch(r"seed-\d+", folder.name) and len(folder.parents) >= 3
        if not has_place or not _is_method(folder.parent.name.partition(",")[0]):
            return False
        return folder.parents[2].name == f"{config.task.name}-{config.states.backbone}"

    def result(self, method: str, setting: str, seed: int) -> Result:
        """What it scored, under a name."""
        metrics, states = self.metrics, self.config.states
        return Result(
            task=self.config.task.name,
            model=states.backbone,
            method=method,
            setting=setting,
            seed=seed,
            best=metrics.best,
            best_published=metrics.best_published,
            last=metrics.last,
            epochs=len(metrics.epochs),
            density=metrics.density,
            seconds=metrics.own_seconds or 0.0,
            path=self.folder,
            kind=states.kind,
            examples=metrics.examples,
        )

    def placed_result(self) -> Result:
        """What it scored, named by where it lies."""
        method, setting = self.folder.parent.name, self.folder.parents[1].name
        return self.result(method, setting, int(self.folder.name.removeprefix("seed-")))

    @property
    def common(self) -> dict[str, Any]:
        """The settings that every run has, what its states are of, and its data."""
        found = self.config.training_settings | {name: getattr(self.config.states, name) for name in _STATES}
        found |= {f"examples of {name}": mark[:_SHORT] for name, mark in self.config.data.items()}
        return {name: _shown(value) for name, value in found.items()}


def collect(folder: Path) -> list[Result]:
    """All finished runs and baselines that lie below a folder as `glot reproduce` lays them.

    Runs without `metrics.json` are left out. A folder that is missing or empty gives no results.

    Raises:
        FaultError: a file is damaged. UsageError: a run has no `config.json`, or a file is of a newer version.
    """
    runs = [path.parent for path in sorted(folder.glob(f"*/*/*/seed-*/{METRICS_FILE}"))]
    read = [_read_run(run).placed_result() for run in runs if run.name.removeprefix("seed-").isdecimal()]
    return _with_kinds([*read, *map(read_baseline, sorted(folder.glob(f"*/{BASELINE}/*.json")))])


def collect_own(folders: Sequence[Path]) -> tuple[list[Result], list[tuple[str, str]]]:
    """All finished runs anywhere below some folders, and (run, reason) of those left out.

    Where a run lies as `glot reproduce` lays its runs, it is read as `collect` does, and so are the baselines. Any
    other has the setting "own" and its pooler for a method, with the settings that differ between runs of the same task
    and backbone ("glot, tau=0.3"). A run with the settings and seeds of another is left out.

    Raises:
        UsageError: a folder is missing, no finished run was found, or one is of a newer version.
        FaultError: runs are damaged; it names them.
    """
    finished, unfinished, files = _find(folders)
    damaged: list[str] = []
    runs = _read_all(_read_run, finished, damaged)
    placed = [run.placed_result() for run in runs if run.is_reproduced]
    named, skipped = _name([run for run in runs if not run.is_reproduced])
    baselines = _read_all(read_baseline, files, damaged)
    for path, scores in [(run.folder, run.metrics) for run in runs] + [(found.path, found) for found in baselines]:
        try:
            _check_scores(scores.best, scores.best_published, scores.last)
        except (TypeError, AttributeError) as error:
            damaged.append(f"{path}: {error}")
    if damaged:
        raise FaultError(f"damaged runs, to be removed or fitted again: {'; '.join(damaged)}")
    if not runs:
        places = ", ".join(map(str, folders))
        raise UsageError(
            f"no finished run (config.json and metrics.json) below {places}: make one with `glot fit` or `glot sweep`, "
            "or name the folder that holds yours"
        )
    skipped += [(str(run), f"not finished: go on with `glot fit --resume {run}`") for run in unfinished]
    return _with_kinds([*placed, *named, *baselines]), skipped


def read_baseline(path: Path) -> Result:
    """A baseline, by its file; raises FaultError where it is damaged, UsageError where it is newer."""

    def build(data: dict[str, Any]) -> Result:
        scores = data["scores"]
        names = {name: data[name] for name in ("task", "model", "method", "seconds")}
        by_rule = {"best": scores, "best_published": scores, "last": scores}
        return Result(
            **names, **by_rule, setting=BASELINE, seed=0, epochs=0, density=None, path=path, kind=data.get("kind")
        )

    return read_versioned(path, VERSION, build)


def _read_run(folder: Path) -> _Run:
    return _Run(folder, RunConfig.load(folder), FitResult.load(folder))


def _with_kinds(results: Sequence[Result]) -> list[Result]:
    """The results, those of baselines that did not record their backbone's kind with that of its runs."""
    known = {result.model: result.kind for result in results if result.kind is not None}
    return [replace(result, kind=result.kind or known.get(result.model)) for result in results]


def _find(folders: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Folders of finished runs and of unfinished ones, files of baselines; each once."""
    finished: dict[Path, Path] = {}
    unfinished: dict[Path, Path] = {}
    baselines: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}: name one that holds runs, as `glot fit` makes them")
        for config in sorted(folder.rglob(CONFIG_FILE)):
            if is_ensemble(config.parents[1]):
                continue  # its members are copies of runs, or stand for none alone
            if config.with_name(METRICS_FILE).exists():
                finished.setdefault(config.resolve(), config.parent)
            elif is_run(config):
                unfinished.setdefault(config.resolve(), config.parent)
        for path in sorted(folder.rglob(f"{BASELINE}/*.json")):
            baselines.setdefault(path.resolve(), path)
    return list(finished.values()), list(unfinished.values()), list(baselines.values())


T = TypeVar("T")


def _read_all(read: Callable[[Path], T], paths: Sequence[Path], damaged: list[str]) -> list[T]:
    """Read what can be read; what is damaged in the others goes into `damaged`. UsageError for a newer version."""
    found = []
    for path in paths:
        try:
            found.append(read(path))
        except FaultError as error:
            damaged.append(str(error))
    return found


def _check_scores(best: Scores, published: Scores, last: Scores) -> None:
    """Raise TypeError unless these are finite numbers, the same by each rule; the published one has no hold-out."""
    for scores in (best, published, last):
        for metrics in scores.values():
            for name, value in metrics.items():
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                    raise TypeError(f"{name} is {value!r}")
    names = [{name: list(metrics) for name, metrics in scores.items()} for scores in (best, published, last)]
    if names[0] != names[2] or names[1] != {name: found for name, found in names[0].items() if name != "holdout"}:
        raise TypeError("best, best_published and last have different metrics")


def _shown(value: Any) -> Any:
    """A hash cut short, a list as "64+128", an empty one as None; any other setting as it is."""
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value)) or None
    return value[:_SHORT] if isinstance(value, str) and len(value) == 64 else value


def _name(runs: Sequence[_Run]) -> tuple[list[Result], list[tuple[str, str]]]:
    groups: dict[tuple[str, str], list[_Run]] = defaultdict(list)
    for run in runs:
        groups[run.config.task.name, run.config.states.backbone].append(run)
    named: list[Result] = []
    skipped: list[tuple[str, str]] = []
    seen: dict[tuple[str, str, str, int, int], Path] = {}
    for group in groups.values():
        shapes: dict[str, list[dict[str, Any]]] = defaultdict(list)  # pooler -> its settings in each run
        for run in group:
            shapes[run.config.pooler.pooler].append(run.config.pooler_settings)
        of_pooler = {pooler: differing_settings(alike) for pooler, alike in shapes.items()}
        shared = [run.common for run in group]
        of_all = differing_settings(shared)
        for run, common in zip(group, shared, strict=True):
            pooler, train = run.config.pooler.pooler, run.config.train
            shape = run.config.pooler_settings
            settings = [f"{key}={_value(shape[key])}" for key in of_pooler[pooler]]
            settings += [f"{key}={_value(common[key])}" for key in of_all if common.get(key) is not None]
            result = run.result(", ".join([pooler, *settings]), OWN, train.init_seed)
            key = (result.task, result.model, result.method, result.seed, train.order_seed)
            if key in seen:
                skipped.append((str(result.path), f"the same settings and seeds as {seen[key]}"))
                continue
            seen[key] = result.path
            named.append(result)
    return named, skipped


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
