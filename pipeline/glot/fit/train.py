"""Stage two: train the head, and only the head, over a cache."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from glot.errors import FaultError, Stopped, UsageError
from glot.fit.head_model import HeadModel, Inputs, PooledTexts, each_batch, predict
from glot.fit.metrics import compute_metrics
from glot.fit.result import Epoch, FitResult, Scores, argmax, best_published
from glot.fit.retrieval import score_pairs
from glot.fit.run_folder import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    HEAD_FILE,
    METRICS_FILE,
    RunConfig,
    clear_run,
    load_tensors,
    load_weights,
    save_tensors,
)
from glot.fit.schedule import StepPlateau, lr_factor
from glot.fit.stack import make_units
from glot.fit.states import States, epoch_order
from glot.fit.training_data import TrainingData, graph_density, open_data, open_source, open_states
from glot.nn.edges import EdgeRule
from glot.nn.heads import balanced_weights
from glot.randomness import kept_randomness
from glot.store.files import make_folder, save_array, write_json
from glot.store.reader import Cache

CHECKPOINT_SECONDS, REPORT_SECONDS = 20.0, 0.1
T = TypeVar("T")
Progress = Callable[[int, int, int, float], None]  # (epoch, step, steps, mean loss so far)


@dataclass(frozen=True)
class Job:
    """A head to train, the folder that its run is left in, and what is told of each of its epochs."""

    config: RunConfig
    folder: Path
    on_epoch: Callable[[Epoch], None] = lambda record: None


def fit_head(
    cache: Cache,
    config: RunConfig,
    folder: Path,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[Epoch], None] = lambda record: None,
) -> FitResult:
    """Train a head over a cache and leave a run folder; goes on from the checkpoint that is there, if any.

    On a CPU the same config gives the same bits. The folder holds `config.json`, `head.safetensors` (the best
    epoch's weights), `metrics.json`, and until the end `checkpoint.safetensors`.

    Raises UsageError (a cache or folder that does not fit), FaultError (damaged states, a loss that is not
    finite), Stopped (after `should_stop` said so, with the checkpoint written).
    """
    job = Job(config, folder, on_epoch)
    return fit_heads(cache, [job], folder, progress, should_stop)[0]


def fit_heads(
    cache: Cache,
    jobs: list[Job],
    folder: Path,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    states: States | None = None,
) -> list[FitResult]:
    """Train heads side by side over the same batches, each gathered once; see `fit_head`, which is this for one.

    Args:
        jobs: their configs must agree in `batch_key`.
        folder: where the checkpoint of all of them is kept.
        states: what `open_states` gives for these configs, if it is open already.
    """
    for job in jobs:
        make_folder(job.folder)
        _check_same_config(job.folder, job.config)
        job.config.save(job.folder)
    trainer = _Trainer(cache, jobs, folder, states)
    trainer.restore()
    while not trainer.finished:
        trainer.train_epoch(progress or (lambda *_: None), should_stop)
        trainer.end_epoch()
    results = trainer.results()
    for job, result in zip(jobs, results, strict=True):
        write_json(job.folder / METRICS_FILE, asdict(result))
    for used in {folder, *(job.folder for job in jobs)}:
        clear_run(used)
    return results


def batch_key(config: RunConfig) -> tuple:
    """Heads whose keys are equal see the same batches in the same order, and so can be trained side by side."""
    train = config.train
    # Of a pooler without weights each text is pooled once, for all heads.
    pooler = config.pooler
    pooled = () if pooler.has_weights else (pooler.pooler, *(getattr(pooler, name) for name in pooler.entry.settings))
    batches = (train.order_seed, train.batch_size, train.epochs, train.max_steps, train.select, train.window)
    data = tuple(sorted(config.data.items()))
    return (
        config.cache,
        config.layer,
        pooler.tokens,
        train.device,
        train.precision,
        pooled,
        *batches,
        config.contrastive,
        data,
    )


def _check_same_config(folder: Path, config: RunConfig) -> None:
    if (folder / CONFIG_FILE).exists() and RunConfig.load(folder) != config:
        raise UsageError(f"{folder} holds a run with other settings: choose another folder with --out")


@dataclass
class _Position:
    """Where all heads of a trainer are."""

    epoch: int = 1
    step: int = 0
    examples_seen: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    steps_before: int = 0  # of the epochs before
    heads: int = 0  # that trained in this epoch, when it is over


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


class HeadInTraining:
    """A head in training: weights, optimizer, the loss of this epoch, and the record of those before."""

    def __init__(self, job: Job, data: TrainingData) -> None:
        self.config, self.folder, self.on_epoch, self.data = job.config, job.folder, job.on_epoch, data
        self.device = torch.device(self.config.train.device)
        width, backend = self.config.states.width, self.config.train.backend
        with kept_randomness(self.config.train.init_seed):
            model = HeadModel(self.config.pooler, self.config.task, width, backend, self.config.contrastive)
        if self.config.train.class_weights == "balanced":
            model.head.class_weights = balanced_weights(data.train.label, len(self.config.task.classes))
        self.model = model.to(self.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=self.config.train.lr, fused=True)
        self.plateau = StepPlateau(self.optimizer) if self.config.train.schedule == "plateau-steps" else None
        self.history: list[Epoch] = []
        self.loss_sum = 0.0
        # Read seldom, so that a GPU need not be waited for at every step.
        self.lost = torch.zeros((), dtype=torch.float64, device=self.device)

    def step(self, inputs: Inputs, labels: Tensor | None, share: float) -> None:
        """Forward, backward and optimizer; `share` of all steps are done."""
        train = self.config.train
        if self.plateau is None:
            for group in self.optimizer.param_groups:
                group["lr"] = train.lr * lr_factor(train.schedule, share, self._judged())
        self.optimizer.zero_grad(set_to_none=True)
        enabled = train.precision == "bfloat16"
        loss = self.model.backward(
            inputs, labels, lambda: torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)
        )
        self.optimizer.step()
        if self.plateau is not None:
            self.plateau.step(loss.item())
        self.lost += loss.double() * len(inputs.rows[0])

    def take_stock(self, epoch: int) -> None:
        """Add what was lost to the epoch's sum; raises FaultError where that is not finite."""
        value = self.lost.item()
        if not math.isfinite(value):
            raise FaultError(f"{self.folder}: the loss became {value} in epoch {epoch}: lower --lr")
        self.loss_sum += value
        self.lost.zero_()

    def end_epoch(self, position: _Position, source: States | PooledTexts) -> None:
        """Score the epoch, and keep its weights if they are the best."""
        if self.config.contrastive is not None:
            self._end_contrastive_epoch(position, source)
            return
        sets, lengths = self.data.score_sets, self.data.lengths
        predictions = {name: predict(self.model, source, examples, lengths) for name, examples in sets.items()}
        metrics = self.config.task.metrics
        scores = {name: compute_metrics(metrics, predictions[name], examples.label) for name, examples in sets.items()}
        if self._record(position, scores):
            for name, examples in sets.items():
                save_array(self.folder / f"predictions-{name}.npy", predictions[name])
                save_array(self.folder / f"labels-{name}.npy", examples.label)

    def _end_contrastive_epoch(self, position: _Position, source: States | PooledTexts) -> None:
        scores, losses = {}, {}
        for name, examples in self.data.score_sets.items():
            size = self.config.train.batch_size
            scores[name], losses[name] = score_pairs(self.model, source, examples, size)
        self._record(position, scores, losses)

    def _record(self, position: _Position, scores: Scores, losses: dict[str, float] | None = None) -> bool:
        """Add the epoch to the history; where it is the best so far, save the weights and return True."""
        loss = self.loss_sum / position.examples_seen
        timing = {"seconds": position.seconds, "waited": position.waited, "heads": position.heads}
        self.history.append(Epoch(position.epoch, loss, scores=scores, losses=losses or {}, **timing))
        self.loss_sum = 0.0
        is_best = self.best_epoch == position.epoch
        if is_best:
            save_tensors(self.folder / HEAD_FILE, self.model.state_dict(), {"epoch": position.epoch})
        return is_best

    @property
    def out_of_patience(self) -> bool:
        """Whether the score has not become better for too many epochs."""
        patience = self.config.train.patience
        return patience is not None and bool(self.history) and len(self.history) - self.best_epoch >= patience

    @property
    def best_epoch(self) -> int:
        """The epoch with the best score so far, from 1; the last where no score chooses."""
        return len(self.history) if self.config.train.select == "last" else argmax(self._judged())

    def _judged(self) -> list[float]:
        """Each epoch's score by the first metric on the set that chooses the best one; none where no set does."""
        if self.config.train.select == "last":
            return []
        return [epoch.scores[self.data.judge][self.config.task.metrics[0]] for epoch in self.history]

    def result(self, density: float | None, heads: int) -> FitResult:
        """The record of a finished fit, of so many heads side by side."""
        history, best = self.history, self.best_epoch
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
            heads=heads,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer, for a checkpoint."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            # Stacked heads share their count of steps, which a file must not.
            tensors |= {f"adam.{number}.{name}": value.clone() for name, value in state.items()}
        return tensors

    def load(self, tensors: dict[str, Tensor], path: Path) -> None:
        """Take over what `tensors` gave."""
        names = [name for name in tensors if name.startswith("model.")]
        load_weights(self.model, {name.removeprefix("model."): tensors[name] for name in names}, path)
        state: dict[int, dict[str, Tensor]] = {}
        for name in tensors:
            if name.startswith("adam."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = tensors[name]
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


class _Trainer:
    """Heads in training over the same batches, where they are, and the checkpoint that holds both."""

    def __init__(self, cache: Cache, jobs: list[Job], folder: Path, states: States | None) -> None:
        config = jobs[0].config
        self.train, self.contrastive, self.folder = config.train, config.contrastive, folder
        self.device = torch.device(self.train.device)
        states = states or open_states(cache, config)
        self.data = open_data(cache, config, states)
        self.heads = [HeadInTraining(job, self.data) for job in jobs]
        self.source = open_source(cache, config, states, self.heads[0].model)
        rules = {EdgeRule.of(head.config.pooler) for head in self.heads if head.config.pooler.entry.has_graph}
        self.density = {rule: graph_density(states, self.data.train.text_id, rule) for rule in rules}
        self.position = _Position()
        self.saved_at = time.monotonic()
        self.labels: Tensor | None = None
        if not config.contrastive:
            labels = self.data.train.label
            self.labels = torch.from_numpy(labels if labels.dtype == np.int64 else labels.astype(np.float32))

    @property
    def finished(self) -> bool:
        """Whether all epochs or steps are done, or the patience of every head has run out."""
        return self.position.epoch > self.train.epochs or self._steps_left() < 1 or not self._at_work

    @property
    def _at_work(self) -> list[HeadInTraining]:
        return [head for head in self.heads if not head.out_of_patience]

    def _steps_left(self) -> float:
        """How many steps `max_steps` still allows in this epoch."""
        limit = self.train.max_steps
        return math.inf if limit is None else limit - self.position.steps_before

    def _all_steps(self) -> int:
        steps = self.train.epochs * math.ceil(len(self.data.train) / self.train.batch_size)
        return steps if self.train.max_steps is None else min(steps, self.train.max_steps)

    def train_epoch(self, progress: Progress, should_stop: Callable[[], bool]) -> None:
        """Train from the position to the end of its epoch, writing a checkpoint every few seconds."""
        position, size, heads = self.position, self.train.batch_size, self._at_work
        for head in heads:
            head.model.train()
        order = epoch_order(self.data.home, self.train.order_seed, position.epoch, self.train.window)
        steps = int(min(math.ceil(len(order) / size), self._steps_left()))
        batches = (order[step * size : (step + 1) * size] for step in range(position.step, steps))
        clock, all_steps, units = _Clock(position), self._all_steps(), make_units(heads)
        chunk_size = self.contrastive.chunk_size if self.contrastive else None
        with each_batch(self.source, self.data.train, batches) as fetched:
            for chosen, given in clock.waiting(fetched):
                inputs = given.to(self.device, chunk_size)
                labels = None if self.labels is None else self.labels[chosen].to(self.device)
                for unit in units:
                    unit.step(inputs, labels, (position.steps_before + position.step) / all_steps)
                position.step += 1
                position.examples_seen += len(chosen)
                must_stop = should_stop()
                if not (clock.is_time_to_report or position.step == steps or must_stop):
                    continue
                for head in heads:
                    head.take_stock(position.epoch)
                clock.note()
                loss = sum(head.loss_sum for head in heads) / len(heads) / position.examples_seen
                progress(position.epoch, position.step, steps, loss)
                if must_stop:
                    self.save_checkpoint()
                    raise Stopped(f"stopped in epoch {position.epoch}; go on with `glot fit --resume {self.folder}`")
                if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                    self.save_checkpoint()

    def end_epoch(self) -> None:
        """Score all heads, and move on."""
        at_work = self._at_work
        self.position.heads = len(at_work)
        for head in at_work:
            head.end_epoch(self.position, self.source)
            head.on_epoch(head.history[-1])
        steps = self.position.steps_before + self.position.step
        self.position = _Position(self.position.epoch + 1, steps_before=steps)
        self.save_checkpoint()

    def results(self) -> list[FitResult]:
        """The records of all heads."""
        return [head.result(self._density(head), len(self.heads)) for head in self.heads]

    def _density(self, head: HeadInTraining) -> float | None:
        pooler = head.config.pooler
        return self.density[EdgeRule.of(pooler)] if pooler.entry.has_graph else None

    def save_checkpoint(self) -> None:
        """Write all heads and the position to one file; training draws no random number, so there is no more to it."""
        tensors: dict[str, Tensor] = {}
        for number, head in enumerate(self.heads):
            tensors |= {f"{number}.{name}": tensor for name, tensor in head.tensors().items()}
        losses, histories = zip(*((head.loss_sum, head.history) for head in self.heads), strict=True)
        records = [[asdict(epoch) for epoch in history] for history in histories]
        values = {"position": asdict(self.position), "loss_sum": losses, "history": records}
        values["plateau"] = [head.plateau.state() if head.plateau else None for head in self.heads]
        save_tensors(self.folder / CHECKPOINT_FILE, tensors, values)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Go on from the checkpoint, where there is one; raises FaultError where it is of other heads, or damaged."""
        path = self.folder / CHECKPOINT_FILE
        if not path.exists():
            return
        tensors, values = load_tensors(path)
        if len(values.get("history", [])) != len(self.heads):
            raise FaultError(f"{path} is none of these heads: remove it to train them anew")
        for number, head in enumerate(self.heads):
            prefix = f"{number}."
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            head.load(own, path)
            head.history = [Epoch(**epoch) for epoch in values["history"][number]]
            head.loss_sum = values["loss_sum"][number]
            if head.plateau is not None:
                head.plateau.restore(values["plateau"][number])
        self.position = _Position(**values["position"])
