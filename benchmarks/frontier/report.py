"""Tables and the picture of what was measured."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scipy import stats

from benchmarks.frontier.results import FAMILIES, METHODS, SCORES, Measured, TaskName, samples_of
from glot.errors import UsageError
from glot.store.files import atomic_path, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, WHOLE = "strong", "full"  # what costs are compared with, and scores
SCORE_TITLES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "mcc": "Matthews correlation",
    "mean correlation": "mean of Pearson and Spearman",
}
COLOURS = {
    "logistic": ("#7F6B5D", "o"),
    "logistic-best-layer": ("#A6761D", "s"),
    "published": ("#56B4E9", "^"),
    "adapool": ("#7A7A7A", "v"),
    "strong": ("#0072B2", "D"),
    "tuned": ("#004466", "P"),
    "setfit": ("#CC79A7", "X"),
    "lora": ("#E69F00", "<"),
    "full": ("#D55E00", ">"),
}
WIDTH, HEIGHT = 4.06, 2.7  # inches: 390 px wide at 96 a inch; high, a panel


@dataclass(frozen=True)
class Row:
    """A method on a task with a backbone: its samples.

    Attributes:
        seconds: the median of the samples that a processor trained; None where a GPU did all.
        scores: name -> a value a sample, as fractions, the main one first. not_done: why there are none.
    """

    method: str
    parameters: int
    seconds: float | None
    scores: dict[str, list[float]]
    not_done: str = ""

    @property
    def main(self) -> float:
        """The mean of the main score."""
        return statistics.mean(next(iter(self.scores.values())))


def interval(values: list[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95 % interval by Student's t; None of one value."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, None
    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    return mean, quantile * statistics.stdev(values) / len(values) ** 0.5


def rows_of(results: list[Measured], task: str, model: str) -> dict[str, Row]:
    """What was measured of a task with a backbone, by method, in the methods' order."""
    rows = {}
    for method in METHODS:
        samples = samples_of(results, task, model, method)
        done = [one for one in samples if not one.not_done]
        if done:
            scores = {name: [one.scores[name] for one in done] for name in SCORES[TaskName.parse(task).family]}
            spent = [one.processor_seconds for one in done if one.device == "cpu"]
            seconds = statistics.median(spent) if spent else None
            rows[method] = Row(method, done[0].parameters, seconds, scores)
        elif samples:
            rows[method] = Row(method, 0, 0.0, {}, samples[0].not_done)
    return rows


def groups_of(results: list[Measured]) -> list[tuple[str, str]]:
    """Each task and backbone, a family's samples by their size and before the whole of it."""
    families = list(FAMILIES)

    def rank(group: tuple[str, str]) -> tuple:
        name = TaskName.parse(group[0])
        return group[1], families.index(name.family), name.size is None, name.size or 0

    return sorted({(one.task, one.model) for one in results}, key=rank)


def write_report(results: list[Measured], path: Path) -> None:
    """A table a task and backbone, as Markdown."""
    lines = [
        "Validation scores in percent, mean ± half the 95 % interval over samples or seeds (their number in brackets);",
        "processor seconds of training, median, extraction and the search of learning rates counted. Of full: the",
        "share of full fine-tuning's score; cost: processor seconds over those of strong; a GPU's count for none.",
    ]
    for task, model in groups_of(results):
        lines += ["", f"### {TaskName.parse(task).title}, `{model}`", "", *table(results, task, model)]
    write_text(path, "\n".join(lines) + "\n")


def write_scores(results: list[Measured], path: Path) -> None:
    """A line a task, backbone, method and metric, as CSV; what was not done has none."""
    lines = ["task,model,method,metric,percent,half_interval,samples,parameters,processor_seconds"]
    for task, model in groups_of(results):
        for row in rows_of(results, task, model).values():
            for name, values in row.scores.items():
                mean, half = interval([100 * value for value in values])
                width = "" if half is None else f"{half:.1f}"
                seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
                numbers = f"{mean:.1f},{width},{len(values)},{row.parameters},{seconds}"
                lines.append(f"{task},{model},{row.method},{SCORE_TITLES[name]},{numbers}")
    write_text(path, "\n".join(lines) + "\n")


