"""Stage two: train the head, and only the head, over a cache."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from pipeline import __version__
from pipeline.errors import FaultError, Stopped, UsageError
from pipeline.fit.graph import edge_density, edge_mask
from pipeline.fit.head_model import HeadModel, PooledTexts, load_head, predict
from pipeline.fit.metrics import compute_metrics
from pipeline.fit.poolers import PoolerConfig
from pipeline.fit.run_folder import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    HEAD_FILE,
    METRICS_FILE,
    RunConfig,
    TrainConfig,
    load_tensors,
    load_weights,
    save_tensors,
)
from pipeline.fit.states import MemoryStates, States, StreamedStates, epoch_order
from pipeline.store.example_set import ExampleSet, group_of, set_name, split_of
from pipeline.store.files import make_folder, read_json, write_json
from pipeline.store.reader import Cache
from pipeline.store.task_spec import TaskSpec

CHECKPOINT_SECONDS = 20.0
DENSITY_TEXTS = 512
Scores = dict[str, dict[str, float]]  # example set -> metric -> value
Progress = Callable[[int, int, int, float], None]  # (epoch, step, steps, mean loss so far)


@dataclass
class Epoch:
    """One pass over the training set: its mean loss, and the scores after it."""

    epoch: int
    loss: float
    seconds: float
    scores: Scores


@dataclass
class FitResult:
    """`metrics.json`.

    Attributes:
        epochs: every epoch's record.
        best: by the first metric on the first validation set (or on the hold-out); other sets at that same epoch.
        best_published: by the published script's rule: accuracy, or the mean of Spearman and Pearson; a second
            validation set (MNLI mismatched) at the last epoch.
        last: the last epoch's scores.
        density: mean edge density of the token graphs, self-loops apart; None where there is no graph.
        parameters: how many numbers were trained.
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
    version: int = 1

    @classmethod
    def load(cls, folder: Path) -> FitResult:
        """Read `metrics.json`; raises UsageError where it is missing, FaultError where it is damaged."""
        data = read_json(folder / METRICS_FILE)
        try:
            return cls(**{**data, "epochs": [Epoch(**epoch) for epoch in data["epochs"]]})
        except (KeyError, TypeError) as error:
            raise FaultError(f"{folder / METRICS_FILE} is damaged: {error!r}") from None


@dataclass
class _Data:
    """The example sets of a fit."""

    train: ExampleSet
    holdout: ExampleSet | None
    validation: dict[str, ExampleSet]
    source: States | PooledTexts | None = None
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    home: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass
class _Position:
    """Where a fit is: kept in the checkpoint."""

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    examples_seen: int = 0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)


def run_config(cache: Cache, pooler: PoolerConfig, train: TrainConfig, layer: int = -1, group: str = "") -> RunConfig:
    """The `RunConfig` of a fit on a cache's example sets; raises UsageError where the cache cannot be trained on.

    `group` names sets that were added with other labels (`glot extract --examples`).
    """
    entries = cache.manifest.examples
    training = set_name(group, "train")
    if training not in entries or not entries[training].labelled:
        raise UsageError(
            f"{cache.folder} has no labelled examples {training!r} (it has {', '.join(entries)}): "
            "extract them with --split train"
        )
    names = [training, *validation_names(cache, group)]
    if len(names) == 1 and train.select == "validation":
        raise UsageError(f"{cache.folder} has no labelled validation examples: extract some, or pass --select holdout")
    return RunConfig(
        cache=str(cache.folder),
        states=cache.manifest.states,
        layer=cache.resolve_layer(layer),
        data={name: entries[name].fingerprint for name in names},
        task=entries[training].task,
        pooler=pooler,
        train=train,
        created_by=f"glot {__version__}",
    )


