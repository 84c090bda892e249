"""The pieces of the page: tables of cells with links to their runs, and sentences with a little Markdown.

Throughout, `out` is the page's folder, as seen from which runs are linked; None: the page goes where the runs do not,
and its numbers are no links.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from glot.report.cells import NOTHING, Cell, Section, ours_text, paper_text
from glot.report.contents import relative
from glot.report.results import YARDSTICK

STEPS = (1.0, 5.0, 15.0)  # points at which a difference's shade changes


def shade(difference: float) -> str:
    """The class of a cell by its difference in points: even, better-1 to better-3, worse-1 to worse-3."""
    depth = sum(abs(difference) >= step for step in STEPS)
    return "even" if not depth else f"{'better' if difference > 0 else 'worse'}-{depth}"


def runs_place(cell: Cell) -> Path:
    """The folder that holds all of a cell's runs: of seeds, the one above them; of a yardstick, its file."""
    if cell.setting == YARDSTICK:
        return cell.runs[0]
    seeds = [run.parent if run.name.startswith("seed-") else run for run in cell.runs]
    return Path(os.path.commonpath([seed.absolute() for seed in seeds]))


def link(path: Path, out: Path | None, inside: str) -> str:
    """A link from the page in `out` to a file or folder; `inside` is HTML, and all there is where `out` is None."""
    if out is None:
        return inside
    return f'<a href="{escape(quote(relative(path, out)))}">{inside}</a>'


def cell_html(cell: Cell | None, out: Path | None, with_paper: bool) -> str:
    """A `td`: ours, linked to its runs, and below it the paper's number and the difference, which shades the cell."""
    if cell is None:
        return f'<td class="none">{NOTHING}</td>'
    seeds = "1 run" if len(cell.runs) == 1 else f"{len(cell.runs)} runs"
    ours = link(runs_place(cell), out, f'<span class="ours">{escape(ours_text(cell))}</span>')
    if not with_paper:
        return f'<td title="{seeds}">{ours}</td>'
    kind = "" if cell.difference is None else f' class="{shade(cell.difference)}"'
    return f'<td{kind} title="{seeds}">{ours} <span class="paper">{escape(paper_text(cell))}</span></td>'


def cells_table(
    caption: str,
    corner: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Cell | None]]],
    out: Path | None,
    with_paper: bool = False,
) -> str:
    """A table of cells: a row is its heading and a cell (or None) a column."""
    return table(
        caption, [corner, *columns], [(name, [cell_html(c, out, with_paper) for c in row]) for name, row in rows]
    )


def table(caption: str, headings: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table that scrolls by itself where it is too wide; a row is its heading (text) and its `td` elements."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>' for name, cells in rows)
    label = escape(caption)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table>'
        f"<caption><span>{label}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(plots: Sequence[str], caption: str, legend: str = "") -> str:
    """Plots side by side, on a phone in a row that scrolls; `caption` and `legend` are HTML."""
    drawn = [plot for plot in plots if plot]
    if not drawn:
        return ""
    panels = f'<div class="panels" role="region" tabindex="0" aria-label="Plots">{"".join(drawn)}</div>'
    return f"<figure>{legend}{panels}<figcaption>{caption}</figcaption></figure>"


def cell_of(text: str) -> str:
    """A `td` of plain text."""
    return f"<td>{escape(text)}</td>"


def prose(markdown: str) -> str:
    """Paragraphs and bullet lists of our own sentences: `**strong**` and backticks, everything else escaped."""
    parts = []
    for block in markdown.strip().split("\n\n"):
        if block.startswith("- "):
            items = "".join(f"<li>{_inline(item)}</li>" for item in re.split(r"(?:^|\n)- ", block)[1:])
            parts.append(f"<ul>{items}</ul>")
        else:
            parts.append(f"<p>{_inline(block)}</p>")
    return "".join(parts)


def _inline(text: str) -> str:
    marked = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(text))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", marked)


def headed(section: Section, with_note: bool = True) -> str:
    """The heading of a section, and what stands beside its cells."""
    return f"<h3>{escape(section.title)}</h3>" + (prose(section.comparison) if with_note else "")


def scale_key(has_paper: bool) -> str:
    """The key of the shades, in words and signs too."""
    if not has_paper:
        return ""
    first, second, third = (f"{step:g}" for step in STEPS)
    names = [
        ("worse-3", f"−{third} or below"),
        ("worse-2", f"−{third} to −{second}"),
        ("worse-1", f"−{second} to −{first}"),
        ("even", f"within {first}"),
        ("better-1", f"+{first} to +{second}"),
        ("better-2", f"+{second} to +{third}"),
        ("better-3", f"+{third} or above"),
    ]
    items = "".join(f'<li class="{kind}">{escape(name)}</li>' for kind, name in names)
    return f'<div class="key"><span>Ours less the paper\'s, points:</span><ul>{items}</ul></div>'
