"""What a report is made of: sections of prose, tables and pictures, said once and written as a page and as Markdown.

Whoever has something to show of runs makes a `Section` of it; `glot.report.write` writes them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from glot.report.cells import NOTHING, Cell, Group, MoreValues, ours_text, paper_text
from glot.report.figures import MOST_DOTS, Dot, Dots, Picture
from glot.report.methods import looks_of, method_name
from glot.report.results import BASELINE

STEPS = (1.0, 5.0, 15.0)  # points at which a difference's shade changes
WHISKERS = "Scores in percent; whiskers and bands: ± std over seeds."


@dataclass(frozen=True)
class Heading:
    """A heading below the section's own."""

    text: str
    kind: str = field(default="heading", init=False)


@dataclass(frozen=True)
class Prose:
    """Paragraphs and lists of our own sentences, with `**strong**` and backticks."""

    text: str
    kind: str = field(default="prose", init=False)


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table.

    Attributes:
        text: what is printed. paper: what stands below it in the page, and beside it elsewhere.
        place: the folder or file of the runs behind it, which the page links; None: there are none.
        tip: what a reader is told who points at it. shade: of a difference from the paper's number, see `shade`; only
            where the paper has that very backbone.
        is_best: the highest of its column, in bold.
    """

    text: str
    paper: str = ""
    place: Path | None = None
    tip: str = ""
    shade: str = ""
    is_best: bool = False

    def __str__(self) -> str:
        text = f"**{self.text}**" if self.is_best else self.text
        return f"{text} {self.paper}".rstrip()


@dataclass(frozen=True)
class Table:
    """A table: its headings, the first of them over the rows' names, and a row's name and entries.

    Attributes:
        caption: what it holds. heading: above it in Markdown, where a page has the caption.
        is_words: its entries are words rather than numbers.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Entry]]]
    heading: str = ""
    is_words: bool = False
    kind: str = field(default="table", init=False)

    def lines(self) -> list[list[str]]:
        """The rows as plain text."""
        return [[name, *map(str, entries)] for name, entries in self.rows]


Block = Heading | Prose | Table | Picture


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: its heading. blocks: what it says; none: the section is left out.
        name: of its files, as in `<name>.md`; "": it stands in the page alone.
        order: sections with a lower number come first.
        key: where its cells stand in `results.json`; "": nowhere, and there is no `<name>.csv` of them.
        cells: that it shows. more: what a cell says in both files beside its own fields.
        runs: that it stands for without a cell.
        data: what else it adds to `results.json`, by its key; `path` in it is made relative.
    """

    title: str
    blocks: Sequence[Block]
    name: str = ""
    order: int = 0
    key: str = ""
    cells: Sequence[Cell] = ()
    more: MoreValues = lambda cell: {}
    runs: Sequence[Path] = ()
    data: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def pictures(self) -> list[Picture]:
        """Its pictures."""
        return [block for block in self.blocks if isinstance(block, Picture)]


def shade(difference: float) -> str:
    """The class of a cell by its difference in points: even, better-1 to better-3, worse-1 to worse-3."""
    depth = sum(abs(difference) >= step for step in STEPS)
    return "even" if not depth else f"{'better' if difference > 0 else 'worse'}-{depth}"


def runs_place(cell: Cell) -> Path:
    """The folder that holds all of a cell's runs: of seeds, the one above them; of a baseline, its file."""
    if cell.setting == BASELINE:
        return cell.runs[0]
    seeds = [run.parent if run.name.startswith("seed-") else run for run in cell.runs]
    return Path(os.path.commonpath([seed.absolute() for seed in seeds]))


def entry_of(cell: Cell | None, with_paper: bool = False, note: str = "") -> Entry:
    """A cell in a table: ours, and beside it a note, or the paper's number and the difference."""
    if cell is None:
        return Entry(NOTHING)
    text = f"{ours_text(cell)} ({note})" if note else ours_text(cell)
    tip = "1 run" if len(cell.runs) == 1 else f"{len(cell.runs)} runs"
    if not with_paper:
        return Entry(text, place=runs_place(cell), tip=tip)
    is_same = cell.paper_model == cell.model
    colour = shade(cell.difference) if is_same and cell.difference is not None else ""
    return Entry(text, paper_text(cell), runs_place(cell), tip, colour)


def method_table(group: Group, columns: Mapping[str, Sequence[Cell]], with_paper: bool = False) -> Table:
    """A group's table: a row a method, a column for the cells under each heading, and its best in bold."""
    found = {(cell.method, heading): cell for heading, cells in columns.items() for cell in cells}
    # As they are shown: what rounds to the best is as good, and where all are alike none is.
    shown = {heading: {f"{cell.mean:.1f}" for cell in cells} for heading, cells in columns.items()}
    best = {heading: max(values, key=float) for heading, values in shown.items() if len(values) > 1}

    def entry(method: str, heading: str) -> Entry:
        cell = found.get((method, heading))
        is_best = cell is not None and f"{cell.mean:.1f}" == best.get(heading)
        return replace(entry_of(cell, with_paper), is_best=is_best)

    rows = [
        (method_name(method, group.kind), [entry(method, heading) for heading in columns]) for method in group.methods
    ]
    return Table(group.title, ["method", *columns], rows)


def words(texts: Sequence[str]) -> list[Entry]:
    """Entries of plain text."""
    return [Entry(text) for text in texts]


def text_rows(rows: Sequence[Sequence[str]]) -> list[tuple[str, list[Entry]]]:
    """Rows of plain text, the first of each its name."""
    return [(name, words(texts)) for name, *texts in rows]


def dots_panel(title: str, cells: Sequence[Cell], methods: Sequence[str]) -> list[Dots]:
    """A panel of one score of some methods, in their order; none where there are too many, or no cells."""
    if not 0 < len(cells) <= MOST_DOTS:
        return []
    looks = looks_of(methods)
    dots = [
        Dot(method_name(c.method, c.kind), looks[c.method], c.mean, c.std, ours_text(c), c.paper, c.bounds)
        for c in sorted(cells, key=lambda cell: methods.index(cell.method))
    ]
    return [Dots(title, f"{cells[0].metric}, %", dots)]
