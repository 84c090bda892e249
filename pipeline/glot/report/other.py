"""Tasks that are neither Table 1's nor the stress test's, and scores that these do not show: a table each backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glot.report.cells import (
    Cell,
    Section,
    cell_text,
    cells_csv,
    make_cells,
    markdown_table,
    method_name,
    methods_of,
    sections,
)
from glot.report.results import Result
from glot.store.files import write_text

EXPLANATION = """\
A cell is the best epoch ± the sample standard deviation over seeds (where there are several), in percent; every \
metric is that of the epoch with the best first metric. The paper has no number to compare with."""


def other_cells(results: Sequence[Result], shown: Sequence[Cell]) -> list[Cell]:
    """A cell a metric, of every result that no cell of `shown` stands for; of another set it has "task (set)"."""
    known = {run for cell in shown for run in cell.runs}
    rest = [result for result in results if result.path not in known]
    cells = []
    for task in sorted({result.task for result in rest}):
        here = [result for result in rest if result.task == task]
        for set_name, metric in dict.fromkeys(
            (name, metric) for result in here for name, metrics in result.best.items() for metric in metrics
        ):
            title = task if set_name == "validation" else f"{task} ({set_name})"
            cells += [
                replace(cell, task=title) for cell in make_cells(here, set_name, metric, lambda model, method: None)
            ]
    return cells


def other_columns(section: Section) -> list[Cell]:
    """The first cell of every column of a section; its title is the heading."""
    columns: dict[str, Cell] = {}
    for cell in section.cells:
        columns.setdefault(cell.title, cell)
    return list(columns.values())


def write_other(cells: Sequence[Cell], out: Path) -> list[Path]:
    """Write `other.md` and `other.csv`; nothing where there are no cells."""
    if not cells:
        return []
    page, table, found = out / "other.md", out / "other.csv", sections(cells)
    write_text(page, "\n\n".join(["# Other tasks", EXPLANATION, *map(_markdown, found)]) + "\n")
    write_text(table, cells_csv(found))
    return [page, table]


def _markdown(section: Section) -> str:
    columns = other_columns(section)
    found = {(cell.method, cell.title): cell for cell in section.cells}
    rows = [
        [method_name(method, section.kind), *(cell_text(found.get((method, c.title)), False) for c in columns)]
        for method in methods_of(section.cells)
    ]
    return f"## {section.title}\n\n{markdown_table(['', *(column.title for column in columns)], rows)}"
