"""mteb's tasks by the names a user gives: tasks, benchmarks, and files on this machine."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import get_args

import mteb
from mteb.abstasks import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.task_metadata import TaskType
from mteb.types import PromptType

from glot.errors import UsageError
from glot.mteb_eval.local_tasks import PLAIN_READER, LocalReader, local_task


def find_tasks(names: str, local: Sequence[str], reader: LocalReader = PLAIN_READER) -> list[AbsTask]:
    """The tasks of "STSBenchmark,MTEB(eng, v2)" and of local files (see `local_task`), in that order, each once.

    A name is a task's, else a benchmark's. Raises UsageError for unknown names (naming close ones), tasks that are not
    of texts alone, local files that cannot be read, and two local files of one name.
    """
    tasks = {task.metadata.name: task for name in split_names(names) for task in _named(name)}
    for where in local:
        task = local_task(where, reader)
        if task.metadata.name in tasks:
            raise UsageError(f"two tasks are called {task.metadata.name}: rename the file of --mteb-local {where}")
        tasks[task.metadata.name] = task
    if not tasks:
        raise UsageError("--mteb names no task")
    for task in tasks.values():
        if task.metadata.modalities != ["text"]:
            raise UsageError(f"{task.metadata.name} is of {', '.join(task.metadata.modalities)}, not of texts alone")
    return list(tasks.values())


def split_names(names: str) -> list[str]:
    """The names between commas; a comma inside brackets, as in "MTEB(eng, v2)", belongs to the name."""
    return [name.strip() for name in re.split(r",(?![^(]*\))", names) if name.strip()]


def _named(name: str) -> list[AbsTask]:
    for find in (lambda: [mteb.get_task(name)], lambda: list(mteb.get_benchmark(name).tasks)):
        with suppress(KeyError):
            return find()
    known = [task.metadata.name for task in mteb.get_tasks()]
    known += [alias for benchmark in mteb.get_benchmarks() for alias in (benchmark.name, *(benchmark.aliases or ()))]
    by_lower = {other.lower(): other for other in known}
    near = [by_lower[lower] for lower in difflib.get_close_matches(name.lower(), by_lower, n=3)]
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise UsageError(
        f"mteb knows no task or benchmark {name!r}: {hint}it lists them with `mteb available-tasks` and "
        "`mteb available-benchmarks`"
    )


def leaves(task: AbsTask) -> Iterator[AbsTask]:
    """The tasks that are evaluated for a task: itself, or those that mteb averages over for it."""
    if isinstance(task, AbsTaskAggregate):
        for part in task.metadata.tasks:
            yield from leaves(part)
    else:
        yield task


def read_prompts(given: Sequence[str], tasks: Sequence[AbsTask]) -> dict[str, str]:
    """Prompts by mteb's names from ["query=Represent the question: ", ...].

    Raises UsageError where a name is none of the tasks', task types' or prompt types', or is given twice.
    """
    prompts: dict[str, str] = {}
    kinds = [kind.value for kind in PromptType]
    names = [*get_args(TaskType), *(leaf.metadata.name for task in tasks for leaf in leaves(task))]
    known = {*kinds, *names, *(f"{name}-{kind}" for name in names for kind in kinds)}
    for prompt in given:
        name, equals, text = prompt.partition("=")
        if not equals or name not in known:
            raise UsageError(
                f"--mteb-prompt {prompt!r}: write NAME=TEXT, where NAME is {', '.join(kinds)}, a task's type "
                f"(STS, Retrieval, ...), the name of a task that is run, or one of these as in Retrieval-query"
            )
        if name in prompts:
            raise UsageError(f"--mteb-prompt names {name} twice")
        prompts[name] = text
    return prompts
