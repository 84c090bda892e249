"""What both tables share: scores averaged over seeds, names and order of the methods, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev

from glot.report.published import comparison_note, nearest_paper_model
from glot.report.results import OWN, YARDSTICK, Result

NOTHING = "–"
METHODS = {
    "cls": "CLS",
    "mean": "mean",
    "max": "max",
    "adapool": "AdaPool",
    "glot": "GLOT",
    "adapool-wide": "AdaPool, scorer as wide as GLOT's",
    "glot-loops": "GLOT, self-loops only",
    "glot-complete": "GLOT, complete graph",
    "glot-random": "GLOT, as many random edges",
    "glot-chain": "GLOT, chain of neighbours",
    "glot-knn": "GLOT, 5 nearest neighbours",
    "glot-mean-readout": "GLOT, mean for its readout",
    "glot-content": "GLOT, without special tokens",
    "logreg-cls": "logistic regression on CLS",
    "logreg-mean": "logistic regression on mean",
    "ridge-cls": "ridge regression on CLS",
    "ridge-mean": "ridge regression on mean",
    "length": "length alone",
    "bag-of-words": "bag of words",
}
_ORDER = {name: place for place, name in enumerate(METHODS)}
_PAPER_SETTINGS = ("published", YARDSTICK)
_CORRELATIONS = ("mcc", "spearman", "pearson")  # from -1 to 1; the other metrics from 0


@dataclass(frozen=True)
class Cell:
    """One model, setting, task and method, averaged over seeds. All scores are in percent.

    Attributes:
        model, setting, task, method: as in `Result`.
        metric: the metric's name. seeds: how many runs are averaged. epochs: the most that one trained.
        mean: of the best epochs. std: their sample standard deviation; None for one seed.
        best_published, last: means by the published script's rule and of the last epochs.
        paper_model: the paper's backbone beside it. paper: the paper's number. None where the paper has none.
        set_name: the example set that was scored. kind: of the backbone, "encoder" or "decoder"; None: not known.
        runs: the folders of the runs that are averaged, or the file of a yardstick.
    """

    model: str
    setting: str
    task: str
    method: str
    metric: str
    seeds: int
    epochs: int
    mean: float
    std: float | None
    best_published: float
    last: float
    paper_model: str | None
    paper: float | None
    set_name: str = "validation"
    runs: tuple[Path, ...] = ()
    kind: str | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the score lies, whatever its deviation over seeds."""
        return score_bounds(self.metric)

    @property
    def title(self) -> str:
        """What was scored, in words, as the heading of a score: a task may be named as an example set is."""
        return f"{self.task.removesuffix(f' ({self.set_name})')}: {self.set_name} {self.metric}"

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, in points."""
        return None if self.paper is None else self.mean - self.paper


PaperNumber = Callable[[str, str], "float | None"]  # (the paper's model, method) -> percent


def make_cells(results: Iterable[Result], set_name: str, metric: str, paper: PaperNumber) -> list[Cell]:
    """Average results over their seeds; results without that example set or metric are left out."""
    scored = [result for result in results if metric in result.best.get(set_name, {})]
    groups = groupby(sorted(scored, key=_group), _group)
    return [_average(list(group), set_name, metric, paper) for _, group in groups]


def _group(result: Result) -> tuple[str, str, str, tuple[int, str, float]]:
    return result.model, result.setting, result.task, method_order(result.method)


def _average(results: list[Result], set_name: str, metric: str, paper: PaperNumber) -> Cell:
    first, paper_model = results[0], nearest_paper_model(results[0].model)
    best = [100 * result.best[set_name][metric] for result in results]
    return Cell(
        model=first.model,
        setting=first.setting,
        task=first.task,
        method=first.method,
        metric=metric,
        seeds=len(results),
        epochs=max(result.epochs for result in results),
        mean=mean(best),
        std=stdev(best) if len(best) > 1 else None,
        # The published rule knows no hold-out: there it is ours.
        best_published=mean(100 * {**result.best, **result.best_published}[set_name][metric] for result in results),
        last=mean(100 * result.last[set_name][metric] for result in results),
        paper_model=paper_model,
        paper=None if paper_model is None else paper(paper_model, first.method),
        set_name=set_name,
        runs=tuple(result.path for result in results),
        kind=first.kind,
    )


@dataclass(frozen=True)
class Section:
    """The cells of one model under one setting, the yardsticks with them."""

    model: str
    setting: str
    cells: list[Cell]

    @property
    def kind(self) -> str | None:
        """Of the backbone, see `Cell`."""
        return kind_of(self.cells)

    @property
    def title(self) -> str:
        """Model, setting and, where something was trained, the epochs."""
        epochs = {cell.epochs for cell in self.cells} - {0}
        setting = {"published": "published settings", OWN: "settings of these runs"}.get(self.setting, self.setting)
        if not epochs:
            return f"{self.model}, {setting}"
        trained = "1 epoch" if epochs == {1} else f"{max(epochs)} epochs"
        return f"{self.model}, {setting} ({'up to ' if len(epochs) > 1 else ''}{trained})"

    @property
    def comparison(self) -> str:
        """What stands beside these cells, in words."""
        other = "" if self.setting in _PAPER_SETTINGS else " The paper trained 3 epochs; this is another setting."
        if self.setting == OWN:
            other = " These runs have settings of their own, which need not be the paper's."
        return comparison_note(self.model) + other


def sections(cells: Sequence[Cell]) -> list[Section]:
    """Cells by model and setting, `published` first; yardsticks join each setting that has results on their task."""
    found = []
    for model in sorted({cell.model for cell in cells}):
        ours = [cell for cell in cells if cell.model == model]
        settings = {cell.setting for cell in ours} - {YARDSTICK} or {YARDSTICK}
        for setting in sorted(settings, key=lambda name: (name != "published", name)):
            tasks = {cell.task for cell in ours if cell.setting == setting}
            joined = [cell for cell in ours if cell.setting in (setting, YARDSTICK) and cell.task in tasks]
            found.append(Section(model, setting, joined))
    return found


def methods_of(cells: Iterable[Cell]) -> list[str]:
    """The methods that have results, in the paper's order, ours and the yardsticks after them."""
    return sorted({cell.method for cell in cells}, key=method_order)


