"""The room's front door: a known task, anybody's own table, or the made stress test, as a checked `Corpus`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from glot.corpus import glue_folder, hub, hub_rows, labels, stress, tables
from glot.corpus.dialect import FIND_OUT, TableFormat
from glot.corpus.examples import BadRows, Corpus, Example, Split, labels_or_nan, take
from glot.corpus.guess import name_columns
from glot.corpus.labels import check_spread, is_number
from glot.corpus.memory import MemoryRows
from glot.corpus.request import (
    NOTHING_ASKED,
    CorpusRequest,
    HubDataset,
    check_name,
    pairs_name,
    stress_name,
    stress_settings,
    table_name,
)
from glot.corpus.triplets import load_pairs
from glot.errors import UsageError
from glot.registry.tasks import TASKS, Columns, Task, find_task
from glot.store.label_sets import to_indicator
from glot.store.task_spec import TaskSpec

_SEED = 0  # of the samples and the hold-out below, fixed so that a rerun sees the same rows
HELD_OUT = 0.1  # the share of train kept as validation where there is none
SHARE_STEPS = 10**6  # a share is told to so many parts

FORMAT_OPTIONS = ("delimiter", "quoting", "encoding", "no_header")
TABLE_OPTIONS = ("eval_data", "test_data", "text", "text_b", "label", *FORMAT_OPTIONS, "target", "label_separator")
PAIRS_NOT = ("test_data", "text", "text_b", "label", *FORMAT_OPTIONS, "target", "label_separator")
TASK_OPTIONS = ("data_dir", "splits")
STRESS_OPTIONS = ("generator", "ratio")


def load_corpus(request: CorpusRequest) -> Corpus:
    """The corpus that a request asks for.

    Raises UsageError for an option that does not go with the others, and whatever the loaders below raise.
    """
    BadRows(request.bad_rows)  # refuses an unknown choice before anything is read
    if request.data is not None:
        _refuse(request, ("data_dir", *STRESS_OPTIONS, "pairs", "negatives"), "your own --data")
        named, found = name_columns(request)
        options: dict[str, Any] = {
            "text": named.text or "text",
            "text_b": named.text_b,
            "label": named.label or "label",
            "limit": request.limit,
            "name": request.task,
            "bad_rows": request.bad_rows,
            "target": request.target,
            "separator": request.label_separator,
            "share": None if request.splits is None else _parse_share(request.splits),
        }
        if isinstance(request.data, HubDataset):
            _refuse(request, ("eval_data", "test_data"), f"{request.data}, whose splits are found by name")
            _refuse(request, FORMAT_OPTIONS, f"{request.data}, which the hub reads")
            return load_hub(request.data, **options)
        files = request.data, request.eval_data
        corpus = load_table(*files, test_data=request.test_data, form=request.form, **options)
        return replace(corpus, remarks=[found, *corpus.remarks]) if found else corpus
    if request.pairs is not None:
        _refuse(request, PAIRS_NOT + TASK_OPTIONS + STRESS_OPTIONS, "--pairs")
        return load_pairs(
            request.pairs,
            str(request.eval_data) if request.eval_data else None,
            pairs_name(request.pairs, request.task),
            1 if request.negatives is None else request.negatives,
            request.limit,
            request.bad_rows,
        )
    _refuse(request, ("negatives",), "data without --pairs")
    if request.task is None:
        raise UsageError(NOTHING_ASKED)
    task = find_task(request.task)
    if task.spec.name == "stress":
        _refuse(request, TABLE_OPTIONS + TASK_OPTIONS, "the made task stress")
        settings = stress_settings(request)
        return load_stress(*settings) if request.limit is None else load_stress(*settings, request.limit, request.limit)
    _refuse(request, TABLE_OPTIONS + STRESS_OPTIONS, f"the known task {task.spec.name}")
    splits = request.splits.replace(" ", "").split(",") if request.splits else None
    if any(is_number(split) for split in splits or []):
        known = ",".join(task.splits)
        raise UsageError(f"--split {request.splits}: a share is for your own --data; {task.spec.name} has {known}")
    return load_task(request.task, splits, request.data_dir, request.limit, request.bad_rows)


def _refuse(request: CorpusRequest, options: tuple[str, ...], what: str) -> None:
    for name in options:
        if getattr(request, name) is not None:
            option = "--split" if name == "splits" else "--" + name.replace("_", "-")
            raise UsageError(f"{option} does not go with {what}: leave it out")


def load_task(
    name: str,
    splits: list[str] | None = None,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    bad_rows: str = "stop",
) -> Corpus:
    """Read a task of the table.

    Args:
        name: a task's name, such as "mrpc".
        splits: which splits; None means train and every validation split.
        data_dir: a GLUE folder. None means the folder that GLUE_DIR names, else the hub.
        limit: rows to take of each split: the first ones, or for IMDB, which is sorted by label, a random sample
            (a larger one holds the smaller). None means all but the task's own cap on training rows.
        bad_rows: "stop" at a row that is unfit on its own, or "skip" it.

    Raises:
        UsageError: an unknown task or split, missing or damaged data, no hub, a split without rows, or training
            rows of one class only.
    """
    task = find_task(name)
    if not task.splits:
        raise UsageError(f"task {name!r} is made, not read: run `glot stress`")
    wanted = splits or task.default_splits
    unknown = [split for split in wanted if split not in task.splits]
    if unknown:
        raise UsageError(f"{task.spec.name} has no split {unknown[0]!r}: choose from {', '.join(task.splits)}")
    _check_limit(limit)
    folder = _glue_folder(task, data_dir)
    return _checked(task.spec, [_read_split(task, folder, split, limit, bad_rows) for split in wanted])


def load_table(
    data: str | Path,
    eval_data: str | Path | None = None,
    text: str = "text",
    text_b: str | None = None,
    label: str = "label",
    test_data: str | Path | None = None,
    limit: int | None = None,
    name: str | None = None,
    bad_rows: str = "stop",
    share: float | None = None,
    form: TableFormat = FIND_OUT,
    target: str | None = None,
    held: str = "validation",
    separator: str | None = None,
) -> Corpus:
    """Read anybody's own data (a table, or a folder of texts) into splits train, validation and perhaps test.

    The training labels decide what the task is (see `glot.corpus.labels`); it is named after `data`.

    Args:
        data: the training file.
        eval_data: the validation file; None holds out a share of the training rows, stratified by label.
        text: the column of the text.
        text_b: the column of the second text of a pair.
        label: the column of the label; several of yes and no, "billing,login", where a text may have several labels.
        test_data: a test file, which may lack labels.
        limit: rows to take of each split, a random sample (a larger one holds the smaller).
        name: what to call the task; None takes the training file's name.
        bad_rows: "stop" at a row that is unfit on its own, or "skip" it (see `tables.Table`).
        share: how much to hold out, between 0 and 1; None: a tenth. Does not go with `eval_data`.
        form: what is known of how the files are written; the default is to find out.
        target: "classes" or "score", whatever the labels look like.
        held: what is held out of the training rows where no file has it: "validation", or "test", which then is scored
            and so needs labels.
        separator: between the labels in the column `label`, where a text may have several.

    Raises:
        UsageError: a file, column, text or label is missing or wrong (file and row are named), there is one
            class only, or a share that cannot be held out.
    """
    if eval_data is not None and share is not None:
        raise UsageError(
            f"--split {share:g} does not go with --eval-data, which is the validation: leave one of them out"
        )
    data, columns = Path(data), Columns(text, text_b, label, separator)
    name = _check_own(table_name(data, name), limit, share, target)
    train = tables.Table(data, columns, bad_rows=bad_rows, form=form)
    sources: dict[str, tables.Rows] = {"train": train}
    if eval_data is not None:
        sources["validation"] = replace(train, path=Path(eval_data))
    if test_data is not None:
        sources["test"] = replace(train, path=Path(test_data), label_needed=held == "test")
    return _own_corpus(name, sources, limit, share, target, held)


def load_memory(
    name: str,
    texts: Sequence[str],
    texts_b: Sequence[str] | None,
    labels: Sequence[Any],
    share: float | None = HELD_OUT,
    target: str | None = None,
) -> Corpus:
    """The corpus of n texts, or pairs, and n labels in memory; `share` of them is held out, stratified; None: nothing.

    The labels decide what the task is, as for a table; see `load_table`, also for what is raised.
    """
    name = _check_own(name, None, share, target)
    rows = MemoryRows(texts, texts_b, labels)
    return _own_corpus(name, {"train": rows}, None, share, target, None if share is None else "validation")


def load_hub(
    dataset: HubDataset,
    text: str = "text",
    text_b: str | None = None,
    label: str = "label",
    limit: int | None = None,
    name: str | None = None,
    bad_rows: str = "stop",
    share: float | None = None,
    target: str | None = None,
    separator: str | None = None,
) -> Corpus:
    """Stream anybody's dataset from the hub into splits train, validation and, where it has one, test.

    Classes are those that the dataset names (its `ClassLabel` feature), else the training labels decide as for a
    table. For the arguments see `load_table`; a `share` goes with a dataset that has no validation split.

    Raises UsageError where the hub or the data in it cannot be read (see `hub_rows.open_splits`), and as `load_table`.
    """
    name = _check_own(table_name(dataset, name), limit, share, target)
    if Columns(text, text_b, label, separator).has_several:
        raise UsageError(f"{dataset}: several labels a text are read from files: download it, and pass --data FILE")
    sources: dict[str, tables.Rows] = {**hub_rows.open_splits(dataset, Columns(text, text_b, label), bad_rows)}
    if "validation" in sources and share is not None:
        raise UsageError(f"--split {share:g}: {sources['validation'].source} is the validation: leave --split out")
    if sources["train"].classes and target == "score":
        raise UsageError(f"--target score: {dataset} itself names the classes of {label!r}: leave it out")
    return _own_corpus(name, sources, limit, share, target)


def _check_own(name: str, limit: int | None, share: float | None, target: str | None) -> str:
    """The name of anybody's own data, when what is asked of it is found right."""
    _check_limit(limit)
    labels.check_target(target)
    if share is not None and not 0 < share < 1:
        raise UsageError(f"--split {share:g}: the share of train to keep as validation lies between 0 and 1")
    return check_name(name)


