"""What a run's ONNX files compute: token ids to vectors and answers; for pairs, two vectors to an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from glot.extract.forward import Backbone
from glot.extract.planning import added_tokens, ending

if TYPE_CHECKING:
    from glot.export.pooling_module import GlotPooling

INPUTS, PAIR_INPUTS = ("input_ids", "attention_mask"), ("vectors_a", "vectors_b")


def answer_name(pooling: GlotPooling) -> str | None:
    """What its head gives: "probabilities" of classes or labels, "scores" in the task's units, None without a head."""
    if pooling.head is None:
        return None
    return "probabilities" if pooling.config.classes else "scores"


def answer(pooling: GlotPooling, vectors: Tensor, vectors_b: Tensor | None = None) -> Tensor:
    """(B, C) probabilities or (B,) scores of vectors (B, D), for pairs with those of the second texts."""
    raw = pooling.raw(vectors, vectors_b)
    return pooling.probabilities(raw) if pooling.config.classes else pooling.scores(raw)


class TextGraph(nn.Module):
    """From ids and mask (B, L) int64, padded on the right: vectors (B, D); for a head of one text also its answer.

    Args:
        backbone: in float32. pooling: of a run on it. layers: that it reads.

    Attributes:
        outputs: their names.
    """

    def __init__(self, backbone: Backbone, pooling: GlotPooling, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.weights, self.backbone, self.layers, self.pooling = backbone.model, backbone, layers, pooling
        # A tokenizer that adds no token of its own leaves an empty text none: the run reads one ending instead.
        self.ending = None if any(added_tokens(backbone.tokenizer)) else ending(backbone.tokenizer)
        name = answer_name(pooling) if pooling.config.num_texts == 1 else None
        self.outputs = ("vectors",) if name is None else ("vectors", name)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """The outputs by the names in `outputs`."""
        if self.ending is not None:
            first = torch.arange(ids.shape[1], device=ids.device) == 0
            filled = first & (mask.sum(dim=1, keepdim=True) == 0)  # (B, L)
            ids, mask = ids.masked_fill(filled, self.ending), mask.masked_fill(filled, 1)
        found = [states.float() for states in self.backbone.hidden_states(ids, mask, self.layers)]
        features = {"token_embeddings": found[-1], "attention_mask": mask}
        vectors = self.pooling({**features, "all_layer_embeddings": dict(zip(self.layers, found, strict=True))})[
            "sentence_embedding"
        ]
        return (vectors, answer(self.pooling, vectors)) if len(self.outputs) > 1 else (vectors,)


class PairGraph(nn.Module):
    """From the vectors (B, D) of the first and the second texts of B pairs: the head's answer."""

    def __init__(self, pooling: GlotPooling) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, vectors_a: Tensor, vectors_b: Tensor) -> Tensor:
        """(B, C) probabilities, or (B,) scores."""
        return answer(self.pooling, vectors_a, vectors_b)
