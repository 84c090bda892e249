"""`glot report`: tables, plots and a page from anyone's runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glot.commands.console import LinksOption, answer, tell


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders that hold runs, anywhere below them.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Where the page, tables and figures go.")] = Path("results/report"),
    links: LinksOption = True,
) -> None:
    """Compare runs of `glot fit` and `glot sweep`: a web page (index.html), Markdown, CSV and JSON."""
    from glot.report.figures import check_extra
    from glot.reproduce.report import write_own_report

    check_extra()
    written = write_own_report(runs, out, links=links)
    for path in written:
        tell(str(path))
    answer({"written": written})
