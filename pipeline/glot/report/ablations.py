"""Groups of runs that ask one question each: a table and a picture of the scores of every setting that was tried."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from glot.report.backends import BACKENDS
from glot.report.cells import (
    NOTHING,
    Cell,
    cell_text,
    cells_csv,
    kind_of,
    make_cells,
    markdown_table,
    method_name,
    method_order,
    number_of,
    score_bounds,
    sections,
)
from glot.report.figures import draw_line, legend_below, picture_line, save_picture, whiskers
from glot.report.results import OWN, YARDSTICK, Result
from glot.report.styles import styles_for
from glot.store.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE_SETTINGS = ("published", "converged", "holdout", YARDSTICK, OWN)  # these have tables of their own


PANELS_A_ROW = 4


@dataclass(frozen=True)
class Question:
    """A group of runs of one backbone: its cells by task and method, and the densities of their graphs in percent."""

    setting: str
    model: str
    cells: dict[tuple[str, str], Cell]
    densities: dict[tuple[str, str], float]

    @property
    def tasks(self) -> list[str]:
        """The tasks, sorted."""
        return sorted({task for task, _ in self.cells})

    def metric(self, task: str) -> str:
        """The metric of a task's scores."""
        return next((cell.metric for (name, _), cell in self.cells.items() if name == task), NOTHING)

    @property
    def kind(self) -> str | None:
        """Of the backbone, see `Cell`."""
        return kind_of(self.cells.values())

    @property
    def methods(self) -> list[str]:
        """The methods in the order of the tables; those whose names end in a number by that."""
        return sorted({method for _, method in self.cells}, key=method_order)


def find_questions(results: Sequence[Result]) -> list[Question]:
    """All groups of runs that are in no table of the paper."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        if result.setting not in (*TABLE_SETTINGS, BACKENDS):
            groups[result.setting, result.model].append(result)
    return [_question(*key, group) for key, group in sorted(groups.items())]


def _question(setting: str, model: str, results: list[Result]) -> Question:
    cells, densities = {}, {}
    for task in sorted({result.task for result in results}):
        ours = [result for result in results if result.task == task]
        set_name, scores = next(iter(ours[0].best.items()))
        for cell in make_cells(ours, set_name, next(iter(scores)), lambda *_: None):
            cells[task, cell.method] = cell
            known = [r.density for r in ours if r.method == cell.method and r.density is not None]
            if known:
                densities[task, cell.method] = 100 * mean(known)
    return Question(setting, model, cells, densities)


def write_ablations(questions: Sequence[Question], out: Path) -> list[Path]:
    """Write `ablations.md`, `ablations.csv` and a picture of each question; nothing where nothing was asked."""
    if not questions:
        return []
    page, table = out / "ablations.md", out / "ablations.csv"
    parts, pictures = ["# What each part is worth", EXPLANATION], []
    for question in questions:
        picture = out / f"{question.setting}-{question.model}.png"
        columns = min(PANELS_A_ROW, len(question.tasks))
        size = (4.2 * max(2, columns), 3.4 * -(-len(question.tasks) // columns) + 0.2)
        drawn = save_picture(picture, size, lambda figure, question=question: _draw(figure, question))
        pictures += [picture] if drawn else []
        title = f"## {question.setting}, {question.model}"
        parts += [title, _table(question), picture_line(picture, question.setting, drawn)]
    write_text(page, "\n\n".join(parts) + "\n")
    cells = [cell for question in questions for cell in question.cells.values()]
    write_text(table, cells_csv(sections(cells)))
    return [page, table, *pictures]


EXPLANATION = """\
The best epoch on validation, in percent, mean ± sample standard deviation over seeds; in brackets the share of token \
pairs that the graph joins. Every setting has the same number of trials; none was searched."""


def _table(question: Question) -> str:
    rows = [
        [method_name(method, question.kind), *(_entry(question, task, method) for task in question.tasks)]
        for method in question.methods
    ]
    header = ["", *(f"{task} ({question.metric(task)})" for task in question.tasks)]
    return markdown_table(header, rows)


def _entry(question: Question, task: str, method: str) -> str:
    cell, density = question.cells.get((task, method)), question.densities.get((task, method))
    text = cell_text(cell, with_paper=False)
    return text if cell is None or density is None else f"{text} ({density:.0f} %)"


def _draw(figure: Figure, question: Question) -> None:
    columns = min(PANELS_A_ROW, len(question.tasks))
    panels = figure.subplots(-(-len(question.tasks) // columns), columns, squeeze=False).flat
    for task, panel in zip(question.tasks, panels, strict=False):  # a last row may have panels to spare
        methods = [method for method in question.methods if (task, method) in question.cells]
        if all(number_of(method) is not None for method in methods):
            _draw_lines(panel, question, task, methods)
        else:
            _draw_points(panel, question, task, methods)
        panel.set_title(f"{task}, {question.model}", fontsize=9)
        panel.grid(alpha=0.3)
    for panel in panels:
        panel.set_axis_off()
    if any(len(panel.get_legend_handles_labels()[1]) > 1 for panel in figure.axes):
        legend_below(figure, columns=6)


def _draw_lines(panel: Axes, question: Question, task: str, methods: list[str]) -> None:
    bounds = score_bounds(question.metric(task))
    for base, points in curves(question, task, methods):
        draw_line(panel, base.partition(",")[0], method_name(base, question.kind), points, bounds)
    panel.set_xlabel(methods[0].rpartition("=")[0].rpartition(",")[2])
    panel.set_ylabel(f"{question.metric(task)} (%)")


def curves(question: Question, task: str, methods: list[str]) -> Iterator[tuple[str, list[tuple[float, float, float]]]]:
    """What stands before the last number of each method, and its (value, mean, std), by ascending value."""
    curves: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for method in methods:
        cell = question.cells[task, method]
        curves[method.rpartition(",")[0]].append((number_of(method) or 0.0, cell.mean, cell.std or 0.0))
    for base, points in curves.items():
        yield base, sorted(points)


def _draw_points(panel: Axes, question: Question, task: str, methods: list[str]) -> None:
    cells = [question.cells[task, method] for method in methods]
    places = range(len(methods))
    styles = styles_for(methods)
    for place, cell in zip(places, cells, strict=True):
        ends, colour = whiskers([(place, cell.mean, cell.std)], cell.bounds), styles[cell.method].colour
        panel.errorbar(cell.mean, place, xerr=ends, color=colour, marker="o", markersize=5, capsize=2)
    panel.set_yticks(list(places), [method_name(method, question.kind) for method in methods], fontsize=7)
    panel.invert_yaxis()
    panel.set_xlabel(f"{question.metric(task)} (%)")
