"""The room's front door: results and sections become a folder with a page, Markdown, CSV, JSON and pictures.

`results.json`, version 1, is for other programs:

    format, version     "glot-results", 1
    environment         the fields of `glot.report.environment.Environment`
    cells               a list for each section that has cells ("other"; of `glot.reproduce` "table1", "stress",
                        "beyond" and "ablations"), a cell an object with the fields of `glot.report.cells.Cell`,
                        `difference` (null where the paper has no number) and `runs`: the paths of the runs that are
                        averaged; of "stress" also `generator` and `ratio`, of "beyond" `generator`, `distractors`
                        (percent), `words` and `gap`
    runs                every run and baseline: `path`, `task`, `model`, `method`, `setting`, `seed`, `best`,
                        `best_published`, `last` (example set -> metric -> fraction), `epochs`, `density`, `seconds`
                        (of several heads that trained side by side each its share), `kind` of the backbone
    comparisons         GLOT less the best baseline: `model`, `setting`, `task`, `metric`, `set_name`, `method`,
                        `baseline`, `difference`, `low`, `high` (points), `above` (share), `examples`, `resamples`,
                        `seeds` (of GLOT's and of the baseline's runs)
    graph               GLOT less itself with self-loops only: as `comparisons`
    outside             poolers from outside less the best of the others: as `comparisons`
    skipped             what is not there: `step` and `reason`
    and of `glot.reproduce`
    choices             the fields of `glot.reproduce.choices.Choice`, in points
    costs               the fields of `glot.reproduce.costs.CostRecord`, and `path`
    backends            of each head that was scored with both backends: `model`, `task`, `seed`, `trained` (with
                        which one), `scores` (backend -> example set -> metric -> fraction), `largest` (difference,
                        points) and `path`

Paths are relative to the file's folder, with "/", and lead nowhere where the report was moved without its runs. Scores
of cells are in percent, those of runs are fractions. A later version may add fields; a field that changes its meaning
gets a new version.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from glot.report.cells import NOTHING, Cell, cell_values, cells_csv, markdown_table
from glot.report.comparison import comparison_sections, headline
from glot.report.environment import Environment, collect_environment
from glot.report.figures import Drawn, Picture, check_extra, render, write_png
from glot.report.other import other_section
from glot.report.results import BASELINE, Result
from glot.report.sections import STEPS, Section, Table, words
from glot.store.files import make_folder, write_json, write_text
from glot.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment as Templates

FORMAT, VERSION = "glot-results", 1


def write_sections(
    results: Sequence[Result],
    sections: Sequence[Section],
    out: Path,
    source: str = "",
    skipped: Sequence[tuple[str, str]] = (),
    machine: str = "",
    links: bool = True,
) -> list[Path]:
    """Write a report of results: the sections given, and what is true of anybody's runs.

    Args:
        sections: of `glot.reproduce`, or none; results whose runs are in none of their cells get a table of their own.
        out: where the report goes; made if need be.
        source: where the runs were looked for, in words.
        skipped: (step, reason) of every step that was not run.
        machine: where the runs ran, in words.
        links: the page's numbers are links to their runs; False for a page that goes where the runs do not.

    Returns:
        The files written, `README.md`, `index.html` and `results.json` first.

    Raises:
        UsageError: `out` cannot be made, or a package of the extra `report` is missing. FaultError: a run is damaged,
        or a file cannot be written.
    """
    check_extra()
    sections = sorted([*sections, other_section(results, sections)], key=lambda section: section.order)
    sections += comparison_sections(sections)
    sections.sort(key=lambda section: section.order)
    environment = collect_environment(results, machine)
    make_folder(out)
    index, page, data = out / "README.md", out / "index.html", out / "results.json"
    write_json(data, _as_json(results, sections, environment, skipped, out))
    shown = [section for section in sections if section.blocks]
    drawn = draw_pictures(shown)
    tables = [path for section in shown if section.name for path in write_section(section, out, drawn)]
    facts = {
        "sections": shown,
        "results": results,
        "environment": environment,
        "skipped": skipped,
        "source": source,
        "links": links,
        "steps": [f"{step:g}" for step in STEPS],
        "has_paper": any(cell.paper is not None for section in shown for cell in section.cells),
        "has_shade": any(
            cell.paper is not None and cell.paper_model == cell.model for section in shown for cell in section.cells
        ),
        "headline": headline(sections),
    }
    templates = load_templates(out, drawn)
    html = {"written": [index, data, *tables], "runs_table": _runs_table(results, False), "version": __version__}
    write_text(page, templates.get_template("page.html.jinja").render(**facts, **html))
    plain = {"written": [page, data, *tables], "runs_table": _runs_table(results, True)}
    write_text(index, templates.get_template("index.md.jinja").render(**facts, **plain))
    return [index, page, data, *tables]


def write_section(section: Section, out: Path, drawn: dict[int, Drawn] | None = None) -> list[Path]:
    """Write a section's own files, `<name>.md` first, with the pictures that are drawn; nothing of an empty one."""
    if not section.blocks:
        return []
    if drawn is None:
        drawn = draw_pictures([section])
    text = load_templates(out, drawn).get_template("section.md.jinja").render(section=section)
    write_text(out / f"{section.name}.md", text)
    written = [out / f"{section.name}.md"]
    if section.key:
        write_text(out / f"{section.name}.csv", cells_csv(section.cells, section.more))
        written.append(out / f"{section.name}.csv")
    for name in dict.fromkeys(picture.file for picture in section.pictures if picture.file):
        parts = [drawn[id(picture)].pixels for picture in section.pictures if picture.file == name]
        write_png(out / name, parts)
        written.append(out / name)
    return written


