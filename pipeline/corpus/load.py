"""The room's front door: a known task, anybody's own table, or the made stress test, as a checked `Corpus`."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.corpus import glue_folder, hub, stress, tables
from pipeline.corpus.examples import Corpus, Example, Split
from pipeline.corpus.tasks import TASKS, Columns, Task, find_task
from pipeline.errors import UsageError
from pipeline.store.task_spec import TaskSpec

_SEED = 0  # of the samples and the hold-out below, fixed so that a rerun sees the same rows


@dataclass(frozen=True)
class CorpusRequest:
    """Which corpus the user asked for; None means not given.

    Attributes:
        task: a known task, or with `data` the name of the user's own.
        data, eval_data, test_data, text, text_b, label: see `load_table`.
        data_dir, splits: see `load_task`. generator, ratio: see `load_stress`.
        limit: rows to take of each split.
    """

    task: str | None = None
    data: Path | None = None
    eval_data: Path | None = None
    test_data: Path | None = None
    text: str | None = None
    text_b: str | None = None
    label: str | None = None
    data_dir: Path | None = None
    splits: str | None = None
    generator: str | None = None
    ratio: float | None = None
    limit: int | None = None


TABLE_OPTIONS = ("eval_data", "test_data", "text", "text_b", "label")
TASK_OPTIONS = ("data_dir", "splits")
STRESS_OPTIONS = ("generator", "ratio")


def load_corpus(request: CorpusRequest) -> tuple[Corpus, int]:
    """The corpus that a request asks for, and its default length limit in tokens.

    Raises UsageError for an option that does not go with the others, and whatever the loaders below raise.
    """
    if request.data is not None:
        _refuse(request, TASK_OPTIONS + STRESS_OPTIONS, "your own --data")
        names = {"text": request.text or "text", "text_b": request.text_b, "label": request.label or "label"}
        files = {"eval_data": request.eval_data, "test_data": request.test_data}
        return load_table(request.data, **files, **names, limit=request.limit, name=request.task), 128
    if request.task is None:
        raise UsageError("pass --task (a known task) or --data (your own file)")
    task = find_task(request.task)
    if task.spec.name == "stress":
        _refuse(request, TABLE_OPTIONS + TASK_OPTIONS, "the made task stress")
        ratio = 0.9 if request.ratio is None else request.ratio
        counts = {} if request.limit is None else {"train": request.limit, "validation": request.limit}
        return load_stress(request.generator or "published", ratio, **counts), task.max_tokens
    _refuse(request, TABLE_OPTIONS + STRESS_OPTIONS, f"the known task {task.spec.name}")
    splits = request.splits.replace(" ", "").split(",") if request.splits else None
    return load_task(request.task, splits, request.data_dir, request.limit), task.max_tokens


def _refuse(request: CorpusRequest, options: tuple[str, ...], what: str) -> None:
    for name in options:
        if getattr(request, name) is not None:
            option = "--split" if name == "splits" else "--" + name.replace("_", "-")
            raise UsageError(f"{option} does not go with {what}: leave it out")


def load_task(
    name: str, splits: list[str] | None = None, data_dir: str | Path | None = None, limit: int | None = None
) -> Corpus:
    """Read a task of the table.

    Args:
        name: a task's name, such as "mrpc".
        splits: which splits; None means train and every validation split.
        data_dir: a GLUE folder. None means the folder that GLUE_DIR names, else the hub.
        limit: rows to take of each split: the first ones, or for IMDB, which is sorted by label, a random sample
            (a larger one holds the smaller). None means all but the task's own cap on training rows.

    Raises:
        UsageError: an unknown task or split, missing or damaged data, no hub, a split without rows, or training
            rows of one class only.
    """
    task = find_task(name)
    if task.splits is None:
        raise UsageError(f"task {name!r} is made, not read: run `glot stress`")
    wanted = splits or task.default_splits
    unknown = [split for split in wanted if split not in task.splits]
    if unknown:
        raise UsageError(f"{task.spec.name} has no split {unknown[0]!r}: choose from {', '.join(task.splits)}")
    _check_limit(limit)
    folder = _glue_folder(task, data_dir)
    return _checked(task.spec, [_read_split(task, folder, split, limit) for split in wanted])


def load_table(
    data: str | Path,
    eval_data: str | Path | None = None,
    text: str = "text",
    text_b: str | None = None,
    label: str = "label",
    test_data: str | Path | None = None,
    limit: int | None = None,
    name: str | None = None,
) -> Corpus:
    """Read anybody's own data (CSV, TSV, JSON lines, Parquet) into splits train, validation and perhaps test.

    The training labels decide what the task is (see `tables.infer_spec`); it is named after `data`.

    Args:
        data: the training file.
        eval_data: the validation file; None holds out a tenth of the training rows, stratified by label.
        text: the column of the text.
        text_b: the column of the second text of a pair.
        label: the column of the label.
        test_data: a test file, which may lack labels.
        limit: rows to take of each split, a random sample (a larger one holds the smaller).
        name: what to call the task; None takes the training file's name.

    Raises:
        UsageError: a file, column, text or label is missing or wrong (file and row are named), or there is one
            class only.
    """
    _check_limit(limit)
    columns = Columns(text, text_b, label)
    data = Path(data)
    name = name or re.sub(r"[^\w.-]+", "-", data.stem)
    if not re.fullmatch(r"\w[\w.-]*", name):  # it names folders
        raise UsageError(f"task name {name!r}: use letters, digits, '.', '_' and '-', the first a letter or digit")
    rows = tables.read_rows(data, columns)
    spec = tables.infer_spec(name, rows, num_texts=2 if text_b else 1)
    train = tables.to_examples(spec, rows)
    if eval_data is None:
        splits = _hold_out(spec, train, data.name)
    else:
        eval_data = Path(eval_data)
        validation = tables.to_examples(spec, tables.read_rows(eval_data, columns))
        splits = [Split("train", train, data.name), Split("validation", validation, eval_data.name)]
    if test_data is not None:
        test_data = Path(test_data)
        test = tables.to_examples(spec, tables.read_rows(test_data, columns, label_needed=False))
        splits.append(Split("test", test, test_data.name))
    return _checked(spec, [replace(split, examples=_sample(split.examples, limit)) for split in splits])


def load_stress(
    generator: str = "paired", ratio: float = 0.9, train: int = 2000, validation: int = 500, seed: int = 0
) -> Corpus:
    """Make the stress test, the same for the same arguments; the spec is named "stress-<generator>-<ratio>".

    Args:
        generator: "published", "balanced" or "paired", see `pipeline.corpus.stress`.
        ratio: the distractor ratio r, 0 <= r < 1.
        train: how many training texts.
        validation: how many validation texts, drawn from a random stream of their own.
        seed: of both streams.

    Raises:
        UsageError: an unknown generator, or a ratio, count or seed out of range.
    """
    if seed < 0:
        raise UsageError(f"seed {seed} is negative: pass one from 0 up")
    source = f"made: {generator}, r = {ratio:g}, seed {seed}"
    splits = [
        Split(name, stress.make_examples(generator, ratio, count, np.random.default_rng([seed, stream])), source)
        for stream, (name, count) in enumerate([("train", train), ("validation", validation)])
    ]
    return _checked(replace(TASKS["stress"].spec, name=f"stress-{generator}-{ratio:g}"), splits)


def _glue_folder(task: Task, data_dir: str | Path | None) -> Path | None:
    if task.folder is None:
        if data_dir is not None:
            raise UsageError(f"{task.spec.name} is no GLUE task: leave --data-dir out, or pass your file with --data")
        return None
    folder = data_dir or os.environ.get("GLUE_DIR")
    return Path(folder) if folder else None


def _read_split(task: Task, folder: Path | None, split: str, limit: int | None) -> Split:
    rows = limit or (task.train_limit if split == "train" else None)
    first = None if task.sorted_by_label else rows
    result = glue_folder.read_split(task, folder, split, first) if folder else hub.read_split(task, split, first)
    return replace(result, examples=_sample(result.examples, rows)) if task.sorted_by_label else result


def _sample(examples: list[Example], limit: int | None) -> list[Example]:
    """A random `limit` of the examples in their own order; a larger limit's sample holds a smaller one's."""
    if limit is None or limit >= len(examples):
        return examples
    chosen = np.random.default_rng(_SEED).permutation(len(examples))[:limit]
    return [examples[i] for i in sorted(chosen)]


def _hold_out(spec: TaskSpec, examples: list[Example], file: str) -> list[Split]:
    """Train and validation: every tenth row in the order of labels, so classes and scores spread alike in both."""
    counts = Counter(example.label for example in examples)
    order = [
        i
        for i in np.random.default_rng(_SEED).permutation(len(examples)).tolist()
        if spec.target == "score" or counts[examples[i].label] > 1  # a class's only example stays in training
    ]
    order.sort(key=lambda i: examples[i].label)
    held = set(order[min(5, len(order) // 2) :: 10])
    return [
        Split("train", [e for e in examples if e.index not in held], f"{file}, but for a tenth held out"),
        Split("validation", [e for e in examples if e.index in held], f"{file}, a tenth held out, stratified by label"),
    ]


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} rows leaves nothing: pass at least 1")


def _checked(spec: TaskSpec, splits: list[Split]) -> Corpus:
    for split in splits:
        if not split.examples:
            raise UsageError(f"{spec.name} {split.name} has no rows ({split.source}): pass data that has some")
        labels = {example.label for example in split.examples}
        if split.name == "train" and len(labels) == 1:
            what = "class" if spec.target == "classes" else "score"
            raise UsageError(
                f"{spec.name} train has only one {what} in its {len(split.examples)} rows ({split.source}): "
                "raise --limit or pass data with more"
            )
    return Corpus(spec, {split.name: split for split in splits})
