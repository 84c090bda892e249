"""Finished runs and yardsticks, read from a folder of reproduced runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glot.errors import FaultError
from glot.store.files import check_version, read_json

Scores = dict[str, dict[str, float]]  # example set -> metric -> fraction
VERSION = 1  # of config.json, metrics.json, and the files of yardsticks and costs
YARDSTICK = "yardstick"
OWN = "own"  # the setting of runs that do not lie in the layout of `glot reproduce`


@dataclass(frozen=True)
class Result:
    """What one run, or one yardstick, scored.

    Attributes:
        task: "cola", "stress-published-0.9". model: the backbone's alias.
        method: cls, mean, max, adapool, glot, glot-loops, the name of a yardstick; of own runs as in
            "glot, tau=0.3".
        setting: "published" (the published 3 epochs), "yardstick", "own", or the name of a recipe's group of runs.
        seed: the run's seed; 0 for yardsticks.
        best, best_published, last: the scores by each rule of `glot.fit.result.FitResult`.
        epochs: epochs trained. density: mean edge density of the token graphs; None where there is no graph.
        seconds: training time; of heads that trained side by side, each its share.
        path: the run's folder, or the yardstick's file.
        kind: of the backbone, "encoder" or "decoder", as its states were recorded; None where it was not.
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


def collect(folder: Path) -> list[Result]:
    """All finished runs and yardsticks below a folder; runs without `metrics.json` are left out.

    Runs lie at `<task>-<model>/<setting>/<method>/seed-<s>/`, yardsticks at `<task>-<model>/yardstick/<name>.json`.
    A folder that is missing or empty gives no results.

    Raises:
        FaultError: a file is damaged. UsageError: a run has no `config.json`, or a file is of a newer version.
    """
    runs = [path for path in folder.glob("*/*/*/seed-*/metrics.json") if _seed(path.parent) is not None]
    yardsticks = folder.glob(f"*/{YARDSTICK}/*.json")
    return with_kinds([*map(read_run, sorted(runs)), *map(read_yardstick, sorted(yardsticks))])


def read_run(metrics: Path) -> Result:
    """A run of the layout that `collect` reads, by its `metrics.json`; raises as `collect`."""
    return _checked(_read_run, metrics)


def read_yardstick(path: Path) -> Result:
    """A yardstick, by its file; raises as `collect`."""
    return _checked(_read_yardstick, path)


def _seed(run: Path) -> int | None:
    digits = run.name.removeprefix("seed-")
    return int(digits) if digits.isdecimal() else None


def _checked(read: Callable[[Path], Result], path: Path) -> Result:
    try:
        return read(path)
    except (KeyError, TypeError, AttributeError) as error:
        raise FaultError(f"{path} or the config.json beside it is damaged: {error!r}") from None


def read_record(path: Path) -> dict[str, Any]:
    """A JSON file of a run, as it is: its version is looked at, the rest when it is used; raises as `collect`."""
    data = read_json(path)
    check_version(path, data, VERSION)
    return data


def _read_run(path: Path) -> Result:
    metrics, config = read_record(path), read_record(path.with_name("config.json"))
    return Result(
        task=config["task"]["name"],
        model=config["states"]["backbone"],
        method=path.parents[1].name,
        setting=path.parents[2].name,
        seed=_seed(path.parent),
        best=metrics["best"],
        best_published=metrics["best_published"],
        last=metrics["last"],
        epochs=len(metrics["epochs"]),
        density=metrics["density"],
        seconds=own_seconds(metrics),
        path=path.parent,
        kind=config["states"].get("kind"),
    )


def own_seconds(metrics: dict[str, Any]) -> float:
    """Of the seconds of training in a `metrics.json`, what falls to this head: others may have trained beside it."""
    shared = metrics["seconds"] / metrics.get("heads", 1)
    return float(metrics.get("own_seconds", shared))


def with_kinds(results: Sequence[Result]) -> list[Result]:
    """The results, those of yardsticks that did not record their backbone's kind with that of its runs."""
    known = {result.model: result.kind for result in results if result.kind is not None}
    return [replace(result, kind=result.kind or known.get(result.model)) for result in results]


def _read_yardstick(path: Path) -> Result:
    data = read_record(path)
    scores = data["scores"]
    return Result(
        task=data["task"],
        model=data["model"],
        method=data["method"],
        setting=YARDSTICK,
        seed=0,
        best=scores,
        best_published=scores,
        last=scores,
        epochs=0,
        density=None,
        seconds=data["seconds"],
        path=path,
        kind=data.get("kind"),
    )
