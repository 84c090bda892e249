"""A task and an alias of a backbone are each added in one file outside the package, and used from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TASK = """
from glot.store.task_spec import TaskSpec
from glot.registry.tasks import TASKS, Columns, SplitSource, Task

TASKS.add(
    Task(
        TaskSpec("toy", 1, "classes", ("no", "yes")),
        max_tokens=9,
        folder="TOY",
        file_columns=Columns("words", None, "is_good"),
        splits={"train": SplitSource("train", "train.tsv"), "validation": SplitSource("validation", "dev.tsv")},
        head={"hidden": 5, "epochs": 1},
    )
)
"""
ALIAS = """
from glot.registry.backbones import BACKBONES, BackboneEntry

BACKBONES.add(BackboneEntry("toy-bert", {folder!r}, nearest="bert"))
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run(plugins, *arguments)`: `glot` in a process of its own, in a folder outside of the repository."""

    def run(plugins: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "PYTHONPATH": path, "GLOT_PLUGINS": plugins, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "glot", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def toy_folder(tmp_path: Path) -> Path:
    """The files of the toy task."""
    folder = tmp_path / "data" / "TOY"
    folder.mkdir(parents=True)
    for file, count in (("train.tsv", 12), ("dev.tsv", 6)):
        rows = [f"the dog runs home {row}\t{row % 2}" for row in range(count)]
        (folder / file).write_text("\n".join(["words\tis_good", *rows]) + "\n")
    return folder.parent


@pytest.mark.slow
def test_a_task_is_added_in_one_file(
    tmp_path: Path, toy_folder: Path, backbone_folders: dict[str, Path], run: Callable
) -> None:
    (tmp_path / "my_task.py").write_text(TASK)
    model = str(backbone_folders["bert"])
    done = run("my_task", "extract", "--model", model, "--task", "TOY", "--data-dir", str(toy_folder), "--out", "cache")
    assert done.returncode == 0, done.stderr
    shown = run("my_task", "inspect", "cache")
    assert shown.returncode == 0, shown.stderr
    assert "toy" in shown.stdout
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert {name: entry["examples"] for name, entry in manifest["examples"].items()} == {"train": 12, "validation": 6}
    assert manifest["states"]["max_tokens"] == 9
    fitted = run("my_task", "fit", "--cache", "cache", "--out", "run", "--device", "cpu", "--pooler", "mlp")
    assert fitted.returncode == 0, fitted.stderr
    config = json.loads(next((tmp_path / "run").rglob("config.json")).read_text())
    assert (config["pooler"]["hidden"], config["train"]["epochs"]) == (5, 1)  # the task's own defaults of a head
    (tmp_path / "mistyped.py").write_text(TASK.replace('"hidden"', '"hiden"'))
    wrong = run("mistyped", "fit", "--cache", "cache", "--out", "other", "--device", "cpu")
    assert (wrong.returncode, "no setting hiden" in wrong.stderr) == (2, True)
    unknown = run("", "extract", "--model", model, "--task", "toy")
    assert (unknown.returncode, "unknown task 'toy'" in unknown.stderr) == (2, True)


@pytest.mark.slow
def test_an_alias_is_added_in_one_file(tmp_path: Path, backbone_folders: dict[str, Path], run: Callable) -> None:
    (tmp_path / "my_alias.py").write_text(ALIAS.format(folder=str(backbone_folders["bert"])))
    arguments = ["extract", "--model", "toy-bert", "--task", "stress", "--limit", "8"]
    done = run("my_alias", *arguments)
    assert done.returncode == 0, done.stderr
    cache = tmp_path / "cache" / "stress-published-0.9" / "toy-bert"
    shown = run("my_alias", "inspect", str(cache))
    assert shown.returncode == 0, shown.stderr
    assert json.loads((cache / "manifest.json").read_text())["states"]["source"] == "toy-bert"
    unknown = run("", *arguments)
    assert unknown.returncode == 2
    assert "unknown model 'toy-bert'" in unknown.stderr


def test_a_plugin_that_is_not_there_is_one_line(run: Callable) -> None:
    done = run("no_such_plugin", "extract", "--model", "minilm", "--task", "stress")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("glot: GLOT_PLUGINS names 'no_such_plugin'")
