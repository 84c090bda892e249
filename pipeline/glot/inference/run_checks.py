"""What speaks against using a run, told without torch: `glot` asks here before it loads anything slow."""

from __future__ import annotations

from pathlib import Path

from glot.errors import UsageError
from glot.fit.run_folder import RunConfig, check_trained
from glot.store.files import check_output
from glot.store.reader import Cache
from glot.store.rows import JSON_LINES, check_rows_file
from glot.store.task_spec import TaskSpec

FORMATS = {"jsonl": JSON_LINES, "glue": (".tsv", ".txt")}  # that can be asked for, and their suffixes


def check_predictable(folder: Path, config: RunConfig, cache: Cache, split: str) -> None:
    """Raise UsageError where a run has no predictions, or none for an example set of a cache; needs no torch."""
    config.check_predicts(folder)
    config.check_cache(cache)
    entry = cache.examples_entry(split)
    if entry.task.num_texts != config.task.num_texts:
        raise UsageError(f"{folder} was trained on {config.task.num_texts} text(s) an example, unlike {cache.folder}")
    check_trained(folder)


def check_scorable(run: Path, cache: Cache, split: str) -> None:
    """Raise UsageError where a run cannot be scored on an example set of a cache; needs no torch."""
    config = RunConfig.load(run)
    config.check_predicts(run)
    if not cache.examples_entry(split).labelled:
        raise UsageError(f"the {split} examples of {cache.folder} have no labels: use `glot predict`")
    ours, theirs = config.task, cache.examples_entry(split).task
    if (ours.target, ours.classes) != (theirs.target, theirs.classes):
        raise UsageError(
            f"{run} was trained for {_labels(ours)}, the {split} examples of {cache.folder} have {_labels(theirs)}"
        )
    check_predictable(run, config, cache, split)


def _labels(task: TaskSpec) -> str:
    return f"the classes {', '.join(task.classes)}" if task.target == "classes" else "scores"


def answer_columns(task: TaskSpec, with_probability: bool = False) -> dict[str, type]:
    """The columns of predictions for a task, and the type of each."""
    if task.target != "classes":
        return {"index": int, "score": float}
    return {"index": int, "label": str, **({"probability": float} if with_probability else {})}


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
