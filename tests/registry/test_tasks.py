from __future__ import annotations

import pytest

from glot.errors import UsageError
from glot.fit.config import all_settings
from glot.registry.tasks import TASKS, find_task, head_defaults, known_name
from glot.store.task_spec import TaskSpec


def test_a_name_is_found_however_it_is_spelt() -> None:
    assert find_task("SST-2") is find_task("sst2") is TASKS["sst2"]
    assert find_task("STS_B") is TASKS["stsb"]
    assert (known_name("SST-2"), known_name("my-data")) == ("sst2", "my-data")


def test_an_unknown_name_gets_the_nearest_and_all() -> None:
    with pytest.raises(UsageError) as raised:
        find_task("mrcp")
    assert "unknown task 'mrcp': did you mean 'mrpc'?" in str(raised.value)
    assert "cola, sst2, stsb, mrpc, qqp, mnli, qnli, rte, wnli, imdb, stress" in str(raised.value)


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(UsageError, match="unknown task 'xyz': known tasks are"):
        find_task("xyz")


def test_defaults_of_the_published_runs() -> None:
    assert {task.name for task in TASKS if task.train_limit == 20_000} == {"qqp", "mnli", "qnli"}
    assert {task.name: task.max_tokens for task in TASKS if task.max_tokens != 128} == {"imdb": 512}
    glue = {"gnn_layers": 2, "hidden": 256, "tau": 0.6, "lr": 2e-4, "epochs": 3, "batch_size": 32}
    glue |= {"adapool_hidden": 128, "start": "random", "pair_features": "concat", "schedule": "constant"}
    assert {name: item.default for name, item in all_settings().items() if item.setting.by_task} == glue
    stress = {**glue, "gnn_layers": 4, "hidden": 64, "lr": 1e-4, "adapool_hidden": 256}
    made = TaskSpec("stress-paired-0.9-w256-g20", 1, "classes", ("negative", "positive"))
    assert {**glue, **head_defaults(made)} == stress
    assert not any(head_defaults(task.spec) for task in TASKS if task.name != "stress")
    assert not head_defaults(TaskSpec("stress-reviews", 1, "classes", ("a", "b")))  # anybody's own data


def test_default_splits_leave_the_test_out() -> None:
    assert TASKS["mrpc"].default_splits == ["train", "validation"]
    assert TASKS["mnli"].default_splits == ["train", "validation", "validation_mismatched"]


@pytest.mark.parametrize("name", [task.name for task in TASKS if task.folder])
def test_a_row_agrees_with_itself(name: str) -> None:
    task = TASKS[name]
    assert task.hub_config == name
    assert (task.spec.num_texts == 2) == bool(task.hub_columns.text_b) == bool(task.file_columns.text_b)
    assert (task.spec.target == "score") == (not task.spec.classes) == (task.spec.score_range is not None)
