"""The report as one web page that needs nothing beside it: no script, no network, no other file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from glot.report.cells import Cell, Section, method_name, methods_of, ours_text, sections, signed
from glot.report.choices import EXPLANATION as CHOICES_EXPLANATION
from glot.report.choices import HEADER as CHOICES_HEADER
from glot.report.comparison import Comparison
from glot.report.contents import Contents, relative
from glot.report.other import EXPLANATION as OTHER_EXPLANATION
from glot.report.other import other_columns
from glot.report.page_ablations import MOST_DOTS, ablations_html, backends_html, costs_html
from glot.report.page_stress import beyond_html, stress_html
from glot.report.page_tables import (
    cell_of,
    cells_table,
    figure,
    headed,
    link,
    prose,
    runs_place,
    scale_key,
    table,
)
from glot.report.published import PAPER_NAMES
from glot.report.results import OWN
from glot.report.styles import PAPER, styles_for
from glot.report.svg import Dot, dot_plot, swatch
from glot.report.table1 import EXPLANATION as TABLE1_EXPLANATION
from glot.report.table1 import columns_of
from glot.version import __version__

_HOW = """\
- A number is the mean over the runs behind it, in percent, **± the sample standard deviation over their seeds**; \
where there is no ±, there was one seed. {source}
- Where the paper has a number, **[the paper's, ours less the paper's]** stands below ours. The shade repeats the \
difference: blue is above the paper, orange below; the sign says the same.
- A difference smaller than the ± on either side says little. A ± from a few seeds is itself a rough number.
"""
_LINKED = "It is a link to the folder with those runs."
_UNLINKED = "The scores of each run stand in `results.json`."
_DIFFERENCES = """\
Known differences from the paper's procedure:

- **The epoch.** Ours is the best epoch on validation by the metric in the heading, and validation is also what is \
reported, which is generous to every method. The published script chooses by accuracy, or by the mean of Spearman and \
Pearson; its choice and the last epoch are in the CSV and JSON files beside this page.
- **The seeds.** The paper reports one run and no deviation; ours are means over the seeds named below.
- **The threshold τ.** The paper tuned τ for each model; here it is the task's default, 0.6, unless a row or a \
run's `config.json` says otherwise.
"""


def make_page(contents: Contents, folder: Path, written: Sequence[Path], links: bool = True) -> str:
    """The HTML of `index.html` in a folder, beside the files `written`; every name in it is escaped.

    Numbers are links to their runs, if `links`.
    """
    out = folder if links else None
    parts = [
        ("How to read this", _how(contents, links)),
        ("Table 1: GLUE", _table1(contents, out)),
        ("Stress test: a needle in a haystack", stress_html(contents.stress, out)),
        ("Beyond the paper’s stress test", beyond_html(contents.sweeps, out)),
        ("Other tasks", _other(contents, out)),
        ("GLOT against the best baseline", _comparisons(contents.comparisons, out, "the best baseline")),
        ("Is it the graph?", _comparisons(contents.graph, out, "itself without edges")),
        ("What each part is worth", ablations_html(contents.questions, out)),
        ("What a choice is worth", _choices(contents)),
        ("DGL and plain torch", backends_html(contents.backends)),
        ("What a label costs", costs_html(contents.costs)),
        ("The runs", _runs(contents)),
        ("Environment", _environment(contents)),
        ("Skipped", _skipped(contents.skipped)),
        ("Files", _files(folder, written)),
    ]
    shown = [(_anchor(title), title, body) for title, body in parts if body]
    nav = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title, _ in shown)
    body = "".join(
        f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{escape(title)}</h2>{inside}'
        "</section>"
        for anchor, title, inside in shown
    )
    style = files("glot.report").joinpath("pages", "report.css").read_text(encoding="utf-8")
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>GLOT: results</title>
<style>
{style}</style>
</head>
<body>
<header><h1>GLOT: results</h1>{_summary(contents)}<nav aria-label="Contents"><ul>{nav}</ul></nav></header>
<main>{body}</main>
<footer><p>Written by glot {escape(__version__)}.</p></footer>
</body>
</html>
"""


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _summary(contents: Contents) -> str:
    if not contents.results:
        return f"<p>No finished run was found in <code>{escape(contents.source)}</code>.</p>"
    tasks = len({result.task for result in contents.results})
    models = ", ".join(sorted({result.model for result in contents.results}))
    first, last = contents.environment.first_run, contents.environment.last_run
    days = list(dict.fromkeys(day[:10] for day in (first, last) if day))
    tasks_text = "1 task" if tasks == 1 else f"{tasks} tasks"
    text = f"{len(contents.results)} results on {tasks_text}; {models}; {' to '.join(days)}."
    return f"<p>{escape(text)}</p>"


