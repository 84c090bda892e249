"""Where commands print, and the options that several of them take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.errors import UsageError

screen = Console()
errors = Console(stderr=True, soft_wrap=True)

ModelOption = Annotated[
    str, typer.Option("--model", help="An alias (minilm, mistral-7b, ...), hub id, folder or GGUF file.")
]
CacheOption = Annotated[Path, typer.Option("--cache", help="A cache, or a folder with one cache right below it.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one.")
]
BackendOption = Annotated[
    str, typer.Option("--backend", help="Passes messages: dense (plain torch), dgl, or auto: dense.")
]


def printable(text: str) -> str:
    """A text without what could confuse a terminal: control characters and halves of surrogate pairs become "?"."""
    return "".join(mark if mark.isprintable() or mark == "\n" else "?" for mark in text)


def say(line: str) -> None:
    """Print a line as it is, but for what could confuse a terminal."""
    screen.print(printable(line), highlight=False, markup=False, soft_wrap=True)


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
