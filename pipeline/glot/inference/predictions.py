"""Predictions of a saved head or an ensemble, scored or written to a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from glot.errors import UsageError
from glot.fit.ensemble import find_heads
from glot.fit.ensemble_run import predict_heads
from glot.fit.head_model import load_head, predict
from glot.fit.metrics import compute_metrics
from glot.fit.run_folder import RunConfig, is_ensemble
from glot.fit.states import StreamedStates
from glot.fit.training_data import labels_of
from glot.inference.run_checks import answer_columns, check_predictable, check_predictions_file, check_scorable
from glot.store.example_set import ExampleSet
from glot.store.files import make_folder, write_text
from glot.store.reader import Cache
from glot.store.rows import rows_file
from glot.store.task_spec import TaskSpec, label_text

NAMED_IN_GLUE = ("mnli", "qnli", "rte")  # the other tasks' submissions hold class numbers


def predict_examples(
    folder: Path, config: RunConfig, cache: Cache, split: str, device: str, backend: str
) -> tuple[np.ndarray, ExampleSet]:
    """(m,) class indices or scores that a saved head predicts for an example set of a cache, in its order, and the set.

    Of an ensemble's folder it is the mean of its heads that predicts. Run and cache must fit (see `check_predictable`).
    Raises FaultError for damaged files.
    """
    if is_ensemble(folder):
        return predict_heads(find_heads(folder), cache, split, device, backend)
    examples = cache.examples(split)
    model = load_head(folder, config, backend, torch.device(device))
    states = StreamedStates(cache, config.layers, torch.device(device), config.pooler.tokens)
    return predict(model, states, examples, states.lengths), examples


def evaluate_head(run: Path, cache: Cache, split: str, device: str, backend: str) -> dict[str, float]:
    """Score a saved head, or an ensemble, on a labelled example set: metric -> fraction.

    Raises UsageError for a cache of another backbone, layer or width, or a set without labels.
    """
    config = check_scorable(run, cache, split)
    predictions, examples = predict_examples(run, config, cache, split, device, backend)
    return compute_metrics(config.task.metrics, predictions, labels_of(examples))


def write_predictions(
    run: Path, cache: Cache, split: str, format_name: str | None, out: Path, device: str, backend: str
) -> int:
    """Write the predictions of a saved head, or an ensemble, in the order of the source; returns how many.

    A row has the `index` and the `label` (the class's name) or the `score`; the suffix says how rows are written (see
    `glot.store.rows`), or `format_name`: "jsonl", or "glue", the benchmark's submission format, which is a header
    line and `index<TAB>prediction`.

    Raises UsageError for an unknown suffix, or a cache of another backbone, layer or width.
    """
    check_predictions_file(out, format_name)
    config = check_predictable(run, cache, split)
    if format_name == "glue" and config.task.target == "labels":
        raise UsageError("--format glue is for one label a text, and this run gives several: leave it out")
    predictions, examples = predict_examples(run, config, cache, split, device, backend)
    order = np.argsort(examples.index, kind="stable")
    answers = list(zip(examples.index[order].tolist(), predictions[order].tolist(), strict=True))
    task = config.task
    if format_name == "glue":
        lines = ["index\tprediction", *(f"{index}\t{_glue_answer(task, value)}" for index, value in answers)]
        make_folder(out.parent)
        write_text(out, "\n".join(lines) + "\n")
    else:
        with rows_file(out, answer_columns(task)) as write:
            if task.classes:
                write([{"index": index, "label": label_text(task, int(value))} for index, value in answers])
            else:
                write([{"index": index, "score": round(value, 6)} for index, value in answers])
    return len(examples)


def _glue_answer(task: TaskSpec, value: float) -> str:
    if task.target == "score":
        assert task.score_range is not None
        low, high = task.score_range
        return f"{min(max(value, low), high):.3f}"
    return task.classes[int(value)] if task.name in NAMED_IN_GLUE else str(value)
