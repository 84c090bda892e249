"""`glot encode` and `glot predict`: a trained head on new texts, or on an example set of a cache."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.console import (
    BackendOption,
    DeviceOption,
    TrustOption,
    answer,
    note,
    note_unfinished,
    notes,
    tell,
)
from pipeline.commands.table_options import (
    DelimiterOption,
    EncodingOption,
    NoHeaderOption,
    QuotingOption,
    table_format,
)
from pipeline.errors import UsageError
from pipeline.progress import text_bar

RunOption = Annotated[Path, typer.Option("--run", help="A run's folder.")]
TextOption = Annotated[str, typer.Option("--text", help="Column of the text, in a table.")]
TextBOption = Annotated[str | None, typer.Option("--text-b", help="Column of the second text of pairs, in a table.")]
BackboneOption = Annotated[
    str | None, typer.Option("--model", help="The run's backbone, where it no longer lies where the run found it.")
]


class Format(str, Enum):
    """Formats of a predictions file."""

    jsonl = "jsonl"
    glue = "glue"


def encode(
    run: RunOption,
    input: Annotated[str, typer.Option(help="Texts: a text a line, or a CSV, TSV, JSONL or Parquet file; -: stdin.")],
    output: Annotated[Path, typer.Option(help="The vectors: a .npy, .parquet or .jsonl file.")],
    text: TextOption = "text",
    delimiter: DelimiterOption = None,
    quoting: QuotingOption = None,
    encoding: EncodingOption = None,
    no_header: NoHeaderOption = False,
    model: BackboneOption = None,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = None,
) -> None:
    """Vectors of new texts, through a run's backbone and pooler."""
    from pipeline.encode import Input, encode_file
    from pipeline.model import GlotModel

    texts = Input(input, text, form=table_format(delimiter, quoting, encoding, no_header))
    described = texts.describe()
    loaded = GlotModel.load(run, model, device, trust_remote_code)
    note_unfinished(run)
    with text_bar(notes, "encode") as report:
        count = encode_file(loaded, texts, output, report)
    if described:
        note(described)
    tell(f"{output}: {count:,} vectors of {loaded.width} numbers")
    answer({"run": run, "file": output, "vectors": count, "width": loaded.width})


def predict(
    run: RunOption,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Predict an example set of a cache, or --input new texts.")
    ] = None,
    input: Annotated[
        str | None, typer.Option(help="New texts: a text a line, or a CSV, TSV, JSONL or Parquet file; -: stdin.")
    ] = None,
    text: TextOption = "text",
    text_b: TextBOption = None,
    delimiter: DelimiterOption = None,
    quoting: QuotingOption = None,
    encoding: EncodingOption = None,
    no_header: NoHeaderOption = False,
    split: Annotated[str, typer.Option(help="The example set of the cache to predict.")] = "test",
    format: Annotated[
        Format, typer.Option(help="jsonl, or glue for the benchmark's submission format.")
    ] = Format.jsonl,
    out: Annotated[
        Path | None,
        typer.Option("--output", "--out", help="The file; default: stdout for --input, else in the run's folder."),
    ] = None,
    model: BackboneOption = None,
    trust_remote_code: TrustOption = False,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
) -> None:
    """A trained head's labels or scores, for new texts or for an example set of a cache."""
    if (cache is None) == (input is None):
        raise UsageError("pass new texts with --input, or an example set of a cache with --cache and --split")
    if cache is not None:
        _predict_cache(run, cache, split, format, out, backend, device)
        return
    if format is Format.glue:
        raise UsageError("--format glue is for an example set of a cache: leave it out, or pass --cache")
    from pipeline.encode import Input, predict_file
    from pipeline.model import GlotModel

    texts = Input(input, text, text_b, table_format(delimiter, quoting, encoding, no_header))
    described = texts.describe()
    loaded = GlotModel.load(run, model, device, trust_remote_code)
    note_unfinished(run)
    with text_bar(notes, "predict") as report:
        count = predict_file(loaded, texts, out, report)
    if described:
        note(described)
    if out is not None:  # else the predictions themselves are on standard output, as JSON lines
        tell(f"{out}: {count:,} predictions")
        answer({"run": run, "file": out, "predictions": count})


def _predict_cache(
    run: Path, cache: Path, split: str, format: Format, out: Path | None, backend: str, device: str | None
) -> None:
    from pipeline.fit.graph import resolve_backend
    from pipeline.fit.predictions import write_predictions
    from pipeline.fit.run import check_device
    from pipeline.fit.run_folder import find_one_run
    from pipeline.store.reader import Cache

    folder = find_one_run(run)
    path = out or run / f"{split}.{'tsv' if format is Format.glue else 'jsonl'}"
    place = check_device(device)
    count = write_predictions(
        folder, Cache(cache), split, format.value, path, str(place), resolve_backend(backend, place)
    )
    note_unfinished(folder)
    tell(f"{path}: {count:,} predictions")
    answer({"run": folder, "split": split, "file": path, "predictions": count})