def draw_pictures(sections: Sequence[Section]) -> dict[int, Drawn]:
    """Every picture of some sections, by its `id`."""
    pictures = [picture for section in sections for picture in section.pictures]
    return {id(picture): render(picture, number) for number, picture in enumerate(pictures)}


def load_templates(out: Path, drawn: dict[int, Drawn]) -> Templates:
    """The templates of a report in a folder; what goes into HTML is escaped, but for what is HTML already."""
    from jinja2 import Environment as Templates
    from jinja2 import PackageLoader, StrictUndefined
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    # Paragraphs, lists, strong words and code: what else a name may look like stays as it is written.
    markdown = MarkdownIt("zero").enable(["list", "emphasis", "backticks"])
    templates = Templates(
        loader=PackageLoader("glot.report"),
        undefined=StrictUndefined,
        autoescape=lambda name: bool(name) and ".html" in str(name),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {
        "markdown": lambda text: Markup(markdown.render(text)),
        "inline": lambda text: Markup(markdown.renderInline(text)),
        "anchor": lambda title: re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"),
        "demoted": lambda text: re.sub(r"^#", "##", text, flags=re.MULTILINE),
        "markdown_table": lambda table: markdown_table(table.header, table.lines()),
        "svg": lambda picture: Markup(drawn[id(picture)].svg),
        "href": lambda path: quote(relative(path, out)),
        "relative": lambda path: relative(path, out),
        "facts": environment_facts,
    }
    templates.filters |= filters
    style = read_style("report.css")
    templates.globals |= {"style": Markup(style), "is_last_of_file": _is_last_of_file}
    return templates


def read_style(name: str) -> str:
    """A style sheet beside the templates."""
    return files("glot.report").joinpath("templates", name).read_text(encoding="utf-8")


def relative(path: Path, out: Path) -> str:
    """A path as seen from the report's folder, with "/"."""
    return Path(os.path.relpath(path.absolute(), out.absolute())).as_posix()


def _is_last_of_file(section: Section, picture: Picture) -> bool:
    """Whether a picture is the last of those that share its PNG file."""
    same = [other for other in section.pictures if other.file == picture.file]
    return bool(picture.file) and same[-1] is picture


def _runs_table(results: Sequence[Result], is_counted: bool) -> Table:
    """The settings, and what was run of each: tasks by their number or by their names."""
    rows = []
    for setting in sorted({result.setting for result in results}, key=lambda name: (name == BASELINE, name)):
        found = [result for result in results if result.setting == setting]
        epochs = sorted({result.epochs for result in found})
        tasks = sorted({result.task for result in found})
        texts = [
            str(len(found)),
            str(len(tasks)) if is_counted else ", ".join(tasks),
            ", ".join(sorted({result.model for result in found})),
            ", ".join(map(str, sorted({result.seed for result in found}))),
            _span(epochs) if epochs[-1] else NOTHING,
            _span([result.examples for result in found if result.examples]),
            f"{sum(result.seconds for result in found) / 3600:.2f}",
        ]
        rows.append((setting, words(texts)))
    header = ["setting", "results", "tasks", "models", "seeds", "epochs", "training rows", "hours of training"]
    return Table("Results by setting", header, rows, is_words=True)


def _span(counts: Sequence[int]) -> str:
    """The smallest and the largest of some counts, or the one that they are."""
    return "–".join(f"{count:,}" for count in sorted({min(counts), max(counts)})) if counts else NOTHING


def environment_facts(found: Environment) -> list[tuple[str, str]]:
    """(name, value) of what is known."""
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
    return [(name, value) for name, value in entries if value]


def _as_json(
    results: Sequence[Result],
    sections: Sequence[Section],
    environment: Environment,
    skipped: Sequence[tuple[str, str]],
    out: Path,
) -> dict[str, Any]:
    """The JSON of `results.json` in the folder `out`; see this module's head."""

    def cell_json(cell: Cell, section: Section) -> dict[str, Any]:
        own = {"kind": cell.kind, "difference": cell.difference, "runs": [relative(run, out) for run in cell.runs]}
        return {**cell_values(cell), **own, **section.more(cell)}

    def placed(record: dict[str, Any]) -> dict[str, Any]:
        return {name: relative(value, out) if isinstance(value, Path) else value for name, value in record.items()}

    cells = {section.key: [cell_json(cell, section) for cell in section.cells] for section in sections if section.key}
    more = {key: [*map(placed, records)] for section in sections for key, records in section.data.items()}
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": asdict(environment),
        "cells": cells,
        "runs": [placed({item.name: getattr(run, item.name) for item in fields(Result)}) for run in results],
        **more,
        "skipped": [{"step": step, "reason": reason} for step, reason in skipped],
    }
