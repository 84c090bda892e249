"""Beyond the paper's stress test: accuracy over the generator's ratio, its limit of words, and the distance of the
negation from its noun; along each of these settings the other two are held still."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glot.corpus.request import parse_stress_name
from glot.report.cells import (
    Cell,
    Section,
    cell_text,
    cells_csv,
    kind_of,
    make_cells,
    markdown_table,
    method_name,
    methods_of,
    score_bounds,
)
from glot.report.figures import draw_line, legend_below, picture_line, save_picture
from glot.report.results import YARDSTICK, Result
from glot.store.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEYOND = "stress-beyond"
AXES = ("distractor ratio (%)", "limit of words", "words between negation and noun")
COLUMNS = ("generator", "distractors", "words", "gap")  # of the CSV and JSON: where a cell lies on the axes
PANELS_A_ROW = 3
_COMPARABLE = (YARDSTICK, "converged", BEYOND)  # of two runs on one task the last of these counts
EXPLANATION = """\
What the paper did not try: ratios of 95 and 99 %, longer texts, and negations nearer to and farther from their nouns, \
each along one setting of the generator with the other two kept. The ratio is the share that noise fills of the room \
beside the signal; rows say how many words their texts have, and how many of these are noise. Validation accuracy in \
percent, trained until nothing improved for some epochs; points that are also in the stress test's tables are its \
converged ones. Chance is 50; “length alone” and “bag of words” see no backbone."""

Place = tuple[float, int, int]  # ratio in percent, limit of words, words between negation and noun


@dataclass(frozen=True)
class Sweep:
    """The cells of one backbone and generator along one axis.

    Attributes:
        axis: what varies, one of `AXES`. held: what does not, in words.
        cells: by the value on the axis and the method; at least two values.
    """

    model: str
    generator: str
    axis: str
    held: str
    cells: dict[tuple[float, str], Cell]

    @property
    def kind(self) -> str | None:
        """Of the backbone, see `Cell`."""
        return kind_of(self.cells.values())

    @property
    def title(self) -> str:
        """Backbone, generator and what was held still."""
        return f"{self.model}, {self.generator}: {self.held}"

    @property
    def values(self) -> list[float]:
        """The values on the axis, ascending."""
        return sorted({value for value, _ in self.cells})

    @property
    def methods(self) -> list[str]:
        """The methods in the order of the tables."""
        return methods_of(self.cells.values())

    def row_name(self, value: float) -> str:
        """A value on the axis, with the words of its texts and how many of them are noise, where all have as many."""
        generator, ratio, haystack = parse_stress_name(next(c.task for (v, _), c in self.cells.items() if v == value))
        if generator == "published":
            return f"{value:g}"
        return f"{value:g} ({haystack.fair_length(ratio)} words, {haystack.fair_noise(ratio)} of noise)"

    def points(self, method: str) -> list[tuple[float, float, float | None]]:
        """A method's curve: (value, mean, std) by ascending value."""
        return sorted((value, cell.mean, cell.std) for (value, name), cell in self.cells.items() if name == method)


def place_beyond(task: str) -> tuple[str, Place] | None:
    """The generator and the place of a stress task on the axes; None for any other task."""
    if (made := parse_stress_name(task)) is None:
        return None
    generator, ratio, haystack = made
    return generator, (round(100 * ratio, 6), haystack.words, haystack.gap)


def find_sweeps(results: Sequence[Result]) -> list[Sweep]:
    """Every line of two or more places that differ on one axis alone and of which one was run as `stress-beyond`."""
    groups: dict[tuple[str, str], list[tuple[Place, Cell]]] = defaultdict(list)
    for generator, place, cell in _cells(results):
        groups[cell.model, generator].append((place, cell))
    return [
        Sweep(model, generator, name, _held(axis, rest), line)
        for (model, generator), cells in sorted(groups.items())
        for axis, name in enumerate(AXES)
        for rest, line in _lines(cells, axis)
    ]


