"""Stage two: train the head, and only the head, over a cache."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from pipeline.errors import FaultError, Stopped, UsageError
from pipeline.fit.head_model import HeadModel, Inputs, collate, predict
from pipeline.fit.metrics import compute_metrics
from pipeline.fit.read_ahead import read_ahead
from pipeline.fit.result import Epoch, FitResult, argmax, best_published
from pipeline.fit.run_folder import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    HEAD_FILE,
    METRICS_FILE,
    RunConfig,
    load_tensors,
    load_weights,
    save_tensors,
)
from pipeline.fit.schedule import lr_factor
from pipeline.fit.states import epoch_order
from pipeline.fit.training_data import TrainingData, open_data
from pipeline.store.example_set import ExampleSet
from pipeline.store.files import make_folder, write_json
from pipeline.store.reader import Cache

CHECKPOINT_SECONDS, REPORT_SECONDS = 20.0, 0.1
T = TypeVar("T")
Progress = Callable[[int, int, int, float], None]  # (epoch, step, steps, mean loss so far)


@dataclass
class _Position:
    """Where a fit is: kept in the checkpoint."""

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    examples_seen: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    steps_before: int = 0  # of the epochs before
    history: list[Epoch] = field(default_factory=list)


def fit_head(
    cache: Cache,
    config: RunConfig,
    folder: Path,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Train a head over a cache and leave a run folder; goes on from the checkpoint that is there, if any.

    On a CPU the same config gives the same bits. The folder holds `config.json`, `head.safetensors` (the best
    epoch's weights), `metrics.json`, and until the end `checkpoint.safetensors`.

    Raises UsageError (a cache or folder that does not fit), FaultError (damaged states, a loss that is not
    finite), Stopped (after `should_stop` said so, with the checkpoint written).
    """
    make_folder(folder)
    _check_same_config(folder, config)
    config.save(folder)
    device = torch.device(config.train.device)
    torch.manual_seed(config.train.init_seed)
    model = HeadModel(config.pooler, config.task, config.states.width, config.train.backend).to(device)
    data, density = open_data(cache, config, model, device)
    trainer = _Trainer(config, folder, model, data)
    trainer.restore()
    while not trainer.finished:
        trainer.train_epoch(progress or (lambda *_: None), should_stop)
        trainer.end_epoch()
    result = trainer.result(density)
    write_json(folder / METRICS_FILE, asdict(result))
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return result


def _check_same_config(folder: Path, config: RunConfig) -> None:
    if (folder / CONFIG_FILE).exists() and RunConfig.load(folder) != config:
        raise UsageError(f"{folder} holds a run with other settings: choose another folder with --out")


class _Clock:
    """The seconds of a position: how many there were, how many of them in waiting for states, and when to report."""

    def __init__(self, position: _Position) -> None:
        self.position = position
        self.started, self.before = time.monotonic(), position.seconds
        self.reported = -math.inf

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The items, the time until each counted as waited for."""
        iterator = iter(items)
        while True:
            began = time.monotonic()
            item = next(iterator, None)
            self.position.waited += time.monotonic() - began
            if item is None:
                return
            yield item

    @property
    def is_time_to_report(self) -> bool:
        """Seldom enough that reports cost nothing, often enough for a bar that moves."""
        return time.monotonic() - self.reported > REPORT_SECONDS

    def note(self) -> None:
        """Bring the position's seconds up to now."""
        self.reported = time.monotonic()
        self.position.seconds = self.before + self.reported - self.started


