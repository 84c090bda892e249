"""Groups of runs that ask one question each: a table and a picture of the scores of every setting that was tried."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from glot.report.cells import NOTHING, Cell, kind_of, make_cells
from glot.report.figures import Curves, Dots, Line, Picture, Point, spread
from glot.report.methods import in_order, looks_of, method_name, number_of
from glot.report.results import BASELINE, OWN, Result
from glot.report.sections import WHISKERS, Block, Entry, Heading, Prose, Section, Table, dots_panel, entry_of
from glot.reproduce.backends import BACKENDS
from glot.reproduce.published import no_number

TABLE_SETTINGS = ("published", "converged", "holdout", BASELINE, OWN)  # these have tables of their own
EXPLANATION = """\
The best epoch on validation, in percent, mean ± sample standard deviation over seeds; in brackets the share of token \
pairs that the graph joins. Every setting has the same number of trials; none was searched."""


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
        return in_order(method for _, method in self.cells)


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
        for cell in make_cells(ours, set_name, next(iter(scores)), no_number):
            cells[task, cell.method] = cell
            known = [r.density for r in ours if r.method == cell.method and r.density is not None]
            if known:
                densities[task, cell.method] = 100 * mean(known)
    return Question(setting, model, cells, densities)


def ablations_section(questions: Sequence[Question]) -> Section:
    """A table and a picture for each question."""
    blocks: list[Block] = [Prose(EXPLANATION)] if questions else []
    for question in questions:
        title = f"{question.setting}, {question.model}"
        panels = [panel for task in question.tasks for panel in _panels(question, task)]
        blocks += [Heading(title), _table(question, title)]
        if panels:
            blocks.append(Picture(title, panels, WHISKERS, file=f"{question.setting}-{question.model}.png"))
    cells = [cell for question in questions for cell in question.cells.values()]
    title = "What each part is worth"
    return Section(title, blocks, "ablations", order=3, key="ablations", cells=cells)


def _table(question: Question, title: str) -> Table:
    def entry(task: str, method: str) -> Entry:
        density = question.densities.get((task, method))
        note = "" if density is None else f"{density:.0f} %"
        column = [question.cells.get((task, other)) for other in question.methods]
        return entry_of(question.cells.get((task, method)), note=note, among=column)

    rows = [
        (method_name(method, question.kind), [entry(task, method) for task in question.tasks])
        for method in question.methods
    ]
    header = ["method", *(f"{task} ({question.metric(task)})" for task in question.tasks)]
    return Table(title, header, rows)


def _panels(question: Question, task: str) -> Sequence[Curves | Dots]:
    """One panel of a task: curves where every method's name ends in a number, else dots."""
    methods = [method for method in question.methods if (task, method) in question.cells]
    title, metric = f"{task}, {question.model}", question.metric(task)
    if len(methods) == 1 or any(number_of(method) is None for method in methods):
        return dots_panel(title, [question.cells[task, method] for method in methods], methods)
    points: dict[str, list[Point]] = defaultdict(list)  # by what stands before the last number of a method's name
    for method in methods:
        cell = question.cells[task, method]
        points[method.rpartition(",")[0]].append((number_of(method) or 0.0, cell.mean, cell.std or 0.0))
    looks, bounds = looks_of(list(points)), question.cells[task, methods[0]].bounds
    lines = [Line(method_name(base, question.kind), looks[base], sorted(of), bounds) for base, of in points.items()]
    reach = [end for line in lines for _, y, std in line.points for end in spread(y, std, bounds)]
    y_range = (math.floor(min(reach)), math.ceil(max(reach)) or 1)
    x_label = methods[0].rpartition("=")[0].rpartition(",")[2]
    return [Curves(title, x_label, f"{metric} (%)", lines, y_range, guide=y_range[0])]
