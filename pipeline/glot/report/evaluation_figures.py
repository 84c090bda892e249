"""The plots of an evaluation's page: scores beside yardsticks, calibration, scores against labels, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glot.fit.calibration import Calibration
from glot.fit.curve import LearningCurve
from glot.report.figures import LINE, Tips, row_text
from glot.report.methods import INK, METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, OTHER = METHODS["glot"].colour, METHODS["logreg-mean"].colour
MOST_POINTS = 2000  # of a scatter plot; more only make the page heavy


@dataclass(frozen=True)
class Ranges:
    """A row a method: its name and number, below them the dot and its interval (None: it has none), in percent."""

    title: str
    x_label: str
    rows: Sequence[tuple[str, float, tuple[float, float] | None, str]]

    @property
    def height(self) -> float:
        """Inches."""
        return 0.7 + 0.5 * len(self.rows)

    @property
    def description(self) -> str:
        """The panel in words."""
        return f"{self.title}: {', '.join(f'{name} {text}' for name, _, _, text in self.rows)}"

    def draw(self, axes: Axes, tips: Tips) -> None:
        """Draw the rows from the top; the first is the head."""
        for row, (name, value, ends, text) in enumerate(self.rows):
            colour = OTHER if row else OURS
            row_text(axes, row, name, text, above=6)
            if ends is not None:
                axes.plot(ends, [row, row], color=colour, lw=2.5, alpha=0.5, solid_capstyle="round")
            axes.plot([value], [row], "s" if row else "o", color=colour, markersize=6)
        axes.set(xlabel=self.x_label, ylim=(len(self.rows) - 0.6, -0.85), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        axes.grid(axis="x", lw=0.6)


@dataclass(frozen=True)
class Reliability:
    """How often answers are right over how sure they are; a point's size is the share of the answers in its bin."""

    title: str
    series: Sequence[tuple[str, Calibration]]
    height: float = 3.0

    @property
    def description(self) -> str:
        """The panel in words."""
        parts = [f"{name}, expected calibration error {100 * one.error:.1f} points" for name, one in self.series]
        return f"{self.title}: {'; '.join(parts)}"

    def draw(self, axes: Axes, tips: Tips) -> None:
        """Draw a line a calibration, and the diagonal on which each would be right."""
        lowest = 100.0
        for (name, found), colour, mark in zip(self.series, (OURS, OTHER), ("o", "s"), strict=False):
            bins = [one for one in found.bins if one.count]
            most = max(one.count for one in bins)
            x, y = ([100 * getattr(one, part) for one in bins] for part in ("confidence", "accuracy"))
            lowest = min(lowest, *x, *y)
            axes.plot(x, y, color=colour, lw=1.2, label=name)
            axes.scatter(x, y, [12 + 60 * one.count / most for one in bins], color=colour, marker=mark, alpha=0.75)
        low = 10 * (lowest // 10)
        axes.plot([low, 100], [low, 100], color=INK, lw=0.7, ls=":")
        axes.set(xlabel="probability of the answer, %", ylabel="answers that are right, %")
        axes.set(xlim=(low, 102), ylim=(low, 104))
        axes.grid(lw=0.6)
        axes.legend(loc="upper left", frameon=False)


@dataclass(frozen=True)
class Scatter:
    """Answers over labels, a dot an example, and the diagonal on which both are the same."""

    title: str
    labels: np.ndarray
    answers: np.ndarray
    height: float = 3.0

    @property
    def description(self) -> str:
        """The panel in words."""
        return f"{self.title}: {len(self.labels):,} examples"

    def draw(self, axes: Axes, tips: Tips) -> None:
        """Draw the dots; of many examples a sample."""
        places = np.random.default_rng(0).permutation(len(self.labels))[:MOST_POINTS]
        x, y = self.labels[places], self.answers[places]
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axes.plot(ends, ends, color=INK, lw=0.7, ls=":")
        axes.scatter(x, y, 9, color=OURS, alpha=0.45, linewidths=0)
        axes.set(xlabel="label", ylabel="answer")
        axes.grid(lw=0.6)


@dataclass(frozen=True)
class Residuals:
    """How many answers are how far off."""

    title: str
    residuals: np.ndarray
    height: float = 3.0

    @property
    def description(self) -> str:
        """The panel in words."""
        low, middle, high = np.quantile(self.residuals, (0.05, 0.5, 0.95))
        return f"{self.title}: nine in ten between {low:.3g} and {high:.3g}, the median {middle:.3g}"

    def draw(self, axes: Axes, tips: Tips) -> None:
        """Draw the histogram, and a line at 0."""
        axes.hist(self.residuals, bins="auto", color=OURS, alpha=0.75)
        axes.axvline(0, color=INK, lw=0.7, ls=":")
        axes.set(xlabel="answer − label", ylabel="examples")
        axes.grid(axis="y", lw=0.6)


@dataclass(frozen=True)
class Growth:
    """Scores over the number of training examples, doublings side by side, with bands of the 95 % intervals."""

    title: str
    curve: LearningCurve
    height: float = 3.0

    @property
    def description(self) -> str:
        """The panel in words."""
        points = [f"{one.method} {one.examples:,}: {100 * one.score.value:.1f}" for one in self.curve.points]
        return f"{self.title}: {', '.join(points)}"

    def draw(self, axes: Axes, tips: Tips) -> None:
        """Draw the line."""
        points = self.curve.points
        x, y = [one.examples for one in points], [100 * one.score.value for one in points]
        if all(one.score.low is not None for one in points):
            low = [100 * (one.score.low or 0.0) for one in points]
            high = [100 * (one.score.high or 0.0) for one in points]
            axes.fill_between(x, low, high, color=OTHER, alpha=0.14, lw=0, gid="band")
        axes.plot(x, y, marker="s", color=OTHER, lw=1.5, markersize=5, label=points[0].method)
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{count:,}" for count in x])
        axes.minorticks_off()
        axes.set(xlabel="training examples", ylabel=f"{self.curve.metric}, %")
        axes.grid(lw=0.6, color=LINE)
        axes.legend(loc="best", frameon=False)
