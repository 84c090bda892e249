"""How a setting of stage two is declared: once, as a field of a config.

    lr: Annotated[float, Setting("Adam's learning rate.", "Training", above=0, most=1000)] = 2e-4

Its type, its default and its `Setting` are all there is: commands, the estimator, validation and reports read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from glot.errors import UsageError
from glot.registry import Registry


@dataclass(frozen=True)
class Setting:
    """What a setting is, beside its type and its default.

    Attributes:
        help: one line for people. group: where the help of a command lists it.
        names: the registry whose names it takes; a `Literal` says its choices by itself.
        least, most: the bounds, both allowed. above: a lower bound that is not.
        bounds: the bounds in words that follow the name, where those made of the numbers would not do.
        key: its name in files and in names of folders, where that is not its own: as files from before have it.
        option: its name on the command line, where that is not its own; "" for one that no command takes.
        old_options: names that commands still take for it, and tell nobody.
        default: in words, where the value of the field does not say it.
        by_task: a task may have a default of its own (`glot.registry.tasks`).
        unit: on the command line it is given in so many of what the field has: GiB of bytes.
        lists: whether it may be one of the settings that a sweep combines.
        tells_apart: whether runs that differ in it are different methods to a report.
    """

    help: str
    group: str
    names: Registry[Any] | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    bounds: str = ""
    key: str = ""
    option: str | None = None
    old_options: tuple[str, ...] = ()
    default: str = ""
    by_task: bool = False
    unit: int = 1
    lists: bool = True
    tells_apart: bool = True


@dataclass(frozen=True)
class Declared:
    """A declared setting: the field's name, its type without None, its default, and what it is."""

    name: str
    kind: Any
    default: Any
    setting: Setting

    @property
    def key(self) -> str:
        """What it is called in files."""
        return self.setting.key or self.name

    @property
    def option(self) -> str:
        """What it is on the command line; "" where no command takes it."""
        return f"--{self.name.replace('_', '-')}" if self.setting.option is None else self.setting.option

    @property
    def choices(self) -> tuple[str, ...]:
        """The values it takes; none where any does."""
        return self.setting.names.names() if self.setting.names else choices(self.kind)

    def check(self, value: Any, title: str) -> None:
        """Raise UsageError where the setting does not take a value; `title` is what the message calls it."""
        allowed = self.choices
        if allowed and value not in allowed:
            raise UsageError(f"{title} must be one of {', '.join(allowed)}; got {value!r}")
        if not isinstance(value, int | float):
            return
        setting = self.setting
        is_low = setting.least is not None and not value >= setting.least  # also refuses NaN
        is_low |= setting.above is not None and not value > setting.above
        if is_low or (setting.most is not None and not value <= setting.most):
            raise UsageError(f"{title} {setting.bounds or _bounds(setting)}; got {value}")


def choices(kind: Any) -> tuple[str, ...]:
    """The words of a `Literal`; none of another type."""
    return get_args(kind) if get_origin(kind) is Literal else ()


@cache
def declared(config: type) -> dict[str, Declared]:
    """The settings that a config, a dataclass, declares, by the names of their fields, in their order."""
    hints, found = get_type_hints(config, include_extras=True), {}
    for item in fields(config):
        if get_origin(hints[item.name]) is Annotated:
            kind, setting = get_args(hints[item.name])
            if type(None) in get_args(kind):
                kind = next((part for part in get_args(kind) if part is not type(None)), kind)
            found[item.name] = Declared(item.name, kind, item.default, setting)
    return found


def with_keys(config: Any) -> dict[str, Any]:
    """The fields of a config as files have them: by their keys."""
    settings = declared(config.__class__)
    return {settings[name].key if name in settings else name: value for name, value in asdict(config).items()}


def with_names(config: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """What `with_keys` gave, by the names of the config's fields."""
    names = {item.key: name for name, item in declared(config).items()}
    return {names.get(key, key): value for key, value in data.items()}


def check_settings(config: Any, as_options: bool = True) -> None:
    """Raise UsageError for a setting of a config that its declaration does not allow; None is always allowed.

    `as_options` calls it as on the command line, else by the name of its field.
    """
    for item in declared(config.__class__).values():
        value = getattr(config, item.name)
        if value is not None:
            item.check(value, item.option if as_options and item.option else item.name)


def _bounds(setting: Setting) -> str:
    if setting.above is not None:
        return f"must be above {setting.above}, and at most {setting.most}"
    if setting.most is not None:
        return f"must lie in {setting.least}..{setting.most}"
    return f"must be at least {setting.least}"
