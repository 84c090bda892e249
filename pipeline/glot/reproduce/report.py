"""The paper's sections of a report, and the reports that have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glot.report.results import Result, collect, collect_own
from glot.report.sections import Section
from glot.report.write import write_sections
from glot.reproduce.ablations import TABLE_SETTINGS, ablations_section, find_questions
from glot.reproduce.backends import backends_section
from glot.reproduce.beyond import beyond_section, find_sweeps
from glot.reproduce.choices import choices_section, find_choices
from glot.reproduce.costs import costs_section, find_costs
from glot.reproduce.stress import stress_cells, stress_section
from glot.reproduce.table1 import table1_cells, table1_section


def write_report(
    runs: Path,
    out: Path,
    skipped: Sequence[tuple[str, str]] = (),
    machine: str = "",
    links: bool = True,
) -> list[Path]:
    """Write the report of reproduced runs, see `glot.report.results.collect` and `glot.report.write.write_sections`.

    Raises:
        UsageError: `out` cannot be made, or a package is missing. FaultError: a run is damaged, or a file cannot be
        written.
    """
    results = collect(runs)
    sections = paper_sections(results, [runs])
    return write_sections(results, sections, out, str(runs), skipped, machine, links)


def write_own_report(folders: Sequence[Path], out: Path, links: bool = True) -> list[Path]:
    """As `write_report`, of runs anywhere below some folders, see `glot.report.results.collect_own`.

    Raises:
        UsageError: no finished run was found, or `out` cannot be made. FaultError: runs are damaged.
    """
    results, skipped = collect_own(folders)
    source = ", ".join(map(str, folders))
    sections = paper_sections(results, folders)
    return write_sections(results, sections, out, source, skipped, links=links)


def paper_sections(results: Sequence[Result], folders: Sequence[Path]) -> list[Section]:
    """All that the paper has a table or figure of, or that asks about it; sections without runs are empty.

    Raises FaultError where what lies beside the runs in `folders` is damaged.
    """
    in_tables = [result for result in results if result.setting in TABLE_SETTINGS]
    table1, sweeps = table1_cells(in_tables), find_sweeps(results)
    beyond = beyond_section(sweeps)
    swept = {run for cell in beyond.cells for run in cell.runs}
    questions = find_questions([result for result in results if result.path not in swept])
    return [
        table1_section(table1),
        stress_section(stress_cells(in_tables)),
        beyond,
        ablations_section(questions),
        choices_section(find_choices(results, table1)),
        backends_section(results),
        costs_section(find_costs(folders)),
    ]
