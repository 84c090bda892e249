"""How well vectors bring together what belongs together: each query ranks the documents of its set."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glot.fit.head_model import HeadModel, PooledTexts, Source, pool_texts
from glot.nn.config import Similarity
from glot.nn.contrastive import ContrastiveHead, Pairs
from glot.products import fast_products
from glot.store.example_set import NO_TEXT, ExampleSet

TOP = 10  # ranks that count in MRR@10
RANKED_CELLS = 2**24  # similarities held at a time


@fast_products()
@torch.no_grad()
def score_pairs(
    model: HeadModel, source: Source, examples: ExampleSet, batch_size: int
) -> tuple[dict[str, float], float]:
    """`mrr@10` and `accuracy` among all documents of a set, and the mean loss over batches in the set's order."""
    model.eval()
    head = model.head
    assert isinstance(head, ContrastiveHead)
    ids = np.unique(examples.used_ids())
    pooled = source.fetch(ids).values if isinstance(source, PooledTexts) else pool_texts(model.pooler, source, ids)
    vectors = head.embed(pooled).float()  # (texts, P)
    columns = [np.where(column == NO_TEXT, -1, np.searchsorted(ids, column)) for column in examples.text_columns]
    rows = [torch.from_numpy(column).to(vectors.device) for column in columns]
    losses = [
        head.pair_loss(vectors, Pairs.of([column[start : start + batch_size] for column in rows]))
        for start in range(0, len(examples), batch_size)
    ]
    counts = torch.tensor([min(batch_size, len(examples) - batch_size * index) for index in range(len(losses))])
    loss = (torch.stack(losses).cpu().double() * counts).sum().item() / len(examples)
    return retrieval_scores(vectors, Pairs.of(rows), head.config.similarity), loss


@torch.no_grad()
def retrieval_scores(vectors: Tensor, pairs: Pairs, similarity: Similarity) -> dict[str, float]:
    """How well each query finds its positive among all documents of the pairs: `mrr@10` and `accuracy`, fractions.

    The rank of a query is that of its best positive; its other positives, and a document that is the query's own text,
    do not count, and a document that ties with it does.
    """
    x = F.normalize(vectors, dim=1) if similarity == "cos" else vectors
    queries, query, documents, positive = pairs.numbered()
    order = torch.argsort(query)
    query, positive = query[order], positive[order]
    ranks = []
    for first in range(0, len(queries), max(1, RANKED_CELLS // len(documents))):
        some = queries[first : first + max(1, RANKED_CELLS // len(documents))]
        begin, end = np.searchsorted(query.cpu().numpy(), [first, first + len(some)])
        scores = x[some] @ x[documents].T  # (some, documents)
        right = torch.zeros_like(scores, dtype=torch.bool)
        right[query[begin:end] - first, positive[begin:end]] = True
        best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        others = ~right & (some[:, None] != documents)
        ranks.append(1 + ((scores >= best) & others).sum(dim=1))
    rank = torch.cat(ranks).double()
    found = torch.where(rank <= TOP, 1 / rank, 0.0)
    return {"mrr@10": found.mean().item(), "accuracy": (rank == 1).double().mean().item()}
