"""A setting of stage two is declared once: options, checks, the run's config, the estimator and reports follow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from glot import GlotClassifier
from glot.commands.app import command_tree
from glot.errors import UsageError
from glot.fit.config import (
    FitOptions,
    TrainConfig,
    all_settings,
    differing_settings,
    is_used,
)
from glot.fit.run_folder import RunConfig
from glot.nn.config import PoolerConfig

REPOSITORY = Path(__file__).parents[2]
LINE = "    class_weights: Annotated["
TOY = '    toy: Annotated[float, Setting("A toy of the tests.", TRAINING, least=0, most=9)] = 0.5\n'


@pytest.mark.parametrize("command", ["fit", "sweep"])
def test_every_setting_is_an_option(command: str) -> None:
    taken = {name for param in command_tree().commands[command].params for name in param.opts}
    wanted = {item.option for item in all_settings().values() if item.option}
    assert wanted <= taken


def test_the_estimator_takes_settings_as_they_are_declared() -> None:
    taken = GlotClassifier().get_params()
    for config in (PoolerConfig, TrainConfig):
        others = ("token_position", "init_seed", "order_seed", "select", "backend", "window", "class_weights", "device")
        others = (*others, "mixed_layers")  # which comes of `mix`
        for item in fields(config):
            if item.name not in others:
                has_own = all_settings()[item.name].setting.by_task
                assert taken[item.name] == (None if has_own else item.default)


def test_what_a_pooler_uses() -> None:
    assert is_used("tau", FitOptions())
    assert not is_used("tau", FitOptions(graph="knn"))
    assert is_used("neighbours", FitOptions(graph="knn"))
    assert not is_used("gnn", FitOptions(pooler="mlp"))
    assert is_used("gnn_layers", FitOptions(pooler="mlp"))
    assert is_used("lr", FitOptions(pooler="mean"))


def test_what_is_no_setting_is_refused() -> None:
    with pytest.raises(UsageError, match="a fit has no setting momentum"):
        FitOptions(momentum=0.9)
    with pytest.raises(UsageError, match="a fit has no setting epoch: did you mean epochs"):
        FitOptions(epoch=3)


def test_choices_are_listed_and_completed(glot: Callable[..., tuple]) -> None:
    code, out, _ = glot("fit", "--help")
    assert code == 0
    assert "--pooler <glot|mean|max|cls|adapool|mlp>" in out
    assert "Pairs without labels:" in out
    (option,) = [param for param in command_tree().commands["sweep"].params if param.name == "gnn"]
    context = command_tree().commands["sweep"].make_context("sweep", [], resilient_parsing=True)
    assert [item.value for item in option.shell_complete(context, "gat,g")] == [
        f"gat,{name}" for name in ("gat", "gcn", "gin", "gine")
    ]


@pytest.mark.slow
def test_a_new_setting_is_one_line_in_one_file(make_fit_cache: Callable[..., Path], tmp_path: Path) -> None:
    """A copy of the package with one more line in glot/fit/config.py."""
    source = tmp_path / "source"
    shutil.copytree(REPOSITORY / "pipeline", source, ignore=shutil.ignore_patterns("__pycache__"))
    declarations = source / "glot/fit/config.py"
    text = declarations.read_text()
    assert text.count(LINE) == 1
    declarations.write_text(text.replace(LINE, TOY + LINE))
    cache = make_fit_cache()

    def glot(*words: object) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "120"}
        command = [sys.executable, "-m", "glot", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)

    assert "--toy <float>" in glot("fit", "--help").stdout
    wrong = glot("fit", "--cache", cache, "--toy", 10)
    assert (wrong.returncode, wrong.stderr) == (2, "glot: --toy must lie in 0..9; got 10.0\n")
    small = ["--hidden", 4, "--epochs", 1, "--devices", "cpu", "--batch-size", 48]
    done = glot("sweep", "--cache", cache, "--toy", "0.25,0.5", *small, "--out", "runs")
    assert done.returncode == 0, done.stderr
    found = {path.parents[1].name: json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/config.json")}
    assert {name: config["train"]["toy"] for name, config in found.items()} == {"toy=0.25": 0.25, "toy=0.5": 0.5}
    told = glot("report", "runs", "--out", "told")
    assert told.returncode == 0, told.stderr
    assert "toy=0.25" in (tmp_path / "told" / "README.md").read_text()
    code = "from glot import GlotClassifier; print(GlotClassifier(toy=2.0).get_params()['toy'])"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(source)}
    )
    assert shown.stdout == "2.0\n", shown.stderr


def test_what_differs_between_runs(make_fit_cache: Callable[..., Path], tmp_path: Path) -> None:
    from glot.fit.options import draft_configs
    from glot.store.reader import Cache

    cache = Cache(make_fit_cache())
    runs: list[RunConfig] = [*draft_configs(cache, FitOptions(tau=0.3)), *draft_configs(cache, FitOptions(lr=0.5))]
    assert differing_settings([run.pooler_settings for run in runs]) == ["tau"]
    assert differing_settings([run.training_settings for run in runs]) == ["lr"]
    assert not differing_settings([run.training_settings for run in draft_configs(cache, FitOptions(seeds=(0, 1)))])


@pytest.mark.parametrize("words", [["--layers", "99"], ["--layers=99"], ["--gnn-layers", "99"]])
def test_old_names_of_options_are_taken(glot: Callable[..., tuple], make_fit_cache: Callable, words: list[str]) -> None:
    code, _, err = glot("fit", "--cache", make_fit_cache(), *words)
    assert (code, err) == (2, "glot: gnn_layers must lie in 0..16; got 99\n")
    assert "--layers" not in glot("fit", "--help")[1].replace("--gnn-layers", "")
