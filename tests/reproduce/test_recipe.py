"""Recipes: those that come along, and those that somebody writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from glot.corpus.request import parse_stress_name
from glot.errors import UsageError
from glot.fit.config import FitOptions
from glot.nn.registry import POOLERS
from glot.registry.tasks import find_task
from glot.reproduce.plan import BACKBONES, block_steps, make_agenda
from glot.reproduce.recipe import Block, load_recipe, recipe_names

TABLES = {"table1", "stress", "stress-beyond", "layers", "imdb", "embedding", "cost", "backends"}
ABLATIONS = {f"ablation-{name}" for name in ("tau", "layers", "gnn", "jk", "width", "readout", "graph")}


def test_the_recipes_that_come_along_can_run() -> None:
    assert set(recipe_names()) == TABLES | ABLATIONS
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.title
        assert recipe.blocks or recipe.left_out
        for block in recipe.blocks:
            assert set(block.models) <= set(BACKBONES.names())
            assert all(parse_stress_name(task) or find_task(task) for task in block.tasks)
            for options in block.trials().values():
                FitOptions(**options)  # raises for what is no setting
            assert block_steps(block)


def test_runs_of_two_recipes_have_folders_of_their_own_or_are_the_same_run() -> None:
    steps = [step for name in recipe_names() for block in load_recipe(name).blocks for step in block_steps(block)]
    places: dict[Path, set] = {}
    for step in steps:
        places.setdefault(step.place(Path()), set()).add(step)
    assert [place for place, found in places.items() if len(found) > 1] == []


def test_a_grid_gives_every_combination_a_name() -> None:
    block = Block(("cpu",), ("minilm",), ("cola",), grid={"tau": [0.1, 0.3], "layers": [2]}, layers=(-1, -2))
    trials = block.trials()
    assert list(trials) == [f"glot,tau={tau},layers=2,layer={layer}" for tau in (0.1, 0.3) for layer in (-1, -2)]
    assert trials["glot,tau=0.3,layers=2,layer=-1"] == {"tau": 0.3, "layers": 2, "layer": -1}


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "Mine"\n[[block]]\nsetting = "mine"\nprofiles = ["quick"]\nmodels = ["minilm"]\n'
        'tasks = ["stress-paired-0.9-w64-g2"]\nseeds = [3]\noptions = { hidden = 16 }\n'
    )
    [step] = make_agenda("quick", None, [str(path)]).steps
    assert (step.setting, step.method, step.seed, dict(step.options)) == (
        "mine",
        "glot",
        3,
        {"hidden": 16, "layer": -1},
    )
    with pytest.raises(UsageError, match="nothing for the profile cpu"):
        make_agenda("cpu", None, [str(path)])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("title = ", "is no TOML"),
        ("[[block]]\nprofiles = []\nmodels = []\ntasks = []\n", "lacks 'title'"),
        ('title = "a"\n[[block]]\nprofiles = ["cpu"]\n', "missing"),
        ('title = "a"\n[[block]]\nprofiles = ["cpu"]\nmodels = []\ntasks = []\nspeed = 1\n', "no speed"),
        (
            'title = "a"\n[[block]]\nprofiles = ["cpu"]\nmodels = []\ntasks = []\nmethods = ["sum"]\n',
            "unknown methods sum",
        ),
        ('title = "a"\n[[block]]\nprofiles = ["fast"]\nmodels = []\ntasks = []\n', "unknown profiles fast"),
        ('title = "a"\nblock = 3\n', "is not as"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        load_recipe(str(path))


def test_recipes_of_before_name_their_baselines_yardsticks(tmp_path: Path) -> None:
    text = 'title = "a"\n[[block]]\nprofiles = ["cpu"]\nmodels = ["minilm"]\ntasks = ["stress-paired-0.9"]\n'
    for name in ("baselines", "yardsticks"):
        (tmp_path / f"{name}.toml").write_text(f'{text}{name} = ["length"]\n')
    new, old = (load_recipe(str(tmp_path / f"{name}.toml")).blocks for name in ("baselines", "yardsticks"))
    assert new == old
    assert [step.method for step in block_steps(new[0])] == ["glot", "length"]


def test_an_unknown_recipe_is_told_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no recipe 'table9': take one of ablation-gnn, .*table1"):
        load_recipe("table9")


def test_a_pooler_from_outside_is_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(POOLERS, "_entries", {**POOLERS._entries, "loud": replace(POOLERS["mean"], name="loud")})
    path = tmp_path / "mine.toml"
    path.write_text(
        """title = "mine"
[[block]]
profiles = ["cpu"]
models = ["minilm"]
tasks = ["cola"]
methods = ["glot", "loud"]
options = { epochs = 1 }
""",
        encoding="utf-8",
    )
    (block,) = load_recipe(str(path)).blocks
    assert block.trials() == {"glot": {"epochs": 1, "layer": -1}, "loud": {"pooler": "loud", "epochs": 1, "layer": -1}}
    assert block.setting == "own"  # its options are not the published ones
