"""Ensemble folders: ordinary runs of one task, whose mean is the answer; `ensemble.json` names them.

Needs no torch: what is wrong with an ensemble is told before it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glot.errors import FaultError, UsageError
from glot.fit.run_folder import (
    BEST_MEMBER,
    CONFIG_FILE,
    ENSEMBLE_FILE,
    HEAD_FILE,
    RunConfig,
    find_one_run,
    find_runs,
    is_ensemble,
)
from glot.store.files import check_readable_folder, read_versioned, write_json
from glot.store.label_sets import to_codes
from glot.store.layout import StatesIdentity
from glot.store.task_spec import TaskSpec

VERSION = 1
ENSEMBLE = "ensemble"  # the folder of one that was made of what a study or several seeds trained, in their folder


@dataclass(frozen=True)
class Ensemble:
    """`ensemble.json`: written when all members are trained, so that a folder with it is whole.

    Attributes:
        members: names of the run folders below it, "1" to "K", the best of a search first.
        cache: the folder that they were trained on. states: the identity of its states. task: theirs.
    """

    members: tuple[str, ...]
    cache: str
    states: StatesIdentity
    task: TaskSpec

    @classmethod
    def of(cls, configs: Sequence[RunConfig]) -> Ensemble:
        """That of runs with these configs, in this order."""
        best = configs[0]
        return cls(member_names(len(configs)), best.cache, best.states, best.task)

    def save(self, folder: Path) -> None:
        """Write `ensemble.json` atomically."""
        data = {"version": VERSION, **asdict(self), "task": self.task.to_json()}
        write_json(folder / ENSEMBLE_FILE, data)

    @classmethod
    def load(cls, folder: Path) -> Ensemble:
        """Read `ensemble.json`, and check that each member is there, trained, and of these states and this task.

        Raises UsageError where it or a member is missing, newer or does not fit, FaultError where one is damaged.
        """
        path = folder / ENSEMBLE_FILE

        def build(data: dict[str, Any]) -> Ensemble:
            states = StatesIdentity.from_json(data["states"])
            return cls(tuple(data["members"]), data["cache"], states, TaskSpec.from_json(data["task"]))

        found = read_versioned(path, VERSION, build)
        if not found.members or found.members != member_names(len(found.members)):
            raise FaultError(f"{path} is damaged: its members are {list(found.members)!r:.80}, not 1 to K")
        for name in found.members:
            found._check(folder, folder / name)
        return found

    def _check(self, folder: Path, member: Path) -> None:
        """Raise UsageError where a member is not what the ensemble was made of."""
        if not all((member / name).exists() for name in (CONFIG_FILE, HEAD_FILE)):
            check_readable_folder(folder)
            raise UsageError(
                f"{folder} is not whole: it is an ensemble of {len(self.members)} heads, and there is no trained run "
                f"{member}; copy the folder again, or make it with `glot fit --resume RUNS --ensemble` or `glot tune "
                f"--resume STUDY --minutes 0 --ensemble {len(self.members)}`"
            )
        config = RunConfig.load(member)
        different = self.states.difference(config.states)
        if different is not None or config.task != self.task:
            what = "another task" if different is None else f"other states ({different})"
            raise UsageError(f"{member} does not go with {folder / ENSEMBLE_FILE}: it was trained on {what}")


def member_names(count: int) -> tuple[str, ...]:
    """The names of so many members, from `BEST_MEMBER` on."""
    return tuple(str(number) for number in range(int(BEST_MEMBER), int(BEST_MEMBER) + count))


def find_heads(folder: Path) -> list[Path]:
    """The runs whose mean answers for a folder: the members of an ensemble, or a run (of one seed) alone.

    Raises UsageError where there is none, or a member is missing or does not fit; FaultError where one is damaged.
    """
    if is_ensemble(folder):
        return [folder / name for name in Ensemble.load(folder).members]
    return [find_one_run(folder)]


def find_labelling(folder: Path) -> list[Path]:
    """What gives labels or scores in a folder, each by itself: the ensemble, or the run or the runs of its seeds."""
    return [folder] if is_ensemble(folder) else find_runs(folder)


def mean_estimate(estimates: Sequence[np.ndarray]) -> np.ndarray:
    """(n, C) or (n,) float32: the mean of K heads' probabilities of the classes, or of their scores."""
    return np.mean(np.stack(estimates), axis=0)


def mean_thresholds(each: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """(C,) the mean of K heads' thresholds; None where they have none."""
    there = [some for some in each if some is not None]
    return np.mean(np.stack(there), axis=0) if there else None


def answers_of(task: TaskSpec, estimate: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
    """(n,) class indices of the largest probabilities (n, C), the first of equals; or the scores (n,) as they are.

    Of several labels a text the codes of those whose probability is above their threshold (C,).
    """
    if task.target == "labels":
        assert thresholds is not None  # every head of several labels has them
        return to_codes(estimate > thresholds)
    return estimate.argmax(axis=1) if task.target == "classes" else estimate
