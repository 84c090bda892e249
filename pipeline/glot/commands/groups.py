"""Groups of options that go together: a dataclass, whose fields are the options, declared once for all commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import Field, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, get_type_hints

from typer.models import OptionInfo

from glot.errors import UsageError

F = TypeVar("F", bound=Callable[..., None])


def with_groups(command: F) -> F:
    """A command that has, in the place of each parameter typed as a group, the options of that group."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {
        name: item.annotation for name, item in signature.parameters.items() if is_dataclass(item.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for name, item in signature.parameters.items():
        parameters += _options(groups[name], item.kind) if name in groups else [item]

    @wraps(command)
    def run(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    vars(run)["__signature__"] = signature.replace(parameters=parameters)
    run.__annotations__ = {item.name: item.annotation for item in parameters}
    return run  # type: ignore[return-value]


def _options(group: Any, kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name])
        for field in fields(group)
    ]


def refuse_group(group: Any, beside: str, but: Sequence[str] = ()) -> None:
    """Raise UsageError for the first option of a group that was given though none goes with `beside`.

    `but`: names of fields that do.
    """
    hints = get_type_hints(type(group), include_extras=True)
    for field in fields(group):
        if field.name not in but and getattr(group, field.name) != field.default:
            raise UsageError(f"{_name(field, hints[field.name])} does not go with {beside}: leave it out")


def _name(field: Field[Any], hint: Any) -> str:
    """What an option is called: as declared, or after its field; one that is on goes by what turns it off."""
    declared = next(item for item in hint.__metadata__ if isinstance(item, OptionInfo))
    name = next(iter(declared.param_decls or ()), f"--{field.name.replace('_', '-')}")
    return name.replace("--", "--no-", 1) if field.default is True else name
