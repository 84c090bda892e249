"""Learning rates as functions of where a fit is, so that a fit that goes on needs no state of theirs."""

from __future__ import annotations

import math

PLATEAU_EPOCHS = 2


def lr_factor(schedule: str, share: float, scores: list[float]) -> float:
    """What a schedule makes of the learning rate.

    Args:
        schedule: see `TrainConfig`. share: of all steps that are done, 0 to 1. scores: of each epoch so far.
    """
    if schedule == "plateau":
        return 0.5 ** count_plateaus(scores)
    return {"constant": 1.0, "linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2}[schedule]


def count_plateaus(scores: list[float]) -> int:
    """How often a score has not become better for `PLATEAU_EPOCHS` epochs."""
    best, stale, count = -math.inf, 0, 0
    for score in scores:
        best, stale = (score, 0) if score > best else (best, stale + 1)
        if stale == PLATEAU_EPOCHS:
            count, stale = count + 1, 0
    return count