def method_order(method: str) -> tuple[int, str, float]:
    """Sorts methods as the tables have them; those whose names end in a number by that. Different for each."""
    number = number_of(method)
    base = method.partition(",")[0]
    name = method if number is None else method.rpartition("=")[0]
    return _ORDER.get(base, len(_ORDER)), name, number or 0.0


def number_of(method: str) -> float | None:
    """The number at the end of "glot,tau=0.3"; None where there is none."""
    try:
        return float(method.rpartition("=")[2])
    except ValueError:
        return None


def kind_of(cells: Iterable[Cell]) -> str | None:
    """The kind of the backbone that cells share; None where none of them knows it."""
    return next((cell.kind for cell in cells if cell.kind is not None), None)


def score_bounds(metric: str) -> tuple[float, float]:
    """Between which a metric's scores lie, in percent."""
    return (-100.0 if metric in _CORRELATIONS else 0.0, 100.0)


def method_name(method: str, kind: str | None) -> str:
    """A method's name for people; backbones of the kind decoder read their last token, so there CLS is EOS."""
    method, *settings = (part.strip() for part in method.split(","))
    name = ", ".join([METHODS.get(method, method), *settings])
    return name.replace("CLS", "EOS") if kind == "decoder" else name


def cell_text(cell: Cell | None, with_paper: bool) -> str:
    """A table cell: `84.1 ± 0.3 [90.3, −6.2]`, that is ours [the paper's, the difference]."""
    if cell is None:
        return NOTHING
    return f"{ours_text(cell)} {paper_text(cell)}" if with_paper else ours_text(cell)


def ours_text(cell: Cell) -> str:
    """The part of a table cell that is ours: `84.1 ± 0.3`."""
    return (f"{cell.mean:.1f}" + ("" if cell.std is None else f" ± {cell.std:.1f}")).replace("-", "−")


def paper_text(cell: Cell) -> str:
    """The part of a table cell that is the paper's: `[90.3, −6.2]`."""
    if cell.paper is None or cell.difference is None:
        return f"[{NOTHING}]"
    return f"[{cell.paper:.1f}, {signed(cell.difference)}]"


def signed(points: float) -> str:
    """Points with one decimal and their sign; what rounds to nothing is 0.0."""
    text = f"{points:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column left and the others right aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell_values() -> list[str]:
    """The names of a cell's fields that are single values and no property of its backbone."""
    return [field.name for field in fields(Cell) if field.name not in ("runs", "kind")]


def cells_csv(
    found: Iterable[Section],
    more_names: Sequence[str] = (),
    more: Callable[[Cell], Sequence[object]] = lambda cell: (),
) -> str:
    """A CSV file with a line a cell and a column a field, then `more`; floats get two decimals, None is left empty."""
    names = [*cell_values(), "difference"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *more_names])
    # A yardstick stands in every section of its model, and once in the file.
    for cell in dict.fromkeys(cell for section in found for cell in section.cells):
        values = [getattr(cell, name) for name in names]
        writer.writerow([f"{value:.2f}" if isinstance(value, float) else value for value in values] + [*more(cell)])
    return out.getvalue()


def demote(markdown: str) -> str:
    """The same Markdown with every heading one level lower."""
    return re.sub(r"^#", "##", markdown, flags=re.MULTILINE)
