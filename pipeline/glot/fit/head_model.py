"""Pooler and head together: everything that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from glot.fit.read_ahead import read_ahead
from glot.fit.run_folder import HEAD_FILE, RunConfig, load_tensors, load_weights
from glot.fit.states import HostBatch, States, Texts
from glot.nn.config import ContrastiveConfig, PoolerConfig
from glot.nn.contrastive import ContrastiveHead, Pairs, backward_in_chunks
from glot.nn.dropout import Dropout
from glot.nn.heads import LabelsHead, make_head
from glot.nn.poolers import Pooler, make_pooler
from glot.nn.tokens import TokenBatch
from glot.process import kept_randomness
from glot.products import fast_products
from glot.store.example_set import NO_TEXT, ExampleSet
from glot.store.task_spec import TaskSpec

EVAL_TOKENS = 8192  # packed tokens a batch when nothing is trained


class HeadModel(nn.Module):
    """A pooler and the head of a task: what a fit trains and `head.safetensors` holds.

    Attributes:
        dropout: between the two, while it trains; None leaves nothing out.
    """

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
        self.dropout: Dropout | None = None
        pooled = self.pooler.out_width
        self.head = (
            ContrastiveHead(contrastive, pooled) if contrastive else make_head(task, pooled, config.pair_features)
        )

    @property
    def width(self) -> int:
        """D, the width of a text's vector."""
        return self.head.out_width if isinstance(self.head, ContrastiveHead) else self.pooler.out_width

    @property
    def mean_columns(self) -> int:
        """How many numbers of a vector, from its first on, are the mean while the readout weighs all tokens alike: d.

        Of a pooler without weights all count, whatever they are: they never change.
        """
        return self.pooler.in_width if self.pooler.config.has_weights else self.pooler.out_width

    @property
    def thresholds(self) -> np.ndarray | None:
        """(C,) float32 of several labels a text the probability above which each is given; None of all else."""
        return self.head.thresholds.cpu().numpy() if isinstance(self.head, LabelsHead) else None

    def vectors(self, batch: TokenBatch) -> Tensor:
        """(B, D): the vector of each text; where pairs trained a projection, what that makes of it."""
        return self.head.embed(self.pooler(batch))

    def forward(self, texts: TokenBatch | Tensor, rows: list[Tensor]) -> Tensor:
        """Raw outputs of the head for m examples, of their distinct texts, each pooled once; see `HostBatch`."""
        z = self._pooled(texts)
        if self.dropout is not None:
            z = self.dropout(z)
        return self.head(*(z.index_select(0, some) for some in rows))

    def backward(
        self,
        texts: Texts,
        rows: list[Tensor],
        labels: Tensor | None,
        autocast: Callable[[], AbstractContextManager],
    ) -> Tensor:
        """() the mean loss of m examples; its gradients are added to those of the parameters.

        Args:
            labels: (m,), or None for pairs without labels. autocast: what pooler and head run under.
        """
        if labels is None:
            return self._backward_pairs(texts, Pairs.of(rows), autocast)
        assert not isinstance(texts, list)
        with autocast():
            loss = self.head.loss(self(texts, rows).float(), labels)
        loss.backward()
        return loss.detach()

    def _backward_pairs(self, texts: Texts, pairs: Pairs, autocast: Callable[[], AbstractContextManager]) -> Tensor:
        head = self.head
        assert isinstance(head, ContrastiveHead)
        if isinstance(texts, list):
            return backward_in_chunks(self.vectors, texts, lambda x: head.pair_loss(x, pairs), autocast)
        with autocast():
            loss = head.pair_loss(head.embed(self._pooled(texts)).float(), pairs)
        loss.backward()
        return loss.detach()

    def _pooled(self, texts: TokenBatch | Tensor) -> Tensor:
        """(distinct texts, D)."""
        return self.pooler(texts) if isinstance(texts, TokenBatch) else texts


