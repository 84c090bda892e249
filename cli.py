"""The `glot` command: joins the commands of `pipeline/commands` and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from pipeline import __version__
from pipeline.commands import bench, cache, encode, evaluate, explain, extract, fit, report, reproduce, sweep
from pipeline.commands.console import errors, printable, screen
from pipeline.errors import GlotError

app = typer.Typer(
    help="One good vector or label a text from a frozen language model: extract token states once, fit small heads.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    extract.extract,
    cache.inspect,
    fit.fit,
    sweep.sweep,
    evaluate.evaluate,
    encode.encode,
    encode.predict,
    report.report,
    explain.explain,
    reproduce.stress,
    reproduce.reproduce,
):
    app.command()(command)
app.add_typer(cache.app, name="cache")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command; a foreseeable error is one line and exit code 2 (wrong use) or 1 (a fault of the machine)."""
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
    except GlotError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (OSError, MemoryError) as error:
        _fail(f"{type(error).__name__}: {error}", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's own: an unknown option, a value that does not parse
            _fail(error.format_message(), error.exit_code)
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for this
            _fail("the device is out of memory: pass a smaller --batch-size, or --device cpu", 1)
        raise
    if code == 130:  # what Typer makes of Ctrl-C
        _fail("stopped; the same command goes on where it was", code)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    errors.print("glot: " + " ".join(printable(message).split()), highlight=False, markup=False)
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        screen.print(f"glot {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Shared options."""


if __name__ == "__main__":
    main()
