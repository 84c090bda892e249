"""The stress test ("signal dilution"): accuracy over the distractor ratio, beside the paper's where it compares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glot.corpus.request import parse_stress_name
from glot.corpus.stress import GENERATORS, PUBLISHED
from glot.report.cells import (
    Cell,
    Section,
    cell_text,
    cells_csv,
    make_cells,
    markdown_table,
    method_name,
    methods_of,
    score_bounds,
    sections,
)
from glot.report.figures import draw_line, legend_below, picture_line, save_picture
from glot.report.published import PAPER_NAMES, load_stress
from glot.report.results import YARDSTICK, Result
from glot.store.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXPLANATION = """\
Validation accuracy in percent, best epoch, ± the sample standard deviation over seeds where there are several. \
Chance is 50. “Length alone” and “bag of words” are logistic regressions that see no backbone at all: a method \
shows something only where it beats them.

- **published** is the only generator to compare with the paper: there a cell is ours [the paper's, ours less the \
paper's]; the paper's numbers are read off a chart, ± 0.5 points. It **leaks**: a negative text carries a negation \
and ten words more than a positive one, so counting words is enough, and a high score need not come from relating \
the negation to its noun.
- **balanced** gives both classes the same number of words, so length says nothing; whether a negation occurs at all \
still does.
- **paired** puts one negation into every text and changes only where it stands, so neither length nor a bag of \
words can tell the classes apart: only who relates to whom does."""


def parse_task(task: str) -> tuple[str, float] | None:
    """The generator and the ratio in "stress-published-0.9"; None for any other task, and texts of another size."""
    made = parse_stress_name(task)
    return made[:2] if made and made[2] == PUBLISHED else None


def stress_cells(results: Sequence[Result]) -> list[Cell]:
    """The cells of the stress test; only those of the generator `published` have a number of the paper."""
    paper = load_stress()
    cells = []
    for task in sorted({result.task for result in results}):
        ours = [result for result in results if result.task == task]
        if (parsed := parse_task(task)) is None or all(result.setting == YARDSTICK for result in ours):
            continue
        generator, ratio = parsed

        def number(model: str, method: str, generator: str = generator, ratio: float = ratio) -> float | None:
            return paper.get((model, method, ratio)) if generator == "published" else None

        cells += make_cells(ours, "validation", "accuracy", number)
    return cells


def write_stress(cells: Sequence[Cell], out: Path) -> list[Path]:
    """Write `stress.md`, `stress.csv` and `stress.png`; nothing where there are no cells."""
    if not cells:
        return []
    page, table, picture = out / "stress.md", out / "stress.csv", out / "stress.png"
    found, generators = sections(cells), generators_of(cells)
    size = (max(4.2 * len(generators), 7), 3.3 * len(found) + 1)
    drawn = save_picture(picture, size, lambda figure: _draw(figure, found, generators))
    parts = ["# Stress test: a needle in a haystack", EXPLANATION, *map(_markdown, found)]
    write_text(page, "\n\n".join([*parts, picture_line(picture, "Stress test", drawn)]) + "\n")
    write_text(table, cells_csv(found, ("generator", "ratio"), place_of))
    return [page, table, *([picture] if drawn else [])]


def generators_of(cells: Sequence[Cell]) -> list[str]:
    """The generators that have a score, the paper's first."""
    present = {place_of(cell)[0] for cell in cells}
    return [generator for generator in GENERATORS if generator in present]


def place_of(cell: Cell) -> tuple[str, float]:
    """The generator and the ratio of a cell."""
    place = parse_task(cell.task)
    assert place is not None, "stress_cells makes cells of stress tasks only"
    return place


def _markdown(section: Section) -> str:
    tables = [_table(section, generator) for generator in generators_of(section.cells)]
    return "\n\n".join([f"## {section.title}", section.comparison, *tables])


def _table(section: Section, generator: str) -> str:
    found = {(place_of(cell)[1], cell.method): cell for cell in section.cells if place_of(cell)[0] == generator}
    methods = methods_of(found.values())
    rows = [
        [f"{100 * ratio:g} %"]
        + [cell_text(found.get((ratio, method)), with_paper=generator == "published") for method in methods]
        for ratio in sorted({ratio for ratio, _ in found})
    ]
    header = ["distractors", *(method_name(method, section.kind) for method in methods)]
    return f"### Generator `{generator}`\n\n{markdown_table(header, rows)}"


def _draw(figure: Figure, found: list[Section], generators: list[str]) -> None:
    """A row of panels a model and setting, a panel a generator that it was run on, one legend for all."""
    grid = figure.subplots(len(found), len(generators), squeeze=False, sharex=True, sharey=True)
    for section, row in zip(found, grid, strict=True):
        shown = generators_of(section.cells)
        for generator, panel in zip(shown, row, strict=False):
            _draw_panel(panel, section, generator)
            panel.tick_params(labelbottom=True)
            panel.set_xlabel("distractors (%)")
        for panel in row[len(shown) :]:
            panel.set_axis_off()
        row[0].set_ylabel("accuracy (%)")
    grid[0, 0].set_xticks(sorted({100 * place_of(cell)[1] for section in found for cell in section.cells}))
    legend_below(figure, columns=4)


def _legend_name(method: str) -> str:
    """A method's name in a legend that serves backbones of both kinds."""
    return " / ".join(dict.fromkeys(method_name(method, kind) for kind in ("encoder", "decoder")))


def _draw_panel(panel: Axes, section: Section, generator: str) -> None:
    cells = [cell for cell in section.cells if place_of(cell)[0] == generator]
    ratios, methods = {place_of(cell)[1] for cell in cells}, methods_of(cells)
    for place, method in enumerate(methods):
        aside = place - (len(methods) - 1) / 2 if len(ratios) == 1 else 0.0  # else all stand on one another
        points = [(100 * place_of(cell)[1] + aside, cell.mean, cell.std) for cell in cells if cell.method == method]
        draw_line(panel, method, _legend_name(method), sorted(points), score_bounds("accuracy"))
    paper_model = section.cells[0].paper_model
    if generator == "published" and paper_model:
        paper = load_stress().items()
        published = [(100 * r, value) for (*key, r), value in paper if key == [paper_model, "glot"] and r in ratios]
        if published:
            style = {"color": "black", "lw": 1.2, "marker": "D", "markersize": 4, "markerfacecolor": "none"}
            panel.plot(*zip(*sorted(published), strict=True), ":", label="the paper's GLOT", **style)
    panel.axhline(50, color="black", lw=0.6, alpha=0.5)
    beside = f" (paper: {PAPER_NAMES[paper_model]})" if generator == "published" and paper_model else ""
    panel.set_title(f"generator {generator}{beside}\n{section.title}", fontsize=9)
    panel.grid(alpha=0.3)