class _Trainer:
    """The state of a fit in progress: model, optimizer, position, and the checkpoint that holds them."""

    def __init__(self, config: RunConfig, folder: Path, model: HeadModel, data: TrainingData) -> None:
        self.config, self.folder, self.model, self.data = config, folder, model, data
        self.device = torch.device(config.train.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr, fused=True)
        self.position = _Position()
        self.saved_at = time.monotonic()
        labels = data.train.label
        self.labels = torch.from_numpy(labels if labels.dtype == np.int64 else labels.astype(np.float32))

    @property
    def finished(self) -> bool:
        """Whether all epochs or steps are done, or patience has run out."""
        train, history, position = self.config.train, self.position.history, self.position
        stale = len(history) - self._best_epoch() if history else 0
        is_out = train.patience is not None and stale >= train.patience
        return position.epoch > train.epochs or is_out or self._steps_left() < 1

    def _steps_left(self) -> float:
        """How many steps `max_steps` still allows in this epoch."""
        limit = self.config.train.max_steps
        return math.inf if limit is None else limit - self.position.steps_before

    def train_epoch(self, progress: Progress, should_stop: Callable[[], bool]) -> None:
        """Train from the position to the end of its epoch, writing a checkpoint every few seconds."""
        self.model.train()
        position, size = self.position, self.config.train.batch_size
        order = epoch_order(self.data.home, self.config.train.order_seed, position.epoch, self.config.train.window)
        steps = int(min(math.ceil(len(order) / size), self._steps_left()))
        batches = (order[step * size : (step + 1) * size] for step in range(position.step, steps))
        clock = _Clock(position)
        lost = torch.zeros((), dtype=torch.float64, device=self.device)  # read seldom: a GPU need not be waited for
        with read_ahead(self._inputs, batches, self.config.train.window is not None) as inputs:
            for chosen, given in clock.waiting(inputs):
                lost += self._step(chosen, given) * len(chosen)
                position.step += 1
                position.examples_seen += len(chosen)
                is_last, must_stop = position.step == steps, should_stop()
                if not (clock.is_time_to_report or is_last or must_stop):
                    continue
                position.loss_sum += self._checked(lost)
                lost.zero_()
                clock.note()
                progress(position.epoch, position.step, steps, position.loss_sum / position.examples_seen)
                if must_stop:
                    self.save_checkpoint()
                    raise Stopped(f"stopped in epoch {position.epoch}; go on with `glot fit --resume {self.folder}`")
                if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                    self.save_checkpoint()

    def _inputs(self, chosen: np.ndarray) -> Inputs:
        return collate(self.data.source, self.data.train.subset(chosen))

    def _step(self, chosen: np.ndarray, inputs: Inputs) -> torch.Tensor:
        """Forward, backward and optimizer; the mean loss, still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.train.lr * self._lr_factor()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.precision == "bfloat16"):
            raw = self.model(inputs)
            loss = self.model.head.loss(raw.float(), self.labels[chosen].to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach().double()

    def _lr_factor(self) -> float:
        """What the schedule makes of the learning rate at this step."""
        position = self.position
        share = (position.steps_before + position.step) / self._all_steps()
        scores = [epoch.scores[self._judge][self._metric] for epoch in position.history]
        return lr_factor(self.config.train.schedule, share, scores)

    def _all_steps(self) -> int:
        train = self.config.train
        steps = train.epochs * math.ceil(len(self.data.train) / train.batch_size)
        return steps if train.max_steps is None else min(steps, train.max_steps)

    def _checked(self, lost: torch.Tensor) -> float:
        value = lost.item()
        if not math.isfinite(value):
            raise FaultError(f"the loss became {value} in epoch {self.position.epoch}: lower --lr")
        return value

    def end_epoch(self) -> None:
        """Score the epoch, keep its weights if they are the best, and move on."""
        position = self.position
        scores = {name: self._score(examples) for name, examples in self._score_sets().items()}
        mean_loss = position.loss_sum / position.examples_seen
        record = Epoch(position.epoch, mean_loss, position.seconds, scores, position.waited)
        steps = position.steps_before + position.step
        self.position = _Position(position.epoch + 1, history=[*position.history, record], steps_before=steps)
        if self._best_epoch() == position.epoch:
            save_tensors(self.folder / HEAD_FILE, self.model.state_dict(), {"epoch": position.epoch})
        self.save_checkpoint()

    def _score_sets(self) -> dict[str, ExampleSet]:
        return (
            self.data.validation
            if self.data.holdout is None
            else {"holdout": self.data.holdout, **self.data.validation}
        )

    def _score(self, examples: ExampleSet) -> dict[str, float]:
        predictions = predict(self.model, self.data.source, examples, self.data.lengths)
        return compute_metrics(self.config.task.metrics, predictions, examples.label)

    def _best_epoch(self) -> int:
        return argmax([epoch.scores[self._judge][self._metric] for epoch in self.position.history])

    @property
    def _judge(self) -> str:
        """The example set that chooses the best epoch."""
        return "holdout" if self.data.holdout is not None else next(iter(self.data.validation))

    @property
    def _metric(self) -> str:
        return self.config.task.metrics[0]

    def result(self, density: float | None) -> FitResult:
        """The record of a finished fit."""
        history, best = self.position.history, self._best_epoch()
        return FitResult(
            select=self.config.train.select,
            metric=self.config.task.metrics[0],
            epochs=history,
            best_epoch=best,
            best=history[best - 1].scores,
            best_published=best_published(history, self.config.task, list(self.data.validation)),
            last=history[-1].scores,
            density=density,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            seconds=sum(epoch.seconds for epoch in history),
        )

    def save_checkpoint(self) -> None:
        """Write weights, optimizer, generator state and position to one file."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in state.items()}
        tensors["generator"] = torch.get_rng_state()
        save_tensors(self.folder / CHECKPOINT_FILE, tensors, asdict(self.position))
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Go on from the checkpoint, where there is one."""
        path = self.folder / CHECKPOINT_FILE
        if not path.exists():
            return
        tensors, position = load_tensors(path)
        names = [name for name in tensors if name.startswith("model.")]
        load_weights(self.model, {name.removeprefix("model."): tensors[name] for name in names}, path)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name in tensors:
            if name.startswith("adam."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = tensors[name]
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["generator"])
        history = [Epoch(**epoch) for epoch in position.pop("history")]
        self.position = _Position(**position, history=history)
