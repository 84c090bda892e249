"""Table 1: GLUE scores of every pooler, beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from glot.registry.tasks import TASKS
from glot.report.cells import Cell, Group, group_cells, make_cells
from glot.report.figures import Picture
from glot.report.results import Result
from glot.report.sections import WHISKERS, Block, Heading, Prose, Section, dots_panel, method_table
from glot.reproduce.published import PAPER_NAMES, comparison_note, load_table1, nearest_paper_model


@dataclass(frozen=True)
class GlueColumn:
    """A column of the table: its name, where its score is found, and its heading."""

    name: str
    task: str
    title: str
    metric: str = "accuracy"
    set_name: str = "validation"


COLUMNS = (
    GlueColumn("cola", "cola", "CoLA (MCC)", "mcc"),
    GlueColumn("sst2", "sst2", "SST-2 (acc.)"),
    GlueColumn("stsb", "stsb", "STS-B (Spearman)", "spearman"),
    GlueColumn("mrpc", "mrpc", "MRPC (F1)", "f1"),
    GlueColumn("qqp", "qqp", "QQP (F1)", "f1"),
    GlueColumn("mnli", "mnli", "MNLI-m (acc.)"),
    GlueColumn("mnli_mm", "mnli", "MNLI-mm (acc.)", set_name="validation_mismatched"),
    GlueColumn("qnli", "qnli", "QNLI (acc.)"),
    GlueColumn("rte", "rte", "RTE (acc.)"),
    GlueColumn("wnli", "wnli", "WNLI (acc.)"),
    GlueColumn("imdb", "imdb", "IMDB (acc.)"),
)
WHOLE = 0.8  # of the usual training rows: what is kept aside of them still compares with the paper
EXPLANATION = """\
A cell is ours ± the sample standard deviation over seeds (where there are several) [the paper's number, ours less \
the paper's], in percent; “–” means that there is no such number. Ours is the best epoch by the metric in the heading \
(MNLI-mm: at MNLI-m's best epoch). `table1.csv` also has the best epoch by the published script's rule and the last \
epoch."""


def table1_cells(results: Sequence[Result]) -> list[Cell]:
    """The cells of Table 1; a cell's `task` is the name of its column, so MNLI has `mnli` and `mnli_mm`."""
    paper = load_table1()
    cells = []
    for column in COLUMNS:

        def published(model: str, method: str, name: str = column.name) -> tuple[str | None, float | None]:
            nearest = nearest_paper_model(model)
            return nearest, paper.get((nearest or "", method, name))

        ours = [result for result in results if result.task == column.task]
        found = make_cells(ours, column.set_name, column.metric, published)
        usual = TASKS[column.task].usual_rows
        for cell in found:
            cell = replace(cell, task=column.name)
            if usual is not None and cell.examples is not None and cell.examples < WHOLE * usual:
                cell = replace(cell, paper=None, of_examples=usual)
            cells.append(cell)
    return cells


def table1_section(cells: Sequence[Cell]) -> Section:
    """A table and a picture for each backbone and setting."""
    blocks: list[Block] = [Prose(EXPLANATION)] if cells else []
    for group in group_cells(cells):
        blocks += _group_blocks(group)
    return Section("Table 1: GLUE", blocks, "table1", key="table1", cells=cells)


def _group_blocks(group: Group) -> list[Block]:
    columns = {column.title: [cell for cell in group.cells if cell.task == column.name] for column in COLUMNS}
    columns = {title: cells for title, cells in columns.items() if cells}
    panels = [panel for title, cells in columns.items() for panel in dots_panel(title, cells, group.methods)]
    paper_model = next((cell.paper_model for cell in group.cells if cell.paper is not None), None)
    beside = f" ◇ the paper's {PAPER_NAMES[paper_model]}." if paper_model else ""
    parts = {cell.task: (cell.examples, cell.of_examples) for cell in group.cells if cell.of_examples}
    said = ", ".join(f"{name} on {part:,} of {whole:,} training rows" for name, (part, whole) in parts.items())
    partly = [Prose(f"**Trained on a part:** {said}. The paper's numbers are left out there.")] if said else []
    blocks: list[Block] = [
        Heading(group.title),
        *partly,
        Prose(comparison_note(group.model, group.setting)),
        method_table(group, columns, with_paper=True),
    ]
    return [*blocks, Picture(group.title, panels, WHISKERS + beside, file="table1.png")] if panels else blocks
