"""Scores every column on every task with mteb itself, and goes on where an earlier run stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import cast

import datasets
import mteb
from mteb.abstasks import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.cache import ResultCache
from mteb.models import EncoderProtocol
from mteb.results import TaskResult

from glot.corpus.dialect import FIND_OUT, TableFormat
from glot.errors import FaultError, reason_of
from glot.mteb_eval.columns import open_comparison
from glot.mteb_eval.encoder import ColumnEncoder, Report, TextVectors
from glot.mteb_eval.local_tasks import LocalReader
from glot.mteb_eval.tasks import find_tasks, leaves, read_prompts
from glot.nn.graph import Backend
from glot.process import kept_randomness, quiet
from glot.report.cells import NOTHING, markdown_table
from glot.store.files import make_folder, write_text

TABLE_FILE = "scores.md"


@dataclass(frozen=True)
class MtebOptions:
    """What the user asked to see evaluated; None is what was not said.

    Attributes:
        runs: trained heads, a column each; at least one.
        tasks: names of mteb's tasks and benchmarks between commas. local: words of `local_tasks.GRAMMAR`.
        form: how local tables are written. bad_rows: what becomes of their unfit rows, "stop" or "skip".
        out: where mteb's results and the table go; inside the first run's folder unless said.
        max_tokens: the length at which texts are cut, instead of that of the first run's training.
        prompts: "NAME=TEXT", see `ColumnEncoder`.
        model: the backbone, where it no longer lies where the runs found it. device, backend, engine: where and how
            it runs.
        trust_remote_code: run the code that the backbone's folder brings along; else it is never run.
    """

    runs: Sequence[Path]
    tasks: str = ""
    local: Sequence[str] = ()
    form: TableFormat = FIND_OUT
    bad_rows: str = "stop"
    out: Path | None = None
    max_tokens: int | None = None
    prompts: Sequence[str] = ()
    model: str | None = None
    trust_remote_code: bool = False
    device: str | None = None
    backend: Backend = "dense"
    engine: str = "auto"


@dataclass(frozen=True)
class TaskScores:
    """A row of the table: the task, its main metric, and the score of each column, in mteb's units (mostly 0 to 1)."""

    task: str
    metric: str
    scores: list[float]


@dataclass(frozen=True)
class Scores:
    """The table.

    Attributes:
        folder: where it lies, with mteb's results.
        columns: titles.
        rows: of the tasks that could be evaluated.
        notes: what the columns have in common, where each has its weights, and how local files were read.
    """

    folder: Path
    columns: list[str]
    rows: list[TaskScores]
    notes: list[str]

    def cells(self) -> list[list[str]]:
        """Task, metric and scores in percent, a row each; then the columns' means, where there are several tasks."""
        rows = [[row.task, row.metric, *map(_percent, row.scores)] for row in self.rows]
        if len(rows) > 1:
            means = [mean(scores) for scores in zip(*(row.scores for row in self.rows), strict=True)]
            rows.append([f"mean of {len(rows)} tasks", "", *map(_percent, means)])
        return rows

    def markdown(self) -> str:
        """The table with its notes."""
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"{markdown_table(['task', 'metric', *self.columns], self.cells())}\n\n{notes}\n"


def _percent(score: float) -> str:
    return NOTHING if score != score else f"{100 * score:.2f}"


