"""The `glot` command: joins the commands and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
import time
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from glot.commands import (
    bench,
    cache,
    doctor,
    encode,
    evaluate,
    explain,
    export,
    extract,
    fit,
    report,
    reproduce,
    serve,
    sweep,
    train,
    tune,
)
from glot.commands.console import errors, manners, say, screen
from glot.commands.examples import examples_of
from glot.commands.settings import GroupedCommand, SettingsCommand
from glot.errors import GlotError
from glot.process import share_processor
from glot.version import __version__

app = typer.Typer(
    help="One good vector or label a text from a frozen language model: extract token states once, fit small heads.",
    epilog="`glot help COMMAND`, or -h behind it, lists its options. Exit codes: 0 done, 1 a fault of the machine or "
    "its files, 2 wrong use, 130 stopped by Ctrl-C or SIGTERM (a server: 0).",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    train.train,
    extract.extract,
    cache.inspect,
    fit.fit,
    sweep.sweep,
    tune.tune,
    evaluate.evaluate,
    encode.encode,
    encode.predict,
    export.export,
    serve.serve,
    report.report,
    explain.explain,
    reproduce.stress,
    reproduce.reproduce,
    doctor.doctor,
):
    app.command(cls=SettingsCommand if command in (fit.fit, sweep.sweep) else GroupedCommand)(command)
app.add_typer(cache.app, name="cache")
app.add_typer(bench.app, name="bench")


HELP = ["-h", "--help"]
OUT = ("--out", "--output")
SHARED = ("quiet", "verbose", "as_json")  # parameters of `root` that every command takes too
OF_CACHES = ("cache_dir", "cache_gb")  # those that commands take which read a cache, perhaps at a URL
READ_CACHES = {"fit", "sweep", "tune", "evaluate", "predict", "explain", "inspect", "extract"}
READ_CACHES |= {"copy", "subset", "merge", "push", "pull"}


def command_tree() -> TyperGroup:
    """All commands, each with the shared options, so that `glot --json fit` and `glot fit --json` are the same."""
    tree = typer.main.get_command(app)
    assert isinstance(tree, TyperGroup)  # an app of several commands is one
    shared = [parameter for parameter in tree.params if parameter.name in SHARED]
    of_caches = [parameter for parameter in tree.params if parameter.name in OF_CACHES]
    groups = [tree]
    tree.context_settings["help_option_names"] = HELP
    for group in groups:
        groups += [command for command in group.commands.values() if isinstance(command, TyperGroup)]
        for name, command in group.commands.items():
            command.epilog = command.epilog or (examples_of(name) if group is tree else None)
            command.context_settings["help_option_names"] = HELP
            command.params += [*(of_caches if name in READ_CACHES else []), *shared]
            for parameter in command.params:
                _take_both(parameter)
    return tree


def _take_both(parameter: Any) -> None:
    """Where a command leaves what it makes goes by either name."""
    for name, other in (OUT, OUT[::-1]):
        if name in parameter.opts and other not in parameter.opts:
            parameter.opts.append(other)


def main() -> None:
    """Run the command; a foreseeable error is one line and exit code 2 (wrong use) or 1 (a fault of the machine)."""
    manners.set()
    share_processor()
    start = time.perf_counter()
    try:
        code = _run(_asking(sys.argv[1:]))
    except GlotError as error:
        _fail(str(error), error.exit_code, error)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except PermissionError as error:
        _fail(
            f"{error.filename or error}: permission denied: ask its owner for access, or name another place", 1, error
        )
    except (OSError, MemoryError) as error:
        _fail(f"{type(error).__name__}: {error}", 1, error)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's own: an unknown option, a value that does not parse
            _fail(_told(error), getattr(error, "exit_code", 2), error)
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for this
            _fail("the device is out of memory: pass a smaller --batch-size, or --device cpu", 1, error)
        raise
    if code == 130:  # what Typer makes of Ctrl-C
        _fail("stopped; the same command goes on where it was", code)
    if manners.verbose:
        say(f"took {time.perf_counter() - start:.1f} s, {time.process_time():.1f} s of the processor", errors)
    sys.exit(code)


def _asking(arguments: list[str]) -> list[str]:
    """The arguments, but `glot help fit` as `glot fit --help`, and none at all as `glot --help`."""
    if arguments[:1] in ([], ["help"]):
        return [*arguments[1:], "--help"]
    return arguments


def _run(arguments: list[str]) -> int:
    try:
        return command_tree()(arguments, prog_name="glot", standalone_mode=False) or 0
    except Exception as error:
        if type(error).__name__ != "NoArgsIsHelpError":
            raise
        print(vars(error)["ctx"].get_help())  # a group alone: its help, as `glot` alone prints its own
        return 0


def _told(error: Any) -> str:
    """What Typer says of a wrong command line, and what to pass: the help of what is missing, or how an argument goes
    whose name was given as an option."""
    message = error.format_message().removesuffix(".")
    missing: Any = error.param if type(error).__name__ == "MissingParameter" else None
    if missing is not None and missing.help:
        return f"{message}: {missing.help}"
    if type(error).__name__ == "NoSuchOption" and error.ctx is not None:
        name = error.option_name.lstrip("-")
        if any(one.param_type_name == "argument" and one.name == name for one in error.ctx.command.params):
            return f"{message}: it is passed without a name, as in `{error.ctx.command_path} {name.upper()}`"
    return message


def _fail(message: str, code: int, error: BaseException | None = None) -> NoReturn:
    if manners.verbose and error is not None:
        error.__suppress_context__ = False  # what the line left out is what was asked for
        say("".join(traceback.format_exception(error)), errors)
    say("glot: " + " ".join(message.split()), errors)
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        screen.print(f"glot {__version__}", highlight=False)
        raise typer.Exit


def _shared(name: str, option: str, text: str) -> typer.models.OptionInfo:
    def switch(on: bool) -> None:
        manners.add(**{name: on})

    return typer.Option(option, callback=switch, is_eager=True, expose_value=False, help=text)


def _block_cache(option: str, variable: str, text: str) -> typer.models.OptionInfo:
    """An option that sets a variable of the environment, named by a constant of `glot.store.blocks`."""

    def note(value: str | None) -> None:
        if value is not None:
            from glot.store import blocks

            os.environ[getattr(blocks, variable)] = value

    return typer.Option(option, callback=note, is_eager=True, expose_value=False, show_default=False, help=text)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    quiet: Annotated[bool, _shared("quiet", "--quiet", "No progress and no chatter; errors still.")] = False,
    verbose: Annotated[
        bool, _shared("verbose", "--verbose", "Also the libraries' logs, the time taken, tracebacks of faults.")
    ] = False,
    as_json: Annotated[bool, _shared("as_json", "--json", "Print what was found as one JSON object.")] = False,
    cache_dir: Annotated[
        str | None, _block_cache("--cache-dir", "FOLDER", "Of a cache at a URL: where blocks of it are kept.")
    ] = None,
    cache_gb: Annotated[
        str | None, _block_cache("--cache-gb", "SIZE", "How many GiB of them are kept; default: 32.")
    ] = None,
) -> None:
    """The shared options act where they are read (`_shared`): every command takes them, before its name or after."""
