"""What a fit leaves to be read: `metrics.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glot.errors import UsageError
from glot.fit.run_folder import CONFIG_FILE, METRICS_FILE
from glot.store.files import read_versioned
from glot.store.task_spec import TaskSpec

VERSION = 1

STILL_FALLING = 0.03  # of the loss, from the last epoch but one to the last: more than rounding and noise

Scores = dict[str, dict[str, float]]  # example set -> metric -> value


@dataclass
class Epoch:
    """One pass over the training set: its mean loss, and the scores after it.

    `waited` are the seconds of it in which the model waited for states to be read, `losses` those of the scored sets
    where pairs without labels are trained on. `heads`: how many trained side by side in its seconds; 0: not recorded.
    """

    epoch: int
    loss: float
    seconds: float
    scores: Scores
    waited: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    heads: int = 0


@dataclass
class FitResult:
    """`metrics.json`.

    Attributes:
        epochs: every epoch's record.
        best: by the first metric on the first validation set (or on the hold-out); other sets at that same epoch. With
            select "last", the last epoch's.
        best_published: by the published script's rule: accuracy, or the mean of Spearman and Pearson (for pairs without
            labels it has none: the first metric); a second validation set (MNLI mismatched) at the last epoch.
        last: the last epoch's scores.
        density: mean edge density of the token graphs, self-loops apart; None where there is no graph.
        parameters: how many numbers were trained.
        seconds: of training. heads: how many trained side by side in that time; some may have stopped before others.
        own_seconds: what of them falls to this head; in files of before there is none, and all heads count alike.
        products: which library multiplied on the CPU, see `glot.products`.
        start: the scores before the first epoch, where training began at a regression; then `best_epoch` may be 0.
        examples: that were trained on; 0 in files of before.
    """

    select: str
    metric: str
    epochs: list[Epoch]
    best_epoch: int
    best: Scores
    best_published: Scores
    last: Scores
    density: float | None
    parameters: int
    seconds: float
    heads: int = 1
    version: int = VERSION
    own_seconds: float | None = None
    products: str = "torch"
    start: Epoch | None = None
    examples: int = 0

    def __post_init__(self) -> None:
        if self.own_seconds is None:
            self.own_seconds = sum(epoch.seconds / (epoch.heads or self.heads) for epoch in self.epochs)

    @property
    def loss_fell(self) -> float | None:
        """By which share of itself the loss still fell in the last epoch; None where training seems to have converged.

        It does not where the last epoch is the one that was kept, and its loss is clearly below the one before. Where
        no score chose it, and training began at a regression, a loss that falls on says nothing of new examples.
        """
        if self.select == "last" and self.start is not None:
            return None
        losses = [epoch.loss for epoch in ([] if self.start is None else [self.start]) + self.epochs]
        if len(losses) < 2 or self.best_epoch < len(self.epochs) or losses[-2] <= 0:
            return None
        fell = 1 - losses[-1] / losses[-2]
        return fell if fell > STILL_FALLING else None

    @classmethod
    def load(cls, folder: Path) -> FitResult:
        """Read `metrics.json`; raises UsageError where it is missing or newer, FaultError where it is damaged."""
        path = folder / METRICS_FILE
        if not path.exists() and (folder / CONFIG_FILE).exists():
            raise UsageError(f"{folder} is not finished: go on with `glot fit --resume {folder}`")

        def build(data: dict[str, Any]) -> FitResult:
            start = data.get("start")
            epochs = [Epoch(**epoch) for epoch in data["epochs"]]
            return cls(**{**data, "epochs": epochs, "start": None if start is None else Epoch(**start)})

        return read_versioned(path, VERSION, build)


def argmax(values: list[float]) -> int:
    """The 1-based index of the largest value; the earliest of equals."""
    return int(np.argmax(values)) + 1


def best_published(history: list[Epoch], task: TaskSpec, names: list[str]) -> Scores:
    """Scores by the published script's rule for its best epoch (see `FitResult`)."""

    def rank(epoch: Epoch) -> float:
        scores = epoch.scores[names[0]]
        if task.target == "score":
            return (scores["spearman"] + scores["pearson"]) / 2
        return scores["accuracy" if task.target == "classes" else task.metrics[0]]

    if not names:
        return {}
    best = history[argmax([rank(epoch) for epoch in history]) - 1]
    return {name: (best if index == 0 else history[-1]).scores[name] for index, name in enumerate(names)}
