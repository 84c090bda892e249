"""Pooler and head together: everything that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from glot.fit.read_ahead import read_ahead
from glot.fit.run_folder import HEAD_FILE, RunConfig, load_tensors, load_weights
from glot.fit.states import States, StoredBatch
from glot.nn.config import ContrastiveConfig, PoolerConfig
from glot.nn.contrastive import ContrastiveHead, Pairs, backward_in_chunks
from glot.nn.heads import make_head
from glot.nn.poolers import Pooler, make_pooler
from glot.nn.tokens import TokenBatch
from glot.randomness import kept_randomness
from glot.store.example_set import NO_TEXT, ExampleSet
from glot.store.task_spec import TaskSpec

EVAL_TOKENS = 8192  # packed tokens a batch when nothing is trained


class HeadModel(nn.Module):
    """A pooler and the head of a task: what a fit trains and `head.safetensors` holds."""

    def __init__(
        self,
        config: PoolerConfig,
        task: TaskSpec,
        width: int,
        backend: str,
        contrastive: ContrastiveConfig | None = None,
    ) -> None:
        super().__init__()
        self.pooler: Pooler = make_pooler(config, width, backend)
        pooled = self.pooler.out_width
        self.head = ContrastiveHead(contrastive, pooled) if contrastive else make_head(task, pooled)

    @property
    def width(self) -> int:
        """D, the width of a text's vector."""
        return self.head.out_width if isinstance(self.head, ContrastiveHead) else self.pooler.out_width

    def vectors(self, batch: TokenBatch) -> Tensor:
        """(B, D): the vector of each text; where pairs trained a projection, what that makes of it."""
        return self.head.embed(self.pooler(batch))

    def forward(self, inputs: Inputs) -> Tensor:
        """Raw outputs of the head for some examples (see `fetch`); each distinct text is pooled once."""
        z = self._pooled(inputs.texts)
        return self.head(*(z.index_select(0, rows) for rows in inputs.rows))

    def backward(self, inputs: Inputs, labels: Tensor | None, autocast: Callable[[], AbstractContextManager]) -> Tensor:
        """The loss of some examples, its gradients added to the parameters'; labels None: of pairs without any."""
        if labels is None and isinstance(inputs.texts, list):
            pairs = Pairs.of(inputs.rows)
            return backward_in_chunks(self.vectors, inputs.texts, lambda x: self.head.pair_loss(x, pairs), autocast)
        with autocast():
            if labels is None:
                vectors = self.head.embed(self._pooled(inputs.texts)).float()
                loss = self.head.pair_loss(vectors, Pairs.of(inputs.rows))
            else:
                loss = self.head.loss(self(inputs).float(), labels)
        loss.backward()
        return loss.detach()

    def _pooled(self, texts: TokenBatch | Tensor) -> Tensor:
        """(distinct texts, D)."""
        return self.pooler(texts) if isinstance(texts, TokenBatch) else texts


@dataclass(frozen=True)
class Inputs:
    """What a step needs of some examples.

    Attributes:
        texts: the distinct texts' states, shortest first, or their vectors (B, D) where nothing of the pooler trains;
            or chunks of the states, each made when it is called.
        rows: (m,) int64, the text of each example; a second one for pairs, and one for each of their negatives, -1
            where an example has fewer.
    """

    texts: TokenBatch | Tensor | list[Callable[[], TokenBatch]]
    rows: list[Tensor]


@dataclass(frozen=True)
class Fetched:
    """What `Inputs` are made of, where it is kept; see there."""

    texts: StoredBatch | Tensor
    rows: list[Tensor]

    def to(self, device: torch.device, chunk_size: int | None = None) -> Inputs:
        """The inputs of a step on the training device; with `chunk_size`, of so many texts at a time."""
        rows = [rows.to(device) for rows in self.rows]
        if chunk_size is None or not isinstance(self.texts, StoredBatch):
            return Inputs(self.texts.to(device), rows)
        return Inputs([partial(chunk.to, device) for chunk in self.texts.split(chunk_size)], rows)


def fetch(source: States | PooledTexts, examples: ExampleSet) -> Fetched:
    """The texts of some examples, each once, in order of their lengths: such are padded together."""
    given = examples.text_columns
    every = np.concatenate(given)
    ids, place = np.unique(every[every != NO_TEXT], return_inverse=True)
    order = np.argsort(source.lengths[ids], kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    rows = np.full(len(every), NO_TEXT)
    rows[every != NO_TEXT] = rank[place]
    return Fetched(source.fetch(ids[order]), list(torch.from_numpy(rows).chunk(len(given))))


def each_batch(
    source: States | PooledTexts, examples: ExampleSet, chosen: Iterable[np.ndarray]
) -> AbstractContextManager[Iterator[tuple[np.ndarray, Fetched]]]:
    """Every choice of examples with what it needs, read ahead where that pays; close it to end the reading."""
    return read_ahead(lambda some: fetch(source, examples.subset(some)), chosen, source.reads_ahead)


class PooledTexts:
    """The vectors of a pooler without weights, computed once: they never change while the head trains."""

    reads_ahead = False

    def __init__(self, pooler: Pooler, states: States, text_ids: np.ndarray) -> None:
        wanted = np.unique(text_ids)
        self.lengths, self.device = states.lengths, states.device
        self.vectors = pool_texts(pooler, states, wanted)  # (wanted, D)
        self.row = np.full(len(states.lengths), -1, dtype=np.int64)
        self.row[wanted] = np.arange(len(wanted))

    def fetch(self, text_ids: np.ndarray) -> Tensor:
        """(texts, D) vectors."""
        return self.vectors[torch.from_numpy(self.row[text_ids]).to(self.vectors.device)]


@torch.no_grad()
def pool_texts(pooler: Pooler, states: States, text_ids: np.ndarray) -> Tensor:
    """(texts, D) vectors of the given texts, in their order, pooled in batches of similar length."""
    order = np.argsort(states.lengths[text_ids], kind="stable")
    vectors = torch.cat([pooler(states.gather(text_ids[chunk])) for chunk in _chunks(states.lengths[text_ids], order)])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return vectors[torch.from_numpy(back).to(vectors.device)]


@torch.no_grad()
def predict(model: HeadModel, source: States | PooledTexts, examples: ExampleSet, lengths: np.ndarray) -> np.ndarray:
    """(m,) predictions in the labels' own units, in the examples' order; evaluated in length order."""
    model.eval()
    count = lengths[examples.text_id]
    if examples.text_id_b is not None:
        count = count + lengths[examples.text_id_b]
    order = np.argsort(count, kind="stable")
    with each_batch(source, examples, _chunks(count, order)) as batches:
        parts = [model.head.predict(model(fetched.to(source.device))) for _, fetched in batches]
    values = torch.cat(parts).numpy()
    out = np.empty_like(values)
    out[order] = values
    return out


def _chunks(count: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Cut an order into chunks of about `EVAL_TOKENS` tokens."""
    cuts = np.flatnonzero(np.diff(np.cumsum(count[order]) // EVAL_TOKENS)) + 1
    return np.split(order, cuts)


def load_head(folder: Path, config: RunConfig, backend: str, device: torch.device) -> HeadModel:
    """A trained head from its run folder; raises UsageError or FaultError where it is missing or damaged."""
    with kept_randomness():  # new weights are drawn, though these are replaced
        model = HeadModel(config.pooler, config.task, config.states.width, backend, config.contrastive)
    tensors, _ = load_tensors(folder / HEAD_FILE)
    load_weights(model, tensors, folder / HEAD_FILE)
    return model.to(device).eval()
