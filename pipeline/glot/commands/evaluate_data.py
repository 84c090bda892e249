"""`glot evaluate --data`: a head's scores on a file of labelled texts, as tables, JSON or a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from glot.commands.console import answer, manners, note, note_unfinished, notes, printable, say, screen, tell
from glot.commands.progress import text_bar
from glot.errors import UsageError

if TYPE_CHECKING:
    from glot.fit.evaluation import ClassScore, Evaluation
    from glot.inference.labelled import EvaluateOptions, LabelledFile
    from glot.store.task_spec import TaskSpec
    from glot.train.result import ByClass

MOST_CLASSES = 12  # of a confusion matrix on a terminal; the page has all
MOST_SHOWN, MOST_LETTERS = 5, 90  # of the most confident errors there, and of a text
PAGES = (".html", ".htm")


def evaluate_data(runs: list[Path], labelled: LabelledFile, options: EvaluateOptions, page: Path | None) -> None:
    """Score runs on a file's rows, print the tables, and write the page where one is asked for."""
    from glot.extract.options import check_engine
    from glot.inference.labelled import check_labelled

    check_engine(options.engine)
    if page is not None:
        _check_page(page)
    folders, split, found_columns = check_labelled(runs, labelled, options.model)
    if found_columns:
        note(found_columns)
    if page is not None and len(folders) > 1:
        raise UsageError(f"--page shows one run, and there are {len(folders)}: name one with --run")
    from glot.inference.evaluation import evaluate_split

    note_unfinished(*folders)
    with text_bar(notes, "evaluate") as report:
        found = evaluate_split(folders, split, options, report, note, for_page=page is not None)
    if split.reading is not None:
        note(f"{split.reading.source}: {split.reading.facts}")
    for folder, evaluation in zip(folders, found, strict=True):
        _print(evaluation, str(folder) if len(folders) > 1 else "")
    pairs = zip(folders, found, strict=True)
    told: dict[str, Any] = {
        "data": labelled.path,
        "page": page,
        "runs": [{"run": run, **one.to_json()} for run, one in pairs],
    }
    if page is not None:
        from glot.report.evaluation_page import write_page
        from glot.report.gather import gather_page

        with notes.status("the page: doubtful labels, duplicates, the learning curve"):
            gathered = gather_page(folders[0], found[0], name=f"{folders[0]} on {split.name}")
            write_page(page, gathered)
        tell(f"{page}: the page")
        told["doubts"] = gathered.doubts
    answer(told)


def _check_page(page: Path) -> None:
    from glot.report.figures import check_extra
    from glot.store.files import check_output

    check_output(page, PAGES, "--page")
    check_extra()


def _print(evaluation: Evaluation, title: str) -> None:
    if manners.as_json:
        return
    if title:
        say(title)
    for judgement in evaluation.judgements:
        say(judgement.line)
    if evaluation.judgements and (verdict := evaluation.judgements[0].verdict) is not None:
        say(verdict)
    if evaluation.residuals is not None:
        found = evaluation.residuals
        say(f"mean absolute error {found.mae:.4g}, root mean squared {found.rmse:.4g}, mean error {found.bias:+.4g}")
    if evaluation.classes:
        screen.print(class_table(evaluation.classes, evaluation.scored.task, "examples"))
        if evaluation.confusion and len(evaluation.classes) <= MOST_CLASSES:
            screen.print(_confusion_table(evaluation))
    _print_calibration(evaluation)
    _print_mistakes(evaluation)


def class_table(classes: Sequence[ClassScore | ByClass], task: TaskSpec, counted: str) -> Table:
    """The scores of each class, or label, and how many have it: `counted` says what, for the heading."""
    kind = "label" if task.target == "labels" else "class"
    table = Table(title=f"by {kind}, percent", title_justify="left")
    table.add_column(kind)
    for heading in ("precision", "recall", "F1", counted, *(["threshold"] if kind == "label" else [])):
        table.add_column(heading, justify="right")
    for one in classes:
        shares = [f"{100 * value:.1f}" for value in (one.precision, one.recall, one.f1)]
        above = [] if one.threshold is None else [f"{100 * one.threshold:.1f}"]
        table.add_row(printable(one.name), *shares, f"{one.support:,}", *above)
    return table


def _confusion_table(evaluation: Evaluation) -> Table:
    table = Table(title="a row a label, a column an answer", title_justify="left")
    table.add_column("label")
    for one in evaluation.classes:
        table.add_column(printable(one.name), justify="right")
    for one, counts in zip(evaluation.classes, evaluation.confusion, strict=True):
        table.add_row(printable(one.name), *(f"{count:,}" for count in counts))
    return table


def _print_calibration(evaluation: Evaluation) -> None:
    before, scaling = evaluation.calibration, evaluation.scaling
    if before is None:
        return
    line = f"calibration: expected error {100 * before.error:.1f} points, log loss {before.log_loss:.3f}"
    if scaling is not None:
        fitted = f"fitted on {scaling.examples:,} of {scaling.source}"
        fitted += ", each fifth at that of the others" if scaling.crosswise else ""
        after = f"{100 * scaling.after.error:.1f} points and {scaling.after.log_loss:.3f}"
        line += f"; at temperature {scaling.temperature:.2f}, {fitted}, {after}"
    say(line)


def _print_mistakes(evaluation: Evaluation) -> None:
    shown = evaluation.mistakes[:MOST_SHOWN]
    if not shown:
        return
    is_score = evaluation.residuals is not None
    say("farthest off:" if is_score else f"the most confident of {evaluation.wrong:,} errors:")
    for one in shown:
        text = " ‖ ".join(" ".join(text.split()) for text in one.texts)
        text = text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"
        sure = "" if is_score else f" ({100 * one.sure:.0f} %)"
        say(f"  row {one.row}: {one.label}, answered {one.answer}{sure}: {text}")