def _how(contents: Contents, links: bool) -> str:
    if not contents.results:
        return ""
    has_paper = any(cell.paper is not None for cell in [*contents.table1, *contents.stress])
    worth = prose("How much each is worth stands under **What a choice is worth**.") if contents.choices else ""
    return (
        prose(_HOW.format(source=_LINKED if links else _UNLINKED))
        + scale_key(has_paper)
        + (prose(_DIFFERENCES) + worth if has_paper else "")
    )


def _table1(contents: Contents, out: Path | None) -> str:
    if not contents.table1:
        return ""
    return prose(TABLE1_EXPLANATION) + "".join(_table1_section(found, out) for found in sections(contents.table1))


def _table1_section(section: Section, out: Path | None) -> str:
    columns, methods = columns_of(section), methods_of(section.cells)
    found = {(cell.method, cell.task): cell for cell in section.cells}
    rows = [
        (method_name(method, section.kind), [found.get((method, column.name)) for column in columns])
        for method in methods
    ]
    tables = cells_table(section.title, "method", [column.title for column in columns], rows, out, with_paper=True)
    plots = [_dots(c.title, [x for x in section.cells if x.task == c.name], methods) for c in columns]
    paper_model = next((cell.paper_model for cell in section.cells if cell.paper is not None), None)
    beside = f" {swatch(PAPER)} the paper’s {escape(PAPER_NAMES[paper_model])}." if paper_model else ""
    return headed(section) + tables + figure(plots, f"Scores in percent; whiskers: ± std over seeds.{beside}")


def _dots(title: str, cells: Sequence[Cell], methods: Sequence[str]) -> str:
    styles = styles_for(methods)
    ordered = sorted(cells, key=lambda cell: methods.index(cell.method))
    dots = [
        Dot(method_name(c.method, c.kind), styles[c.method], c.mean, c.std, ours_text(c), c.paper, c.bounds)
        for c in ordered
    ]
    return dot_plot(title, f"{cells[0].metric}, %", dots) if len(dots) <= MOST_DOTS else ""


def _other(contents: Contents, out: Path | None) -> str:
    if not contents.other:
        return ""
    return prose(OTHER_EXPLANATION) + "".join(_other_section(found, out) for found in sections(contents.other))


def _other_section(section: Section, out: Path | None) -> str:
    columns, methods = other_columns(section), methods_of(section.cells)
    found = {(cell.method, cell.title): cell for cell in section.cells}
    rows = [
        (method_name(method, section.kind), [found.get((method, column.title)) for column in columns])
        for method in methods
    ]
    first: dict[str, Cell] = {}  # of each task and set, by the metric that chose the epoch
    for column in columns:
        first.setdefault(column.task, column)
    plots = [
        _dots(column.title, [cell for cell in section.cells if cell.title == column.title], methods)
        for column in first.values()
    ]
    headings = [column.title for column in columns]
    tables = cells_table(section.title, "method", headings, rows, out)
    return headed(section, False) + tables + figure(plots, "Scores in percent; whiskers: ± std over seeds.")


