"""Anyone's runs, wherever they lie: methods named by what tells them apart, seeds of the same settings together."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from glot.errors import FaultError, GlotError, UsageError
from glot.report.cells import METHODS
from glot.report.results import (
    OWN,
    YARDSTICK,
    Result,
    Scores,
    own_seconds,
    read_record,
    read_run,
    read_yardstick,
    with_kinds,
)
from glot.store.files import read_json

# The settings that shape each pooler; the others are ignored by it.
_SHAPED_BY = {
    "glot": ("gnn", "jk", "tau", "graph", "neighbours", "readout", "layers", "hidden", "gin_batch_norm", "backend"),
    "mlp": ("layers", "hidden"),
    "adapool": ("adapool_hidden",),
}
# Of training. Not among them: where it ran, which seeds it took, and whether states were streamed.
_TRAINED_BY = (
    "lr",
    "epochs",
    "batch_size",
    "patience",
    "select",
    "precision",
    "schedule",
    "max_steps",
    "class_weights",
)
# Where pairs without labels were trained on; chunks change no result.
_CONTRASTED_BY = ("temperature", "similarity", "negatives", "proj_dim", "matryoshka")
_STATES = ("max_tokens", "dtype", "compute_dtype", "template", "weights_sha256")
_SHORT = 8  # letters of a hash


@dataclass(frozen=True)
class _OwnRun:
    """A run with its settings: those of its pooler, and those that every run has."""

    result: Result
    pooler: str
    shape: dict[str, Any]
    common: dict[str, Any]
    order_seed: Any


def collect_own(folders: Sequence[Path]) -> tuple[list[Result], list[tuple[str, str]]]:
    """All finished runs anywhere below some folders, and (run, reason) of those left out.

    A run is a folder with `config.json` and `metrics.json`. Where it lies as `glot reproduce` lays its runs, it is read
    as `glot.report.results.collect` does, and so are the yardsticks. Any other run has the setting "own" and its
    pooler for a method, with the settings that differ between runs of the same task and backbone ("glot, tau=0.3"). A
    run with the settings and seeds of another is left out.

    Raises:
        UsageError: a folder is missing, no finished run was found, or one is of a newer version.
        FaultError: runs are damaged; it names them.
    """
    finished, unfinished, yardsticks = _find(folders)
    damaged: list[str] = []
    reproduced = _read_all(read_run, [path for path in finished if _is_reproduced(path.parent)], damaged)
    runs = _read_all(_read_own, [path for path in finished if not _is_reproduced(path.parent)], damaged)
    judged = _read_all(read_yardstick, yardsticks, damaged)
    for result in reproduced + judged:
        _check(result, damaged)
    if damaged:
        raise FaultError(f"damaged runs, to be removed or fitted again: {'; '.join(damaged)}")
    if not reproduced and not runs:
        places = ", ".join(map(str, folders))
        raise UsageError(
            f"no finished run (config.json and metrics.json) below {places}: make one with `glot fit` or `glot sweep`, "
            "or name the folder that holds yours"
        )
    named, skipped = _name(runs)
    skipped += [(str(run), f"not finished: go on with `glot fit --resume {run}`") for run in unfinished]
    return with_kinds([*reproduced, *named, *judged]), skipped


def _find(folders: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """`metrics.json` of finished runs, folders of unfinished ones, files of yardsticks; each once."""
    finished, unfinished, yardsticks = {}, {}, {}
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}: name one that holds runs, as `glot fit` makes them")
        for config in sorted(folder.rglob("config.json")):
            metrics = config.with_name("metrics.json")
            if metrics.exists():
                finished.setdefault(metrics.resolve(), metrics)
            elif _is_ours(config):
                unfinished.setdefault(config.resolve(), config.parent)
        for path in sorted(folder.rglob(f"{YARDSTICK}/*.json")):
            yardsticks.setdefault(path.resolve(), path)
    return list(finished.values()), list(unfinished.values()), list(yardsticks.values())


def _is_ours(config: Path) -> bool:
    """Whether a `config.json` is a run's; a backbone's folder has one too."""
    try:
        data = read_json(config)
    except (UsageError, FaultError):  # not an AccessError: what may not be read is not left out in silence
        return False
    return isinstance(data, dict) and {"pooler", "train", "states"} <= set(data)


def _is_reproduced(run: Path) -> bool:
    """Whether a run lies at `<task>-<model>/<setting>/<method>/seed-<s>`, as its config says."""
    run = run.absolute()
    method = run.parent.name.partition(",")[0]
    if not re.fullmatch(r"seed-\d+", run.name) or method not in METHODS or len(run.parents) < 3:
        return False
    try:
        config = read_json(run / "config.json")
        return run.parents[2].name == f"{config['task']['name']}-{config['states']['backbone']}"
    except (GlotError, KeyError, TypeError):
        return False


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


def _check(result: Result, damaged: list[str]) -> None:
    try:
        _check_scores(result.best, result.best_published, result.last)
    except (TypeError, AttributeError) as error:
        damaged.append(f"{result.path}: {error}")


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


def _read_own(path: Path) -> _OwnRun:
    try:
        metrics, config = read_record(path), read_record(path.with_name("config.json"))
        name, states = config["pooler"]["pooler"], config["states"]
        # A run made before there was a setting has what is its default now.
        from glot.fit.run_folder import TrainConfig
        from glot.nn.config import PoolerConfig

        train = {**_defaults(TrainConfig), **config["train"]}
        pooler = {**_defaults(PoolerConfig), **config["pooler"]}
        contrastive = config.get("contrastive") or {}
        result = Result(
            task=str(config["task"]["name"]),
            model=str(states["backbone"]),
            method=str(name),
            setting=OWN,
            seed=int(train["init_seed"]),
            best=metrics["best"],
            best_published=metrics["best_published"],
            last=metrics["last"],
            epochs=len(metrics["epochs"]),
            density=metrics["density"],
            seconds=own_seconds(metrics),
            path=path.parent,
            kind=states.get("kind"),
        )
        _check_scores(result.best, result.best_published, result.last)
        common = {"layer": config["layer"], **{key: train.get(key) for key in _TRAINED_BY}}
        common |= {key: _shown(states.get(key)) for key in _STATES}
        common |= {"tokens": pooler["tokens"], **{key: _listed(contrastive.get(key)) for key in _CONTRASTED_BY}}
        common |= {f"examples of {key}": value[:_SHORT] for key, value in config["data"].items()}
        pooler = {**pooler, "backend": train.get("backend")}
        shape = {key: pooler.get(key) for key in _SHAPED_BY.get(name, ())}
        return _OwnRun(result, str(name), shape, common, train.get("order_seed"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FaultError(f"{path} or the config.json beside it is damaged: {error!r}") from None


def _defaults(kind: type) -> dict[str, Any]:
    return {item.name: item.default for item in fields(kind) if item.default is not MISSING}


def _listed(value: Any) -> Any:
    """A list as "64+128", an empty one as None."""
    return "+".join(map(str, value)) or None if isinstance(value, list) else value


def _shown(value: Any) -> Any:
    return value[:_SHORT] if isinstance(value, str) and len(value) == 64 else value


def _name(runs: Sequence[_OwnRun]) -> tuple[list[Result], list[tuple[str, str]]]:
    groups: dict[tuple[str, str], list[_OwnRun]] = defaultdict(list)
    for run in runs:
        groups[run.result.task, run.result.model].append(run)
    named: list[Result] = []
    skipped: list[tuple[str, str]] = []
    seen: dict[tuple, Path] = {}
    for group in groups.values():
        common = _differing([run.common for run in group])
        for run in group:
            shape = _differing([other.shape for other in group if other.pooler == run.pooler])
            settings = [f"{key}={_value(run.shape[key])}" for key in shape]
            settings += [f"{key}={_value(run.common.get(key))}" for key in common if run.common.get(key) is not None]
            result = replace(run.result, method=", ".join([run.pooler, *settings]))
            key = (result.task, result.model, result.method, result.seed, str(run.order_seed))
            if key in seen:
                skipped.append((str(result.path), f"the same settings and seeds as {seen[key]}"))
                continue
            seen[key] = result.path
            named.append(result)
    return named, skipped


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The keys that have more than one value, in their order."""
    keys = dict.fromkeys(key for found in settings for key in found)
    return [key for key in keys if len({repr(found.get(key)) for found in settings}) > 1]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
