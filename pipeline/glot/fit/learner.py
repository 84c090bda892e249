"""A head that learns: one step of it, its scores after an epoch, and what a checkpoint keeps of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glot.errors import FaultError
from glot.fit.head_model import HeadModel, Source, predict
from glot.fit.metrics import compute_metrics
from glot.fit.result import Epoch, FitResult, Scores, argmax, best_published
from glot.fit.retrieval import score_pairs
from glot.fit.run_folder import HEAD_FILE, RunConfig, load_weights, save_tensors
from glot.fit.schedule import StepPlateau, lr_factor
from glot.fit.states import Texts
from glot.fit.training_data import TrainingData, labels_of
from glot.nn.heads import balanced_weights
from glot.process import kept_randomness
from glot.store.files import save_array


@dataclass(frozen=True)
class Job:
    """A head to train, the folder that its run is left in, and what is told of each of its epochs."""

    config: RunConfig
    folder: Path
    on_epoch: Callable[[Epoch], None] = lambda record: None


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
        lost: () float64 on the device, the sum of examples' losses since `flush_loss`, which alone waits for a GPU.
        loss_sum: the same of the whole epoch, as far as it was flushed.
    """

    def __init__(self, job: Job, data: TrainingData) -> None:
        self.config, self.folder, self.on_epoch, self.data = job.config, job.folder, job.on_epoch, data
        self.device = torch.device(self.config.train.device)
        width, backend = self.config.states.width, self.config.train.backend
        with kept_randomness(self.config.train.init_seed):
            model = HeadModel(self.config.pooler, self.config.task, width, backend, self.config.contrastive)
        if self.config.train.class_weights == "balanced":
            model.head.class_weights = balanced_weights(labels_of(data.train), len(self.config.task.classes))
        self.model = model.to(self.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=self.config.train.lr, fused=True)
        self.plateau = StepPlateau(self.optimizer) if self.config.train.schedule == "plateau-steps" else None
        self.history: list[Epoch] = []
        self.loss_sum = 0.0
        self.lost = torch.zeros((), dtype=torch.float64, device=self.device)

    def step(self, texts: Texts, rows: list[Tensor], labels: Tensor | None, share: float) -> None:
        """One step on a batch (see `HostBatch.to`): learning rate, loss, gradients, weights.

        Args:
            labels: (m,), or None for pairs without labels. share: of all steps that are done, 0 to 1.
        """
        train = self.config.train
        if self.plateau is None:
            for group in self.optimizer.param_groups:
                group["lr"] = train.lr * lr_factor(train.schedule, share, self._selection_scores())
        self.optimizer.zero_grad(set_to_none=True)
        enabled = train.precision == "bfloat16"
        loss = self.model.backward(
            texts, rows, labels, lambda: torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)
        )
        self.optimizer.step()
        if self.plateau is not None:
            self.plateau.step(loss.item())
        self.lost += loss.double() * len(rows[0])

    def flush_loss(self, epoch: int) -> None:
        """Add the losses since the last call to the epoch's sum; raises FaultError where they are not finite."""
        value = self.lost.item()
        if not math.isfinite(value):
            raise FaultError(f"{self.folder}: the loss became {value} in epoch {epoch}: lower --lr")
        self.loss_sum += value
        self.lost.zero_()

    def evaluate(self, position: Position, source: Source) -> None:
        """Score the weights on every set, add the epoch to the history, and save the weights if they are the best."""
        if self.config.contrastive is not None:
            self._evaluate_pairs(position, source)
            return
        sets = self.data.score_sets
        labels = {name: labels_of(examples) for name, examples in sets.items()}
        predictions = {name: predict(self.model, source, sets[name], self.data.lengths) for name in sets}
        metrics = self.config.task.metrics
        scores = {name: compute_metrics(metrics, predictions[name], labels[name]) for name in sets}
        if self._record(position, scores):
            for name in sets:
                save_array(self.folder / f"predictions-{name}.npy", predictions[name])
                save_array(self.folder / f"labels-{name}.npy", labels[name])

    def _evaluate_pairs(self, position: Position, source: Source) -> None:
        scores, losses = {}, {}
        for name, examples in self.data.score_sets.items():
            scores[name], losses[name] = score_pairs(self.model, source, examples, self.config.train.batch_size)
        self._record(position, scores, losses)

    def _record(self, position: Position, scores: Scores, losses: dict[str, float] | None = None) -> bool:
        """Add the epoch to the history; where it is the best so far, save the weights and return True."""
        loss = self.loss_sum / position.examples_seen
        record = Epoch(position.epoch, loss, position.seconds, scores, position.waited, losses or {}, position.heads)
        self.history.append(record)
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
        return len(self.history) if self.config.train.select == "last" else argmax(self._selection_scores())

    def _selection_scores(self) -> list[float]:
        """Each epoch's score by the first metric on the selection split; none where no score chooses the epoch."""
        if self.config.train.select == "last":
            return []
        split, metric = self.data.selection_split, self.config.task.metrics[0]
        return [epoch.scores[split][metric] for epoch in self.history]

    def result(self, density: float | None, heads: int, products: str) -> FitResult:
        """The record of a finished fit, of so many heads side by side, by one way to multiply."""
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
            products=products,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer, for a checkpoint."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            # Heads in a `Stack` share the tensor that counts their steps; safetensors refuses shared tensors.
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