def validation_names(cache: Cache, group: str = "") -> list[str]:
    """The cache's labelled validation sets; the first is the one that chooses the best epoch."""
    entries = cache.manifest.examples.items()
    return sorted(
        name
        for name, entry in entries
        if group_of(name) == group and split_of(name).startswith("validation") and entry.labelled
    )


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
    data, density = _open_data(cache, config, model, device)
    trainer = _Trainer(config, folder, model, data)
    trainer.restore()
    while not trainer.finished:
        trainer.train_epoch(progress or (lambda *_: None), should_stop)
        trainer.end_epoch()
    result = trainer.result(density)
    write_json(folder / METRICS_FILE, asdict(result))
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return result


def used_text_ids(cache: Cache, group: str = "") -> np.ndarray:
    """The ids of all texts that a fit on this cache reads: those of its train and validation examples."""
    sets = [cache.examples(name) for name in (set_name(group, "train"), *validation_names(cache, group))]
    return np.concatenate([ids for item in sets for ids in (item.text_id, item.text_id_b) if ids is not None])


def _check_same_config(folder: Path, config: RunConfig) -> None:
    if (folder / CONFIG_FILE).exists() and RunConfig.load(folder) != config:
        raise UsageError(f"{folder} holds a run with other settings: choose another folder with --out")


