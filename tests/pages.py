"""Reads the documentation: fenced blocks, indented blocks, commands named in the text, and whether they parse."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).parents[1]
GENERATED = "cli.md"
ELIDED = "…"


@dataclass(frozen=True)
class Block:
    """A block of code: its first line's number, its language ("" where it is indented), further words, and its text."""

    line: int
    language: str
    words: tuple[str, ...]
    text: str


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and all of docs/ but what is generated."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in found if page.is_file() and page.name != GENERATED]


def walk(group: Any, before: str = "glot") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, those of groups after the group's own, in the order of `glot --help`."""
    for name, command in group.commands.items():
        full = f"{before} {name}"
        if hasattr(command, "commands"):
            yield from walk(command, full)
        else:
            yield full, command


def blocks(page: Path) -> list[Block]:
    """The fenced and the indented blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    place = 0
    while place < len(lines):
        fence = re.fullmatch(r"```(\S*)(.*)", lines[place])
        stop = place + 1
        if fence:
            while lines[stop] != "```":
                stop += 1
            text = "\n".join(lines[place + 1 : stop])
            found.append(Block(place + 2, fence[1], tuple(fence[2].split()), text))
        elif lines[place].startswith("    ") and (place == 0 or not lines[place - 1].strip()):
            while stop < len(lines) and (lines[stop].startswith("    ") or not lines[stop].strip()):
                stop += 1
            found.append(Block(place + 1, "", (), "\n".join(line[4:] for line in lines[place:stop])))
            stop -= 1
        else:
            stop = place
        place = stop + 1
    return found


def prose(page: Path) -> str:
    """A page without its fenced and indented blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<=\n\n)(?: {4}.*\n|\n)+", "\n", text)


def lines_of(text: str) -> Iterator[str]:
    """The command lines of a block, those that end in a backslash joined with the next, without comments."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        if line:
            yield line


def commands(page: Path) -> list[tuple[str, bool]]:
    """Every `glot` and `make` command of a page, and whether it stands whole in a block (or is named in the text)."""
    found = []
    for block in blocks(page):
        if block.language in ("", "sh", "bash", "console", "text"):
            for line in lines_of(block.text):
                line = re.sub(r"^.*?-m cli ", "glot ", line)  # accelerate launch ... -m cli extract ...
                for part in re.split(r" \| |; | && ", line):
                    part = re.sub(r"^(\$ |[A-Z_]+=\S* )+", "", part.strip())
                    if re.match(r"(glot|make) ", part):
                        found.append((part[:-1] if part.count('"') % 2 else part, True))
    named = re.findall(r"`((?:glot|make) [^`]+)`", prose(page))
    return found + [(" ".join(text.split()), False) for text in named]


def variants(command: str) -> list[list[str]]:
    """The words of a command; several lists where it offers words to choose from, as in `copy|subset|merge`."""
    plain = re.sub(r"<[^<>]+>|\[[\w-]+\]", ELIDED, command.replace("...", ELIDED))
    plain = re.split(r" [<>]+ ", plain)[0]
    choice = re.search(r"[\w-]+(?:\|[\w-]+)+", plain)
    if choice is None:
        return [shlex.split(plain)]
    return [words for one in choice[0].split("|") for words in variants(plain.replace(choice[0], one, 1))]


def complaint(tree: Any, words: list[str], whole: bool) -> str:
    """What is wrong with the words of a `glot` command; "" where it parses. Named ones may leave out what they need."""
    command, rest = tree, words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] == ELIDED:  # any command
            return ""
        if rest[0] not in command.commands:
            return f"there is no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    options = {name: item for item in command.params for name in (*item.opts, *item.secondary_opts)}
    parameters = inspect.signature(command.callback, eval_str=True).parameters if command.callback else {}
    hints = {name: item.annotation for name, item in parameters.items()}
    given, positional = set(), []
    while rest:
        word, rest = rest[0], rest[1:]
        if hasattr(command, "commands") and not word.startswith("-"):
            return complaint(command, [words[0], word, *rest], whole)
        if not re.match(r"--?[A-Za-z]", word):
            positional.append(word)
            continue
        name, has_value, value = word.partition("=")
        if name == "--help":
            return ""
        if name not in options:
            return f"{command.name} has no option {name}"
        given.add(options[name].name)
        if getattr(options[name], "is_flag", False):
            continue
        if not has_value:
            if not rest and whole:
                return f"{name} has no value"
            value, rest = (rest[0], rest[1:]) if rest else (ELIDED, [])
        if not _fits(hints.get(options[name].name), value):
            return f"{name} does not take {value}"
    if not whole or ELIDED in positional or hasattr(command, "commands"):
        return ""
    places = [item for item in command.params if item.param_type_name == "argument"]
    if len(positional) > len(places) and not any(item.nargs == -1 for item in places):
        return f"{command.name} does not take {positional[-1]}"
    needed = [item.name for item in command.params if item.required and item.param_type_name == "option"]
    needed += [item.name for item in places[len(positional) :] if item.required]
    return "".join(f"{command.name} needs {name}. " for name in needed if name not in given)


def _fits(hint: Any, value: str) -> bool:
    if hint is None or ELIDED in value or "$" in value or value.isupper():  # a placeholder: RUN, N
        return True
    kind = get_args(hint)[0]
    kinds = [one for one in (*get_args(kind), kind) if one in (int, float)]
    try:
        return all(one(value) is not None for one in kinds)
    except ValueError:
        return False
