"""A head that learns: one step of it, its scores after an epoch, and what a checkpoint keeps of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from glot.errors import FaultError
from glot.fit.head_model import HeadModel, Source, predict
from glot.fit.metrics import compute_metrics
from glot.fit.result import Epoch, FitResult, Scores, argmax, best_published
from glot.fit.retrieval import score_pairs
from glot.fit.run_folder import HEAD_FILE, RunConfig, load_weights, save_tensors
from glot.fit.schedule import StepPlateau, lr_factor, make_optimizer, mean_weights, set_rate
from glot.fit.states import Texts
from glot.fit.training_data import TrainingData, labels_of
from glot.fit.warm_start import Start, start_at_regression
from glot.nn.dropout import Dropout
from glot.nn.heads import ClassHead, LabelsHead
from glot.process import kept_randomness
from glot.store.files import save_array


class LossError(FaultError):
    """The loss of the head in `folder` is not finite."""

    is_lasting = True

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message, folder)  # both, so that it can be sent from process to process
        self.folder = folder

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Job:
    """A head to train, the folder that its run is left in, and what is told of each of its epochs.

    `is_given_up` is asked after each epoch with all records so far, the start's among them where there is one: whether
    this head trains no further, while those beside it go on.
    """

    config: RunConfig
    folder: Path
    on_epoch: Callable[[Epoch], None] = lambda record: None
    is_given_up: Callable[[list[Epoch]], bool] = lambda records: False


@dataclass
class Position:
    """How far a training is: `epoch` from 1, and in it the steps, examples and seconds done.

    Attributes:
        waited: of the seconds, those in which training waited for states to be read.
        steps_before: of the epochs before.
        heads: that trained in this epoch, set when it is over.
    """

    epoch: int = 1
    step: int = 0
    examples_seen: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    steps_before: int = 0
    heads: int = 0


class Learner:
    """A head in training: its weights and optimizer, the losses of this epoch, and the record of those before.

    Attributes:
        mean: of the weights over the steps, where it is kept in their place.
        start: the scores before the first epoch, where training does not begin at random weights.
        lost: () float64 on the device, the sum of examples' losses since `flush_loss`, which alone waits for a GPU.
        loss_sum: the same of the whole epoch, as far as it was flushed.
    """

    def __init__(self, job: Job, data: TrainingData) -> None:
        self.config, self.folder, self.job, self.data = job.config, job.folder, job, data
        self.device = torch.device(self.config.train.device)
        width, backend = self.config.states.width, self.config.train.backend
        with kept_randomness(self.config.train.init_seed):
            model = HeadModel(self.config.pooler, self.config.task, width, backend, self.config.contrastive)
        train = self.config.train
        if train.class_weights == "balanced":
            assert isinstance(model.head, ClassHead | LabelsHead)  # see `draft_configs`
            model.head.balance(labels_of(data.train), data.train.weight)
        self.model = model.to(self.device)
        self.mean = mean_weights(self.model) if train.averaging == "polynomial" else None
        if train.dropout:
            model.dropout = Dropout(train.dropout, train.init_seed, self.device)
        self.optimizer = make_optimizer(model.parameters(), train.lr, self.device, train.weight_decay)
        self.plateau = StepPlateau(self.optimizer) if train.schedule == "plateau-steps" else None
        self.start: Epoch | None = None
        self.history: list[Epoch] = []
        self.is_given_up = False
        self.loss_sum = 0.0
        self.lost = torch.zeros((), dtype=torch.float64, device=self.device)

    def begin(self, source: Source, known: dict[tuple, Start]) -> None:
        """Set the weights that training begins with, score and save them; see `start_at_regression`."""
        train = self.config.train
        if train.start == "random":
            return
        began = time.monotonic()
        loss = start_at_regression(self.model, source, self.data.train, train.class_weights, known)
        self.take_mean()
        scores, predictions = self._score(source)
        self.start = Epoch(0, loss, time.monotonic() - began, scores)
        self._save_weights(0)
        self._save_predictions(predictions)

    def set_rate(self, share: float) -> None:
        """Set the learning rate of the next step; `share` of all steps are done, 0 to 1."""
        if self.plateau is None:
            train = self.config.train
            factor = lr_factor(train.schedule, share, self._selection_scores(), train.warm_up)
            set_rate(self.optimizer, train.lr * factor)

    def update(self, texts: Texts, rows: list[Tensor], labels: Tensor | None) -> None:
        """One step on a batch (see `HostBatch.to`): loss, gradients, weights.

        Args:
            labels: (m,), or None for pairs without labels.
        """
        self.optimizer.zero_grad(set_to_none=True)
        enabled = self.config.train.precision == "bfloat16"
        loss = self.model.backward(
            texts, rows, labels, lambda: torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)
        )
        self.optimizer.step()
        if self.plateau is not None:
            self.plateau.step(loss.item())
        self.lost += loss.double() * len(rows[0])

    @property
    def kept(self) -> HeadModel:
        """What is scored and saved: the mean of the weights, where that was asked for, or the weights."""
        return self.model if self.mean is None else cast(HeadModel, self.mean.module)

    def take_mean(self) -> None:
        """Take the weights, after a step, into their mean."""
        if self.mean is not None:
            self.mean.update_parameters(self.model)

    @property
    def can_be_recorded(self) -> bool:
        """Whether `update` may be a CUDA graph: waits for no number, and is blind to texts that no example asks for.

        To batch normalization they would count. A graph would leave out the same numbers in every step.
        """
        train = self.config.train
        plain = self.config.contrastive is None and self.plateau is None and train.backend == "dense"
        return (
            plain
            and not train.dropout
            and not any(isinstance(module, nn.BatchNorm1d) for module in self.model.modules())
        )

    def flush_loss(self, epoch: int) -> None:
        """Add the losses since the last call to the epoch's sum; raises LossError where they are not finite."""
        value = self.lost.item()
        if not math.isfinite(value):
            raise LossError(f"{self.folder}: the loss became {value} in epoch {epoch}: lower --lr", self.folder)
        self.loss_sum += value
        self.lost.zero_()

    def evaluate(self, position: Position, source: Source) -> None:
        """Score the weights on every set, add the epoch to the history, and save the weights if they are the best."""
        if self.config.contrastive is not None:
            self._evaluate_pairs(position, source)
            return
        scores, predictions = self._score(source)
        if self._record(position, scores):
            self._save_predictions(predictions)

    def _score(self, source: Source) -> tuple[Scores, dict[str, np.ndarray]]:
        """The scores of the weights on every set, and their predictions there."""
        sets, metrics = self.data.score_sets, self.config.task.metrics
        predictions = {name: predict(self.kept, source, sets[name], self.data.lengths) for name in sets}
        scores = {name: compute_metrics(metrics, predictions[name], labels_of(sets[name])) for name in sets}
        return scores, predictions

    def _save_predictions(self, predictions: dict[str, np.ndarray]) -> None:
        for name, predicted in predictions.items():
            save_array(self.folder / f"predictions-{name}.npy", predicted)
            save_array(self.folder / f"labels-{name}.npy", labels_of(self.data.score_sets[name]))

    def _evaluate_pairs(self, position: Position, source: Source) -> None:
        scores, losses = {}, {}
        for name, examples in self.data.score_sets.items():
            scores[name], losses[name] = score_pairs(self.kept, source, examples, self.config.train.batch_size)
        self._record(position, scores, losses)

    def _record(self, position: Position, scores: Scores, losses: dict[str, float] | None = None) -> bool:
        """Add the epoch to the history; where it is the best so far, save the weights and return True."""
        loss = self.loss_sum / position.examples_seen
        record = Epoch(position.epoch, loss, position.seconds, scores, position.waited, losses or {}, position.heads)
        self.history.append(record)
        self.loss_sum = 0.0
        is_best = self.best_epoch == position.epoch
        if is_best:
            self._save_weights(position.epoch)
        return is_best

    def _save_weights(self, epoch: int) -> None:
        save_tensors(self.folder / HEAD_FILE, self.kept.state_dict(), {"epoch": epoch})

    def end_epoch(self) -> None:
        """Tell of the epoch that was just recorded, and ask whether to go on."""
        self.job.on_epoch(self.history[-1])
        self.is_given_up = self.job.is_given_up([*([self.start] if self.start else []), *self.history])

    @property
    def is_at_work(self) -> bool:
        """Whether it trains on: neither out of patience nor given up."""
        return not (self.is_given_up or self.out_of_patience)

    @property
    def out_of_patience(self) -> bool:
        """Whether the score has not become better for too many epochs."""
        patience = self.config.train.patience
        return patience is not None and bool(self.history) and len(self.history) - self.best_epoch >= patience

    @property
    def best_epoch(self) -> int:
        """The epoch with the best score so far, from 1, 0 for the start; the last where no score chooses."""
        if self.config.train.select == "last":
            return len(self.history)
        scores = self._selection_scores()
        if self.start is None:
            return argmax(scores)
        return argmax([self._selection_score(self.start), *scores]) - 1

    def _selection_scores(self) -> list[float]:
        """Each epoch's score by the first metric on the selection split; none where no score chooses the epoch."""
        if self.config.train.select == "last":
            return []
        return [self._selection_score(epoch) for epoch in self.history]

    def _selection_score(self, epoch: Epoch) -> float:
        return epoch.scores[self.data.selection_split][self.config.task.metrics[0]]

    def result(self, density: float | None, heads: int, products: str) -> FitResult:
        """The record of a finished fit, of so many heads side by side, by one way to multiply."""
        history, best = self.history, self.best_epoch
        return FitResult(
            select=self.config.train.select,
            metric=self.config.task.metrics[0],
            epochs=history,
            best_epoch=best,
            best=history[best - 1].scores if best or self.start is None else self.start.scores,
            best_published=best_published(history, self.config.task, list(self.data.validation)),
            last=history[-1].scores,
            density=density,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            seconds=sum(epoch.seconds for epoch in history),
            heads=heads,
            products=products,
            start=self.start,
            examples=len(self.data.train),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Weights, their mean, optimizer, and how far dropout's random numbers are, for a checkpoint."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            # Heads in a `Stack` share the tensor that counts their steps; safetensors refuses shared tensors.
            tensors |= {f"adam.{number}.{name}": value.clone() for name, value in state.items()}
        if self.mean is not None:
            tensors |= {f"mean.{name}": tensor for name, tensor in self.mean.state_dict().items()}
        if self.model.dropout is not None:
            tensors["dropout"] = self.model.dropout.generator.get_state()
        return tensors

    def load(self, tensors: dict[str, Tensor], path: Path) -> None:
        """Take over what `tensors` gave."""
        names = [name for name in tensors if name.startswith("model.")]
        load_weights(self.model, {name.removeprefix("model."): tensors[name] for name in names}, path)
        if self.mean is not None:
            means = {name.removeprefix("mean."): tensors[name] for name in tensors if name.startswith("mean.")}
            load_weights(self.mean, means, path)
        state: dict[int, dict[str, Tensor]] = {}
        for name in tensors:
            if name.startswith("adam."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = tensors[name]
        if self.model.dropout is not None:
            self.model.dropout.generator.set_state(tensors["dropout"].cpu())
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
