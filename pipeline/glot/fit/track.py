"""A fit's loss and scores on TensorBoard or Weights & Biases as it trains, through accelerate's trackers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glot.errors import UsageError, reason_of
from glot.fit.result import Epoch
from glot.fit.run_folder import RunConfig

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "glot"  # on Weights & Biases
INSTALL = {"tensorboard": "pip install 'glot-pipeline[track]'", "wandb": "pip install wandb"}


class Tracker:
    """Shows one run: `step` takes what a fit's `Progress` gets, `epoch` each epoch's record.

    The loss is the mean so far of its epoch, against the steps of all epochs; scores stand at the step they were
    computed at.
    """

    def __init__(self, tracker: GeneralTracker) -> None:
        self.tracker, self.steps = tracker, 0

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Log the loss; `steps` are those of an epoch."""
        self.steps = (epoch - 1) * steps + step
        self.tracker.log({"loss": loss, "epoch": epoch - 1 + step / steps}, step=self.steps)

    def beside(self, progress: Callable[[int, int, int, float], None] | None) -> Callable[[int, int, int, float], None]:
        """Tells both this tracker and `progress`."""

        def tell(epoch: int, step: int, steps: int, loss: float) -> None:
            self.step(epoch, step, steps, loss)
            if progress is not None:
                progress(epoch, step, steps, loss)

        return tell

    def epoch(self, record: Epoch) -> None:
        """Log an epoch's scores."""
        values = {
            f"{name}/{metric}": value for name, scores in record.scores.items() for metric, value in scores.items()
        }
        self.tracker.log({"epoch_loss": record.loss, **values}, step=self.steps)


def check_tracker(kind: str) -> None:
    """Raise UsageError for an unknown kind, or one whose package is missing."""
    if kind not in INSTALL:
        raise UsageError(f"--track must be one of {', '.join(INSTALL)}; got {kind!r}")
    if importlib.util.find_spec(kind) is None:
        raise UsageError(f"--track {kind} needs {kind}: {INSTALL[kind]}")


@contextmanager
def open_tracker(kind: str, config: RunConfig, run: Path) -> Iterator[Tracker]:
    """A tracker of a run, with its config as hyper-parameters; TensorBoard's files go to `<run>/tensorboard`.

    Raises UsageError as `check_tracker`, and where the service cannot be reached or knows no login.
    """
    from accelerate import tracking

    check_tracker(kind)
    if kind == "tensorboard":
        tracker = tracking.TensorBoardTracker(kind, logging_dir=run)
    else:
        tracker = tracking.WandBTracker(PROJECT, name=run.resolve().name, dir=str(run))
    try:
        tracker.start()
        tracker.store_init_configuration(hyper_parameters(config))
    except Exception as error:  # each service has errors of its own
        reason = reason_of(error, 300)
        raise UsageError(f"--track {kind} cannot start: {reason}; go on with `glot fit --resume {run}`") from None
    try:
        yield Tracker(tracker)
    finally:
        tracker.finish()


def hyper_parameters(config: RunConfig) -> dict[str, bool | int | float | str]:
    """The config as one flat dict: "pooler.gnn": "gat"; lists as text, what is not set left out."""

    def flatten(values: dict[str, Any], before: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{before}{name}.")
            elif isinstance(value, bool | int | float | str):
                yield before + name, value
            elif value is not None:
                yield before + name, ", ".join(map(str, value))

    return dict(flatten({name: value for name, value in config.to_json().items() if name != "version"}, ""))
