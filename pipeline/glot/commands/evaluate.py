"""`glot evaluate`: a saved head's score on labelled rows or a cache, or its vectors on mteb's tasks."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from glot.commands.console import (
    BackboneOption,
    answer,
    manners,
    note,
    note_unfinished,
    notes,
    printable,
    refuse_given,
    say,
    screen,
)
from glot.commands.encode import TextBOption
from glot.commands.evaluate_data import evaluate_data
from glot.commands.groups import refuse_group, with_groups
from glot.commands.machine_options import BackendOption, MachineOptions
from glot.commands.progress import text_bar
from glot.commands.table_options import BadRowOption, LabelSeparatorOption, TableOptions
from glot.errors import UsageError

if TYPE_CHECKING:
    from glot.mteb_eval.run import Scores


@dataclass(frozen=True)
class RowsOptions:
    """What goes with `--data`."""

    text: Annotated[
        str | None,
        typer.Option(help="Of --data: the column of the text; default: as `glot train` had it, or the obvious one."),
    ] = None
    text_b: TextBOption = None
    label: Annotated[
        str | None,
        typer.Option(help="Of --data: the column of the label; default: as `glot train` had it, or the obvious one."),
    ] = None
    label_separator: LabelSeparatorOption = None
    page: Annotated[
        Path | None,
        typer.Option(help="Of --data: also write all of it as a page, one HTML file (extra: report)."),
    ] = None
    yardsticks: Annotated[
        bool,
        typer.Option(
            help="Of --data: compare with the regression on the mean, where the cache of the run's training is there."
        ),
    ] = True


@dataclass(frozen=True)
class VectorsOptions:
    """Tasks of mteb, and what goes with them."""

    mteb: Annotated[
        str | None, typer.Option(help="Score the vectors on tasks and benchmarks of mteb: STSBenchmark,SciFact,...")
    ] = None
    mteb_local: Annotated[
        list[str] | None,
        typer.Option(
            help="Or on files as such tasks, for one each: sts:FILE[:TEXT,TEXT,SCORE] (columns sentence1, sentence2, "
            "score unless named), classification:FILE[+TESTFILE][:TEXT,LABEL] (text, label; without a test file a "
            "fifth of each class is the test), retrieval:FOLDER in BEIR's layout (queries.jsonl, corpus.jsonl, "
            "qrels.tsv or qrels/test.tsv; or a qrels file). CSV, TSV, JSON lines or Parquet."
        ),
    ] = None
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="For mteb: cut texts at so many tokens; default: as the run was trained.")
    ] = None
    mteb_prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=TEXT, put before texts: NAME is query, document, a task, a type of tasks, or Retrieval-query."
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of mteb's results and the table; default: mteb in the first run's folder."),
    ] = None


@with_groups
def evaluate(
    run: Annotated[
        list[Path],
        typer.Option(help="A run's folder, with --data or --cache also an ensemble's; again for more, a column each."),
    ],
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Score the head on a file of labelled texts (CSV, TSV, JSON lines, Parquet), or a folder of them.",
            show_default=False,
        ),
    ] = None,
    rows: RowsOptions,
    cache: Annotated[
        Path | None, typer.Option(help="Score the head on a cache, or a folder with one below it.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The example set of the cache to score on; default: validation, else test.")
    ] = None,
    on_bad_row: BadRowOption = "stop",
    table: TableOptions,
    vectors: VectorsOptions,
    model: BackboneOption = None,
    backend: BackendOption = "auto",
    machine: MachineOptions,
) -> None:
    """Score a saved head on labelled texts or a cache; or its vectors with mteb, beside mean and CLS pooling.

    With --data every text is forwarded once for all runs, and labels must be classes that they were trained for. A
    cache of another backbone, layer or width is refused. With --mteb or --mteb-local every text is forwarded once for
    all columns, vectors are normalised, finished tasks are kept as mteb's JSON and not done again.
    """
    on_mteb = vectors.mteb is not None or bool(vectors.mteb_local)
    if (data is not None) + (cache is not None) + on_mteb != 1:
        raise UsageError("pass labelled texts with --data, or --cache, or tasks with --mteb or --mteb-local")
    if cache is not None:
        refuse_group(rows, "--cache")
        refuse_group(vectors, "--cache")
        refuse_given({"--model": model, "--on-bad-row": on_bad_row != "stop"}, "--cache")
        refuse_group(machine, "--cache", but=("device",))
        refuse_group(table, "--cache")
        _evaluate_cache(run, cache, split, backend, machine.device)
    elif data is not None:
        refuse_group(vectors, "--data")
        refuse_given({"--split": split}, "--data")
        from glot.corpus.guess import NamedColumns
        from glot.inference.labelled import EvaluateOptions, LabelledFile
        from glot.train.result import Trained

        columns = NamedColumns(rows.text, rows.text_b, rows.label, rows.label_separator)
        labelled = LabelledFile(data, columns, table.form, on_bad_row, Trained.columns_of(run[0]))
        options = EvaluateOptions(model, backend=backend, yardsticks=rows.yardsticks, **vars(machine))
        evaluate_data(run, labelled, options, rows.page)
    else:
        refuse_group(rows, "--mteb")
        refuse_given({"--split": split}, "--mteb")
        _evaluate_vectors(run, vectors, table, on_bad_row, model, backend, machine)


def _evaluate_vectors(
    runs: list[Path],
    vectors: VectorsOptions,
    table: TableOptions,
    on_bad_row: str,
    model: str | None,
    backend: str,
    machine: MachineOptions,
) -> None:
    form = table.form
    from glot.extract.options import check_engine
    from glot.inference.run_checks import check_new_texts, check_single_texts
    from glot.mteb_eval import check_installed
    from glot.store.files import check_parent

    check_engine(machine.engine)
    for folder in runs:
        check_single_texts(check_new_texts(folder, model))
    if vectors.out is not None:
        check_parent(vectors.out / "results")
    check_installed()
    from glot.fit.run import check_device
    from glot.nn.graph import resolve_backend

    place = check_device(machine.device)
    from glot.mteb_eval.run import MtebOptions, evaluate_mteb, quiet_libraries

    options = MtebOptions(
        runs=runs,
        tasks=vectors.mteb or "",
        local=vectors.mteb_local or (),
        form=form,
        bad_rows=on_bad_row,
        out=vectors.out,
        max_tokens=vectors.max_tokens,
        prompts=vectors.mteb_prompt or (),
        model=model,
        backend=resolve_backend(backend, place),
        **vars(machine),
    )
    note_unfinished(*runs)
    with nullcontext() if manners.verbose else quiet_libraries(), text_bar(notes, "forward") as report:
        scores = evaluate_mteb(options, report, note)
    _print_scores(scores)
    answer(scores)


def _evaluate_cache(runs: list[Path], cache: Path, asked: str | None, backend: str, device: str | None) -> None:
    from glot.fit.ensemble import find_labelling
    from glot.inference.run_checks import check_scorable
    from glot.store.reader import Cache
    from glot.store.task_spec import metric_in_words

    folders, opened = [folder for run in runs for folder in find_labelling(run)], Cache(cache)
    split = opened.resolve_set(asked)
    tasks = [check_scorable(folder, opened, split).task for folder in folders]
    from glot.fit.run import check_device
    from glot.inference.predictions import evaluate_head
    from glot.nn.graph import resolve_backend

    place = check_device(device)
    found = []
    for folder, task in zip(folders, tasks, strict=True):
        scores = evaluate_head(folder, opened, split, str(place), resolve_backend(backend, place))
        line = ", ".join(f"{metric_in_words(name, task.classes)} {100 * value:.2f}" for name, value in scores.items())
        say(f"{folder} on {split}: {line}")
        note_unfinished(folder)
        found.append({"run": folder, "scores": scores})
    answer({"split": split, "runs": found})


def _print_scores(scores: Scores) -> None:
    table = Table(title=str(scores.folder), title_justify="left")
    for place, heading in enumerate(["task", "metric", *scores.columns]):
        table.add_column(printable(heading), justify="left" if place < 2 else "right", no_wrap=place == 0)
    for cells in scores.cells():
        table.add_row(*map(printable, cells))
    screen.print(table)
    for line in scores.notes:
        say(line)
