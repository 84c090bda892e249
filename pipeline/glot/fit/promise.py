"""What train alone says that a head will score on other examples, and whether a set bears it out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from glot.fit.statistics import Interval
from glot.fit.yardsticks import Judgement, describe_interval


@dataclass(frozen=True)
class Promise:
    """The score that a head should have on examples like those of train, told before any other was looked at.

    Attributes:
        metric: the task's first.
        score: on the held-out examples of train, with its 95 % interval.
        learned: how many examples those heads learned from that were scored. of: how many the winner learns from.
    """

    metric: str
    score: Interval
    learned: int
    of: int

    @property
    def line(self) -> str:
        """It in a line."""
        return (
            f"expected of other examples like these: {self.metric} {describe_interval(self.score)} "
            f"({self.score.examples:,} held-out examples, heads trained on {self.learned:,} of {self.of:,})"
        )

    def margin(self, found: Interval) -> float | None:
        """How far a set's score may lie from the promise by chance: both are of so many examples only.

        The root of the sum of squares of both half intervals on the sides that face each other; None where one of the
        two has no interval.
        """
        sides = (self.score.high, found.low) if found.value >= self.score.value else (self.score.low, found.high)
        if sides[0] is None or sides[1] is None:
            return None
        return math.hypot(sides[0] - self.score.value, sides[1] - found.value)

    def is_kept(self, found: Interval) -> bool | None:
        """Whether a set's score is the promised one but for chance; None where that cannot be told."""
        margin = self.margin(found)
        return None if margin is None else abs(found.value - self.score.value) <= margin

    def verdict(self, judgement: Judgement) -> str | None:
        """Whether the score of a set is the expected one, in one line; None where that cannot be told."""
        margin = self.margin(judgement.score)
        if margin is None:
            return None
        value, away = 100 * self.score.value, 100 * (judgement.score.value - self.score.value)
        said = f"{judgement.set_name} is {abs(away):.1f} {'above' if away >= 0 else 'below'} the expected {value:.1f}"
        if self.is_kept(judgement.score):
            return f"{said}, which chance explains (up to {100 * margin:.1f})"
        why = (
            "its examples are easier than those of train"
            if away > 0
            else "its examples are of another kind than those of train, or train has many that are alike"
        )
        return f"{said}, which is more than chance (up to {100 * margin:.1f}): {why}"
