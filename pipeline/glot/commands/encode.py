"""`glot encode` and `glot predict`: a trained head on new texts, or on an example set of a cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glot.commands.console import (
    BackboneOption,
    RunOption,
    answer,
    manners,
    note,
    note_unfinished,
    notes,
    refuse_given,
    tell,
)
from glot.commands.groups import refuse_group, with_groups
from glot.commands.machine_options import BackendOption, MachineOptions
from glot.commands.progress import text_bar
from glot.commands.table_options import TableOptions
from glot.errors import UsageError

if TYPE_CHECKING:
    from glot.inference.encode import Input
    from glot.store.rows import Row

AnyRunOption = Annotated[Path, typer.Option("--run", help="A run's or an ensemble's folder.")]
TextOption = Annotated[
    str | None,
    typer.Option("--text", help="Column of the text, in a table; default: as `glot train` had it, or the obvious one."),
]
TextBOption = Annotated[str | None, typer.Option("--text-b", help="Column of the second text of pairs, in a table.")]


class Format(str, Enum):
    """Formats of a predictions file that can be asked for; else its suffix says it."""

    jsonl = "jsonl"
    glue = "glue"


@with_groups
def encode(
    run: RunOption,
    *,
    input: Annotated[
        str, typer.Option(help="Texts: a text a line, a CSV, TSV, JSONL or Parquet file, or a folder; -: stdin.")
    ],
    output: Annotated[Path, typer.Option(help="The vectors: a .npy, .parquet, .jsonl or .ndjson file.")],
    text: TextOption = None,
    text_b: Annotated[
        str | None,
        typer.Option(help="Column of the second text, for a run whose prompt holds both texts of a pair."),
    ] = None,
    table: TableOptions,
    model: BackboneOption = None,
    machine: MachineOptions,
) -> None:
    """Vectors of new texts, through a run's backbone and pooler."""
    from glot.extract.options import check_engine
    from glot.inference.encode import Input, check_vectors_file, encode_file
    from glot.inference.run_checks import check_new_texts, check_vector_texts
    from glot.store.template import takes_pair

    check_vectors_file(output)
    check_engine(machine.engine)
    texts = Input(input, text or "text", text_b, table.form)
    texts.check_stays(output)
    checked = check_new_texts(run, model)
    if text is None and text_b is None:
        texts = _find_columns(texts, 2 if takes_pair(checked.config.states.template) else 1, checked.folder)
    check_vector_texts(checked.config, texts.text_b)
    described = texts.describe()
    loaded = machine.load(run, model, texts.about_tokens)
    note_unfinished(run)
    with text_bar(notes, "encode") as report:
        count = encode_file(loaded, texts, output, report)
    if described:
        note(described)
    tell(f"{output}: {count:,} vectors of {loaded.width} numbers")
    answer({"run": run, "file": output, "vectors": count, "width": loaded.width})


def _find_columns(texts: Input, texts_each: int, run: Path) -> Input:
    """A table with the columns that nobody named, one of texts or two; says which they are. All else as it is."""
    from glot.train.result import Trained

    if not texts.is_table:
        return texts
    found, said = texts.with_columns(texts_each, Trained.columns_of(run))
    if said:
        note(said)
    return found


