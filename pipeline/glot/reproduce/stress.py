"""The stress test ("signal dilution"): accuracy over the distractor ratio, beside the paper's where it compares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glot.corpus.request import parse_stress_name
from glot.corpus.stress import GENERATORS, PUBLISHED
from glot.report.cells import Cell, Group, group_cells, kind_of, make_cells, methods_of
from glot.report.figures import Curves, Dots, Line, Picture, Point, spread
from glot.report.methods import PAPER, Method, looks_of, method_name
from glot.report.results import BASELINE, Result
from glot.report.sections import Block, Heading, Prose, Section, Table, dots_panel, entry_of
from glot.reproduce.published import PAPER_NAMES, comparison_note, load_stress, nearest_paper_model

CHANCE = 50.0  # percent
BOUNDS = (0.0, 100.0)  # of accuracies, in percent
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
        if (parsed := parse_task(task)) is None or all(result.setting == BASELINE for result in ours):
            continue

        def published(model: str, method: str, place: tuple[str, float] = parsed) -> tuple[str | None, float | None]:
            nearest, (generator, ratio) = nearest_paper_model(model), place
            return nearest, paper.get((nearest or "", method, ratio)) if generator == "published" else None

        cells += make_cells(ours, "validation", "accuracy", published)
    return cells


def place_of(cell: Cell) -> tuple[str, float]:
    """The generator and the ratio of a cell."""
    place = parse_task(cell.task)
    assert place is not None, "stress_cells makes cells of stress tasks only"
    return place


def stress_section(cells: Sequence[Cell]) -> Section:
    """Curves and a table a generator for each backbone and setting."""
    blocks: list[Block] = [Prose(EXPLANATION)] if cells else []
    for group in group_cells(cells):
        picture = _picture(group)
        blocks += [Heading(group.title), Prose(comparison_note(group.model, group.setting))]
        blocks += [picture] if picture.panels else []
        blocks += [_table(group, generator) for generator in generators_of(group.cells)]
    return Section(
        "Stress test: a needle in a haystack",
        blocks,
        "stress",
        key="stress",
        cells=cells,
        more=lambda cell: dict(zip(("generator", "ratio"), place_of(cell), strict=True)),
    )


def generators_of(cells: Sequence[Cell]) -> list[str]:
    """The generators that have a score, the paper's first."""
    present = {place_of(cell)[0] for cell in cells}
    return [generator for generator in GENERATORS if generator in present]


def accuracy_range(scores: Iterable[tuple[float, float | None]]) -> tuple[float, float]:
    """What shows all scores (mean, std), chance and 100 %."""
    reach = [end for value, std in scores for end in spread(value, std, BOUNDS)]
    return min(5 * (min(reach) // 5), CHANCE - 5), BOUNDS[1]


def _picture(group: Group) -> Picture:
    looks, paper = looks_of(group.methods), _paper_line(group)
    scores = [(cell.mean, cell.std) for cell in group.cells]
    y_range = accuracy_range([*scores, *((y, None) for _, y, _ in (paper.points if paper else ()))])
    panels: list[Curves | Dots] = []
    for generator in generators_of(group.cells):
        cells = [cell for cell in group.cells if place_of(cell)[0] == generator]
        if len({place_of(cell)[1] for cell in cells}) == 1:  # no curve, and points would lie on one another
            panels += dots_panel(f"generator {generator}, {100 * place_of(cells[0])[1]:g} %", cells, group.methods)
            continue
        lines = [_line(method, cells, looks[method]) for method in methods_of(cells)]
        lines += [paper] if paper and generator == "published" else []
        panels.append(Curves(f"generator {generator}", "distractors (%)", "accuracy (%)", lines, y_range, guide=CHANCE))
    caption = "Accuracy over the share of distractor words; bands: ± std over seeds; chance is 50."
    return Picture(group.title, panels, caption, columns=3, file="stress.png", width=3.8)


def _line(method: str, cells: Sequence[Cell], look: Method) -> Line:
    points = sorted((100 * place_of(cell)[1], cell.mean, cell.std) for cell in cells if cell.method == method)
    return Line(method_name(method, kind_of(cells)), look, points, BOUNDS)


def _paper_line(group: Group) -> Line | None:
    paper_model = group.cells[0].paper_model
    if paper_model is None or "published" not in generators_of(group.cells):
        return None
    ratios = {place_of(cell)[1] for cell in group.cells}
    points: list[Point] = [
        (100 * ratio, percent, None)
        for (model, method, ratio), percent in load_stress().items()
        if (model, method) == (paper_model, "glot") and ratio in ratios
    ]
    return Line(f"the paper's GLOT ({PAPER_NAMES[paper_model]})", PAPER, sorted(points)) if points else None


def _table(group: Group, generator: str) -> Table:
    found = {(place_of(c)[1], c.method): c for c in group.cells if place_of(c)[0] == generator}
    methods = methods_of(found.values())
    has_paper = generator == "published"
    rows = []
    for ratio in sorted({ratio for ratio, _ in found}):
        cells = [found.get((ratio, method)) for method in methods]
        rows.append((f"{100 * ratio:g} %", [entry_of(cell, has_paper, among=cells) for cell in cells]))
    header = ["distractors", *(method_name(method, group.kind) for method in methods)]
    return Table(f"Generator {generator}: {group.title}", header, rows, heading=f"Generator `{generator}`")
