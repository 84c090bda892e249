"""DGL beside plain torch: one head trained with each, and each evaluated with both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from glot.fit.result import Scores
from glot.report.cells import signed
from glot.report.results import VERSION, Result
from glot.report.sections import Block, Heading, Prose, Section, Table, text_rows
from glot.store.files import read_versioned

BACKENDS = "backends"  # the setting of these runs
BOTH_FILE = "by-backend.json"  # in the folder of such a run: the scores of its head by each backend
NAMES = {"dense": "plain torch", "dgl": "DGL"}
HEADER = ["head trained with", "set", "metric", *(f"judged with {name}" for name in NAMES.values()), "difference"]
EXPLANATION = """\
Message passing of GLOT by DGL, as the paper's method is asked for, and by plain torch, which is the default here \
because it is faster. The same head must score the same with either: each was trained with one, and judged with both. \
Two trainings from one seed see the same batches, but sums are rounded in another order, and what that comes to after \
three epochs is no difference of the method. Scores in percent, differences in points."""


@dataclass(frozen=True)
class BothScores:
    """A trained head, evaluated with both backends.

    Attributes:
        model, task, seed: as in `Result`. trained: the backend that it was trained with.
        scores: by backend, example set and metric, as fractions.
        path: the run's folder.
    """

    model: str
    task: str
    seed: int
    trained: str
    scores: dict[str, Scores]
    path: Path

    def rows(self) -> list[list[str]]:
        """A line a set and metric, as `HEADER` has it."""
        rows = []
        for name, metric, dense, dgl in _side_by_side(self.scores["dense"], self.scores["dgl"]):
            percents = [f"{100 * score:.2f}".replace("-", "−") for score in (dense, dgl)]
            rows.append([NAMES[self.trained], name, metric, *percents, signed(100 * (dgl - dense))])
        return rows

    @property
    def largest(self) -> float:
        """The largest difference between the backends, in points."""
        return _largest(self.scores["dense"], self.scores["dgl"])


def _side_by_side(dense: Scores, dgl: Scores) -> list[tuple[str, str, float, float]]:
    """(set, metric, score by plain torch, score by DGL)."""
    return [(name, metric, value, dgl[name][metric]) for name in dense for metric, value in dense[name].items()]


def _largest(dense: Scores, dgl: Scores) -> float:
    """The largest difference of scores, in points."""
    return max(abs(100 * (second - first)) for _, _, first, second in _side_by_side(dense, dgl))


def find_both(results: Sequence[Result]) -> list[BothScores]:
    """What runs of the setting `backends` left; raises FaultError where it is damaged, UsageError where it is newer."""
    found = []
    for result in results:
        path = result.path / BOTH_FILE
        if result.setting != BACKENDS or not path.exists():
            continue
        found.append(read_versioned(path, VERSION, partial(_read_both, result), "; remove it and run again"))
    return found


def _read_both(result: Result, data: dict[str, Any]) -> BothScores:
    both = BothScores(result.model, result.task, result.seed, data["trained"], data["scores"], result.path)
    both.rows()  # raises where its scores are none
    return both


def _summary(group: Sequence[BothScores]) -> str:
    """The largest differences of a group, in words."""
    text = f"Largest difference of the same head's scores by the two: {max(both.largest for both in group):.2f} points."
    own = {both.trained: both.scores[both.trained] for both in group}
    if len(own) < 2:
        return text
    between = _largest(own["dense"], own["dgl"])
    return f"{text} Between the two trainings, each judged with its own: {between:.2f} points."


def backends_section(results: Sequence[Result]) -> Section:
    """A table for each pair of heads that were evaluated with both backends; raises as `find_both`."""
    found = find_both(results)
    blocks: list[Block] = [Prose(EXPLANATION)] if found else []
    groups: dict[str, list[BothScores]] = {}
    for both in found:
        groups.setdefault(f"{both.model}, {both.task}, seed {both.seed}", []).append(both)
    for title, group in groups.items():
        rows = text_rows([row for both in group for row in both.rows()])
        blocks += [Heading(title), Table(title, HEADER, rows), Prose(_summary(group))]
    runs = [result.path for result in results if result.setting == BACKENDS]
    data = [{**asdict(both), "largest": both.largest} for both in found]
    return Section("DGL and plain torch", blocks, "backends", order=3, data={"backends": data}, runs=runs)