@with_groups
def predict(
    run: AnyRunOption,
    *,
    cache: Annotated[Path | None, typer.Option(help="Predict an example set of a cache, or --input new texts.")] = None,
    input: Annotated[
        str | None,
        typer.Option(help="New texts: a text a line, a CSV, TSV, JSONL or Parquet file, or a folder; -: stdin."),
    ] = None,
    text: TextOption = None,
    text_b: TextBOption = None,
    table: TableOptions,
    split: Annotated[str, typer.Option(help="The example set of the cache to predict.")] = "test",
    format: Annotated[
        Format | None,
        typer.Option(help="jsonl, or glue for the benchmark's submission format; default: as the file's suffix says."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "--out",
            help="The file, .jsonl, .ndjson, .csv, .tsv or .parquet; default: JSON lines, on stdout for --input, "
            "else in the run's folder.",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="Columns of the input that go with its predictions: all, none, or names as in id,text; default: all."
        ),
    ] = None,
    model: BackboneOption = None,
    backend: BackendOption = "auto",
    machine: MachineOptions,
) -> None:
    """A trained head's labels or scores, for new texts or for an example set of a cache."""
    if (cache is None) == (input is None):
        raise UsageError("pass new texts with --input, or an example set of a cache with --cache and --split")
    if cache is not None:
        refuse_given({"--text": text, "--text-b": text_b, "--keep": keep, "--model": model}, "--cache")
        refuse_group(machine, "--cache", but=("device",))
        refuse_group(table, "--cache")
        _predict_cache(run, cache, split, format, out, backend, machine.device)
        return
    assert input is not None  # checked above
    of_cache = {"--split": split != "test", "--backend": backend != "auto", "--format glue": format is Format.glue}
    refuse_given(of_cache, "--input")
    from glot.extract.options import check_engine
    from glot.inference.encode import Input
    from glot.inference.run_checks import check_predictions_file

    if out is not None:
        check_predictions_file(out, format and format.value)
    check_engine(machine.engine)
    texts = Input(input, text or "text", text_b, table.form)
    if out is not None:
        texts.check_stays(out)
    is_named = text is not None or text_b is not None
    _predict_texts(run, texts, is_named, keep, out, model, machine)


def _predict_texts(
    run: Path,
    texts: Input,
    is_named: bool,
    keep: str | None,
    out: Path | None,
    model: str | None,
    machine: MachineOptions,
) -> None:
    """Predict new texts, whose columns are the ones that `is_named` says somebody named, else the obvious ones."""
    from glot.inference.encode import ALL, predict_file, predict_rows
    from glot.inference.run_checks import check_new_labels, other_texts

    checked = check_new_labels(run, model)
    folder, config = checked.folder, checked.config
    if not is_named:
        texts = _find_columns(texts, config.texts_each, folder)
    described = texts.describe()
    kept = texts.kept(keep or ALL)
    if config.texts_each != (1 if texts.text_b is None else 2):
        raise other_texts(folder, config, texts.text_b is not None)
    loaded = machine.load(run, model, texts.about_tokens)
    note_unfinished(run)
    with text_bar(notes, "predict") as report:
        if out is None:
            _print_rows(run, predict_rows(loaded, texts, report, kept))
        else:
            count = predict_file(loaded, texts, out, report, kept)
    if described:
        note(described)
    if out is not None:
        tell(f"{out}: {count:,} predictions")
        answer({"run": run, "file": out, "predictions": count})


def _print_rows(run: Path, pieces: Iterator[list[Row]]) -> None:
    """Predictions on standard output: a line of JSON each, as they come, or all in one object where that is asked."""
    from glot.store.rows import json_line

    if manners.as_json:
        rows = [row for piece in pieces for row in piece]
        answer({"run": run, "predictions": len(rows), "rows": rows})
        return
    for piece in pieces:
        sys.stdout.writelines(map(json_line, piece))
        sys.stdout.flush()


def _predict_cache(
    run: Path, cache: Path, split: str, format: Format | None, out: Path | None, backend: str, device: str | None
) -> None:
    from glot.fit.run_folder import find_one_run, is_ensemble
    from glot.inference.run_checks import check_predictable, check_predictions_file
    from glot.store.reader import Cache

    folder, name = run if is_ensemble(run) else find_one_run(run), format and format.value
    path = out or run / f"{split}.{'tsv' if format is Format.glue else 'jsonl'}"
    check_predictions_file(path, name)
    opened = Cache(cache)
    check_predictable(folder, opened, split)
    from glot.fit.run import check_device
    from glot.inference.predictions import write_predictions
    from glot.nn.graph import resolve_backend

    place = check_device(device)
    count = write_predictions(folder, opened, split, name, path, str(place), resolve_backend(backend, place))
    note_unfinished(folder)
    tell(f"{path}: {count:,} predictions")
    answer({"run": folder, "split": split, "file": path, "predictions": count})
