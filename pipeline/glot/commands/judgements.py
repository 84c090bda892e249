"""Lines about heads that were trained: what they score beside the yardsticks, and what an ensemble is for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glot.commands.console import tell

if TYPE_CHECKING:
    from glot.fit.yardsticks import Judgement


def print_judgements(judgements: list[Judgement], whose: str = "") -> None:
    """A line a set and metric; and of each set whether the head is clearly better, by the task's first metric."""
    judged: set[str] = set()
    for judgement in judgements:
        tell(whose + judgement.line)
        if judgement.verdict is not None and judgement.set_name not in judged:
            tell(whose + judgement.verdict)
        judged.add(judgement.set_name)


def tell_ensemble(folder: Path, count: int, cache: object) -> None:
    """What the ensemble in a folder is, and the commands that take it."""
    tell(
        f"the ensemble, the mean of {count} heads, gives labels and scores as a run does: `glot evaluate --run "
        f"{folder} --cache {cache}`, `glot predict --run {folder}`"
    )
