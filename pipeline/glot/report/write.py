"""The room's front door: a folder of runs becomes a folder of tables, figures and an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glot.report.ablations import write_ablations
from glot.report.backends import write_backends
from glot.report.beyond import write_beyond
from glot.report.cells import NOTHING, demote, markdown_table
from glot.report.choices import write_choices
from glot.report.comparison import Predictions, read_predictions
from glot.report.contents import Contents, contents_json, make_contents
from glot.report.costs import find_costs, write_costs
from glot.report.other import write_other
from glot.report.own import collect_own
from glot.report.page import make_page
from glot.report.results import YARDSTICK, Result, collect
from glot.report.stress import write_stress
from glot.report.table1 import write_table1
from glot.store.files import make_folder, write_json, write_text


def write_report(
    runs: Path,
    out: Path,
    skipped: Sequence[tuple[str, str]] = (),
    machine: str = "",
    predictions: Predictions = read_predictions,
    links: bool = True,
) -> list[Path]:
    """Write the tables, figures and index of all finished runs: a page, Markdown, CSV and JSON.

    Args:
        runs: a folder of reproduced runs, see `glot.report.results.collect`.
        out: where the report goes; made if need be.
        skipped: (step, reason) of every step that was not run.
        machine: where the runs ran, in words.
        predictions: what a run predicted on an example set, to compare GLOT with the best baseline.
        links: the page's numbers are links to their runs; False for a page that goes where the runs do not.

    Returns:
        The files written, `README.md`, `index.html` and `results.json` first; tables without results and, where
        matplotlib is missing, pictures are not among them.

    Raises:
        UsageError: `out` cannot be made. FaultError: a run is damaged, or a file cannot be written.
    """
    contents = make_contents(collect(runs), find_costs([runs]), str(runs), skipped, machine, predictions)
    return _write(contents, out, links)


def write_own_report(
    folders: Sequence[Path], out: Path, predictions: Predictions = read_predictions, links: bool = True
) -> list[Path]:
    """As `write_report`, of runs anywhere below some folders, see `glot.report.own.collect_own`.

    Raises:
        UsageError: no finished run was found, or `out` cannot be made. FaultError: runs are damaged.
    """
    results, skipped = collect_own(folders)
    source = ", ".join(map(str, folders))
    return _write(make_contents(results, find_costs(folders), source, skipped, predictions=predictions), out, links)


def _write(contents: Contents, out: Path, links: bool) -> list[Path]:
    make_folder(out)
    index, page, data = out / "README.md", out / "index.html", out / "results.json"
    write_json(data, contents_json(contents, out))
    tables = [*write_table1(contents.table1, out), *write_stress(contents.stress, out)]
    tables += [*write_beyond(contents.sweeps, out), *write_other(contents.other, out)]
    tables += [*write_ablations(contents.questions, out), *write_choices(contents.choices, out)]
    tables += [*write_backends(contents.backends, out), *write_costs(contents.costs, out)]
    write_text(page, make_page(contents, out, [index, data, *tables], links))
    write_text(index, _index(contents, [page, data, *tables]))
    return [index, page, data, *tables]


def _index(contents: Contents, written: list[Path]) -> str:
    pages = [demote(path.read_text(encoding="utf-8").strip()) for path in written if path.suffix == ".md"]
    parts = ["# Results", *_summary(contents), *_files(written), *_skipped(contents.skipped), *pages]
    return "\n\n".join(parts) + "\n"


def _summary(contents: Contents) -> list[str]:
    results, machine = contents.results, contents.environment.machine
    where = [f"Machine: {machine}"] if machine else []
    if not results:
        return [*where, f"No finished run was found in `{contents.source}`."]
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
    return ["## Files", "\n".join(f"- [{path.name}]({path.name})" for path in written)]


def _skipped(skipped: Sequence[tuple[str, str]]) -> list[str]:
    lines = "\n".join(f"- **{step}**: {reason}" for step, reason in skipped)
    return ["## Skipped", lines or "Nothing was skipped."]
