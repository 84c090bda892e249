"""The room's front door: a folder of runs becomes a folder of tables, figures and an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.report.ablations import TABLE_SETTINGS, write_ablations
from pipeline.report.cells import NOTHING, demote, markdown_table
from pipeline.report.costs import write_costs
from pipeline.report.results import YARDSTICK, Result, collect
from pipeline.report.stress import write_stress
from pipeline.report.table1 import write_table1
from pipeline.store.files import make_folder, write_text


def write_report(runs: Path, out: Path, skipped: Sequence[tuple[str, str]] = (), machine: str = "") -> list[Path]:
    """Write the tables, figures and index of all finished runs.

    Args:
        runs: a folder of reproduced runs, see `pipeline.report.results.collect`.
        out: where the report goes; made if need be.
        skipped: (step, reason) of every step that was not run.
        machine: where the runs ran, in words.

    Returns:
        The files written, `README.md` first; tables without results and, where matplotlib is missing, pictures
        are not among them.

    Raises:
        UsageError: `out` cannot be made. FaultError: a run is damaged, or a file cannot be written.
    """
    results = collect(runs)
    make_folder(out)
    tables = [result for result in results if result.setting in TABLE_SETTINGS]
    written = [
        *write_table1(tables, out),
        *write_stress(tables, out),
        *write_ablations(results, out),
        *write_costs(runs, out),
    ]
    index = out / "README.md"
    write_text(index, _index(results, runs, written, skipped, machine))
    return [index, *written]


def _index(
    results: list[Result], runs: Path, written: list[Path], skipped: Sequence[tuple[str, str]], machine: str
) -> str:
    pages = [demote(path.read_text(encoding="utf-8").strip()) for path in written if path.suffix == ".md"]
    return (
        "\n\n".join(["# Results", *_summary(results, runs, machine), *_files(written), *_skipped(skipped), *pages])
        + "\n"
    )


def _summary(results: list[Result], runs: Path, machine: str) -> list[str]:
    where = [f"Machine: {machine}"] if machine else []
    if not results:
        return [*where, f"No finished run was found in `{runs}`."]
    settings = sorted({result.setting for result in results}, key=lambda name: (name == YARDSTICK, name))
    rows = [_setting_row(setting, [r for r in results if r.setting == setting]) for setting in settings]
    header = ["setting", "results", "tasks", "models", "seeds", "epochs", "hours of training"]
    return [*where, markdown_table(header, rows)]


def _setting_row(setting: str, results: list[Result]) -> list[str]:
    epochs = sorted({result.epochs for result in results})
    return [
        setting,
        str(len(results)),
        str(len({result.task for result in results})),
        ", ".join(sorted({result.model for result in results})),
        ", ".join(map(str, sorted({result.seed for result in results}))),
        "–".join(map(str, dict.fromkeys([epochs[0], epochs[-1]]))) if epochs[-1] else NOTHING,
        f"{sum(result.seconds for result in results) / 3600:.2f}",
    ]


def _files(written: list[Path]) -> list[str]:
    if not written:
        return []
    return ["## Files", "\n".join(f"- [{path.name}]({path.name})" for path in written)]


def _skipped(skipped: Sequence[tuple[str, str]]) -> list[str]:
    lines = "\n".join(f"- **{step}**: {reason}" for step, reason in skipped)
    return ["## Skipped", lines or "Nothing was skipped."]
