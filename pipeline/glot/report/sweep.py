"""What a sweep found: a table of all settings, best first, and a picture of the score against each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from glot.fit.result import FitResult
from glot.fit.run_folder import RunConfig
from glot.report.cells import markdown_table
from glot.report.figures import save_picture
from glot.store.files import write_text
from glot.store.rows import Row, rows_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 8  # of a picture
COLUMNS = ("metric", "best", "best_epoch", "density", "seconds", "seed", "run")  # of the CSV, after the settings


@dataclass(frozen=True)
class Trial:
    """A combination of settings: its values by name, and the run and the result of each of its seeds."""

    settings: dict[str, str]
    results: list[FitResult]
    runs: list[Path]

    @property
    def scores(self) -> list[float]:
        """Best scores, a seed each, by the first metric on the set that chooses the epoch, in percent."""
        return [100 * result.best[self.chosen_on][result.metric] for result in self.results]

    @property
    def chosen_on(self) -> str:
        """The set that it is compared by."""
        return next(iter(self.results[0].best))

    @property
    def best_run(self) -> Path:
        """The run of the seed with the best score; the first of equals."""
        return self.runs[self.scores.index(max(self.scores))]


def read_sweep(folder: Path) -> list[Trial]:
    """The finished runs of a sweep, best mean score first."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*/seed-*/metrics.json")):
        found[path.parent.parent.name].append(path.parent)
    trials = [
        Trial(
            dict(part.split("=", 1) for part in name.split(",") if "=" in part),
            [FitResult.load(run) for run in runs],
            runs,
        )
        for name, runs in found.items()
    ]
    return sorted(trials, key=lambda trial: -mean(trial.scores))


def sweep_rows(trials: list[Trial]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table: settings, score, seeds, density, seconds."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    metric = trials[0].results[0].metric
    rows = []
    for trial in trials:
        spread = f" ± {stdev(trial.scores):.2f}" if len(trial.scores) > 1 else ""
        density = trial.results[0].density
        rows.append(
            [
                *(trial.settings.get(name, "") for name in names),
                f"{mean(trial.scores):.2f}{spread}",
                str(len(trial.scores)),
                "" if density is None else f"{100 * density:.1f}",
                f"{trial.results[0].parameters:,}",
            ]
        )
    return [*names, f"{metric}, %", "seeds", "density, %", "parameters"], rows


def write_sweep(folder: Path, trials: list[Trial]) -> list[Path]:
    """Write `sweep.md`, `sweep.csv` (a line a seed) and a picture a setting; returns those written."""
    headings, rows = sweep_rows(trials)
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    pictures = [folder / f"{name}.png" for name in names if _draw(folder / f"{name}.png", trials, name)]
    lines = [markdown_table(headings, rows), *(f"![score by {path.stem}]({path.name})" for path in pictures)]
    write_text(folder / "sweep.md", "\n\n".join(lines) + "\n")
    with rows_file(folder / "sweep.csv", dict.fromkeys([*names, *COLUMNS], str)) as write:
        write(list(_run_rows(trials, names)))
    return [folder / "sweep.md", folder / "sweep.csv", *pictures]


def _run_rows(trials: list[Trial], names: list[str]) -> Iterator[Row]:
    """A row a seed."""
    for trial in trials:
        for score, result, run in zip(trial.scores, trial.results, trial.runs, strict=True):
            density = "" if result.density is None else f"{result.density:.6f}"
            found = [result.metric, f"{score:.4f}", result.best_epoch, density, f"{result.own_seconds:.2f}"]
            found += [RunConfig.load(run).train.init_seed, run.as_posix()]
            settings = {name: trial.settings.get(name, "") for name in names}
            yield settings | dict(zip(COLUMNS, found, strict=True))


def _draw(path: Path, trials: list[Trial], name: str) -> bool:
    """The score by one setting, a line for each combination of the others, or their mean where these are many."""
    lines: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        others = ", ".join(f"{key} {value}" for key, value in trial.settings.items() if key != name)
        if name in trial.settings:
            lines[others][trial.settings[name]] += trial.scores
    if len(lines) > MOST_LINES:
        together: dict[str, list[float]] = defaultdict(list)
        for points in lines.values():
            for value, scores in points.items():
                together[value] += scores
        lines = {"mean over all others": together}
    metric = trials[0].results[0].metric

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        values = sorted({value for points in lines.values() for value in points}, key=_sort_key)
        is_number = all(isinstance(_sort_key(value)[1], float) for value in values)
        for label, points in sorted(lines.items()):
            here = [value for value in values if value in points]
            x = [float(value) if is_number else values.index(value) for value in here]
            spread = [stdev(points[value]) if len(points[value]) > 1 else 0.0 for value in here]
            axes.errorbar(x, [mean(points[value]) for value in here], spread, fmt="o-", capsize=3, label=label)
        if not is_number:
            axes.set_xticks(range(len(values)), values)
        axes.set_xlabel(name)
        axes.set_ylabel(f"{metric}, %")
        if any(lines):
            figure.legend(loc="outside upper center", ncols=2, fontsize="small")

    return save_picture(path, (6, 4), draw)


def _sort_key(value: str) -> tuple[int, float | str]:
    """Numbers in their order, then words."""
    try:
        return (0, float(value))
    except ValueError:
        return (1, value)
