"""Predictions of a saved head, scored or written to a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from glot.fit.head_model import load_head, predict
from glot.fit.metrics import compute_metrics
from glot.fit.run_folder import RunConfig
from glot.fit.states import StreamedStates
from glot.fit.training_data import labels_of
from glot.inference.run_checks import answer_columns, check_predictable, check_predictions_file, check_scorable
from glot.store.example_set import ExampleSet
from glot.store.files import make_folder, write_text
from glot.store.reader import Cache
from glot.store.rows import Row, rows_file
from glot.store.task_spec import TaskSpec

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
    check_predictable(folder, config, cache, split)
    examples = cache.examples(split)
    model = load_head(folder, config, backend, torch.device(device))
    states = StreamedStates(cache, cache.resolve_layer(config.layer), torch.device(device), config.pooler.tokens)
    return predict(model, states, examples, states.lengths), examples


def evaluate_head(run: Path, cache: Cache, split: str, device: str, backend: str) -> dict[str, float]:
    """Score a saved head on a labelled example set: metric -> fraction.

    Raises UsageError for a cache of another backbone, layer or width, or a set without labels.
    """
    check_scorable(run, cache, split)
    predictions, examples = predict_examples(run, cache, split, device, backend)
    return compute_metrics(RunConfig.load(run).task.metrics, predictions, labels_of(examples))


def write_predictions(
    run: Path, cache: Cache, split: str, format_name: str | None, out: Path, device: str, backend: str
) -> int:
    """Write a saved head's predictions in the order of the source; returns how many.

    A row has the `index` and the `label` (the class's name) or the `score`; the suffix says how rows are written (see
    `glot.store.rows`), or `format_name`: "jsonl", or "glue", the benchmark's submission format, which is a header
    line and `index<TAB>prediction`.

    Raises UsageError for an unknown suffix, or a cache of another backbone, layer or width.
    """
    check_predictions_file(out, format_name)
    predictions, examples = predict_examples(run, cache, split, device, backend)
    task = RunConfig.load(run).task
    if format_name == "glue":
        make_folder(out.parent)
        write_text(out, "\n".join(_glue_lines(task, predictions, examples)) + "\n")
    else:
        with rows_file(out, answer_columns(task)) as write:
            write(_rows(task, predictions, examples))
    return len(examples)


def _rows(task: TaskSpec, predictions: np.ndarray, examples: ExampleSet) -> list[Row]:
    rows = []
    for row in np.argsort(examples.index, kind="stable"):
        value = predictions[row]
        answer = {"label": task.classes[value]} if task.target == "classes" else {"score": round(float(value), 6)}
        rows.append({"index": int(examples.index[row]), **answer})
    return rows


def _glue_lines(task: TaskSpec, predictions: np.ndarray, examples: ExampleSet) -> list[str]:
    lines = ["index\tprediction"]
    for row in np.argsort(examples.index, kind="stable"):
        value = predictions[row]
        if task.target == "score":
            assert task.score_range is not None
            low, high = task.score_range
            text = f"{min(max(float(value), low), high):.3f}"
        else:
            text = task.classes[value] if task.name in NAMED_IN_GLUE else str(int(value))
        lines.append(f"{examples.index[row]}\t{text}")
    return lines
