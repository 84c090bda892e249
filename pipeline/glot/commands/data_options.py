"""The options that say which corpus is extracted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glot.commands.table_options import BadRowOption, LabelSeparatorOption, TableOptions
from glot.errors import UsageError

if TYPE_CHECKING:
    from glot.corpus.request import CorpusRequest, HubDataset


@dataclass(frozen=True)
class DataOptions:
    """Which corpus, see `CorpusRequest`."""

    task: Annotated[str | None, typer.Option(help="cola sst2 stsb mrpc qqp mnli qnli rte wnli imdb stress.")] = None
    data: Annotated[
        str | None,
        typer.Option(
            help="Your own training data: CSV, TSV, JSONL, Parquet, a folder of texts, or hub:owner/name[:config]."
        ),
    ] = None
    pairs: Annotated[
        str | None,
        typer.Option(help="Queries with positives, as JSON lines: a file, or hub:owner/name/file.jsonl.gz; no labels."),
    ] = None
    negatives: Annotated[int | None, typer.Option(help="With --pairs: hard negatives kept of a row; default: 1.")] = (
        None
    )
    eval_data: Annotated[Path | None, typer.Option(help="Your validation data; default: see --split.")] = None
    test_data: Annotated[Path | None, typer.Option(help="Your test data; labels are not needed.")] = None
    text: Annotated[
        str | None, typer.Option(help="Column of the text in your data; default: text, or the obvious one.")
    ] = None
    text_b: Annotated[str | None, typer.Option(help="Column of the second text, for pairs.")] = None
    label: Annotated[
        str | None,
        typer.Option(
            help="Column of the label, or of each of several: billing,login; default: label, or the obvious one."
        ),
    ] = None
    data_dir: Annotated[
        Path | None,
        typer.Option(help="A folder in the official GLUE download layout; default: GLUE_DIR, else the hub."),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(
            help="Splits of a known task, as in train,validation,test; default: all but test. For your own data "
            "without a validation set, the share of train to keep as one; default: 0.1."
        ),
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Take only N examples of each split, for a quick try.")] = (
        None
    )
    generator: Annotated[
        str | None, typer.Option(help="Stress test: published, balanced or paired; default: published.")
    ] = None
    ratio: Annotated[float | None, typer.Option(help="Stress test: share of distractor words; default: 0.9.")] = None
    target: Annotated[
        str | None, typer.Option(help="What the labels of your data are, whatever they look like: classes or score.")
    ] = None
    label_separator: LabelSeparatorOption = None
    on_bad_row: BadRowOption = "stop"

    def request(self, table: TableOptions, examples: str | None) -> CorpusRequest:
        """What is asked for; `examples`: other labels for a cache that is there, instead of a corpus."""
        from glot.corpus.request import CorpusRequest

        return CorpusRequest(
            task=self.task if examples is None else None,
            data=self._source(examples),
            eval_data=self.eval_data,
            test_data=self.test_data,
            text=self.text,
            text_b=self.text_b,
            label=self.label,
            data_dir=self.data_dir,
            splits=self.split,
            generator=self.generator,
            ratio=self.ratio,
            limit=self.limit,
            bad_rows=self.on_bad_row,
            pairs=self.pairs,
            negatives=self.negatives,
            delimiter=table.delimiter,
            quoting=table.quoting,
            encoding=table.encoding,
            no_header=table.no_header or None,
            target=self.target,
            label_separator=self.label_separator,
        )

    def _source(self, examples: str | None) -> Path | HubDataset | None:
        from glot.corpus.request import parse_data

        if examples is not None and self.pairs is not None:
            raise UsageError("--examples adds labels to a cache, --pairs has none: pass one of them")
        if self.data is not None and examples is not None:
            raise UsageError("--examples adds to a cache that is there, --data makes one: pass one of them")
        given = self.data if examples is None else examples
        return None if given is None else parse_data(given)