def _own_corpus(
    name: str,
    sources: Mapping[str, tables.Rows],
    limit: int | None,
    share: float | None,
    target: str | None,
    held: str | None = "validation",
) -> Corpus:
    """The corpus of anybody's rows by split; where there is none of the name `held`, a share of train becomes it.

    None: nothing does.
    """
    spec, train = tables.read_training(name, sources["train"], target)
    splits = [train, *(tables.read_split(split, spec, rows) for split, rows in sources.items() if split != "train")]
    if held is not None and held not in sources:
        splits[:1] = _hold_out(spec, splits[0], HELD_OUT if share is None else share, held)
    corpus = _checked(spec, [replace(split, examples=_sample(split.examples, limit)) for split in splits])
    values = None if target else labels_or_nan(corpus.splits["train"].examples)
    return replace(corpus, remarks=labels.remarks(spec, values))


def _parse_share(value: str) -> float:
    """0.1 of "0.1"."""
    if not is_number(value):
        raise UsageError(
            f"--split {value} does not go with your own --data: there it is the share of train to keep as validation, "
            "as in 0.1"
        )
    return float(value)


def load_stress(
    generator: str = "paired",
    ratio: float = 0.9,
    train: int = 2000,
    validation: int = 500,
    seed: int = 0,
    haystack: stress.Haystack = stress.PUBLISHED,
) -> Corpus:
    """Make the stress test, the same for the same arguments; the spec is named as `stress_name` has it.

    Args:
        generator: "published", "balanced" or "paired", see `glot.corpus.stress`.
        ratio: the distractor ratio r, 0 <= r < 1.
        train: how many training texts.
        validation: how many validation texts, drawn from a random stream of their own.
        seed: of both streams.
        haystack: the size of the texts.

    Raises:
        UsageError: an unknown generator, or a ratio, count or seed out of range.
    """
    if seed < 0:
        raise UsageError(f"seed {seed} is negative: pass one from 0 up")
    source = f"made: {generator}, r = {ratio:g}, seed {seed}"
    splits = [
        Split(
            name, stress.make_examples(generator, ratio, count, np.random.default_rng([seed, stream]), haystack), source
        )
        for stream, (name, count) in enumerate([("train", train), ("validation", validation)])
    ]
    return _checked(replace(TASKS["stress"].spec, name=stress_name(generator, ratio, haystack)), splits)


