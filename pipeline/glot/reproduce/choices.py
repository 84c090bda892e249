"""What our known differences from the paper's procedure are worth: which epoch, seed and threshold is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from glot.fit.result import Scores
from glot.report.cells import NOTHING, Cell, signed
from glot.report.methods import method_name, number_of
from glot.report.results import Result
from glot.report.sections import Block, Prose, Section, Table, text_rows

CHOSEN = ("mean", "adapool", "glot")  # a pooler that trains nothing, the best known one, and ours
EXPLANATION = """\
What a choice adds to the score that is reported, in points, as measured on the runs of Table 1: **best epoch** less \
the last one; our rule less the **published rule** for the epoch; the epoch chosen on validation less one chosen on a \
**holdout** of train (which also trains on a tenth less); the **luckiest seed** less the mean of all; the **best τ** \
that was tried, by its mean over seeds on validation, less τ = 0.6 (GLOT alone)."""
HEADER = ["task", "backbone", "method", "best epoch", "published rule", "holdout", "luckiest seed", "best τ"]


@dataclass(frozen=True)
class Choice:
    """What choices were worth to one method on one task, in points; None where no runs tell.

    Attributes:
        task, model, method, metric: as in `Cell`.
        epoch: best epoch less the last. published_rule: ours less the published rule. holdout: chosen on validation
            less chosen on a holdout. seed: the luckiest less the mean. tau: the best less 0.6; best_tau: that one.
    """

    task: str
    model: str
    method: str
    metric: str
    epoch: float
    published_rule: float
    holdout: float | None
    seed: float | None
    tau: float | None = None
    best_tau: float | None = None
    kind: str | None = None

    def row(self) -> list[str]:
        """The choice as `HEADER` has it."""
        points = [self.epoch, self.published_rule, self.holdout, self.seed, self.tau]
        texts = [NOTHING if value is None else signed(value) for value in points]
        if self.best_tau is not None:
            texts[-1] += f" ({self.best_tau:g})"
        return [f"{self.task} ({self.metric})", self.model, method_name(self.method, self.kind), *texts]


def find_choices(results: Sequence[Result], table1: Sequence[Cell]) -> list[Choice]:
    """What choices were worth to `CHOSEN` in every column of Table 1 that was trained at the published settings."""
    scores = {result.path: result.best for result in results}
    holdout = {(c.model, c.task, c.method, c.metric): c for c in table1 if c.setting == "holdout"}
    return [
        _choice(cell, scores, holdout.get((cell.model, cell.task, cell.method, cell.metric)), results)
        for cell in table1
        if cell.setting == "published" and cell.method in CHOSEN
    ]


def _choice(cell: Cell, scores: dict[Path, Scores], holdout: Cell | None, results: Sequence[Result]) -> Choice:
    best = [100 * scores[run][cell.set_name][cell.metric] for run in cell.runs]
    tau = _best_tau(cell, results) if cell.method == "glot" else None
    return Choice(
        task=cell.task,
        model=cell.model,
        method=cell.method,
        metric=cell.metric,
        epoch=cell.mean - cell.last,
        published_rule=cell.mean - cell.best_published,
        holdout=None if holdout is None else cell.mean - holdout.mean,
        seed=max(best) - mean(best) if len(best) > 1 else None,
        tau=tau[0] if tau else None,
        best_tau=tau[1] if tau else None,
        kind=cell.kind,
    )


def _best_tau(cell: Cell, results: Sequence[Result]) -> tuple[float, float] | None:
    """(points over tau = 0.6, the best tau) of the ablation of tau; None where it was not run."""
    tried: dict[float, list[float]] = {}
    for result in results:
        asked = (result.setting, result.model, result.task) == ("ablation-tau", cell.model, cell.task)
        value = number_of(result.method)
        if asked and value is not None and cell.metric in result.best.get(cell.set_name, {}):
            tried.setdefault(value, []).append(100 * result.best[cell.set_name][cell.metric])
    if 0.6 not in tried:
        return None
    means = {value: mean(found) for value, found in tried.items()}
    best = max(means, key=lambda value: means[value])
    return means[best] - means[0.6], best


def choices_section(choices: Sequence[Choice]) -> Section:
    """A line a task, backbone and method."""
    rows = text_rows([choice.row() for choice in choices])
    blocks: list[Block] = [Prose(EXPLANATION), Table("Points that a choice adds", HEADER, rows)] if choices else []
    data = {"choices": [asdict(choice) for choice in choices]}
    return Section("What a choice is worth", blocks, "choices", order=3, data=data)
