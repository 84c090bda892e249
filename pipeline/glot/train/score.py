"""The score of a trained head on rows that nothing was trained on or chosen by, and its answers for them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from glot.corpus.examples import Split
from glot.fit.ensemble import answers_of
from glot.fit.head_model import estimate, load_head
from glot.fit.run import check_device
from glot.fit.run_folder import RunConfig
from glot.fit.states import StreamedStates
from glot.fit.training_data import labels_of
from glot.fit.yardsticks import judge, measure_yardsticks
from glot.inference.encode import answer_names, answer_of
from glot.inference.run_checks import answer_columns
from glot.nn.graph import resolve_backend
from glot.registry.tasks import Columns
from glot.store.example_set import ExampleSet
from glot.store.reader import Cache
from glot.store.rows import Row, rows_file
from glot.store.task_spec import TaskSpec
from glot.train.job import TEST
from glot.train.result import Score

SHOWN = "untouched rows"
PIECE = 4096  # rows written at a time


def score_untouched(
    run: Path, config: RunConfig, cache: Cache, device: str | None
) -> tuple[np.ndarray, ExampleSet, list[Score]]:
    """The head's estimates, (m, C) probabilities or (m,) scores, for the untouched examples, those, and the scores.

    The yardsticks are measured once, on these examples alone.
    """
    place = check_device(device)
    examples, states = cache.examples(TEST), StreamedStates(cache, config.layers, place, config.pooler.tokens)
    model = load_head(run, config, resolve_backend("auto", place), torch.device(place))
    estimates = estimate(model, states, examples, states.lengths)
    settings = (config.layer, config.pooler.tokens, config.train.class_weights)
    yardsticks = measure_yardsticks(cache, config.task, cache.examples("train"), {SHOWN: examples}, *settings)
    answers = answers_of(config.task, estimates)
    judged = judge(SHOWN, answers, labels_of(examples), config.task.metrics, yardsticks)
    scores = [
        Score(one.metric, one.score, one.yardsticks, one.rival, one.difference, one.line, one.verdict) for one in judged
    ]
    return estimates, examples, scores


def write_untouched(
    path: Path, split: Split, task: TaskSpec, columns: Columns, estimates: np.ndarray, examples: ExampleSet
) -> None:
    """Write the untouched rows with their labels and the head's answers, in the order of their source.

    The columns are called as in the table; the answers' as `glot predict` calls them.
    """
    kept = {"index": int, columns.text: str, **({columns.text_b: str} if columns.text_b else {})}
    kept[columns.label] = str if task.target == "classes" else float
    names, types = answer_names(task, kept), answer_columns(task, with_probabilities=True)
    place = {int(row): number for number, row in enumerate(examples.index)}
    with rows_file(path, {**kept, **{names[name]: kind for name, kind in types.items() if name != "index"}}) as write:
        rows = _rows(split, task, columns, estimates, place, names)
        while piece := list(islice(rows, PIECE)):
            write(piece)


def _rows(
    split: Split, task: TaskSpec, columns: Columns, estimates: np.ndarray, place: dict[int, int], names: dict[str, str]
) -> Iterator[Row]:
    for example in split.examples:
        assert example.label is not None  # the rows that are scored have labels
        label = task.classes[int(example.label)] if task.target == "classes" else example.label
        row: Row = {"index": example.index, columns.text: example.text}
        if columns.text_b:
            row[columns.text_b] = example.text_b
        yield row | {columns.label: label} | answer_of(task, estimates[place[example.index]], names)
