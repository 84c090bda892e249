"""What a report says, before it is written in any format; and the JSON format.

`results.json`, version 1, is for other programs:

    format, version     "glot-results", 1
    environment         the fields of `glot.report.environment.Environment`
    cells               "table1", "stress", "beyond", "other" and "ablations": a list each, a cell an object with the
                        fields of `glot.report.cells.Cell`, `difference` (null where the paper has no number) and
                        `runs`: the paths of the runs that are averaged; of "stress" also `generator` and `ratio`, of
                        "beyond" `generator`, `distractors` (percent), `words` and `gap`
    runs                every run and yardstick: `path`, `task`, `model`, `method`, `setting`, `seed`, `best`,
                        `best_published`, `last` (example set -> metric -> fraction), `epochs`, `density`, `seconds`
                        (of several heads that trained side by side each its share), `kind` of the backbone
    comparisons         GLOT less the best baseline: `model`, `setting`, `task`, `metric`, `set_name`, `baseline`,
                        `difference`, `low`, `high` (points), `above` (share), `examples`, `resamples`, `seeds` (of
                        GLOT's and of the baseline's runs)
    graph               GLOT less itself with self-loops only: as `comparisons`
    choices             the fields of `glot.report.choices.Choice`, in points
    costs               the fields of `glot.reproduce.cost.CostRecord`, and `path`
    backends            of each head that was judged with both backends: `model`, `task`, `seed`, `trained` (with which
                        one), `scores` (backend -> example set -> metric -> fraction), `largest` (difference, points)
                        and `path`
    skipped             what is not there: `step` and `reason`

Paths are relative to the file's folder, with "/", and lead nowhere where the report was moved without its runs. Scores
of cells are in percent, those of runs are fractions. A later version may add fields; a field that changes its meaning
gets a new version.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from glot.report.ablations import TABLE_SETTINGS, Question, find_questions
from glot.report.backends import BothScores, find_both
from glot.report.beyond import COLUMNS as BEYOND_COLUMNS
from glot.report.beyond import Sweep, beyond_cells, find_sweeps, place_columns
from glot.report.cells import Cell, cell_values
from glot.report.choices import Choice, find_choices
from glot.report.comparison import Comparison, Predictions, compare, has_no_graph, read_predictions
from glot.report.costs import CostTable
from glot.report.environment import Environment, collect_environment
from glot.report.other import other_cells
from glot.report.results import Result
from glot.report.stress import place_of, stress_cells
from glot.report.table1 import table1_cells

FORMAT, VERSION = "glot-results", 1


@dataclass(frozen=True)
class Contents:
    """All that a report says.

    Attributes:
        results: every run and yardstick. table1, stress, other: their averages, by where they are shown.
        sweeps: the stress test beyond the paper. questions: ablations. costs: measurements of `glot bench cost`.
        comparisons: GLOT less the best baseline, of runs that kept their predictions. graph: less itself without edges.
        choices: what our known differences from the paper's procedure are worth.
        backends: heads judged with DGL and with plain torch. environment: what it was made with.
        skipped: (step, reason) of what is not there. source: where the runs were looked for, in words.
    """

    results: list[Result]
    table1: list[Cell]
    stress: list[Cell]
    other: list[Cell]
    sweeps: list[Sweep]
    questions: list[Question]
    costs: list[CostTable]
    comparisons: list[Comparison]
    graph: list[Comparison]
    choices: list[Choice]
    backends: list[BothScores]
    environment: Environment
    skipped: list[tuple[str, str]]
    source: str


def make_contents(
    results: Sequence[Result],
    costs: Sequence[CostTable],
    source: str,
    skipped: Sequence[tuple[str, str]] = (),
    machine: str = "",
    predictions: Predictions = read_predictions,
) -> Contents:
    """Average and compare results; raises FaultError where kept predictions are damaged or do not fit each other."""
    in_tables = [result for result in results if result.setting in TABLE_SETTINGS]
    table1, stress, sweeps = table1_cells(in_tables), stress_cells(in_tables), find_sweeps(results)
    beyond = beyond_cells(sweeps)
    other = other_cells(in_tables, [*table1, *stress, *beyond])
    shown = [*table1, *stress, *beyond, *other]
    swept = {run for cell in beyond for run in cell.runs}
    questions = find_questions([result for result in results if result.path not in swept])
    asked = [cell for question in questions for cell in question.cells.values()]
    compared = compare(shown, predictions)
    graph = compare([*shown, *asked], predictions, rivals=has_no_graph)
    environment = collect_environment(results, machine)
    return Contents(
        results=list(results),
        table1=table1,
        stress=stress,
        other=other,
        sweeps=sweeps,
        questions=questions,
        costs=list(costs),
        comparisons=compared,
        graph=graph,
        choices=find_choices(results, table1),
        backends=find_both(results),
        environment=environment,
        skipped=list(skipped),
        source=source,
    )


def relative(path: Path, out: Path) -> str:
    """A path as seen from the report's folder, with "/"."""
    return Path(os.path.relpath(path.absolute(), out.absolute())).as_posix()


def contents_json(contents: Contents, out: Path) -> dict[str, Any]:
    """The JSON of `results.json` in the folder `out`; see this module's head."""
    runs = [
        {**{f.name: getattr(run, f.name) for f in fields(Result)}, "path": relative(run.path, out)}
        for run in contents.results
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": asdict(contents.environment),
        "cells": {
            "table1": [_cell(cell, out) for cell in contents.table1],
            "stress": [
                {**_cell(cell, out), **dict(zip(("generator", "ratio"), place_of(cell), strict=True))}
                for cell in contents.stress
            ],
            "beyond": [
                {**_cell(cell, out), **dict(zip(BEYOND_COLUMNS, place_columns(cell), strict=True))}
                for cell in beyond_cells(contents.sweeps)
            ],
            "other": [_cell(cell, out) for cell in contents.other],
            "ablations": [_cell(cell, out) for question in contents.questions for cell in question.cells.values()],
        },
        "runs": runs,
        "comparisons": list(map(_comparison, contents.comparisons)),
        "graph": list(map(_comparison, contents.graph)),
        "choices": [asdict(choice) for choice in contents.choices],
        "costs": [{**table.data, "path": relative(table.path, out)} for table in contents.costs],
        "backends": [
            {**asdict(both), "largest": both.largest, "path": relative(both.path, out)} for both in contents.backends
        ],
        "skipped": [{"step": step, "reason": reason} for step, reason in contents.skipped],
    }


def _cell(cell: Cell, out: Path) -> dict[str, Any]:
    values = {name: getattr(cell, name) for name in cell_values()}
    return {
        **values,
        "kind": cell.kind,
        "difference": cell.difference,
        "runs": [relative(run, out) for run in cell.runs],
    }


def _comparison(found: Comparison) -> dict[str, Any]:
    ours, difference = found.ours, found.difference
    return {
        "model": ours.model,
        "setting": ours.setting,
        "task": ours.task,
        "metric": ours.metric,
        "set_name": ours.set_name,
        "baseline": found.baseline.method,
        "difference": 100 * difference.value,
        "low": 100 * difference.low,
        "high": 100 * difference.high,
        "above": difference.above,
        "examples": difference.examples,
        "resamples": difference.resamples,
        "seeds": [len(ours.runs), len(found.baseline.runs)],
    }
