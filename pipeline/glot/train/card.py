"""The card of a folder that `glot train` made: what it is, how good, on what, and how to use it."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from glot.export.card import Evaluation
from glot.report.cells import markdown_table
from glot.store.files import write_text
from glot.train.result import CARD_FILE, DOUBTS_FILE, PAGE_FILE, PREDICTIONS_FILE, RESULT_FILE, Trained


def write_card(done: Trained) -> None:
    """Write `README.md`, in Markdown."""
    write_text(done.folder / CARD_FILE, "\n".join(_lines(done)) + "\n")


def evaluation_of(run: Path) -> Evaluation | None:
    """What `glot train` found on untouched rows, for the card of the exported run; None of a run of other commands."""
    done = Trained.load(run) if (run / RESULT_FILE).exists() else None
    if done is None:
        return None
    lines = tuple(line for score in done.scores for line in (score.line, score.verdict) if line)
    return Evaluation(lines, done.untouched, done.rows, done.labels)


def headline(done: Trained) -> str:
    """The answer in one line: "79.8 % accuracy [77.0, 82.4] on 872 untouched rows; majority 50.9; ..."."""
    first = done.scores[0]
    value = f"{100 * first.score.value:.1f}"
    shown = f"{first.metric} {value}" if done.task.target == "score" else f"{value} % {first.metric}"
    if first.score.low is not None and first.score.high is not None:
        shown += f" [{100 * first.score.low:.1f}, {100 * first.score.high:.1f}]"
    parts = [f"{shown} on {done.rows['test']:,} untouched rows"]
    parts += [f"{name} {100 * value:.1f}" for name, value in first.yardsticks.items()]
    return "; ".join(parts)


def next_commands(done: Trained) -> list[tuple[str, str]]:
    """What to do with the folder: (what for, command)."""
    columns = f"--text {quote(done.columns.text)}"
    if done.columns.text_b:
        columns += f" --text-b {quote(done.columns.text_b)}"
    run = f"--run {quote(str(done.folder))}"
    export = f"{quote(str(done.folder / 'exported'))}"
    separator = f" --label-separator {quote(done.columns.separator)}" if done.columns.separator is not None else ""
    return [
        ("label new rows", f"glot predict {run} --input new.csv {columns} --output answers.csv"),
        ("answer over HTTP", f"glot serve {run}"),
        ("give it to others", f"glot export {run} --to sentence-transformers {export}"),
        (
            "score it on other rows",
            f"glot evaluate {run} --data labelled.csv {columns} --label {quote(done.columns.label)}{separator}",
        ),
    ]


def _lines(done: Trained) -> list[str]:
    task = done.task
    chosen = f" Chosen among {done.searched} candidates, on the training rows alone." if done.searched else ""
    what = {"classes": "Tells classes apart", "labels": "Tells which labels fit"}.get(task.target, "Gives scores")
    lines = [f"# {task.name}: {done.model} with a trained head", "", f"{headline(done)}.", ""]
    lines += [f"{what} of {'pairs of texts' if task.num_texts == 2 else 'texts'}; made by `glot train`.", ""]
    lines += ["## Scores", ""]
    for score in done.scores:
        lines += [f"- {score.line}"] + ([f"- {score.verdict}"] if score.verdict else [])
    lines += ["", f"Scored on {done.untouched}. The interval is of 95 %.", ""]
    if done.classes:
        lines += [_by_class(done)]
    lines += ["", "## Data", ""]
    lines += ["| set | rows | labels |", "|---|---:|---|"]
    lines += [f"| {name} | {count:,} | {_cell(done.labels[name])} |" for name, count in done.rows.items()]
    lines += ["", "## Settings", "", f"{done.settings}.{chosen}", "", "## Use", ""]
    for what_for, command in next_commands(done):
        lines += [f"To {what_for}:", "", f"    {command}", ""]
    lines += [f"`{PREDICTIONS_FILE}` has the untouched rows with the head's answers."]
    if PAGE_FILE in done.files:
        lines += [f"`{PAGE_FILE}` shows which rows it fails on."]
    if DOUBTS_FILE in done.files:
        lines += [f"`{DOUBTS_FILE}` has the training labels that are likely wrong, the likeliest first."]
    return lines


def _by_class(done: Trained) -> str:
    """A table of the classes, or labels, in percent."""
    several = done.task.target == "labels"
    heading = ["label" if several else "class", "precision", "recall", "F1", "rows"] + ["threshold"] * several
    rows = []
    for one in done.classes:
        shares = [f"{100 * value:.1f}" for value in (one.precision, one.recall, one.f1)]
        rows.append([_cell(one.name), *shares, f"{one.support:,}"] + [f"{100 * (one.threshold or 0):.1f}"] * several)
    return markdown_table(heading, rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
