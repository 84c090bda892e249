"""Vectors without labels: a query and the text that answers it come together, all other texts of a batch move away.

The loss is symmetric InfoNCE with in-batch negatives (Oord et al. 2018; both directions, as in CLIP), at several widths
of a projection as Matryoshka representations are trained (Kusupati et al. 2022), and for batches larger than the
device's memory by gradient caching (Gao et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glot.nn.config import ContrastiveConfig, Similarity
from glot.nn.heads import Head
from glot.nn.tokens import TokenBatch


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
        assert z_b is not None
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

    def numbered(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The rows of all queries, each once, ascending, and (m,) which of them each example's is; so of documents.

        Documents are all positives and negatives; an example's is its positive.
        """
        queries, query = torch.unique(self.query, return_inverse=True)
        rows = self.positive if self.negatives is None else torch.cat([self.positive, self.negatives.flatten()])
        documents = torch.unique(rows[rows >= 0])
        return queries, query, documents, torch.searchsorted(documents, self.positive)


def info_nce(vectors: Tensor, pairs: Pairs, similarity: Similarity, temperature: float) -> Tensor:
    """Symmetric InfoNCE over the vectors (T, P) of distinct texts: the mean of both directions' cross-entropies.

    From query to document, the candidates are all positives and hard negatives of the batch; from document to query,
    all its queries. Each distinct text counts once. No negative of a pair is another positive of the same query,
    another query of the same positive, or the text itself.
    """
    x = F.normalize(vectors, dim=1) if similarity == "cos" else vectors
    queries, query, documents, positive = pairs.numbered()
    scores = x[queries] @ x[documents].T / temperature  # (queries, documents)
    together = _together(queries, query, documents, positive)
    there = _cross_entropy(scores, together, query, positive)
    answers = torch.unique(positive)  # hard negatives are no candidates' queries
    back = _cross_entropy(scores[:, answers].T, together[:, answers].T, torch.searchsorted(answers, positive), query)
    return (there + back) / 2


def _together(queries: Tensor, query: Tensor, documents: Tensor, positive: Tensor) -> Tensor:
    """(queries, documents) bool: what is no negative: a pair of the batch, or twice the same text."""
    together = queries[:, None] == documents
    together[query, positive] = True
    return together


def _cross_entropy(scores: Tensor, together: Tensor, row: Tensor, target: Tensor) -> Tensor:
    """The mean over the examples of -log softmax(scores[row])[target]; the row's other matches are left out of it."""
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
    gradient, start = vectors.grad, 0
    assert gradient is not None
    for chunk in chunks:
        with autocast():
            part = embed(chunk()).float()
        part.backward(gradient[start : start + len(part)])
        start += len(part)
    return loss.detach()
