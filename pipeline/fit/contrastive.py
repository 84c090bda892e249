"""Vectors without labels: a query and the text that answers it come together, all other texts of a batch move away.

The loss is symmetric InfoNCE with in-batch negatives (Oord et al. 2018; both directions, as in CLIP), at several widths
of a projection as Matryoshka representations are trained (Kusupati et al. 2022), and for batches larger than the
device's memory by gradient caching (Gao et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UsageError
from pipeline.fit.heads import Head
from pipeline.fit.poolers import WEIGHTLESS, PoolerConfig
from pipeline.fit.tokens import TokenBatch

Similarity = Literal["cos", "dot"]


@dataclass(frozen=True)
class ContrastiveConfig:
    """How vectors are trained from pairs.

    Attributes:
        temperature: similarities are divided by it.
        similarity: "cos", or "dot" as in the published run.
        negatives: how many hard negatives of an example to use; None: all that the cache has.
        proj_dim: P, the width of a learned linear projection of z, the vector that is then given out; None: z itself.
        matryoshka: widths of the projection, beside P itself, at which its first numbers are trained to do as well.
        chunk_size: texts pooled at a time (gradient caching); None: a batch as a whole.

    Raises UsageError for values out of range.
    """

    temperature: float = 0.07
    similarity: Similarity = "cos"
    negatives: int | None = None
    proj_dim: int | None = None
    matryoshka: tuple[int, ...] = ()
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 100:
            raise UsageError(f"--temperature must be above 0, and at most 100; got {self.temperature}")
        if self.similarity not in get_args(Similarity):
            raise UsageError(f"--similarity must be one of {', '.join(get_args(Similarity))}; got {self.similarity!r}")
        for name, least in (("negatives", 0), ("proj_dim", 1), ("chunk_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {least}; got {value}")
        if self.matryoshka and self.proj_dim is None:
            raise UsageError("--matryoshka trains widths of a projection: pass --proj-dim too")
        if not all(1 <= width <= (self.proj_dim or 0) for width in self.matryoshka):
            raise UsageError(f"--matryoshka takes widths from 1 to --proj-dim ({self.proj_dim}); got {self.matryoshka}")

    def check_pooler(self, pooler: PoolerConfig) -> None:
        """Raise UsageError where nothing would train, or where chunks would not add up to the batch."""
        is_fixed = pooler.pooler in WEIGHTLESS or (
            pooler.layers == 0 and (pooler.pooler == "mlp" or (pooler.pooler, pooler.readout) == ("glot", "mean"))
        )
        if is_fixed and self.proj_dim is None:
            raise UsageError(
                f"--pooler {pooler.pooler} has no weights to train: pass --proj-dim, or choose --pooler glot or adapool"
            )
        if self.chunk_size is not None and pooler.gin_batch_norm:
            raise UsageError("--gin-batch-norm looks at a whole batch: leave --chunk-size out")

    @property
    def widths(self) -> tuple[int | None, ...]:
        """The widths that are trained; None is the whole vector."""
        if self.proj_dim is None:
            return (None,)
        return tuple(sorted({*self.matryoshka, self.proj_dim}))

    @classmethod
    def from_json(cls, data: dict[str, Any] | None) -> ContrastiveConfig | None:
        """Rebuild a config from a run's JSON; None where there is none."""
        return None if data is None else cls(**{**data, "matryoshka": tuple(data["matryoshka"])})


