"""GLOT against the best baseline, and poolers from outside against all others: a paired bootstrap a task and backbone.

Only runs that kept their predictions can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from glot.errors import FaultError, UsageError
from glot.fit.predictions_file import read_predictions
from glot.fit.statistics import Difference, paired_bootstrap
from glot.nn.registry import POOLERS
from glot.report.cells import NOTHING, Cell, signed
from glot.report.methods import METHODS, method_name
from glot.report.results import BASELINE, OWN
from glot.report.sections import Entry, Prose, Section, Table, entry_of, words

OURS = "glot"
EXPLANATION = """\
The difference is {score} less that of {rival}, with the 95 % percentile interval of a paired bootstrap: the \
validation examples are drawn anew with replacement, both methods are scored on each draw, and the scores are \
averaged over the seeds of each. The interval holds for other examples of the same kind; what other seeds would have \
given is not in it, and the epochs were chosen on the same examples."""


@dataclass(frozen=True)
class Question:
    """What a section of comparisons asks, in words, and of which methods.

    Attributes:
        title: of the section. key: of its records in `results.json`.
        name: of what is compared. score: its score. rival: what it is compared with.
        is_ours, is_rival: the methods on either side.
    """

    title: str
    key: str
    name: str
    score: str
    rival: str
    is_ours: Callable[[str], bool]
    is_rival: Callable[[str], bool]


@dataclass(frozen=True)
class Comparison:
    """A method less the best of its rivals on one task, with the bootstrap's interval (see `Difference`; fractions).

    Attributes:
        ours: the method's cell. baseline: that of the rival with the best mean.
    """

    ours: Cell
    baseline: Cell
    difference: Difference


def is_from_outside(method: str) -> bool:
    """A pooler, in any of its settings, that somebody's own module has registered."""
    pooler = method.partition(",")[0]
    return pooler in POOLERS and pooler not in METHODS


BASELINES = Question(
    "GLOT against the best baseline",
    "comparisons",
    "GLOT",
    "GLOT's score",
    "the best baseline",
    lambda method: method == OURS,
    lambda method: not method.startswith(OURS) and not is_from_outside(method),
)
GRAPH = Question(
    "Is it the graph?",
    "graph",
    "GLOT",
    "GLOT's score",
    "itself without edges",
    lambda method: method == OURS,
    lambda method: method == "glot-loops",  # the same parameters, and self-loops for its graph
)
OUTSIDE = Question(
    "Poolers from outside",
    "outside",
    "A pooler from outside",
    "the score of the pooler from outside",
    "the best of the others",
    is_from_outside,
    lambda method: not is_from_outside(method),
)


def comparison_sections(shown: Sequence[Section]) -> list[Section]:
    """GLOT against the best baseline and against itself without edges, and poolers from outside against the best of
    the others, over the cells of some sections.
    """
    tables = [cell for section in shown if section.order <= 1 for cell in section.cells]
    every = [cell for section in shown for cell in section.cells]
    return [_section(BASELINES, tables), _section(OUTSIDE, tables), _section(GRAPH, every)]


def _section(question: Question, cells: Sequence[Cell]) -> Section:
    comparisons = compare(cells, question)
    data = {question.key: [*map(_as_json, comparisons)]}
    if not comparisons:
        return Section(question.title, [], order=2, data=data)
    names_method = any(found.ours.method != OURS for found in comparisons)
    header = ["task", "backbone", "setting", *(["method"] if names_method else []), "against", "difference, points"]
    header += ["95 % interval", "resamples above 0", "examples", "seeds"]
    caption = f"{question.name} less {question.rival}, {comparisons[0].difference.resamples:,} resamples"
    table = Table(caption, header, [(found.ours.title, _entries(found, names_method)) for found in comparisons])
    prose = Prose(EXPLANATION.format(score=question.score, rival=question.rival))
    return Section(question.title, [prose, table], order=2, data=data)


def headline(sections: Sequence[Section]) -> str:
    """What the comparisons come to, in a sentence for each question; "" where there are none."""
    said = []
    for question in (BASELINES, GRAPH, OUTSIDE):
        found = [row for section in sections for row in section.data.get(question.key, [])]
        above, below = sum(row["low"] > 0 for row in found), sum(row["high"] < 0 for row in found)
        if found:
            said.append(
                f"{question.name} is clearly better than {question.rival} in {above} of {len(found)} comparisons, "
                f"clearly worse in {below}; in {len(found) - above - below} the examples do not tell."
            )
    return " ".join(said)


def _entries(found: Comparison, names_method: bool) -> list[Entry]:
    ours, theirs, difference = found.ours, found.baseline, found.difference
    low, high = (signed(100 * value) for value in (difference.low, difference.high))
    texts = [signed(100 * difference.value), f"{low} to {high}", f"{100 * difference.above:.1f} %"]
    texts += [f"{difference.examples:,}", f"{len(ours.runs)}, {len(theirs.runs)}"]
    methods = [ours, theirs] if names_method else [theirs]
    shown = [replace(entry_of(cell), text=method_name(cell.method, cell.kind), tip="") for cell in methods]
    return [*words([ours.model, NOTHING if ours.setting == OWN else ours.setting]), *shown, *words(texts)]


def _as_json(found: Comparison) -> dict[str, Any]:
    ours, difference = found.ours, found.difference
    return {
        **{name: getattr(ours, name) for name in ("model", "setting", "task", "metric", "set_name", "method")},
        "baseline": found.baseline.method,
        "difference": 100 * difference.value,
        "low": 100 * difference.low,
        "high": 100 * difference.high,
        **{name: getattr(difference, name) for name in ("above", "examples", "resamples")},
        "seeds": [len(ours.runs), len(found.baseline.runs)],
    }


def compare(cells: Sequence[Cell], question: Question) -> list[Comparison]:
    """The cells of a question against the best rival's, a model, setting and task each, in their order.

    The best rival is that with the highest mean, so its own luck on these examples counts for it. Where a run of either
    side has no predictions or labels there is no comparison.

    Raises:
        FaultError: a file is damaged, or two runs were evaluated on different examples.
    """
    found = []
    for ours in cells:
        if ours.setting == BASELINE or not question.is_ours(ours.method):
            continue
        here = (ours.model, ours.setting, ours.task, ours.metric)
        against = [
            cell
            for cell in cells
            if (cell.model, cell.setting, cell.task, cell.metric) == here
            and cell.setting != BASELINE
            and question.is_rival(cell.method)
        ]
        if not against:
            continue
        best = max(against, key=lambda cell: cell.mean)
        difference = _difference(ours, best)
        if difference is not None:
            found.append(Comparison(ours, best, difference))
    return found


def _difference(ours: Cell, theirs: Cell) -> Difference | None:
    runs, set_name = [*ours.runs, *theirs.runs], ours.set_name
    kept = [found for run in runs if (found := read_predictions([run], set_name)) is not None]
    if len(kept) < len(runs):
        return None
    labels = kept[0][1]
    for run, (values, truth) in zip(runs, kept, strict=True):
        if values.shape[1:] != labels.shape or not np.array_equal(truth, labels):
            raise FaultError(f"{run} was judged on other {set_name} examples than {runs[0]}: remove its predictions")
    first, second = np.split(np.concatenate([values for values, _ in kept]), [len(ours.runs)])
    try:
        return paired_bootstrap(first, second, labels, ours.metric)
    except UsageError as error:
        raise FaultError(f"cannot compare {runs[0]} with {theirs.runs[0]}: {error}") from None
