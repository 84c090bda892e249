"""The page's sections on what each part is worth and on what a label costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from glot.report.ablations import EXPLANATION as ABLATIONS_EXPLANATION
from glot.report.ablations import Question, curves
from glot.report.backends import EXPLANATION as BACKENDS_EXPLANATION
from glot.report.backends import HEADER as BACKENDS_HEADER
from glot.report.backends import BothScores, groups_of, summary
from glot.report.cells import method_name, number_of, ours_text, score_bounds
from glot.report.costs import EXPLANATION as COSTS_EXPLANATION
from glot.report.costs import PAPER_HEADER, PAPER_TITLE, CostTable, published_costs, published_rows
from glot.report.page_tables import cell_of, cells_table, figure, prose, table
from glot.report.styles import styles_for
from glot.report.svg import Dot, Line, dot_plot, line_plot, spread

MOST_DOTS = 40  # of a plot; a longer list is a table's business


def ablations_html(questions: Sequence[Question], out: Path | None) -> str:
    """A table and a plot a task for each question."""
    if not questions:
        return ""
    return prose(ABLATIONS_EXPLANATION) + "".join(_question(question, out) for question in questions)


def _question(question: Question, out: Path | None) -> str:
    tasks, methods = question.tasks, question.methods
    title = f"{question.setting}, {question.model}"
    rows = [
        (_with_density(question, method), [question.cells.get((task, method)) for task in tasks]) for method in methods
    ]
    tables = cells_table(title, "method", [f"{task}: {question.metric(task)}" for task in tasks], rows, out)
    plots = [_plot(question, task) for task in tasks]
    return f"<h3>{escape(title)}</h3>{tables}" + figure(
        plots, "Scores in percent; whiskers and bands: ± std over seeds."
    )


def _with_density(question: Question, method: str) -> str:
    """A method's name, and the share of token pairs that its graphs join, over all tasks."""
    name = method_name(method, question.kind)
    known = [value for (_, other), value in question.densities.items() if other == method]
    ends = dict.fromkeys(f"{value:.0f}" for value in (min(known), max(known))) if known else ()
    return f"{name} ({'–'.join(ends)} % joined)" if known else name


def _plot(question: Question, task: str) -> str:
    methods = [method for method in question.methods if (task, method) in question.cells]
    title, metric = f"{task}, {question.model}", f"{question.metric(task)} (%)"
    if len(methods) > 1 and all(number_of(method) is not None for method in methods):
        found = list(curves(question, task, methods))
        styles = styles_for([base for base, _ in found])
        bounds = score_bounds(question.metric(task))
        lines = [Line(method_name(base, question.kind), styles[base], points, bounds) for base, points in found]
        reach = [end for line in lines for _, y, std in line.points for end in spread(y, std, bounds)]
        y_range = (math.floor(min(reach)), math.ceil(max(reach)) or 1)
        x_label = methods[0].rpartition("=")[0].rpartition(",")[2]
        return line_plot(title, x_label, metric, lines, y_range, guide=y_range[0])
    styles = styles_for(methods)
    cells = [question.cells[task, method] for method in methods]
    dots = [
        Dot(method_name(c.method, c.kind), styles[c.method], c.mean, c.std, ours_text(c), None, c.bounds) for c in cells
    ]
    return dot_plot(title, metric, dots) if len(dots) <= MOST_DOTS else ""


def backends_html(found: Sequence[BothScores]) -> str:
    """A table for each pair of heads that were judged with both backends."""
    parts = [prose(BACKENDS_EXPLANATION)] if found else []
    for title, group in groups_of(found).items():
        rows = [(row[0], [cell_of(text) for text in row[1:]]) for both in group for row in both.rows()]
        parts += [f"<h3>{escape(title)}</h3>", table(title, BACKENDS_HEADER, rows), prose(summary(group))]
    return "".join(parts)


def costs_html(tables: Sequence[CostTable]) -> str:
    """The tables of costs, the paper's after ours, and bars of the steps."""
    if not tables:
        return ""
    parts = [prose(COSTS_EXPLANATION)]
    for found in tables:
        rows = [(row[0], [cell_of(value) for value in row[1:]]) for row in found.rows()]
        ways = [(way["name"], 1e3 * way["step"]) for way in found.data["costs"]]
        parts += [f"<h3>{escape(found.title)}</h3>", table(found.title, ["way", *found.header[1:]], rows), _bars(ways)]
    rows = [(row[0], [cell_of(value) for value in row[1:]]) for row in published_rows()]
    ways = [(row["method"], float(row["step_ms"])) for row in published_costs()]
    parts += [f"<h3>{escape(PAPER_TITLE)}</h3>", table(PAPER_TITLE, ["way", *PAPER_HEADER[1:]], rows), _bars(ways)]
    return "".join(parts)


def _bars(ways: Sequence[tuple[str, float]]) -> str:
    """Milliseconds a step as bars on a logarithmic scale; the numbers stand in words."""
    low, high = min(value for _, value in ways), max(value for _, value in ways)
    span = math.log10(high / low) or 1.0
    items = "".join(
        f'<li><span>{escape(name)}: {value:,.1f} ms</span><span class="bar" '
        f'style="width: {8 + 92 * math.log10(value / low) / span:.1f}%"></span></li>'
        for name, value in ways
    )
    return f'<ul class="bars" aria-label="Milliseconds a step, logarithmic">{items}</ul>'