def _comparisons(comparisons: Sequence[Comparison], out: Path | None, rival: str) -> str:
    if not comparisons:
        return ""
    rows = []
    for found in comparisons:
        ours, theirs, difference = found.ours, found.baseline, found.difference
        low, high = (signed(100 * value) for value in (difference.low, difference.high))
        name = link(runs_place(theirs), out, escape(method_name(theirs.method, theirs.kind)))
        cells = [cell_of(ours.model), cell_of("–" if ours.setting == OWN else ours.setting), f"<td>{name}</td>"]
        cells += [cell_of(signed(100 * difference.value)), cell_of(f"{low} to {high}")]
        cells += [cell_of(f"{100 * difference.above:.1f} %"), cell_of(f"{difference.examples:,}")]
        cells += [cell_of(f"{len(ours.runs)}, {len(theirs.runs)}")]
        rows.append((ours.title, cells))
    headings = ["task", "backbone", "setting", "against", "difference, points", "95 % interval"]
    headings += ["resamples above 0", "examples", "seeds"]
    note = f"""\
The difference is GLOT's score less that of {rival}, with the 95 % percentile interval of a paired \
bootstrap: the validation examples are drawn anew with replacement, both methods are scored on each draw, and the \
scores are averaged over the seeds of each. The interval holds for other examples of the same kind; what other seeds \
would have given is not in it, and the epochs were chosen on the same examples."""
    resamples = comparisons[0].difference.resamples
    return prose(note) + table(f"GLOT less {rival}, {resamples:,} resamples", headings, rows)


def _choices(contents: Contents) -> str:
    if not contents.choices:
        return ""
    rows = [(choice.row()[0], [cell_of(text) for text in choice.row()[1:]]) for choice in contents.choices]
    return prose(CHOICES_EXPLANATION) + table("Points that a choice adds", CHOICES_HEADER, rows)


def _runs(contents: Contents) -> str:
    if not contents.results:
        return ""
    rows = []
    for setting in sorted({result.setting for result in contents.results}):
        found = [result for result in contents.results if result.setting == setting]
        epochs = sorted({result.epochs for result in found})
        shown = [str(len(found)), ", ".join(sorted({result.task for result in found}))]
        shown += [", ".join(sorted({result.model for result in found}))]
        shown += [", ".join(map(str, sorted({result.seed for result in found})))]
        shown += ["–".join(map(str, dict.fromkeys([epochs[0], epochs[-1]])))]
        shown += [f"{sum(result.seconds for result in found) / 3600:.2f}"]
        rows.append((setting, [cell_of(value) for value in shown]))
    headings = ["setting", "results", "tasks", "models", "seeds", "epochs", "hours of training"]
    return f'<div class="words">{table("Results by setting", headings, rows)}</div>'


def _environment(contents: Contents) -> str:
    found = contents.environment
    entries = [
        ("Machine", found.machine),
        ("Runs from", found.first_run),
        ("Runs to", found.last_run),
        ("Made by", ", ".join(found.created_by)),
        ("Trained on", ", ".join(found.devices)),
        ("Report written", found.written),
        ("Platform", f"{found.platform}, {found.processors} processors"),
        ("GPU", found.gpu),
        ("Python", found.python),
        ("torch", found.torch),
        ("numpy", found.numpy),
        ("DGL", found.dgl or "none"),
        ("Commit", found.commit),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in entries if value)
    note = "Dates are those of the result files; versions and platform are those that wrote this report."
    return f'<p>{note}</p><dl class="facts">{items}</dl>'


def _skipped(skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return "<p>Nothing was skipped.</p>"
    rows = [(step, [cell_of(reason)]) for step, reason in skipped]
    return f'<div class="words">{table("What is not here, and why", ["what", "why"], rows)}</div>'


def _files(out: Path, written: Sequence[Path]) -> str:
    items = "".join(f"<li>{link(path, out, escape(relative(path, out)))}</li>" for path in written)
    return f"<p>The same numbers as Markdown, CSV and JSON:</p><ul>{items}</ul>"
