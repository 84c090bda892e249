"""What is known of the untouched rows once they are scored, as a file and as what the folder keeps of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from glot.fit.doubts import Doubt, Doubts
from glot.fit.evaluation import Evaluation, Scored
from glot.inference.encode import answer_names, answer_of
from glot.inference.evaluation import evaluate_cache
from glot.inference.labelled import EvaluateOptions
from glot.inference.run_checks import answer_columns
from glot.registry.tasks import Columns
from glot.store.reader import Cache
from glot.store.rows import Row, rows_file
from glot.store.task_spec import TaskSpec, label_text
from glot.train.job import TEST
from glot.train.result import ByClass, Score

PIECE = 4096  # rows written at a time
RIGHT = "is_right"  # the column that says with 1 or 0 whether the answer is the label


def evaluate_untouched(run: Path, cache: Cache, source: str, device: str | None) -> Evaluation:
    """The run's evaluation on the rows that nothing was trained on, beside the yardsticks, which are measured once.

    `source` says of what file they are, for people.
    """
    return evaluate_cache(run, cache, TEST, EvaluateOptions(device=device), source, with_weights=True)


def scores_of(found: Evaluation) -> tuple[Score, ...]:
    """The scores of an evaluation, a metric each, as they are kept."""
    return tuple(
        Score(one.metric, one.score, one.yardsticks, one.rival, one.difference, one.line, one.verdict)
        for one in found.judgements
    )


def classes_of(found: Evaluation) -> tuple[ByClass, ...]:
    """The scores of each class, as they are kept."""
    return tuple(
        ByClass(one.name, one.precision, one.recall, one.f1, one.support, one.threshold) for one in found.classes
    )


def write_untouched(path: Path, scored: Scored, columns: Columns) -> None:
    """Write the untouched rows with their labels and the head's answers, in the order of their source.

    The columns are called as in the table; the answers' as `glot predict` calls them.
    """
    task = scored.task
    label = "labels" if len(columns.labels) > 1 else columns.label
    texts = [columns.text, *([columns.text_b] if columns.text_b else [])]
    kept = {"index": int, **dict.fromkeys(texts, str), label: str if task.classes else float}
    names, types = answer_names(task, kept), answer_columns(task, with_probabilities=True)
    rows = _rows(scored, texts, label, names)
    told = {names[name]: kind for name, kind in types.items() if name != "index"}
    right = {} if task.target == "score" else {RIGHT: int}
    with rows_file(path, {**kept, **told, **right}) as write:
        while piece := list(islice(rows, PIECE)):
            write(piece)


def write_doubts(path: Path, doubts: Doubts, task: TaskSpec) -> None:
    """Write the training labels that are likely wrong, a row each: what is written, and what a regression says.

    Where a text may have several labels the column `doubt` says what of them: "bug is missing", "bug is wrong".
    """
    texts = ["text", "text_b"][: len(doubts.found[0].texts)]
    columns: dict[str, type] = {"index": int, **dict.fromkeys(texts, str), "label": str, "suggested": str}
    columns |= {"doubt": str} if task.target == "labels" else {}
    columns |= {"label_probability": float, "suggested_probability": float} if task.classes else {}
    with rows_file(path, columns) as write:
        write([_doubt_row(one, texts) for one in doubts.found])


def _doubt_row(doubt: Doubt, texts: Sequence[str]) -> Row:
    told = dict(zip(texts, doubt.texts, strict=True))
    told |= {"label": doubt.label, "suggested": doubt.other}
    if doubt.name is not None:
        told["doubt"] = f"{doubt.name} is {'missing' if doubt.is_missing else 'wrong'}"
    shares = {"label_probability": doubt.label_share, "suggested_probability": doubt.other_share}
    return {"index": doubt.row, **told, **{name: value and round(value, 6) for name, value in shares.items()}}


def _rows(scored: Scored, texts: list[str], label: str, names: dict[str, str]) -> Iterator[Row]:
    assert scored.rows is not None  # as of every set of a cache
    assert scored.texts is not None  # which keeps its texts
    answers = scored.answers
    for place, row in enumerate(scored.rows.tolist()):
        value = scored.labels[place].item()
        told = label_text(scored.task, value) if scored.task.classes else value
        cells = dict(zip(texts, scored.texts[place], strict=True))
        said = answer_of(scored.task, answers[place], scored.estimates[place], names)
        right = {} if scored.task.target == "score" else {RIGHT: int(answers[place] == value)}
        yield {"index": row, **cells, label: told, **said, **right}
