"""Stage two: train the head, and only the head, over a cache. The training loop is `train`, on one screen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from glot.errors import FaultError, Stopped, UsageError
from glot.fit.head_model import each_batch
from glot.fit.learner import Job, Learner, Position
from glot.fit.result import Epoch, FitResult
from glot.fit.run_folder import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    METRICS_FILE,
    RunConfig,
    clear_run,
    load_tensors,
    save_tensors,
)
from glot.fit.stack import Stack, make_units
from glot.fit.states import HostBatch, States, epoch_order
from glot.fit.steps import Steps, make_steps
from glot.fit.training_data import TrainingData, graph_density, loss_labels, open_data, open_source, open_states
from glot.fit.warm_start import Start
from glot.nn.edges import EdgeRule
from glot.products import Way, fast_products
from glot.store.files import make_folder, write_json
from glot.store.reader import Cache

CHECKPOINT_SECONDS, REPORT_SECONDS = 20.0, 0.1
T = TypeVar("T")
Progress = Callable[[int, int, int, float], None]  # (epoch, step, steps, mean loss so far)


def train(training: Training, progress: Progress, should_stop: Callable[[], bool]) -> None:
    """The whole of training on one screen: batch, loss, step, log, checkpoint; after each epoch evaluate.

    `Learner.update` is the step of one head, `Stack.update` that of many of one shape; all get the same batches.

    Raises Stopped after `should_stop` said so, with the checkpoint written.
    """
    while not training.finished:
        learners, position = training.at_work, training.position
        units, running = training.running(learners)
        steps, clock = training.steps_of_epoch(), _Clock(position)
        for learner in learners:
            learner.model.train()
        with training.batches(steps) as batches:
            for chosen, host_batch in clock.waiting(batches):
                for unit in units:
                    unit.set_rate(training.share_done)
                running.run(host_batch, training.labels_of(chosen))  # of each unit: loss, gradients, weights
                for learner in learners:
                    learner.take_mean()
                position.step += 1
                position.examples_seen += len(chosen)
                must_stop = should_stop()
                if not (must_stop or position.step == steps or clock.is_time_to_report):
                    continue
                for learner in learners:
                    learner.flush_loss(position.epoch)
                clock.note()
                progress(position.epoch, position.step, steps, training.mean_loss(learners))
                if must_stop or time.monotonic() - training.saved_at > CHECKPOINT_SECONDS:
                    training.save_checkpoint()
                if must_stop:
                    raise Stopped(
                        f"stopped in epoch {position.epoch}; go on with `glot fit --resume {training.folder}`"
                    )
        position.heads = len(learners)
        for learner in learners:
            learner.evaluate(position, training.source)  # and keep the weights, if they are the best so far
            learner.end_epoch()
        training.next_epoch()
        training.save_checkpoint()


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
    data: TrainingData | None = None,
    known: dict[tuple, Start] | None = None,
) -> list[FitResult]:
    """Train heads side by side over the same batches, each gathered once; see `fit_head`, which is this for one.

    Args:
        jobs: their configs must agree in `batch_key`.
        folder: where the checkpoint of all of them is kept.
        states: what `open_states` gives for these configs, if it is open already.
        data: what to train and score on, of `states`; None: the example sets that the configs name.
        known: what other heads on this data began with, by `start_at_regression`, which adds to it.
    """
    for job in jobs:
        make_folder(job.folder)
        _check_same_config(job.folder, job.config)
        job.config.save(job.folder)
    training = Training(cache, jobs, folder, states, data)
    recorded = training.restore()
    with fast_products(recorded) as training.products:
        if recorded is None:  # there was no checkpoint
            training.begin({} if known is None else known)
        train(training, progress or (lambda *_: None), should_stop)
    results = training.results()
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
        config.layers,
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


class _Clock:
    """Adds to a position the seconds that pass, and those spent waiting for states; says when to report."""

    def __init__(self, position: Position) -> None:
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


class Training:
    """Heads that learn from the same batches, the data, how far they are, and the checkpoint that holds both.

    Attributes:
        source: where batches come from.
        labels: of the training examples, on the CPU, see `loss_labels`; None for pairs without.
        saved_at: when a checkpoint was last written, by `time.monotonic`.
        products: which library multiplies, so that whoever goes on gets the same bits.
    """

    def __init__(
        self,
        cache: Cache,
        jobs: list[Job],
        folder: Path,
        states: States | None = None,
        data: TrainingData | None = None,
    ) -> None:
        config = jobs[0].config
        self.config, self.folder = config.train, folder
        self.chunk_size = config.contrastive.chunk_size if config.contrastive else None
        self.device = torch.device(config.train.device)
        states = states or open_states(cache, config)
        self.data = data or open_data(cache, config, states)
        self.learners = [Learner(job, self.data) for job in jobs]
        self.source = open_source(config, states, self.data, self.learners[0].model)
        self.states = states
        self.density: dict[EdgeRule, float] = {}
        self.position = Position()
        self.saved_at = time.monotonic()
        self.products: Way = "torch"
        self._running: tuple[list[Learner], list[Stack | Learner], Steps] | None = None
        self.labels: Tensor | None = None
        if not config.contrastive:
            several = len(config.task.classes) if config.task.target == "labels" else None
            self.labels = loss_labels(self.data.train, several)

    @property
    def at_work(self) -> list[Learner]:
        """The heads that are neither out of patience nor given up."""
        return [learner for learner in self.learners if learner.is_at_work]

    @property
    def finished(self) -> bool:
        """Whether all epochs or steps are done, or no head is at work any more."""
        return self.position.epoch > self.config.epochs or self._steps_left() < 1 or not self.at_work

    def _steps_left(self) -> float:
        """How many steps `max_steps` still allows in this epoch."""
        limit = self.config.max_steps
        return math.inf if limit is None else limit - self.position.steps_before

    def steps_of_epoch(self) -> int:
        """The steps of the current epoch, those that are done included."""
        return int(min(math.ceil(len(self.data.train) / self.config.batch_size), self._steps_left()))

    @property
    def share_done(self) -> float:
        """How many of all steps are done, 0 to 1."""
        steps = self.config.epochs * math.ceil(len(self.data.train) / self.config.batch_size)
        steps = steps if self.config.max_steps is None else min(steps, self.config.max_steps)
        return (self.position.steps_before + self.position.step) / steps

    def batches(self, steps: int) -> AbstractContextManager[Iterator[tuple[np.ndarray, HostBatch]]]:
        """The batches of the current epoch from the position on, each with the indices of its examples."""
        size, position = self.config.batch_size, self.position
        order = epoch_order(self.data.home, self.config.order_seed, position.epoch, self.config.window)
        chosen = (order[step * size : (step + 1) * size] for step in range(position.step, steps))
        return each_batch(self.source, self.data.train, chosen)

    def labels_of(self, chosen: np.ndarray) -> Tensor | None:
        """The labels of some training examples, on the CPU, see `loss_labels`."""
        return None if self.labels is None else self.labels[chosen]

    def running(self, learners: list[Learner]) -> tuple[list[Stack | Learner], Steps]:
        """These learners as units, and what runs their steps: those of the epoch before, where it had the same."""
        if self._running is None or self._running[0] != learners:
            units = make_units(learners)
            self._running = learners, units, make_steps(units, self.device, self.chunk_size)
        return self._running[1:]

    def mean_loss(self, learners: list[Learner]) -> float:
        """The mean loss of the heads so far in this epoch, as it was last flushed."""
        return sum(learner.loss_sum for learner in learners) / len(learners) / self.position.examples_seen

    def next_epoch(self) -> None:
        """Move to the start of the next epoch."""
        steps = self.position.steps_before + self.position.step
        self.position = Position(self.position.epoch + 1, steps_before=steps)

    def results(self) -> list[FitResult]:
        """The records of all heads."""
        return [learner.result(self._density(learner), len(self.learners), self.products) for learner in self.learners]

    def _density(self, learner: Learner) -> float | None:
        """Of its token graphs; of heads that mix layers, each its own, at the end of training."""
        pooler = learner.config.pooler
        if not pooler.entry.has_graph:
            return None
        rule, texts = EdgeRule.of(pooler), self.data.train.text_id
        if pooler.mixed_layers:
            return graph_density(self.states, texts, rule, learner.kept.pooler)
        if rule not in self.density:
            self.density[rule] = graph_density(self.states, texts, rule)
        return self.density[rule]

    def begin(self, known: dict[tuple, Start]) -> None:
        """Set the weights that the heads begin with; see `fit_heads` for what is `known`."""
        for learner in self.learners:
            learner.begin(self.source, known)

    def save_checkpoint(self) -> None:
        """Write all heads and the position to one file; training draws no random number, so there is no more to it."""
        tensors: dict[str, Tensor] = {}
        for number, learner in enumerate(self.learners):
            tensors |= {f"{number}.{name}": tensor for name, tensor in learner.tensors().items()}
        losses, histories = zip(*((learner.loss_sum, learner.history) for learner in self.learners), strict=True)
        records = [[asdict(epoch) for epoch in history] for history in histories]
        values = {"position": asdict(self.position), "loss_sum": losses, "history": records}
        values["products"] = self.products
        values["start"] = [learner.start and asdict(learner.start) for learner in self.learners]
        values["plateau"] = [learner.plateau.state() if learner.plateau else None for learner in self.learners]
        save_tensors(self.folder / CHECKPOINT_FILE, tensors, values)
        self.saved_at = time.monotonic()

    def restore(self) -> Way | None:
        """Go on from the checkpoint, where there is one; returns its way to multiply, or None.

        Raises FaultError where it is of other heads, or damaged.
        """
        path = self.folder / CHECKPOINT_FILE
        if not path.exists():
            return None
        tensors, values = load_tensors(path)
        if len(values.get("history", [])) != len(self.learners):
            raise FaultError(f"{path} is none of these heads: remove it to train them anew")
        for number, learner in enumerate(self.learners):
            prefix = f"{number}."
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            learner.load(own, path)
            learner.history = [Epoch(**epoch) for epoch in values["history"][number]]
            learner.loss_sum = values["loss_sum"][number]
            start = values["start"][number] if "start" in values else None
            learner.start = start and Epoch(**start)
            if learner.plateau is not None:
                learner.plateau.restore(values["plateau"][number])
        self.position = Position(**values["position"])
        return values.get("products", "torch")  # older versions knew no other
