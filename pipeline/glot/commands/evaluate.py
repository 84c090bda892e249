"""`glot evaluate`: a saved head's score on labelled rows or a cache, or its vectors on mteb's tasks."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from glot.commands.console import (
    BackboneOption,
    BackendOption,
    DeviceOption,
    EngineOption,
    TrustOption,
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
from glot.commands.progress import text_bar
from glot.commands.table_options import (
    BadRowOption,
    DelimiterOption,
    EncodingOption,
    LabelSeparatorOption,
    NoHeaderOption,
    QuotingOption,
    table_format,
)
from glot.errors import UsageError

if TYPE_CHECKING:
    from glot.mteb_eval.run import Scores


def evaluate(
    run: Annotated[
        list[Path],
        typer.Option(
            "--run", help="A run's folder, with --data or --cache also an ensemble's; again for more, a column each."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Score the head on a file of labelled texts: CSV, TSV, JSON lines or Parquet.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            "--text", help="Of --data: the column of the text; default: as `glot train` had it, or the obvious one."
        ),
    ] = None,
    text_b: TextBOption = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label", help="Of --data: the column of the label; default: as `glot train` had it, or the obvious one."
        ),
    ] = None,
    label_separator: LabelSeparatorOption = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", help="Of --data: also write all of it as a page, one HTML file (extra: report)."),
    ] = None,
    yardsticks: Annotated[
        bool,
        typer.Option(
            help="Of --data: compare with the regression on the mean, where the cache of the run's training is there."
        ),
    ] = True,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Score the head on a cache, or a folder with one below it.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The example set of the cache to score on; default: validation.")
    ] = None,
    mteb: Annotated[
        str | None, typer.Option(help="Score the vectors on tasks and benchmarks of mteb: STSBenchmark,SciFact,...")
    ] = None,
    mteb_local: Annotated[
        list[str] | None,
        typer.Option(
            help="Or on files as such tasks, for one each: sts:FILE[:TEXT,TEXT,SCORE] (columns sentence1, sentence2, "
            "score unless named), classification:FILE[+TESTFILE][:TEXT,LABEL] (text, label; without a test file a "
            "fifth of each class is the test), retrieval:FOLDER in BEIR's layout (queries.jsonl, corpus.jsonl, "
            "qrels.tsv or qrels/test.tsv; or a qrels file). CSV, TSV, JSON lines or Parquet."
        ),
    ] = None,
    on_bad_row: BadRowOption = "stop",
    delimiter: DelimiterOption = None,
    quoting: QuotingOption = None,
    encoding: EncodingOption = None,
    no_header: NoHeaderOption = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="For mteb: cut texts at so many tokens; default: as the run was trained.")
    ] = None,
    mteb_prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=TEXT, put before texts: NAME is query, document, a task, a type of tasks, or Retrieval-query."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of mteb's results and the table; default: mteb in the first run's folder."),
    ] = None,
    model: BackboneOption = None,
    trust_remote_code: TrustOption = False,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Score a saved head on labelled texts or a cache; or its vectors with mteb, beside mean and CLS pooling.

    With --data every text is forwarded once for all runs, and labels must be classes that they were trained for. A
    cache of another backbone, layer or width is refused. With --mteb or --mteb-local every text is forwarded once for
    all columns, vectors are normalised, finished tasks are kept as mteb's JSON and not done again.
    """
    tables = {"--delimiter": delimiter, "--quoting": quoting, "--encoding": encoding, "--no-header": no_header}
    of_data = {
        "--text": text,
        "--text-b": text_b,
        "--label": label,
        "--label-separator": label_separator,
        "--page": page,
        "--no-yardsticks": not yardsticks,
    }
    of_mteb = {"--max-tokens": max_tokens, "--mteb-prompt": mteb_prompt, "--out": out}
    on_mteb = mteb is not None or bool(mteb_local)
    if (data is not None) + (cache is not None) + on_mteb != 1:
        raise UsageError("pass labelled texts with --data, or --cache, or tasks with --mteb or --mteb-local")
    if data is not None:
        refuse_given({**of_mteb, "--split": split}, "--data")
        form = table_format(delimiter, quoting, encoding, no_header)
        from glot.corpus.guess import NamedColumns
        from glot.inference.labelled import EvaluateOptions, LabelledFile
        from glot.train.result import Trained

        columns = NamedColumns(text, text_b, label, label_separator)
        labelled = LabelledFile(data, columns, form, on_bad_row, Trained.columns_of(run[0]))
        evaluate_data(
            run, labelled, EvaluateOptions(model, device, trust_remote_code, engine, backend, yardsticks), page
        )
        return
    refuse_given(of_data, "--cache" if cache is not None else "--mteb")
    if cache is not None:
        asked = {
            **of_mteb,
            "--model": model,
            "--trust-remote-code": trust_remote_code,
            "--on-bad-row": on_bad_row != "stop",
        }
        asked |= {"--engine": engine != "auto"}
        refuse_given({**asked, **tables}, "--cache")
        _evaluate_cache(run, cache, split or "validation", backend, device)
        return
    refuse_given({"--split": split}, "--mteb")
    form = table_format(delimiter, quoting, encoding, no_header)
    from glot.extract.options import check_engine
    from glot.inference.run_checks import check_new_texts, check_single_texts
    from glot.mteb_eval import check_installed
    from glot.store.files import check_parent

    check_engine(engine)
    for folder in run:
        check_single_texts(check_new_texts(folder, model))
    if out is not None:
        check_parent(out / "results")
    check_installed()
    from glot.fit.run import check_device
    from glot.nn.graph import resolve_backend

    place = check_device(device)
    from glot.mteb_eval.run import MtebOptions, evaluate_mteb, quiet_libraries

    options = MtebOptions(
        runs=run,
        tasks=mteb or "",
        local=mteb_local or (),
        form=form,
        bad_rows=on_bad_row,
        out=out,
        max_tokens=max_tokens,
        prompts=mteb_prompt or (),
        model=model,
        trust_remote_code=trust_remote_code,
        device=device,
        backend=resolve_backend(backend, place),
        engine=engine,
    )
    note_unfinished(*run)
    with nullcontext() if manners.verbose else quiet_libraries(), text_bar(notes, "forward") as report:
        scores = evaluate_mteb(options, report, note)
    _print_scores(scores)
    answer(scores)


def _evaluate_cache(runs: list[Path], cache: Path, split: str, backend: str, device: str | None) -> None:
    from glot.fit.ensemble import find_labelling
    from glot.inference.run_checks import check_scorable
    from glot.store.reader import Cache
    from glot.store.task_spec import metric_in_words

    folders, opened = [folder for run in runs for folder in find_labelling(run)], Cache(cache)
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
