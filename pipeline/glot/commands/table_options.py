"""The options that say how tables are written, for every command that reads some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from glot.corpus.dialect import TableFormat

PANEL = "How the table is written"  # in the help

LabelSeparatorOption = Annotated[
    str | None,
    typer.Option(help="Where a text may have several labels in one cell: what stands between them, as in ';'."),
]
BadRowOption = Annotated[
    str, typer.Option(help="Rows that cannot be read: stop, or skip them, counted.", rich_help_panel=PANEL)
]


@dataclass(frozen=True)
class TableOptions:
    """How the files are written, see `TableFormat`."""

    delimiter: Annotated[
        str | None,
        typer.Option(
            help="Between a table's cells: tab, comma, semicolon, pipe or a character; default: the suffix's (.csv, "
            ".tsv), or the one under which the columns are found. Given, the file may have any suffix.",
            rich_help_panel=PANEL,
        ),
    ] = None
    quoting: Annotated[
        str | None,
        typer.Option(
            help="csv: a cell may stand in quotes; none: a quote is text; default: auto, whichever fits the whole "
            "file.",
            rich_help_panel=PANEL,
        ),
    ] = None
    encoding: Annotated[
        str | None,
        typer.Option(
            help="Of text files, as in latin-1; default: UTF-8, or what a byte-order mark says.", rich_help_panel=PANEL
        ),
    ] = None
    no_header: Annotated[
        bool,
        typer.Option(
            "--no-header",
            help="A table's first line is a row; columns are numbers, as in --label 1 --text 2.",
            rich_help_panel=PANEL,
        ),
    ] = False

    @property
    def form(self) -> TableFormat:
        """The options together; raises UsageError for values that are none."""
        from glot.corpus.dialect import TableFormat

        return TableFormat(self.delimiter, self.quoting or "auto", self.encoding, not self.no_header)
