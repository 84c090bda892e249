"""What speaks against using a run, told without torch: `glot` asks here before it loads anything slow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glot.errors import UsageError
from glot.fit.ensemble import find_heads
from glot.fit.run_folder import RunConfig, check_trained, find_one_run, is_ensemble
from glot.store.files import check_output
from glot.store.reader import Cache
from glot.store.rows import JSON_LINES, check_rows_file
from glot.store.task_spec import TaskSpec
from glot.store.template import TEXT_B, takes_pair

FORMATS = {"jsonl": JSON_LINES, "glue": (".tsv", ".txt")}  # that can be asked for, and their suffixes


@dataclass(frozen=True)
class Run:
    """A trained head: its folder and its config."""

    folder: Path
    config: RunConfig


def open_runs(folders: Sequence[Path], same_texts: bool = True) -> list[Run]:
    """The runs in some folders, all over the same layers of the same backbone.

    Raises UsageError for a folder of several runs, or runs that do not go together; with `same_texts` neither do those
    that take one text an example and those that take pairs.
    """
    runs = [Run(folder, RunConfig.load(folder)) for folder in map(find_one_run, folders)]
    first = runs[0]
    for run in runs[1:]:
        first.config.check_states(run.config.states, str(run.folder))
        compared: list[tuple[str, object, object]] = [("layer", _layers(first), _layers(run))]
        if same_texts:
            compared.append(("texts an example", first.config.task.num_texts, run.config.task.num_texts))
        for what, ours, theirs in compared:
            if ours != theirs:
                raise UsageError(
                    f"{first.folder} and {run.folder} do not go together: {what} {ours} there, {theirs} here"
                )
    return runs


def _layers(run: Run) -> str:
    return ", ".join(map(str, run.config.layers))


def trained_run(folder: Path) -> Run:
    """The run in a folder; raises UsageError where it is not there or not trained."""
    found = find_one_run(folder)
    run = Run(found, RunConfig.load(found))
    check_trained(found)
    return run


def check_backbone(run: Run, model: str | None = None) -> None:
    """Raise UsageError where the backbone of a run (or `model`) is not there."""
    from glot.extract.source import find_source

    find_source(run.config.states, f"that {run.folder} was trained on", model)


def check_new_texts(folder: Path, model: str | None = None) -> Run:
    """A trained run, for new texts; raises UsageError where it or its backbone (or `model`) is not there."""
    run = trained_run(folder)
    check_backbone(run, model)
    return run


def check_vector_texts(config: RunConfig, text_b: str | None) -> None:
    """Raise UsageError where `text_b`, a table's column of second texts, and what a vector is made of do not fit."""
    if takes_pair(config.states.template) and text_b is None:
        raise UsageError(
            "the prompt of this run holds both texts of a pair: name the column of the second with --text-b"
        )
    if text_b is not None and not takes_pair(config.states.template):
        raise UsageError("a vector is one text's: leave out --text-b")


def other_texts(run: Path, config: RunConfig, has_second: bool) -> UsageError:
    """What to raise where a run takes pairs and single texts are given, or reversed."""
    advice = "leave out --text-b" if has_second else "name the column of the second with --text-b"
    return UsageError(f"{run} was trained on {config.texts_each} text(s) an example: {advice}")


def check_single_texts(run: Run) -> None:
    """Raise UsageError where a run has no vector of one text, because its prompt holds two."""
    if takes_pair(run.config.states.template):
        raise UsageError(
            f"the prompt of {run.folder} holds {TEXT_B}: its vectors are of two texts each, and mteb's of one; "
            "use `glot evaluate --cache`"
        )


def check_new_labels(folder: Path, model: str | None = None) -> Run:
    """As `check_new_texts` for labels or scores alone, which an ensemble gives too: its best head's config is its own.

    Raises UsageError also where a run was trained without labels, or a head of an ensemble is missing or does not fit.
    """
    if not is_ensemble(folder):
        run = check_new_texts(folder, model)
    else:
        heads = [trained_run(head) for head in find_heads(folder)]
        check_backbone(heads[0], model)
        run = Run(folder, heads[0].config)
    run.config.check_predicts(run.folder)
    return run


def check_predictable(folder: Path, cache: Cache, split: str) -> RunConfig:
    """The config of a run, or of an ensemble's best head.

    Raises UsageError where it has no predictions, or none for an example set of a cache.
    """
    heads = find_heads(folder) if is_ensemble(folder) else [folder]
    configs = [_check_predictable(head, cache, split) for head in heads]
    return configs[0]


def _check_predictable(folder: Path, cache: Cache, split: str) -> RunConfig:
    config = RunConfig.load(folder)
    config.check_predicts(folder)
    config.check_cache(cache)
    entry = cache.examples_entry(split)
    if entry.task.num_texts != config.task.num_texts:
        raise UsageError(f"{folder} was trained on {config.task.num_texts} text(s) an example, unlike {cache.folder}")
    check_trained(folder)
    return config


def check_scorable(run: Path, cache: Cache, split: str) -> RunConfig:
    """As `check_predictable`; raises UsageError also where an example set of a cache cannot be scored."""
    config = check_predictable(run, cache, split)
    if not cache.examples_entry(split).labelled:
        raise UsageError(f"the {split} examples of {cache.folder} have no labels: use `glot predict`")
    ours, theirs = config.task, cache.examples_entry(split).task
    if (ours.target, ours.classes) != (theirs.target, theirs.classes):
        raise UsageError(
            f"{run} was trained for {_labels(ours)}, the {split} examples of {cache.folder} have {_labels(theirs)}"
        )
    return config


def _labels(task: TaskSpec) -> str:
    if task.target == "labels":
        return f"several labels a text ({', '.join(task.classes)})"
    return f"the classes {', '.join(task.classes)}" if task.target == "classes" else "scores"


def answer_columns(task: TaskSpec, with_probabilities: bool = False) -> dict[str, type]:
    """The columns of predictions for a task, and the type of each: the last ones are of the classes, in their order."""
    if not task.classes:
        return {"index": int, "score": float}
    first = ["probability"] if task.target == "classes" else []
    names = [*first, *(f"probability_{name}" for name in task.classes)] if with_probabilities else []
    return {"index": int, "label": str, **dict.fromkeys(names, float)}


def check_predictions_file(out: Path, format_name: str | None = None) -> None:
    """Raise UsageError where predictions cannot be written to `out`: before anything slow, and without making it.

    `format_name` is "jsonl", "glue" (the benchmark's submission format), or None: the suffix says it.
    """
    if format_name is None:
        check_rows_file(out)
    elif format_name in FORMATS:
        check_output(out, FORMATS[format_name])
    else:
        raise UsageError(f"unknown --format {format_name!r}: choose {' or '.join(FORMATS)}")
