"""The command line's reference as Markdown, from the commands themselves: `make docs` writes docs/cli.md."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

HEAD = """# The command line

Written by `make docs` from the commands themselves; do not edit it. `glot <command> --help` prints the same.

## What holds for every command

- `--quiet`: no progress and no chatter. Work that leaves files says nothing; a question (`inspect`, `evaluate`,
  `doctor`, `bench`, `--estimate`, `--dry-run`) is answered still. Errors go to standard error as ever.
- `--verbose`: the libraries' logs, the time taken, and the traceback of a fault before its one line.
- `--json`: standard output is what was found, one JSON object on one line, and nothing else (`inspect --list-texts`
  prints one a text). Scores are shares of 1 there, not percent.
- All three stand before the command's name or after it: `glot --json fit ...` is `glot fit ... --json`.
- `glot`, `glot cache` and `glot bench` alone print their help.
- Progress bars and colours are for terminals; a pipe gets neither. `NO_COLOR=1` switches colours off on terminals too.
- `glot --install-completion` completes commands and options in bash, zsh, fish and PowerShell.

| exit code | meaning |
|---:|---|
| 0 | done |
| 1 | a fault of the machine or its files: a full disk, memory, damage; one line says what and what to do |
| 2 | wrong use: an option, a file or a value; one line says which and what to pass |
| 130 | stopped by Ctrl-C or SIGTERM; the same command goes on where it was |

A traceback without `--verbose` is a mistake of ours: please report it.
"""


def reference(tree: Any) -> str:
    """The whole page, for the tree of commands that `cli.command_tree` gives."""
    return "\n".join([HEAD, *(part for name, command in walk(tree) for part in _section(name, command))])


def walk(group: Any, before: str = "glot") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, those of groups after the group's own, in the order of `glot --help`."""
    for name, command in group.commands.items():
        full = f"{before} {name}"
        if hasattr(command, "commands"):
            yield from walk(command, full)
        else:
            yield full, command


def _section(name: str, command: Any) -> list[str]:
    function = inspect.unwrap(command.callback)
    hints = get_type_hints(function, include_extras=True)
    defaults = {name: item.default for name, item in inspect.signature(function).parameters.items()}
    own = [item for item in command.params if item.name in hints]
    arguments = [item for item in own if item.param_type_name == "argument"]
    usage = " ".join([name, *(_argument(item) for item in arguments), "[options]"])
    lines = [f"## {name}\n", f"{command.help.strip()}\n", f"```text\n{usage}\n```\n"]
    rows = []
    for item in own:
        kind, info = get_args(hints[item.name])[:2]
        rows.append(f"| {_names(item)} | {_kind(kind, info.min)} | {_help(item, info.help, defaults[item.name])} |")
    return [*lines, "| option | takes | what |", "|---|---|---|", *rows, ""] if rows else lines


def _argument(item: Any) -> str:
    text = item.name.upper() + ("..." if item.nargs == -1 else "")
    return text if item.required else f"[{text}]"


def _names(item: Any) -> str:
    names = [item.name.upper()] if item.param_type_name == "argument" else [*item.opts, *item.secondary_opts]
    return " ".join(f"`{name}`" for name in names)


def _kind(kind: Any, least: float | None) -> str:
    """What an option takes, in words, from the annotation of its parameter."""
    kinds = {str: "text", int: "a whole number", float: "a number", Path: "a path", bool: ""}
    if get_origin(kind) is list:
        return f"{_kind(get_args(kind)[0], least)}, once or more"
    inner = next((one for one in get_args(kind) if one is not type(None)), kind)  # of `int | None`
    if get_origin(inner) is list:
        return _kind(inner, least)
    if isinstance(inner, type) and issubclass(inner, Enum):
        return " or ".join(one.value for one in inner)
    return kinds[inner] + ("" if least is None else f", at least {least:g}")


def _help(item: Any, text: str, default: Any) -> str:
    text = text.replace("|", "\\|").replace("<", "&lt;")
    if item.required:
        return f"{text} Required."
    if default is None or default is False or default == "":
        return text
    return f"{text} Default: `{getattr(default, 'value', default)}`."


if __name__ == "__main__":
    from glot.commands.app import command_tree

    print(reference(command_tree()), end="")