def fetch(source: Source, examples: ExampleSet) -> HostBatch:
    """The texts of some examples, each once, in order of their lengths, since neighbours are padded together."""
    columns = examples.text_columns
    every = np.concatenate(columns)
    ids, index = np.unique(every[every != NO_TEXT], return_inverse=True)
    order = np.argsort(source.lengths[ids], kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    rows = np.full(len(every), NO_TEXT)
    rows[every != NO_TEXT] = rank[index]
    return replace(source.fetch(ids[order]), rows=torch.from_numpy(rows).chunk(len(columns)))


def each_batch(
    source: Source, examples: ExampleSet, chosen: Iterable[np.ndarray]
) -> AbstractContextManager[Iterator[tuple[np.ndarray, HostBatch]]]:
    """Each choice of examples with their `fetch`, made by a thread where that pays; leaving the block ends the thread.

    Args:
        chosen: the examples of each batch, as indices into `examples`.
    """
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

    def fetch(self, text_ids: np.ndarray) -> HostBatch:
        """The vectors of some texts, as `States.fetch` gives states."""
        return HostBatch(self.vectors[torch.from_numpy(self.row[text_ids]).to(self.vectors.device)])


Source = States | PooledTexts


@fast_products()
@torch.no_grad()
def pool_texts(pooler: Callable[[TokenBatch], Tensor], states: States, text_ids: np.ndarray) -> Tensor:
    """(texts, D) vectors of the given texts, in their order, pooled in batches of similar length."""
    order = np.argsort(states.lengths[text_ids], kind="stable")
    vectors = torch.cat([pooler(states.gather(text_ids[chunk])) for chunk in _chunks(states.lengths[text_ids], order)])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return vectors[torch.from_numpy(back).to(vectors.device)]


def predict(model: HeadModel, source: Source, examples: ExampleSet, lengths: np.ndarray) -> np.ndarray:
    """(m,) predictions in the labels' own units, in the examples' order; evaluated in length order."""
    return _read(model, source, examples, lengths, model.head.predict)


def estimate(model: HeadModel, source: Source, examples: ExampleSet, lengths: np.ndarray) -> np.ndarray:
    """As `predict` the (m, C) float32 probabilities of classes, or the (m,) scores."""
    return _read(model, source, examples, lengths, model.head.estimate)


@fast_products()
@torch.no_grad()
def _read(
    model: HeadModel, source: Source, examples: ExampleSet, lengths: np.ndarray, read: Callable[[Tensor], Tensor]
) -> np.ndarray:
    model.eval()
    count = lengths[examples.text_id]
    if examples.text_id_b is not None:
        count = count + lengths[examples.text_id_b]
    order = np.argsort(count, kind="stable")
    with each_batch(source, examples, _chunks(count, order)) as batches:
        parts = [read(model(*batch.to(source.device))) for _, batch in batches]
    values = torch.cat(parts).numpy()
    out = np.empty_like(values)
    out[order] = values
    return out


def _chunks(count: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Cut an order into chunks of about `EVAL_TOKENS` tokens."""
    cuts = np.flatnonzero(np.diff(np.cumsum(count[order]) // EVAL_TOKENS)) + 1
    return np.split(order, cuts)


def new_head(config: RunConfig, backend: str) -> HeadModel:
    """A run's pooler and head, for weights that are there: the new ones are drawn without a trace in the generators."""
    with kept_randomness():
        return HeadModel(config.pooler, config.task, config.states.width, backend, config.contrastive)


def load_head(folder: Path, config: RunConfig, backend: str, device: torch.device) -> HeadModel:
    """A trained head from its run folder; raises UsageError or FaultError where it is missing or damaged."""
    model = new_head(config, backend)
    tensors, _ = load_tensors(folder / HEAD_FILE)
    load_weights(model, tensors, folder / HEAD_FILE)
    return model.to(device).eval()
