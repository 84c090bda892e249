"""Beyond the paper's stress test: accuracy over the generator's ratio, its limit of words, and the distance of the
negation from its noun; along each of these settings the other two are held still."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glot.corpus.request import parse_stress_name
from glot.report.cells import Cell, kind_of, make_cells, methods_of
from glot.report.figures import Curves, Line, Picture, Point
from glot.report.methods import in_order, looks_of, method_name
from glot.report.results import BASELINE, Result
from glot.report.sections import Block, Heading, Prose, Section, Table, entry_of
from glot.reproduce.published import no_number
from glot.reproduce.stress import BOUNDS, CHANCE, accuracy_range

BEYOND = "stress-beyond"
AXES = ("distractor ratio (%)", "limit of words", "words between negation and noun")
_COMPARABLE = (BASELINE, "converged", BEYOND)  # of two runs on one task the last of these counts
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
        made = parse_stress_name(next(cell.task for (v, _), cell in self.cells.items() if v == value))
        if made is None or made[0] == "published":
            return f"{value:g}"
        _, ratio, haystack = made
        return f"{value:g} ({haystack.fair_length(ratio)} words, {haystack.fair_noise(ratio)} of noise)"

    def points(self, method: str) -> list[Point]:
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
        trained = {value for (value, _), cell in line.items() if cell.setting != BASELINE}
        if len(trained) > 1 and any(cell.setting == BEYOND for cell in line.values()):
            yield rest, {key: cell for key, cell in line.items() if key[0] in trained}


def beyond_cells(sweeps: Sequence[Sweep]) -> list[Cell]:
    """Each cell that sweeps alone show, once: those of the stress test's tables are left out."""
    cells = dict.fromkeys(cell for sweep in sweeps for cell in sweep.cells.values())
    beyond = {cell.task for cell in cells if cell.setting == BEYOND}
    return [cell for cell in cells if cell.setting == BEYOND or (cell.setting == BASELINE and cell.task in beyond)]


def beyond_section(sweeps: Sequence[Sweep]) -> Section:
    """For each backbone and generator a curve an axis, and their tables."""
    blocks: list[Block] = [Prose(EXPLANATION)] if sweeps else []
    for model, generator in dict.fromkeys((sweep.model, sweep.generator) for sweep in sweeps):
        ours = [sweep for sweep in sweeps if (sweep.model, sweep.generator) == (model, generator)]
        title = f"{model}, generator {generator}"
        blocks += [Heading(title), _picture(title, ours), *map(_table, ours)]
    return Section(
        "Beyond the paper's stress test",
        blocks,
        BEYOND,
        key="beyond",
        cells=beyond_cells(sweeps),
        more=_columns,
    )


def _columns(cell: Cell) -> dict[str, object]:
    """Generator, percent of distractors, words and distance of a cell of a sweep."""
    place = place_beyond(cell.task)
    assert place is not None, "sweeps hold cells of stress tasks only"
    return dict(zip(("generator", "distractors", "words", "gap"), (place[0], *place[1]), strict=True))


def _cells(results: Sequence[Result]) -> list[tuple[str, Place, Cell]]:
    found = []
    for task in sorted({result.task for result in results}):
        if (made := place_beyond(task)) is None:
            continue
        ours = [result for result in results if result.task == task and result.setting in _COMPARABLE]
        found += [(*made, cell) for cell in make_cells(ours, "validation", "accuracy", no_number)]
    return found


def _held(axis: int, rest: tuple[float, ...]) -> str:
    words = ("ratio {:g} %", "{:g} words at most", "distance {:g}")
    kept = [text for place, text in enumerate(words) if place != axis]
    return ", ".join(text.format(value) for text, value in zip(kept, rest, strict=True))


def _table(sweep: Sweep) -> Table:
    rows = []
    for value in sweep.values:
        cells = [sweep.cells.get((value, method)) for method in sweep.methods]
        rows.append((sweep.row_name(value), [entry_of(cell, among=cells) for cell in cells]))
    header = [sweep.axis, *(method_name(method, sweep.kind) for method in sweep.methods)]
    return Table(sweep.title, header, rows, heading=sweep.title)


def _picture(title: str, sweeps: Sequence[Sweep]) -> Picture:
    looks = looks_of(in_order(method for sweep in sweeps for method in sweep.methods))
    y_range = accuracy_range((cell.mean, cell.std) for sweep in sweeps for cell in sweep.cells.values())
    panels = [
        Curves(
            sweep.held,
            sweep.axis,
            "accuracy (%)",
            [Line(method_name(m, sweep.kind), looks[m], sweep.points(m), BOUNDS) for m in sweep.methods],
            y_range,
            guide=CHANCE,
        )
        for sweep in sweeps
    ]
    caption = "Accuracy; bands: ± std over seeds, where there are several; chance is 50."
    return Picture(title, panels, caption, columns=3, file=f"{BEYOND}.png", width=3.8)