def _glue_folder(task: Task, data_dir: str | Path | None) -> Path | None:
    if not task.folder:
        if data_dir is not None:
            raise UsageError(f"{task.spec.name} is no GLUE task: leave --data-dir out, or pass your file with --data")
        return None
    folder = data_dir or os.environ.get("GLUE_DIR")
    return Path(folder) if folder else None


def _read_split(task: Task, folder: Path | None, split: str, limit: int | None, bad_rows: str) -> Split:
    rows = limit or (task.train_limit if split == "train" else None)
    first = None if task.sorted_by_label else rows
    if folder:
        result = glue_folder.read_split(task, folder, split, first, bad_rows)
    else:
        result = hub.read_split(task, split, first, bad_rows)
    return replace(result, examples=_sample(result.examples, rows)) if task.sorted_by_label else result


def _sample(examples: Sequence[Example], limit: int | None) -> Sequence[Example]:
    """A random `limit` of the examples in their own order; a larger limit's sample holds a smaller one's."""
    if limit is None or limit >= len(examples):
        return examples
    chosen = np.random.default_rng(_SEED).permutation(len(examples))[:limit]
    return take(examples, np.sort(chosen))


def _hold_out(spec: TaskSpec, train: Split, share: float = HELD_OUT, name: str = "validation") -> list[Split]:
    """Train and what is held out: every n-th row in the order of labels, so classes and scores spread alike in both."""
    held = np.zeros(len(train.examples), dtype=bool)
    held[_every_nth(spec, train.examples, share)] = True
    kept, out = (take(train.examples, np.flatnonzero(mask)) for mask in (~held, held))
    how = f"{share:g} held out (seed {_SEED}, stratified by label)"
    return [
        replace(train, examples=kept, source=f"{train.source}, but for {how}"),
        Split(name, out, f"{train.source}, {how}", reading=train.reading),
    ]


