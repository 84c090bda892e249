"""Predictions of a saved head, scored or written to a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import UsageError
from pipeline.fit.head_model import load_head, predict
from pipeline.fit.metrics import compute_metrics
from pipeline.fit.run_folder import RunConfig
from pipeline.fit.states import StreamedStates
from pipeline.store.example_set import ExampleSet
from pipeline.store.files import make_folder, write_text
from pipeline.store.reader import Cache
from pipeline.store.task_spec import TaskSpec

NAMED_IN_GLUE = ("mnli", "qnli", "rte")  # the other tasks' submissions hold class numbers


def predict_examples(
    folder: Path, cache: Cache, split: str, device: str, backend: str
) -> tuple[np.ndarray, ExampleSet]:
    """Predictions of a saved head for an example set of a cache, and the set.

    Returns:
        (m,) class indices or scores in the set's order, and the `ExampleSet`.

    Raises UsageError for a cache of another backbone, layer or width, FaultError for damaged files.
    """
    config = RunConfig.load(folder)
    config.check_predicts(folder)
    config.check_cache(cache)
    examples = cache.examples(split)
    if (examples.text_id_b is None) != (config.task.num_texts == 1):
        raise UsageError(f"{folder} was trained on {config.task.num_texts} text(s) an example, unlike {cache.folder}")
    model = load_head(folder, config, backend, torch.device(device))
    states = StreamedStates(cache, cache.resolve_layer(config.layer), torch.device(device), config.pooler.tokens)
    return predict(model, states, examples, states.lengths), examples


def evaluate_head(run: Path, cache: Cache, split: str, device: str, backend: str) -> dict[str, float]:
    """Score a saved head on a labelled example set: metric -> fraction.

    Raises UsageError for a cache of another backbone, layer or width, or a set without labels.
    """
    config = RunConfig.load(run)
    config.check_predicts(run)
    if not cache.examples_entry(split).labelled:
        raise UsageError(f"the {split} examples of {cache.folder} have no labels: use `glot predict`")
    ours, theirs = config.task, cache.examples_entry(split).task
    if (ours.target, ours.classes) != (theirs.target, theirs.classes):
        raise UsageError(
            f"{run} was trained for {_labels(ours)}, the {split} examples of {cache.folder} have {_labels(theirs)}"
        )
    predictions, examples = predict_examples(run, cache, split, device, backend)
    return compute_metrics(ours.metrics, predictions, examples.label)


def _labels(task: TaskSpec) -> str:
    return f"the classes {', '.join(task.classes)}" if task.target == "classes" else "scores"


def write_predictions(
    run: Path, cache: Cache, split: str, format_name: str, out: Path, device: str, backend: str
) -> int:
    """Write a saved head's predictions in the order of the source; returns how many.

    `jsonl`: one object a line with `index` and `label` (the class's name) or `score`. `glue`: the benchmark's
    submission format, a header line and `index<TAB>prediction`.

    Raises UsageError for an unknown format, or a cache of another backbone, layer or width.
    """
    if format_name not in ("jsonl", "glue"):
        raise UsageError(f"unknown --format {format_name!r}: choose jsonl or glue")
    predictions, examples = predict_examples(run, cache, split, device, backend)
    task = RunConfig.load(run).task
    lines = _glue_lines(task, predictions, examples) if format_name == "glue" else _jsonl(task, predictions, examples)
    if out.is_dir():
        raise UsageError(f"{out} is a folder: name a file with --out")
    make_folder(out.parent)
    write_text(out, "\n".join(lines) + "\n")
    return len(examples)


def _jsonl(task: TaskSpec, predictions: np.ndarray, examples: ExampleSet) -> list[str]:
    lines = []
    for place in np.argsort(examples.index, kind="stable"):
        value = predictions[place]
        answer = {"label": task.classes[value]} if task.target == "classes" else {"score": round(float(value), 6)}
        lines.append(json.dumps({"index": int(examples.index[place]), **answer}, ensure_ascii=False))
    return lines


def _glue_lines(task: TaskSpec, predictions: np.ndarray, examples: ExampleSet) -> list[str]:
    lines = ["index\tprediction"]
    for place in np.argsort(examples.index, kind="stable"):
        value = predictions[place]
        if task.target == "score":
            low, high = task.score_range
            text = f"{min(max(float(value), low), high):.3f}"
        else:
            text = task.classes[value] if task.name in NAMED_IN_GLUE else str(int(value))
        lines.append(f"{examples.index[place]}\t{text}")
    return lines