def _open_data(cache: Cache, config: RunConfig, model: HeadModel, device: torch.device) -> tuple[_Data, float | None]:
    training = next(name for name in config.data if split_of(name) == "train")
    train = cache.examples(training)
    data = _Data(train, None, {name: cache.examples(name) for name in config.data if name != training})
    if config.task.target == "classes" and len(np.unique(train.label)) < 2:
        raise UsageError(f"the train examples of {cache.folder} are all of one class: there is nothing to learn")
    if config.train.select == "holdout":
        order = np.random.default_rng([config.train.order_seed, 0]).permutation(len(train))
        count = max(1, len(train) // 10)
        data.holdout, data.train = train.subset(np.sort(order[:count])), train.subset(np.sort(order[count:]))
    text_ids = used_text_ids(cache, group_of(training))
    if config.train.window is None:
        states = MemoryStates(cache, config.layer, text_ids, device)
    else:
        states = StreamedStates(cache, config.layer, device)
    data.lengths = states.lengths
    data.home = cache.plan.shard_of(data.train.text_id)
    density = graph_density(states, data.train.text_id, config.pooler.tau) if config.pooler.pooler == "glot" else None
    trains_pooler = any(parameter.requires_grad for parameter in model.pooler.parameters())
    data.source = states if trains_pooler else PooledTexts(model.pooler, states, text_ids)
    return data, density


def graph_density(states: States, text_ids: np.ndarray, tau: float) -> float:
    """Edges over possible edges of the token graphs, self-loops apart, over a sample of the given texts."""
    sample = np.random.default_rng(0).permutation(np.unique(text_ids))[:DENSITY_TEXTS]
    sample = sample[np.argsort(states.lengths[sample], kind="stable")]
    edges = pairs = 0
    for chunk in np.array_split(sample, -(-len(sample) // 32)):
        batch = states.gather(chunk)
        counts = edge_density(edge_mask(batch, tau), batch.lengths)
        edges, pairs = edges + counts[0], pairs + counts[1]
    return edges / max(pairs, 1)


class _Trainer:
    """The state of a fit in progress: model, optimizer, position, and the checkpoint that holds them."""

    def __init__(self, config: RunConfig, folder: Path, model: HeadModel, data: _Data) -> None:
        self.config, self.folder, self.model, self.data = config, folder, model, data
        self.device = torch.device(config.train.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr, fused=True)
        self.position = _Position()
        self.saved_at = time.monotonic()
        labels = data.train.label
        self.labels = torch.from_numpy(labels if labels.dtype == np.int64 else labels.astype(np.float32))

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or patience has run out."""
        history, patience = self.position.history, self.config.train.patience
        stale = len(history) - self._best_epoch() if history else 0
        return self.position.epoch > self.config.train.epochs or (patience is not None and stale >= patience)

    def train_epoch(self, progress: Progress, should_stop: Callable[[], bool]) -> None:
        """Train from the position to the end of its epoch, writing a checkpoint every few seconds."""
        self.model.train()
        position, size = self.position, self.config.train.batch_size
        order = epoch_order(self.data.home, self.config.train.order_seed, position.epoch, self.config.train.window)
        steps = math.ceil(len(order) / size)
        started, before = time.monotonic(), position.seconds
        for chosen in (order[step * size : (step + 1) * size] for step in range(position.step, steps)):
            raw = self.model(self.data.source, self.data.train.subset(chosen))
            loss = self.model.head.loss(raw, self.labels[chosen].to(self.device))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            value = loss.item()
            if not math.isfinite(value):
                raise FaultError(f"the loss became {value} in epoch {position.epoch}: lower --lr")
            position.step += 1
            position.loss_sum += value * len(chosen)
            position.examples_seen += len(chosen)
            position.seconds = before + time.monotonic() - started
            progress(position.epoch, position.step, steps, position.loss_sum / position.examples_seen)
            if should_stop():
                self.save_checkpoint()
                raise Stopped(f"stopped in epoch {position.epoch}; go on with `glot fit --resume {self.folder}`")
            if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                self.save_checkpoint()

    def end_epoch(self) -> None:
        """Score the epoch, keep its weights if they are the best, and move on."""
        position = self.position
        scores = {name: self._score(examples) for name, examples in self._score_sets().items()}
        mean_loss = position.loss_sum / position.examples_seen
        history = [*position.history, Epoch(position.epoch, mean_loss, position.seconds, scores)]
        self.position = _Position(epoch=position.epoch + 1, history=history)
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
        judge = "holdout" if self.data.holdout is not None else next(iter(self.data.validation))
        metric = self.config.task.metrics[0]
        return _argmax([epoch.scores[judge][metric] for epoch in self.position.history])

    def result(self, density: float | None) -> FitResult:
        """The record of a finished fit."""
        history, best = self.position.history, self._best_epoch()
        return FitResult(
            select=self.config.train.select,
            metric=self.config.task.metrics[0],
            epochs=history,
            best_epoch=best,
            best=history[best - 1].scores,
            best_published=_best_published(history, self.config.task, list(self.data.validation)),
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


def _argmax(values: list[float]) -> int:
    """The 1-based place of the largest value; the earliest of equals."""
    return int(np.argmax(values)) + 1


def _best_published(history: list[Epoch], task: TaskSpec, names: list[str]) -> Scores:
    """Scores by the published script's rule for its best epoch (see `FitResult`)."""

    def judged(epoch: Epoch) -> float:
        scores = epoch.scores[names[0]]
        return scores["accuracy"] if task.target == "classes" else (scores["spearman"] + scores["pearson"]) / 2

    if not names:
        return {}
    best = history[_argmax([judged(epoch) for epoch in history]) - 1]
    return {name: (best if place == 0 else history[-1]).scores[name] for place, name in enumerate(names)}


def predict_examples(
    folder: Path, cache: Cache, split: str, device: str, backend: str
) -> tuple[np.ndarray, ExampleSet]:
    """Predictions of a saved head for an example set of a cache, and the set.

    Returns:
        (m,) class indices or scores in the set's order, and the `ExampleSet`.

    Raises UsageError for a cache of another backbone, layer or width, FaultError for damaged files.
    """
    config = RunConfig.load(folder)
    config.check_cache(cache)
    examples = cache.examples(split)
    if (examples.text_id_b is None) != (config.task.num_texts == 1):
        raise UsageError(f"{folder} was trained on {config.task.num_texts} text(s) an example, unlike {cache.folder}")
    model = load_head(folder, config, backend, torch.device(device))
    states = StreamedStates(cache, cache.resolve_layer(config.layer), torch.device(device))
    return predict(model, states, examples, states.lengths), examples
