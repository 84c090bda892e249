"""What a fit trains on: example sets and states of a cache."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from glot.errors import UsageError
from glot.fit.head_model import HeadModel, PooledTexts, Source
from glot.fit.options import validation_names
from glot.fit.run_folder import RunConfig, TrainConfig
from glot.fit.states import MemoryStates, States, StreamedStates
from glot.nn.config import ContrastiveConfig
from glot.nn.edges import EdgeRule, edge_density
from glot.nn.heads import with_weights
from glot.nn.poolers import LayersPooler, Pooler
from glot.store.example_set import ExampleSet, group_of, set_name, split_of
from glot.store.label_sets import to_indicator
from glot.store.reader import Cache

DENSITY_TEXTS = 512


def used_text_ids(cache: Cache, group: str = "", contrastive: ContrastiveConfig | None = None) -> np.ndarray:
    """The ids of all texts that a fit on this cache reads: those of its train and validation examples."""
    sets = [_train_examples(cache, set_name(group, "train"), contrastive)]
    sets += [cache.examples(name) for name in validation_names(cache, group)]
    return np.concatenate([examples.used_ids() for examples in sets])


def _train_examples(cache: Cache, name: str, contrastive: ContrastiveConfig | None) -> ExampleSet:
    """A set to train on, with as many hard negatives as are to be used."""
    examples = cache.examples(name)
    if contrastive is None or contrastive.negatives is None or examples.negatives is None:
        return examples
    negatives = examples.negatives[:, : contrastive.negatives]
    return replace(examples, negatives=negatives if negatives.shape[1] else None)


def read_train(
    cache: Cache, name: str, train: TrainConfig, contrastive: ContrastiveConfig | None
) -> tuple[ExampleSet, ExampleSet | None]:
    """What is trained on, and what of the set `name` is kept aside to choose the epoch by (None: nothing).

    Raises UsageError where too little is left to learn from.
    """
    examples, holdout = _train_examples(cache, name, contrastive), None
    whose = f"the {name} examples of {cache.folder}"
    if train.select == "holdout":
        count = max(1, len(examples) // 10)
        if count >= len(examples):
            raise UsageError(f"{whose} are too few for --select holdout: pass --select last, or extract more")
        order = np.random.default_rng([train.order_seed, 0]).permutation(len(examples))
        holdout, examples = examples.subset(np.sort(order[:count])), examples.subset(np.sort(order[count:]))
        whose += f" less the {count} that --select holdout keeps aside"
    if cache.examples_entry(name).task.target == "classes" and (labels_of(examples) == labels_of(examples)[:1]).all():
        raise UsageError(f"{whose} are all of one class: there is nothing to learn")
    return examples, holdout


def labels_of(examples: ExampleSet) -> np.ndarray:
    """(m,) the labels of examples that have some: int64 classes, or scores in the task's units."""
    assert examples.label is not None
    return examples.label


def sample_of(examples: ExampleSet, most: int) -> ExampleSet:
    """At most so many of the examples, drawn at random, always the same."""
    if len(examples) <= most:
        return examples
    return examples.subset(np.sort(np.random.default_rng(0).permutation(len(examples))[:most]))


def loss_labels(examples: ExampleSet, several: int | None = None) -> torch.Tensor:
    """What a head's loss reads: (m,) int64 classes or float32 scores, or (m, 2) with the examples' weights.

    Where a text may have `several` labels, C in all, (m, C) float32 zeros and ones, or (m, C + 1).
    """
    labels = labels_of(examples)
    if several is not None:
        labels = to_indicator(labels, several).astype(np.float32)
    tensor = torch.from_numpy(labels if labels.dtype == np.int64 else labels.astype(np.float32))
    return tensor if examples.weight is None else with_weights(tensor, torch.from_numpy(examples.weight))


@dataclass(frozen=True)
class TrainingData:
    """The example sets of a fit.

    Attributes:
        train, holdout, validation: what is trained on, kept aside of it (or None), and scored, by name.
        lengths: (texts,) int64, tokens of each text of the cache.
        home: (m,) the shard in which each training example's first text lies.
    """

    train: ExampleSet
    holdout: ExampleSet | None
    validation: dict[str, ExampleSet]
    lengths: np.ndarray
    home: np.ndarray

    @property
    def score_sets(self) -> dict[str, ExampleSet]:
        """All that is scored after an epoch."""
        return self.validation if self.holdout is None else {"holdout": self.holdout, **self.validation}

    def used_ids(self) -> np.ndarray:
        """The ids of all texts of its examples."""
        return np.concatenate([examples.used_ids() for examples in (self.train, *self.score_sets.values())])

    @property
    def selection_split(self) -> str:
        """The set that chooses the best epoch: the first."""
        return next(iter(self.score_sets))


def open_data(cache: Cache, config: RunConfig, states: States) -> TrainingData:
    """The example sets that a config names; raises UsageError where there is nothing to learn."""
    training = training_set(config)
    train, holdout = read_train(cache, training, config.train, config.contrastive)
    validation = {name: cache.examples(name) for name in config.data if name != training}
    return TrainingData(train, holdout, validation, states.lengths, cache.plan.shard_of(train.text_id))


def open_states(cache: Cache, config: RunConfig) -> States:
    """The states that a config trains on: in memory, or streamed."""
    device = torch.device(config.train.device)
    if config.train.window is not None:
        return StreamedStates(cache, config.layers, device, config.pooler.tokens)
    used = used_text_ids(cache, group_of(training_set(config)), config.contrastive)
    return MemoryStates(cache, config.layers, used, device, config.pooler.tokens)


def open_source(config: RunConfig, states: States, data: TrainingData, model: HeadModel) -> Source:
    """Where a model's batches come from: the states, or what a pooler without weights makes of them, once."""
    if config.pooler.has_weights:
        return states
    return PooledTexts(model.pooler, states, data.used_ids())


def training_set(config: RunConfig) -> str:
    """The name of the example set that a run is trained on."""
    return next(name for name in config.data if split_of(name) == "train")


@torch.no_grad()
def graph_density(states: States, text_ids: np.ndarray, rule: EdgeRule, pooler: Pooler | None = None) -> float:
    """Edges over possible edges of the token graphs, self-loops apart, over a sample of the given texts.

    `pooler` is what mixes the states of several layers first, where it does.
    """
    sample = np.random.default_rng(0).permutation(np.unique(text_ids))[:DENSITY_TEXTS]
    sample = sample[np.argsort(states.lengths[sample], kind="stable")]
    edges = pairs = 0
    for chunk in np.array_split(sample, -(-len(sample) // 32)):
        batch = states.gather(chunk)
        batch = pooler.one_layer(batch) if isinstance(pooler, LayersPooler) else batch
        counts = edge_density(rule.edges(batch), batch.lengths)
        edges, pairs = edges + counts[0], pairs + counts[1]
    return edges / max(pairs, 1)
