"""Scores averaged over seeds, the groups that they are shown in, and how a number is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from glot.report.methods import in_order, method_order
from glot.report.results import BASELINE, OWN, Result

NOTHING = "–"
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
        runs: the folders of the runs that are averaged, or the file of a baseline.
        examples: the fewest that a run was trained on; None where that was not recorded.
        of_examples: how many there are, where they are but a part.
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
    examples: int | None = None
    of_examples: int | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the score lies, in percent, whatever its deviation over seeds."""
        return (-100.0 if self.metric in _CORRELATIONS else 0.0, 100.0)

    @property
    def title(self) -> str:
        """What was scored, in words, as the heading of a score: a task may be named as an example set is."""
        return f"{self.task.removesuffix(f' ({self.set_name})')}: {self.set_name} {self.metric}"

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, in points."""
        return None if self.paper is None else self.mean - self.paper


# (model, method) -> the paper's model to stand beside, and its number in percent
Published = Callable[[str, str], "tuple[str | None, float | None]"]


def make_cells(
    results: Iterable[Result], set_name: str, metric: str, published: Published = lambda model, method: (None, None)
) -> list[Cell]:
    """Average results over their seeds; results without that example set or metric are left out."""
    import pandas

    scored = [result for result in results if metric in result.best.get(set_name, {})]
    if not scored:
        return []
    rows = []
    for result in scored:
        # The published rule knows no hold-out: there it is ours.
        by_rule = (result.best, {**result.best, **result.best_published}, result.last)
        key = (result.model, result.setting, result.task, result.method)
        rows.append((*key, *(100 * scores[set_name][metric] for scores in by_rule), result.epochs))
    names = ["model", "setting", "task", "method"]
    frame = pandas.DataFrame(rows, columns=[*names, "best", "best_published", "last", "epochs"])
    by_method = frame.groupby(names, sort=False)
    averages = by_method.agg(
        mean=("best", "mean"),
        std=("best", "std"),
        best_published=("best_published", "mean"),
        last=("last", "mean"),
        epochs=("epochs", "max"),
    )
    cells = []
    for key, rows_of_key in by_method.indices.items():
        found, runs = averages.loc[key], [scored[row] for row in rows_of_key]
        model, setting, task, method = key
        paper_model, paper = published(model, method)
        cells.append(
            Cell(
                model=model,
                setting=setting,
                task=task,
                method=method,
                metric=metric,
                seeds=len(runs),
                epochs=int(found["epochs"]),
                mean=float(found["mean"]),
                std=float(found["std"]) if len(runs) > 1 else None,
                best_published=float(found["best_published"]),
                last=float(found["last"]),
                paper_model=paper_model,
                paper=paper,
                set_name=set_name,
                runs=tuple(run.path for run in runs),
                kind=runs[0].kind,
                examples=min(run.examples for run in runs) or None,
            )
        )
    return sorted(cells, key=lambda cell: (cell.model, cell.setting, cell.task, method_order(cell.method)))


@dataclass(frozen=True)
class Group:
    """The cells of one model under one setting, the baselines with them."""

    model: str
    setting: str
    cells: list[Cell]

    @property
    def kind(self) -> str | None:
        """Of the backbone, see `Cell`."""
        return kind_of(self.cells)

    @property
    def methods(self) -> list[str]:
        """The methods that have results, in the order of the tables."""
        return methods_of(self.cells)

    @property
    def title(self) -> str:
        """Model, setting and, where something was trained, the epochs."""
        epochs = {cell.epochs for cell in self.cells} - {0}
        setting = {"published": "published settings", OWN: "settings of these runs"}.get(self.setting, self.setting)
        if not epochs:
            return f"{self.model}, {setting}"
        trained = "1 epoch" if epochs == {1} else f"{max(epochs)} epochs"
        return f"{self.model}, {setting} ({'up to ' if len(epochs) > 1 else ''}{trained})"


def group_cells(cells: Sequence[Cell]) -> list[Group]:
    """Cells by model and setting, `published` first; baselines join each setting that has results on their task."""
    found = []
    for model in sorted({cell.model for cell in cells}):
        ours = [cell for cell in cells if cell.model == model]
        settings = {cell.setting for cell in ours} - {BASELINE} or {BASELINE}
        for setting in sorted(settings, key=lambda name: (name != "published", name)):
            tasks = {cell.task for cell in ours if cell.setting == setting}
            joined = [cell for cell in ours if cell.setting in (setting, BASELINE) and cell.task in tasks]
            found.append(Group(model, setting, joined))
    return found


def methods_of(cells: Iterable[Cell]) -> list[str]:
    """The methods that have results, in the paper's order, ours and the baselines after them."""
    return in_order(cell.method for cell in cells)


def kind_of(cells: Iterable[Cell]) -> str | None:
    """The kind of the backbone that cells share; None where none of them knows it."""
    return next((cell.kind for cell in cells if cell.kind is not None), None)


def ours_text(cell: Cell) -> str:
    """The part of a table cell that is ours: `84.1 ± 0.3`."""
    return (f"{cell.mean:.1f}" + ("" if cell.std is None else f" ± {cell.std:.1f}")).replace("-", "−")


def paper_text(cell: Cell) -> str:
    """The part of a table cell that is the paper's: `[90.3, −6.2]`; "" where it has no such number."""
    if cell.paper is None or cell.difference is None:
        return ""
    return f"[{cell.paper:.1f}, {signed(cell.difference)}]"


def best_of(cells: Iterable[Cell | None]) -> list[Cell]:
    """Those of the highest mean as it is shown; none where all are alike."""
    known = [cell for cell in cells if cell is not None]
    highest = max((round(cell.mean, 1) for cell in known), default=0.0)
    found = [cell for cell in known if round(cell.mean, 1) == highest]
    return found if len(found) < len(known) else []


def signed(points: float) -> str:
    """Points with one decimal and their sign; what rounds to nothing is 0.0."""
    text = f"{points:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def cell_values(cell: Cell) -> dict[str, object]:
    """A cell's fields that are single values and no property of its backbone, by their names."""
    names = [field.name for field in fields(Cell) if field.name not in ("runs", "kind")]
    return {name: getattr(cell, name) for name in names}


MoreValues = Callable[[Cell], "dict[str, object]"]


def cells_csv(cells: Sequence[Cell], more: MoreValues = lambda cell: {}) -> str:
    """A CSV file with a line a cell and a column a field, then `more`; floats get two decimals, None is left empty."""
    import pandas

    # A baseline stands in every group of its model, and once in the file.
    rows = []
    for cell in dict.fromkeys(cell for group in group_cells(cells) for cell in group.cells):
        values = {**cell_values(cell), "difference": cell.difference}
        shown = {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in values.items()}
        rows.append({**shown, **more(cell)})
    return str(pandas.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column left and the others right aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