def table(results: list[Measured], task: str, model: str) -> list[str]:
    """The lines of one table."""
    rows, names = rows_of(results, task, model), SCORES[TaskName.parse(task).family]
    titles = [SCORE_TITLES[name] for name in names]
    lines = [
        f"| method | trained parameters | processor seconds | {' | '.join(titles)} | of full | cost |",
        "|---" + "|---:" * (len(names) + 4) + "|",
    ]
    whole, ours = (rows.get(name) for name in (WHOLE, OURS))
    for row in rows.values():
        if row.not_done:
            lines.append(f"| {METHODS[row.method]} | | | {row.not_done}{' |' * len(names)} | |")
            continue
        cells = [METHODS[row.method], f"{row.parameters:,}", _seconds(row.seconds)]
        cells += [_score(values) for values in row.scores.values()]
        has_share = whole is not None and whole.scores and whole.main > 0
        cells.append(f"{100 * row.main / whole.main:.1f} %" if whole is not None and has_share else "")
        cells.append(f"{row.seconds / ours.seconds:.3g}" if ours and row.seconds and ours.seconds else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _score(values: list[float]) -> str:
    mean, half = interval([100 * value for value in values])
    return f"{mean:.1f}" + ("" if half is None else f" ± {half:.1f}") + f" ({len(values)})"


def draw(results: list[Measured], path: Path) -> None:
    """Score over processor seconds: a panel a task and backbone, a line a method through its samples' sizes.

    Raises UsageError where matplotlib is missing, or nothing has a score.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--picture needs matplotlib: pip install 'glot-pipeline[report]'") from None
    panels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for task, model in groups_of(results):
        if any(row.scores for row in rows_of(results, task, model).values()):
            panels[TaskName.parse(task).family, model].append(task)
    if not panels:
        raise UsageError("--picture: nothing has a score yet")
    figure = Figure(figsize=(WIDTH, HEIGHT * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axis, ((family, model), tasks) in zip(axes, panels.items(), strict=True):
        _draw_panel(axis, [rows_of(results, task, model) for task in tasks])
        axis.set_title(f"{FAMILIES[family]}, {model}" + _sizes(tasks), fontsize=9, loc="left")
        axis.set_ylabel(f"{SCORE_TITLES[SCORES[family][0]]}, %", fontsize=8)
    axes[-1].set_xlabel("processor seconds of training", fontsize=8)
    with atomic_path(path) as made:
        figure.savefig(made, format=path.suffix.removeprefix(".") or "png", dpi=192)


def _sizes(tasks: list[str]) -> str:
    """What a line's points are, where it has several."""
    sizes = [TaskName.parse(task).size for task in tasks]
    if sizes == [None]:
        return ""
    return ": " + ", ".join("all" if size is None else f"{size:,}" for size in sizes) + " rows"


def _draw_panel(axis: Axes, tables: list[dict[str, Row]]) -> None:
    """A line a method through its tables, its name at the right edge beside the last point."""
    ends: list[tuple[float, float, str]] = []
    for method, (colour, marker) in COLOURS.items():
        rows = [rows[method] for rows in tables if method in rows and rows[method].scores]
        points = [(max(row.seconds, 0.01), 100 * row.main) for row in rows if row.seconds is not None]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        width = 2 if method == OURS else 1
        axis.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=width, alpha=0.9, zorder=3)
        ends.append((y[-1], x[-1], method))
    axis.set_xscale("log")
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=8)
    low, high = axis.get_ylim()
    room = (high - low) / 11  # a line of the labels' type
    places = spread([y for y, _, _ in sorted(ends)], room)
    axis.set_ylim(min(low, places[0] - room / 2), max(high, places[-1] + room / 2))
    for (end, last, method), place in zip(sorted(ends), places, strict=True):
        axis.annotate(
            METHODS[method],
            (last, end),
            xytext=(1.04, place),
            textcoords=axis.get_yaxis_transform(),
            fontsize=8,
            color=COLOURS[method][0],
            va="center",
            arrowprops={"arrowstyle": "-", "color": COLOURS[method][0], "linewidth": 0.5, "alpha": 0.6, "shrinkB": 3},
        )


def spread(values: list[float], room: float) -> list[float]:
    """Places for labels, in the values' order (they rise), `room` apart at least, as near to them as a pass can."""
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] + room) if places else value)
    shift = statistics.mean(place - value for place, value in zip(places, values, strict=True))
    return [place - shift for place in places]
