"""Table 1: GLUE scores of every pooler, beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

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
from glot.report.figures import picture_line, save_picture, whiskers
from glot.report.published import PAPER_NAMES, load_table1
from glot.report.results import Result
from glot.report.styles import styles_for
from glot.store.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

PANELS_A_ROW = 5


@dataclass(frozen=True)
class Column:
    """A column of the table: its name, where its score is found, and its heading."""

    name: str
    task: str
    title: str
    metric: str = "accuracy"
    set_name: str = "validation"


COLUMNS = (
    Column("cola", "cola", "CoLA (MCC)", "mcc"),
    Column("sst2", "sst2", "SST-2 (acc.)"),
    Column("stsb", "stsb", "STS-B (Spearman)", "spearman"),
    Column("mrpc", "mrpc", "MRPC (F1)", "f1"),
    Column("qqp", "qqp", "QQP (F1)", "f1"),
    Column("mnli", "mnli", "MNLI-m (acc.)"),
    Column("mnli_mm", "mnli", "MNLI-mm (acc.)", set_name="validation_mismatched"),
    Column("qnli", "qnli", "QNLI (acc.)"),
    Column("rte", "rte", "RTE (acc.)"),
    Column("wnli", "wnli", "WNLI (acc.)"),
    Column("imdb", "imdb", "IMDB (acc.)"),
)
EXPLANATION = """\
A cell is ours ± the sample standard deviation over seeds (where there are several) [the paper's number, ours less \
the paper's], in percent; “–” means that there is no such number. Ours is the best epoch by the metric in the heading \
(MNLI-mm: at MNLI-m's best epoch). `table1.csv` also has the best epoch by the published script's rule and the last \
epoch."""


def table1_cells(results: Sequence[Result]) -> list[Cell]:
    """The cells of Table 1; a cell's `task` is the name of its column, so MNLI has `mnli` and `mnli_mm`."""
    paper = load_table1()
    return [
        replace(cell, task=column.name)
        for column in COLUMNS
        for cell in make_cells(
            [result for result in results if result.task == column.task],
            column.set_name,
            column.metric,
            lambda model, method, name=column.name: paper.get((model, method, name)),
        )
    ]


def write_table1(cells: Sequence[Cell], out: Path) -> list[Path]:
    """Write `table1.md`, `table1.csv` and `table1.png`; nothing where there are no cells."""
    if not cells:
        return []
    page, table, picture = out / "table1.md", out / "table1.csv", out / "table1.png"
    found = sections(cells)
    widest = min(PANELS_A_ROW, max(len(columns_of(section)) for section in found))
    heights = [_height(section) for section in found]
    size = (2.7 + 2.1 * widest, sum(heights))
    drawn = save_picture(picture, size, lambda figure: _draw(figure, found, widest, heights))
    parts = ["# Table 1: GLUE", EXPLANATION, *map(_markdown, found), picture_line(picture, "Table 1", drawn)]
    write_text(page, "\n\n".join(parts) + "\n")
    write_text(table, cells_csv(found))
    return [page, table, *([picture] if drawn else [])]


def columns_of(section: Section) -> list[Column]:
    """The columns in which a section has a score, in the paper's order."""
    tasks = {cell.task for cell in section.cells}
    return [column for column in COLUMNS if column.name in tasks]


def _markdown(section: Section) -> str:
    columns = columns_of(section)
    found = {(cell.method, cell.task): cell for cell in section.cells}
    rows = [
        [method_name(method, section.kind)]
        + [cell_text(found.get((method, column.name)), with_paper=True) for column in columns]
        for method in methods_of(section.cells)
    ]
    table = markdown_table(["", *(column.title for column in columns)], rows)
    return f"## {section.title}\n\n{section.comparison}\n\n{table}"


def _panel_rows(section: Section) -> int:
    return ceil(len(columns_of(section)) / PANELS_A_ROW)


def _height(section: Section) -> float:
    """Inches: a title, and for each row of panels its axis and a line a method."""
    return 0.8 + _panel_rows(section) * (0.8 + 0.24 * len(methods_of(section.cells)))


def _draw(figure: Figure, found: list[Section], widest: int, heights: list[float]) -> None:
    blocks = figure.subfigures(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    for block, section in zip(blocks, found, strict=True):
        _draw_section(block, section, widest)


def _draw_section(block: SubFigure, section: Section, widest: int) -> None:
    """A panel a task; the methods stand on the y axis, where their names have room."""
    columns, methods = columns_of(section), methods_of(section.cells)
    grid = block.subplots(_panel_rows(section), widest, squeeze=False, sharey=True)
    for place, panel in enumerate(grid.flat):
        if place < len(columns):
            _draw_panel(panel, columns[place], [c for c in section.cells if c.task == columns[place].name], methods)
        else:
            panel.set_visible(False)
    for panel in grid[:, 0]:
        panel.set_yticks(range(len(methods)), [method_name(method, section.kind) for method in methods])
    grid[0, 0].invert_yaxis()
    paper_model = section.cells[0].paper_model
    beside = f"   ◇ the paper's {PAPER_NAMES[paper_model]}" if paper_model else ""
    block.suptitle(f"{section.title}\n● ours ± std over seeds{beside}", fontsize=11)


def _draw_panel(panel: Axes, column: Column, cells: list[Cell], methods: list[str]) -> None:
    styles = styles_for(methods)
    for cell in cells:
        place, colour = methods.index(cell.method), styles[cell.method].colour
        ends = None if cell.std is None else whiskers([(place, cell.mean, cell.std)], cell.bounds)
        panel.errorbar(cell.mean, place, xerr=ends, fmt="o", color=colour, markersize=6, capsize=3)
        if cell.paper is not None:
            panel.plot(cell.paper, place, "D", markerfacecolor="none", markeredgecolor="black", markersize=7)
    panel.set_title(column.title, fontsize=10)
    panel.set_ylim(-0.6, len(methods) - 0.4)
    panel.margins(x=0.1)
    panel.grid(axis="x", alpha=0.3)
