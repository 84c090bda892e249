"""A run's backbone, and what it makes of new texts: padded batches of states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from glot.errors import UsageError
from glot.extract.backbone import load_backbone_of
from glot.extract.forward import Backbone, length_batches, token_budget
from glot.extract.held import BackboneLike, hold_backbone_of, is_held
from glot.extract.options import check_engine
from glot.extract.planning import length_limit, tokenize_filled
from glot.extract.ready import ready_backbone_of
from glot.nn.config import TokenChoice
from glot.nn.tokens import TokenBatch
from glot.store.layout import StatesIdentity
from glot.store.plan import CONTENT


@dataclass(frozen=True, eq=False)
class Forwarded:
    """One padded batch as the backbone saw it.

    Attributes:
        hidden: (B, L, n d) states of n layers side by side, on the backbone's device, in its dtype.
        mask: (B, L) bool, True for real tokens. content: (B, L) bool, True for the text's own. Both on the CPU.
    """

    hidden: torch.Tensor
    mask: torch.Tensor
    content: torch.Tensor

    def of_layers(self, places: list[int], width: int) -> Forwarded:
        """The states of some of the layers, by their places among the n, each `width` numbers wide."""
        layers = self.hidden.split(width, dim=2)
        if places == list(range(len(layers))):
            return self
        return replace(self, hidden=torch.cat([layers[place] for place in places], dim=2))

    def pack(self, tokens: TokenChoice, device: torch.device) -> TokenBatch:
        """The float32 states on `device`, without padding: of all tokens, or content (a text without any keeps all)."""
        mask = self.mask
        if tokens == "content":
            mask = torch.where(self.content.any(dim=1, keepdim=True), self.content, mask)
        return TokenBatch(self.hidden[mask.to(self.hidden.device)].float().to(device), mask.sum(dim=1))


def forward_texts(
    texts: list[str],
    states: StatesIdentity,
    max_tokens: int,
    layers: tuple[int, ...],
    backbone: Backbone,
    batch_size: int | None = None,
) -> Iterator[tuple[np.ndarray, Forwarded]]:
    """Indices of some texts and what the backbone made of them, until all are done; those of similar length together.

    The texts (of a template of pairs, as `join_pair` makes them) are filled into that of `states` and cut at
    `max_tokens`; at most `batch_size` texts are forwarded at a time.

    Raises UsageError for a `batch_size` below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size must be 1 at least, or None; got {batch_size}")
    tokens = tokenize_filled(texts, states.template, backbone, max_tokens)
    lengths = np.asarray([len(row) for row in tokens.ids])
    batches = length_batches(lengths, token_budget(backbone, states), backbone.pads)
    size = batch_size or max(len(texts), 1)
    for indices in (some[start : start + size] for some in batches for start in range(0, len(some), size)):
        padded, mask = backbone.pad([tokens.ids[index] for index in indices])
        real = mask.bool()
        content = torch.zeros_like(real)
        content[real] = torch.from_numpy(np.concatenate([tokens.kinds[index] for index in indices]) == CONTENT)
        hidden = backbone.hidden_states(padded, mask, layers)
        yield indices, Forwarded(hidden[0] if len(hidden) == 1 else torch.cat(hidden, dim=2), real, content)


def load_run_backbone(
    states: StatesIdentity,
    run: Path | str,
    model: BackboneLike | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    layers: tuple[int, ...] = (),
    engine: str = "torch",
) -> Backbone:
    """The backbone that states were made with: found where the run says, or as `model` says, or the one that it is.

    Where `engine` leaves the choice, and all that OpenVINO needs for these layers is kept, it comes with that engine.

    Raises UsageError where it is not there, or is another one, TypeError where `model` is nothing that is understood.
    """
    what = f"that {run} was trained on"
    if model is not None and is_held(model):
        backbone = hold_backbone_of(states, what, model, device)
    else:
        name, ready = None if model is None else str(model), None
        if check_engine(engine) != "torch" and not trust_remote_code:
            ready = ready_backbone_of(states, what, name, device, layers)
        backbone = ready or load_backbone_of(states, what, name, device, trust_remote_code)
    length_limit(backbone, states.max_tokens, states.max_tokens, states.template)
    return backbone
