"""Where commands print, how they behave there, and the options that several of them take.

`screen` takes what was asked for (scores, tables of facts), `chat` what long work says of itself, both on standard
output; `notes` takes progress bars and warnings, `errors` the one line of a fault, both on standard error. Rich writes
colours and bars to terminals only, and no colours where NO_COLOR is set.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from glot.errors import UsageError

screen = Console()
chat = Console()
notes = Console(stderr=True, soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)


@dataclass
class Manners:
    """How this run of `glot` behaves: the options that every command takes, before its name or after.

    Attributes:
        quiet: neither bars nor notes, nor what work that leaves files says of itself.
        verbose: the libraries' logs, the time taken, and the traceback of a fault.
        as_json: standard output holds one JSON object, and no text.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False

    def set(self, quiet: bool = False, verbose: bool = False, as_json: bool = False) -> None:
        """Switch to exactly these manners."""
        if verbose and not self.verbose:
            _show_logs()
        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        notes.quiet = quiet
        chat.quiet = quiet or as_json
        screen.quiet = as_json

    def add(self, **switched_on: bool) -> None:
        """Switch on what an option asks for; what others asked for stays."""
        self.set(**{name: value or switched_on.get(name, False) for name, value in vars(self).items()})


manners = Manners()


def _show_logs() -> None:
    """Logs of the libraries at level INFO on standard error; some look at a variable when they are imported."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "info")


LinksOption = Annotated[
    bool,
    typer.Option(
        "--links/--no-links", help="Link the page's numbers to their runs; not, for a page that goes without them."
    ),
]
ModelOption = Annotated[
    str, typer.Option("--model", help="An alias (minilm, mistral-7b, ...), hub id, folder or GGUF file.")
]
RunOption = Annotated[Path, typer.Option("--run", help="A run's folder.")]
BackboneOption = Annotated[
    str | None, typer.Option("--model", help="The run's backbone, where it no longer lies where the run found it.")
]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="A cache, a folder with one cache below it, or a URL as s3://bucket/folder."),
]
ShardOption = Annotated[int, typer.Option("--shard-mb", min=1, help="Size of a shard, MiB.")]


def printable(text: str) -> str:
    """A text without what could confuse a terminal: control characters and halves of surrogate pairs become "?"."""
    return "".join(mark if mark.isprintable() or mark == "\n" else "?" for mark in text)


def say(line: str, console: Console = screen) -> None:
    """Print a line that was asked for as it is, but for what could confuse a terminal."""
    console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


def tell(line: str) -> None:
    """Print a line that work says of itself: `--quiet` leaves it out."""
    say(line, chat)


def note(line: str) -> None:
    """Print a remark or a warning on standard error: `--quiet` leaves it out."""
    say(line, notes)


def answer(record: Any) -> None:
    """Under `--json` print what the command found as one line of JSON; dataclasses and paths may be inside."""
    if manners.as_json:
        sys.stdout.write(json.dumps(record, default=_plain) + "\n")


def _plain(value: object) -> Any:
    """What JSON holds of a dataclass, a path or a NumPy number."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.item() if hasattr(value, "item") else str(value)


def refuse_beside(option: str, context: typer.Context, allowed: Sequence[str], because: str) -> None:
    """Refuse options that were given beside `option`, which would ignore them; raises UsageError naming them."""
    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.expose_value:
            given.append(parameter.opts[0])
    ignored = [name for name in given if name not in (option, *allowed)]
    if ignored:
        verb = "do" if len(ignored) > 1 else "does"
        raise UsageError(f"{', '.join(ignored)} {verb} not go with {option}, {because}: leave it out")


def refuse_given(given: Mapping[str, object], beside: str) -> None:
    """Raise UsageError for the first of some options, by their names, that was given though none goes with `beside`."""
    for option, value in given.items():
        if value not in (None, False, [], ()):
            raise UsageError(f"{option} does not go with {beside}: leave it out")


def note_unfinished(*runs: Path) -> None:
    """Say of runs that have not finished that they have not, and which epoch's head is used."""
    from glot.fit.run_folder import find_runs, is_ensemble, unfinished_remark

    # An ensemble is made of finished runs.
    for run in [found for given in runs if not is_ensemble(given) for found in find_runs(given)]:
        remark = unfinished_remark(run)
        if remark is not None:
            note(remark)


def words(value: str) -> list[str]:
    """The words of "a,b, c"."""
    return [word for word in value.replace(" ", "").split(",") if word]


def numbers(value: str, option: str) -> tuple[int, ...]:
    """Whole numbers from "0,1,2" or "0..4"."""
    try:
        if ".." in value:
            first, last = value.split("..")
            return tuple(range(int(first), int(last) + 1))
        return tuple(int(word) for word in words(value))
    except ValueError:
        raise UsageError(f"{option} takes whole numbers, as in 0,1,2 or 0..4; got {value!r}") from None


def floats(value: str, option: str) -> list[float]:
    """Numbers from "0.2,0.9"."""
    try:
        return [float(word) for word in words(value)]
    except ValueError:
        raise UsageError(f"{option} takes numbers, as in 0.2,0.9; got {value!r}") from None
