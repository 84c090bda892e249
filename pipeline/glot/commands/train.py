"""`glot train`: from a table to a decision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glot.commands.console import ModelOption, answer, note, notes, say, screen, tell
from glot.commands.evaluate_data import class_table
from glot.commands.extract import tell_understood
from glot.commands.groups import with_groups
from glot.commands.machine_options import MachineOptions
from glot.commands.progress import epoch_bar, extract_bars
from glot.commands.table_options import BadRowOption, LabelSeparatorOption, TableOptions

if TYPE_CHECKING:
    from glot.train.job import Job
    from glot.train.result import Trained


@with_groups
def train(
    data: Annotated[
        Path, typer.Argument(help="Your texts and labels: a table (CSV, TSV, JSONL, Parquet), or a folder of texts.")
    ],
    model: ModelOption,
    *,
    text: Annotated[str | None, typer.Option(help="Column of the text; default: the obvious one.")] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Column of the label, or of each of several: billing,login; default: the obvious one."),
    ] = None,
    text_b: Annotated[
        str | None, typer.Option(help="Column of the second text, for pairs; default: the obvious one.")
    ] = None,
    label_separator: LabelSeparatorOption = None,
    test: Annotated[
        Path | None, typer.Option(help="A table of other labelled rows to score on; default: a fifth of yours.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Search for the best settings so long; default: the preset strong.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "--output", help="The folder of it all; default: runs/NAME-MODEL.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What the labels are, whatever they look like: classes or score.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Cut longer texts; default: 128, or the model's limit.")
    ] = None,
    on_bad_row: BadRowOption = "stop",
    table: TableOptions,
    machine: MachineOptions,
) -> None:
    """From a table to a decision: extract states, train a head, score it on rows that nothing was trained on.

    Leaves one folder: the run (for --run of other commands), the cache of states, the page report.html, the predictions
    of the untouched rows, and a card. Stopped, the same command goes on where it was.
    """
    from glot.train.job import TrainRequest, prepare

    request = TrainRequest(
        data=data,
        model=model,
        text=text,
        text_b=text_b,
        label=label,
        test=test,
        minutes=minutes,
        out=out,
        target=target,
        max_tokens=max_tokens,
        bad_rows=on_bad_row,
        form=table.form,
        device=machine.device,
        engine=machine.engine,
        trust_remote_code=machine.trust_remote_code,
        label_separator=label_separator,
    )
    job = prepare(request)
    _tell_understood(job)
    if job.done is None:
        done = _train(job)
    else:
        tell(f"{job.folder} is finished already")
        done = job.done
    _print(done)
    answer(done.to_json())


def _train(job: Job) -> Trained:
    from glot.train.run import Watch, train_table  # with torch, after all that is wrong is told

    with extract_bars(notes, "states") as (tokens, texts), epoch_bar(notes) as epochs:
        return train_table(job, Watch(tell, note, tokens, texts, epochs))


def _tell_understood(job: Job) -> None:
    """Say what was found in the table, before anything slow."""
    if job.found:
        tell(f"{job.request.data.name}: {job.found}")
    if job.corpus is None:
        return
    tell_understood(job.corpus)
    if job.unscored:
        note(job.unscored)
    counts = {name: len(split.examples) for name, split in job.corpus.splits.items()}
    tell(f"{counts['train']:,} rows to train on, {counts['test']:,} to score on: {job.untouched}")


def _print(done: Trained) -> None:
    """The answer, and the next commands."""
    from glot.train.card import headline, next_commands

    say(headline(done))
    for score in done.scores[:1]:
        if score.verdict:
            say(score.verdict)
    for score in done.scores[1:]:
        say(score.line)
    if done.classes:
        screen.print(class_table(done.classes, done.task, "rows"))
    tell(f"{done.folder}: {done.settings}")
    tell(f"in it: {', '.join(done.files)}")
    for what_for, command in next_commands(done):
        tell(f"to {what_for}: {command}")
