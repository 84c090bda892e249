"""The options of `glot fit` and `glot sweep`, made from the declarations of the settings (`glot.fit.config`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from glot.commands.console import floats, numbers, words
from glot.fit.config import FitOptions, all_settings
from glot.nn.settings import Declared

F = TypeVar("F", bound=Callable[..., None])


def with_settings(lists: bool, without: tuple[str, ...] = ()) -> Callable[[F], F]:
    """A command whose `**settings` are options, one a setting; with `lists` each takes several values, with commas."""

    def decorate(command: F) -> F:
        signature = inspect.signature(command, eval_str=True)
        own = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
        kinds = {name: _option(item, lists) for name, item in all_settings().items() if item.option}
        made = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in kinds.items()
            if name not in without
        ]
        leading = [item for item in own if item.kind is not item.KEYWORD_ONLY]
        trailing = [item for item in own if item.kind is item.KEYWORD_ONLY]
        parameters = [*leading, *made, *trailing]
        vars(command)["__signature__"] = signature.replace(parameters=parameters)
        command.__annotations__ = {item.name: item.annotation for item in parameters}
        return command

    return decorate


def _option(item: Declared, lists: bool) -> Any:
    """The annotation of a parameter: its type on the command line, and what the help says of it."""
    setting, kind = item.setting, item.kind if item.kind in (bool, int, float) else str
    is_list = lists and setting.lists and kind is not bool
    metavar = f"<{kind.__name__},...>" if is_list else None
    if is_list or setting.unit != 1:
        kind = str if is_list else float
    default = _default(item)
    info = typer.Option(
        item.option,
        help=f"{setting.help.removesuffix('.')}; default: {default}." if default else setting.help,
        metavar=metavar,
        rich_help_panel=setting.group,
        autocompletion=_completion(item) if kind is str else None,
    )
    return Annotated[kind | None, info]


def _default(item: Declared) -> str:
    """In words; "" where there is nothing to say."""
    if item.setting.default or item.default in (None, "", (), False):
        return item.setting.default
    shown = ",".join(map(str, item.default)) if isinstance(item.default, tuple) else str(item.default)
    return f"the task's, else {shown}" if item.setting.by_task else shown


def _completion(item: Declared) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        before, comma, word = incomplete.rpartition(",")
        return [before + comma + choice for choice in item.choices if choice.startswith(word)]

    return complete


class GroupedCommand(TyperCommand):
    """A command whose help groups its options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Print the options of each group under its name."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "rich_help_panel", None) or "Options", []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class SettingsCommand(GroupedCommand):
    """A command whose help lists the choices of its settings, names from outside too."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, each with the names there are when it is asked."""
        params, settings = super().get_params(ctx), all_settings()
        for param in params:
            if param.name in settings and settings[param.name].choices:
                more = ",..." if ",..." in (param.metavar or "") else ""
                param.metavar = f"<{'|'.join(settings[param.name].choices)}{more}>"
        return params

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the old names of options too."""
        old = {name: item.option for item in all_settings().values() for name in item.setting.old_options}
        parted = [word.partition("=") for word in args]
        return super().parse_args(ctx, [old.get(name, name) + sign + value for name, sign, value in parted])


def given_options(given: dict[str, Any]) -> FitOptions:
    """What was asked of a fit; raises UsageError for words that are no numbers."""
    return FitOptions(**{name: _one(all_settings()[name], value) for name, value in given.items() if value is not None})


def given_grid(given: dict[str, Any]) -> tuple[FitOptions, dict[str, tuple[Any, ...]]]:
    """What all heads of a sweep have in common, and the settings of which several values may have been given."""
    settings = all_settings()
    grid = {}
    for name, value in given.items():
        if value is not None and settings[name].setting.lists and settings[name].kind is not bool:
            grid[name] = tuple(dict.fromkeys(_several(settings[name], value)))
    rest = {name: value for name, value in given.items() if name not in grid}
    return given_options(rest), {name: values for name, values in grid.items() if values}


def _one(item: Declared, value: Any) -> Any:
    if isinstance(value, str) and item.kind == tuple[int, ...]:
        return numbers(value, item.option)
    return int(value * item.setting.unit) if item.setting.unit != 1 else value


def _several(item: Declared, value: str) -> list[Any]:
    if item.kind is int:
        return list(numbers(value, item.option))
    return floats(value, item.option) if item.kind is float else words(value)
