"""Tasks and scores that no other section shows: a table and a picture for each backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from glot.report.cells import Cell, Group, group_cells, make_cells
from glot.report.figures import Picture
from glot.report.results import Result
from glot.report.sections import WHISKERS, Block, Heading, Prose, Section, dots_panel, method_table

EXPLANATION = """\
A cell is the best epoch ± the sample standard deviation over seeds (where there are several), in percent; every \
metric is that of the epoch with the best first metric. The paper has no number to compare with."""


def other_section(results: Sequence[Result], shown: Sequence[Section]) -> Section:
    """The results that no cell of some sections stands for."""
    known = {run for section in shown for run in section.runs}
    known |= {run for section in shown for cell in section.cells for run in cell.runs}
    cells = _cells([result for result in results if result.path not in known])
    blocks: list[Block] = [Prose(EXPLANATION)] if cells else []
    for group in group_cells(cells):
        blocks += _group_blocks(group)
    return Section("Other tasks", blocks, "other", order=1, key="other", cells=cells)


def _cells(results: Sequence[Result]) -> list[Cell]:
    """A cell a metric of every result; of another set than validation its task is "task (set)"."""
    cells = []
    for task in sorted({result.task for result in results}):
        here = [result for result in results if result.task == task]
        for set_name, metric in dict.fromkeys(
            (name, metric) for result in here for name, metrics in result.best.items() for metric in metrics
        ):
            title = task if set_name == "validation" else f"{task} ({set_name})"
            cells += [replace(cell, task=title) for cell in make_cells(here, set_name, metric)]
    return cells


def _group_blocks(group: Group) -> list[Block]:
    columns: dict[str, list[Cell]] = {}  # a cell's title is the heading
    first: dict[str, str] = {}  # the heading of each task and set by the metric that chose the epoch
    for cell in group.cells:
        columns.setdefault(cell.title, []).append(cell)
        first.setdefault(cell.task, cell.title)
    panels = [panel for title in first.values() for panel in dots_panel(title, columns[title], group.methods)]
    blocks: list[Block] = [Heading(group.title), method_table(group, columns)]
    return [*blocks, Picture(group.title, panels, WHISKERS)] if panels else blocks