@kept_randomness()  # mteb's tasks seed all generators
def evaluate_mteb(
    options: MtebOptions, report: Report = lambda done: None, tell: Callable[[str], None] = lambda line: None
) -> Scores:
    """Score the runs, and mean and CLS or last-token pooling of the same backbone, on tasks of mteb.

    Results are kept as mteb's JSON after each task, and not computed again while the task's data, the weights and the
    settings stay the same. `report` is told how many texts were forwarded, `tell` of each finished task.

    Raises UsageError for runs, tasks or settings that do not fit; FaultError where the data of some tasks could not be
    loaded, when all others are done and the table of those is written.
    """
    read: list[str] = []
    tasks = find_tasks(options.tasks, options.local, LocalReader(options.form, options.bad_rows, read.append))
    prompts = read_prompts(options.prompts, tasks)
    comparison = open_comparison(options.runs, options.backend)
    max_tokens = options.max_tokens or comparison.config.states.max_tokens
    vectors = TextVectors(
        comparison,
        max_tokens,
        options.model,
        options.device,
        report,
        options.trust_remote_code,
        prompts.values(),
        options.engine,
        tell,
    )
    encoders = [ColumnEncoder(vectors, index, prompts) for index in range(len(comparison.columns))]
    folder = make_folder(options.out or comparison.run / "mteb")
    evaluation = _Evaluation(ResultCache(folder), encoders, vectors)
    rows, failed = [], []
    for task in tasks:
        try:
            rows.append(evaluation.scores(task))
        except _NoData as error:
            failed.append(str(error))
            tell(str(error))
        else:
            pairs = zip(comparison.columns, rows[-1].scores, strict=True)
            tell(f"{rows[-1].task}: " + ", ".join(f"{column.title} {_percent(score)}" for column, score in pairs))
    config = comparison.config
    layers = ", ".join(map(str, config.layers))
    notes = [
        f"{config.states.backbone}, layer {layers}, texts cut at {max_tokens} tokens; mteb {mteb.__version__}",
        *(f"{column.title}: {column.source}" for column in comparison.columns),
        *read,
        *(f"before texts of {name}: {prompt!r}" for name, prompt in prompts.items()),
    ]
    found = Scores(folder, [column.title for column in comparison.columns], rows, notes)
    if rows:
        write_text(folder / TABLE_FILE, found.markdown())
    if failed:
        others = f" ({len(rows)} others are in {folder / TABLE_FILE})" if rows else ""
        raise FaultError(f"{len(failed)} of {len(tasks)} tasks could not be evaluated{others}: {failed[0]}")
    return found


class _NoData(Exception):
    """The data of a task could not be loaded; the message says which and why."""


@dataclass(frozen=True)
class _Evaluation:
    cache: ResultCache
    encoders: list[ColumnEncoder]
    vectors: TextVectors

    def scores(self, task: AbsTask) -> TaskScores:
        """A task's row; only what the cache lacks is evaluated."""
        for leaf in leaves(task):
            if all(self._finished(leaf, encoder) for encoder in self.encoders):
                continue
            was_loaded = leaf.data_loaded
            _load(leaf)
            for encoder in self.encoders:
                self._result(leaf, encoder)
            self.vectors.forget()
            if not was_loaded:
                leaf.unload_data()
        results = [self._result(task, encoder) for encoder in self.encoders]
        return TaskScores(task.metadata.name, task.metadata.main_score, [result.get_score() for result in results])

    def _result(self, task: AbsTask, encoder: ColumnEncoder) -> TaskResult:
        found = self._finished(task, encoder)
        if found is not None:
            return found
        # An average's parts are up to date by now; else "always" replaces what older data gave.
        only_missing = isinstance(task, AbsTaskAggregate) or self._usable(task, encoder) is not None
        return mteb.evaluate(
            cast("EncoderProtocol", encoder),  # which mteb wraps in an evaluator of its own
            task,
            co2_tracker=False,
            cache=self.cache,
            overwrite_strategy="only-missing" if only_missing else "always",
            show_progress_bar=False,
        ).task_results[0]

    def _finished(self, task: AbsTask, encoder: ColumnEncoder) -> TaskResult | None:
        found = self._usable(task, encoder)
        return found if found is not None and not found.get_missing_evaluations(task) else None

    def _usable(self, task: AbsTask, encoder: ColumnEncoder) -> TaskResult | None:
        """What the cache has of the task as its data is now, whole or in part."""
        try:
            found = self.cache.load_task_result(task.metadata.name, encoder.meta)
        except ValueError:  # mteb was stopped while it wrote the file
            self.cache.get_task_result_path(task.metadata.name, encoder.meta).unlink()
            return None
        return found if found is not None and found.dataset_revision == task.metadata.revision else None


def _load(task: AbsTask) -> None:
    try:
        task.load_data()
    except Exception as error:  # hub, network, loading scripts and file formats each have classes of their own
        raise _NoData(
            f"the data of {task.metadata.name} cannot be loaded ({type(error).__name__}: {reason_of(error)}); "
            "files on this machine are tasks with --mteb-local"
        ) from None


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without the bars, warnings and log lines of mteb and datasets, which would stand between ours."""
    bars = datasets.are_progress_bars_disabled()
    with quiet("mteb", "datasets", "huggingface_hub", level=logging.CRITICAL):
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            if not bars:
                datasets.enable_progress_bars()