def _every_nth(spec: TaskSpec, examples: Sequence[Example], share: float) -> np.ndarray:
    """(m,) positions: a share of the shuffled examples sorted by label, evenly spread over them.

    Sorting is in place, on ranks of labels joined with positions in the shuffled order: no second array of this size.
    """
    values = labels_or_nan(examples)
    ranks = (values if spec.target == "classes" else np.unique(values, return_inverse=True)[1]).astype(np.uint32)
    order = np.random.default_rng(_SEED).permutation(len(examples)).astype(np.uint32)
    if spec.target == "classes":
        lone = np.bincount(ranks) == 1  # a class's only example stays in training
        if lone.any():
            order = order[~lone[ranks[order]]]
    if spec.target == "labels":  # likewise a label's
        bits = to_indicator(values, len(spec.classes))
        order = order[bits[:, bits.sum(axis=0) == 1].sum(axis=1)[order] == 0]
    keys = ranks[order].astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(len(order), dtype=np.uint32)
    keys.sort()
    return order[keys[_spread(len(order), share)] & np.uint64(2**32 - 1)]


def _spread(count: int, share: float) -> np.ndarray:
    """(m,) int64: the middles of the stretches of `1 / share` among `count` positions, at least one if any."""
    exact = max(Fraction(share).limit_denominator(SHARE_STEPS), Fraction(1, SHARE_STEPS))  # 1/10 of 0.1
    part, whole = exact.as_integer_ratio()
    positions = (2 * np.arange(count * part // whole + 1) + 1) * whole // (2 * part)
    positions[0] = min(positions[0], count // 2)
    return positions[positions < count]


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} rows leaves nothing: pass at least 1")


def _checked(spec: TaskSpec, splits: list[Split]) -> Corpus:
    for split in splits:
        if not split.examples:
            train = next((other for other in splits if other.name == "train" and other.examples), None)
            if train is not None and len(np.unique(labels_or_nan(train.examples))) == len(train.examples):
                raise UsageError(
                    f"{train.source.partition(',')[0]}: each of its {len(train.examples):,} labels stands in one row "
                    "only, and none can be held out: is that the column of the label?"
                )
            left_out = f"all {split.skipped:,} left out, the first: {split.first_skipped}" if split.skipped else ""
            raise UsageError(
                f"{spec.name} {split.name} has no rows ({left_out or split.source}): pass data that has some"
            )
        labels = labels_or_nan(split.examples)
        if split.name == "train" and ((labels == labels[0]).all() or np.isnan(labels).all()):
            what = {"classes": "class", "labels": "set of labels"}.get(spec.target, "score")
            raise UsageError(
                f"{spec.name} train has only one {what} in its {len(split.examples)} rows ({split.source}): "
                "raise --limit or pass data with more"
            )
        if split.name == "train" and spec.target == "labels":
            check_spread(spec, labels, f"{spec.name} ({split.source})")
    return Corpus(spec, {split.name: split for split in splits})