class ContrastiveHead(Head):
    """The vectors themselves, or a linear projection of them; symmetric InfoNCE. Raw outputs are similarities (B,).

    Args:
        config: the settings.
        width: D, of the pooled vectors.
    """

    def __init__(self, config: ContrastiveConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.out_width = config.proj_dim or width  # P, or D
        self.projection = None if config.proj_dim is None else nn.Linear(width, config.proj_dim, bias=False)

    def embed(self, z: Tensor) -> Tensor:
        """(B, P) or (B, D): the vectors that are given out, of pooled ones (B, D)."""
        return z if self.projection is None else self.projection(z)

    def forward(self, z: Tensor, z_b: Tensor | None = None) -> Tensor:
        """(B,) similarities of pairs."""
        x, y = self.embed(z), self.embed(z_b)
        return F.cosine_similarity(x, y) if self.config.similarity == "cos" else (x * y).sum(dim=1)

    def predict(self, raw: Tensor) -> Tensor:
        """(B,) float32: the similarities."""
        return raw.detach().float().cpu()

    def pair_loss(self, vectors: Tensor, pairs: Pairs) -> Tensor:
        """The mean of the losses at all trained widths, of the vectors (T, P) of a batch's distinct texts."""
        losses = [
            info_nce(vectors[:, :width], pairs, self.config.similarity, self.config.temperature)
            for width in self.config.widths
        ]
        return torch.stack(losses).mean()


@dataclass(frozen=True)
class Pairs:
    """Which of some distinct texts belong together.

    Attributes:
        query, positive: (m,) int64 rows of the texts, of each example.
        negatives: (m, k) int64 rows of texts that do not answer the query; -1 where there are fewer.
    """

    query: Tensor
    positive: Tensor
    negatives: Tensor | None = None

    @classmethod
    def of(cls, rows: list[Tensor]) -> Pairs:
        """From the rows of queries, of positives, and of each further column."""
        return cls(rows[0], rows[1], torch.stack(rows[2:], dim=1) if len(rows) > 2 else None)

    def documents(self) -> Tensor:
        """(n,) int64: the rows of all positives and negatives, each once, ascending."""
        if self.negatives is None:
            return torch.unique(self.positive)
        rows = torch.cat([self.positive, self.negatives.flatten()])
        return torch.unique(rows[rows >= 0])


def info_nce(vectors: Tensor, pairs: Pairs, similarity: Similarity, temperature: float) -> Tensor:
    """Symmetric InfoNCE over the vectors (T, P) of distinct texts: the mean of both directions' cross-entropies.

    From query to document, the candidates are all positives and hard negatives of the batch; from document to query,
    all its queries. Each distinct text counts once. No negative of a pair is another positive of the same query,
    another query of the same positive, or the text itself.
    """
    x = F.normalize(vectors, dim=1) if similarity == "cos" else vectors
    queries, query = torch.unique(pairs.query, return_inverse=True)
    documents = pairs.documents()
    positive = torch.searchsorted(documents, pairs.positive)
    scores = x[queries] @ x[documents].T / temperature  # (queries, documents)
    together = _together(queries, query, documents, positive)
    there = _cross_entropy(scores, together, query, positive)
    answers = torch.unique(positive)  # hard negatives are no candidates' queries
    back = _cross_entropy(scores[:, answers].T, together[:, answers].T, torch.searchsorted(answers, positive), query)
    return (there + back) / 2


def _together(queries: Tensor, query: Tensor, documents: Tensor, positive: Tensor) -> Tensor:
    """(queries, documents) bool: pairs that must not count as negatives: they belong together, or are the same text."""
    together = queries[:, None] == documents
    together[query, positive] = True
    return together


def _cross_entropy(scores: Tensor, together: Tensor, row: Tensor, target: Tensor) -> Tensor:
    """The mean over the examples of -log softmax of scores[row] at the target, without what belongs to the row too."""
    hidden = together[row].scatter(1, target[:, None], False)
    return F.cross_entropy(scores[row].masked_fill(hidden, -torch.inf), target)


def backward_in_chunks(
    embed: Callable[[TokenBatch], Tensor],
    chunks: list[Callable[[], TokenBatch]],
    loss_of: Callable[[Tensor], Tensor],
    autocast: Callable[[], AbstractContextManager],
) -> Tensor:
    """The loss of a batch, its gradients added to the parameters', with the activations of one chunk in memory.

    All chunks are pooled without gradients; the loss gives the gradient at their vectors; each chunk is pooled again
    and takes its part of that gradient further back. Equal to the plain step, to rounding.

    Args:
        embed: the vectors (b, P) of a chunk's texts. chunks: each gives a chunk, when it is its turn.
        loss_of: the loss of the vectors (T, P) of all texts, one chunk after the other.
        autocast: what `embed` runs under.
    """
    with torch.no_grad(), autocast():
        vectors = torch.cat([embed(chunk()).float() for chunk in chunks])
    vectors.requires_grad_()
    loss = loss_of(vectors)
    loss.backward()
    start = 0
    for chunk in chunks:
        with autocast():
            part = embed(chunk()).float()
        part.backward(vectors.grad[start : start + len(part)])
        start += len(part)
    return loss.detach()
