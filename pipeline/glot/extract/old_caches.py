"""Going on with a cache that an older program began, which did not record all that its loader read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from glot.errors import UsageError
from glot.extract.backbone import Backbone
from glot.extract.planning import TOKENIZE_BATCH, tokenize_filled
from glot.store.layout import StatesIdentity
from glot.store.plan import Plan

COMPARED_TEXTS = 50_000


def check_old_loader(folder: Path, backbone: Backbone) -> None:
    """Raise UsageError where the weights' hash does not say which weights made the states that are there."""
    if backbone.loader.beyond:
        raise UsageError(
            f"{folder} was made by an older version, which did not record the {' and '.join(backbone.loader.beyond)} "
            f"that {backbone.name} is loaded with: choose another folder with --out"
        )


def check_old_tokens(folder: Path, plan: Plan, backbone: Backbone, states: StatesIdentity) -> None:
    """Raise UsageError where more texts would not be what the cache's texts are.

    Its own texts are tokenized again, those that were cut first, and must come to the very tokens that it holds.
    """
    reason = ""
    if not plan.has_texts:
        reason = "it holds no texts to compare tokens by"
    elif not _same_tokens(plan, backbone, states):
        reason = f"{backbone.name} makes other tokens of its texts now"
    if reason:
        raise UsageError(
            f"{folder} was made by an older version, and {reason}: choose another folder with --out for more texts"
        )


def _same_tokens(plan: Plan, backbone: Backbone, states: StatesIdentity) -> bool:
    cut_first = np.argsort(1 - plan.truncated(0, len(plan)).astype(np.int8), kind="stable")
    chosen = np.sort(cut_first[:COMPARED_TEXTS])
    for first in range(0, len(plan), TOKENIZE_BATCH):
        stop = min(first + TOKENIZE_BATCH, len(plan))
        rows = chosen[(chosen >= first) & (chosen < stop)] - first
        if not len(rows):
            continue
        texts, start = plan.texts(first, stop), plan.token_start[first : stop + 1] - plan.token_start[first]
        ids, kinds = plan.token_ids(first, stop), plan.token_kinds(first, stop)
        made = tokenize_filled([texts[row] for row in rows], states.template, backbone, states.max_tokens)
        for row, mine, kind in zip(rows.tolist(), made.ids, made.kinds, strict=True):
            span = slice(int(start[row]), int(start[row + 1]))
            if not (np.array_equal(mine, ids[span]) and np.array_equal(kind, kinds[span])):
                return False
    return True