def _lines(
    cells: Sequence[tuple[Place, Cell]], axis: int
) -> Iterator[tuple[tuple[float, ...], dict[tuple[float, str], Cell]]]:
    """The places off the axis, and the cells that share them by their place on it and their method."""
    lines: dict[tuple[float, ...], dict[tuple[float, str], Cell]] = defaultdict(dict)
    for place, cell in sorted(cells, key=lambda entry: _COMPARABLE.index(entry[1].setting)):
        lines[(*place[:axis], *place[axis + 1 :])][place[axis], cell.method] = cell
    for rest, line in sorted(lines.items()):
        trained = {value for (value, _), cell in line.items() if cell.setting != YARDSTICK}
        if len(trained) > 1 and any(cell.setting == BEYOND for cell in line.values()):
            yield rest, {key: cell for key, cell in line.items() if key[0] in trained}


def beyond_cells(sweeps: Sequence[Sweep]) -> list[Cell]:
    """Each cell that sweeps alone show, once: those of the stress test's tables are left out."""
    cells = dict.fromkeys(cell for sweep in sweeps for cell in sweep.cells.values())
    beyond = {cell.task for cell in cells if cell.setting == BEYOND}
    return [cell for cell in cells if cell.setting == BEYOND or (cell.setting == YARDSTICK and cell.task in beyond)]


def write_beyond(sweeps: Sequence[Sweep], out: Path) -> list[Path]:
    """Write `stress-beyond.md`, `.csv` and `.png`; nothing where there are no sweeps."""
    if not sweeps:
        return []
    page, table, picture = (out / f"{BEYOND}.{kind}" for kind in ("md", "csv", "png"))
    rows = -(-len(sweeps) // PANELS_A_ROW)
    drawn = save_picture(picture, (12.6, 3.4 * rows + 0.8), lambda figure: _draw(figure, sweeps, rows))
    parts = ["# Beyond the paper's stress test", EXPLANATION, *map(_markdown, sweeps)]
    write_text(page, "\n\n".join([*parts, picture_line(picture, "Beyond the stress test", drawn)]) + "\n")
    cells = beyond_cells(sweeps)
    write_text(table, cells_csv([Section("", BEYOND, cells)], COLUMNS, place_columns))
    return [page, table, *([picture] if drawn else [])]


def place_columns(cell: Cell) -> tuple[str, float, int, int]:
    """Generator, percent of distractors, words and distance of a cell of a sweep."""
    place = place_beyond(cell.task)
    assert place is not None, "sweeps hold cells of stress tasks only"
    return (place[0], *place[1])


def _cells(results: Sequence[Result]) -> list[tuple[str, Place, Cell]]:
    found = []
    for task in sorted({result.task for result in results}):
        if (made := place_beyond(task)) is None:
            continue
        ours = [result for result in results if result.task == task and result.setting in _COMPARABLE]
        found += [(*made, cell) for cell in make_cells(ours, "validation", "accuracy", lambda *_: None)]
    return found


def _held(axis: int, rest: tuple[float, ...]) -> str:
    words = ("ratio {:g} %", "{:g} words at most", "distance {:g}")
    kept = [text for place, text in enumerate(words) if place != axis]
    return ", ".join(text.format(value) for text, value in zip(kept, rest, strict=True))


def _markdown(sweep: Sweep) -> str:
    rows = [
        [
            sweep.row_name(value),
            *(cell_text(sweep.cells.get((value, method)), with_paper=False) for method in sweep.methods),
        ]
        for value in sweep.values
    ]
    header = [sweep.axis, *(method_name(method, sweep.kind) for method in sweep.methods)]
    return f"## {sweep.title}\n\n{markdown_table(header, rows)}"


def _draw(figure: Figure, sweeps: Sequence[Sweep], rows: int) -> None:
    grid = figure.subplots(rows, PANELS_A_ROW, squeeze=False, sharey=True)
    panels = grid.flat
    for sweep, panel in zip(sweeps, panels, strict=False):  # a last row may have panels to spare
        _draw_panel(panel, sweep)
    for panel in panels:
        panel.set_axis_off()
    for panel in grid[:, 0]:
        panel.set_ylabel("accuracy (%)")
    legend_below(figure, columns=6)


def _draw_panel(panel: Axes, sweep: Sweep) -> None:
    for method in sweep.methods:
        draw_line(panel, method, method_name(method, sweep.kind), sweep.points(method), score_bounds("accuracy"))
    panel.axhline(50, color="black", lw=0.6, alpha=0.5)
    panel.set_title(sweep.title, fontsize=9)
    panel.set_xlabel(sweep.axis)
    panel.grid(alpha=0.3)
