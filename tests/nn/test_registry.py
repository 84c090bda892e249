"""A pooler, a GNN layer and an edge rule from outside the package: each one file, found by name on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glot.errors import UsageError
from glot.fit.result import FitResult
from glot.nn.config import PoolerConfig
from glot.nn.registry import EDGE_RULES, GNN_LAYERS, POOLERS, load
from tests.work import COMMANDS

MakeCache = Callable[..., Path]
HEAD = ["--hidden", "8", "--lr", "0.01", "--epochs", "8", "--batch-size", "8"]  # of twenty seeds the worst has 0.83

POOLER = '''
from torch import nn
from glot.nn.poolers import Pooler
from glot.nn.registry import POOLERS, PoolerEntry

class Louder(Pooler):
    """Token states times one learned number, the last token twice, added up."""
    def __init__(self, config, width, backend):
        super().__init__(config, width, backend)
        self.gain = nn.Parameter(nn.init.ones_(nn.Parameter().new_empty(1)))
    def forward(self, batch):
        return batch.weighted_sums([batch.states * self.gain], last_twice(self, batch).to(batch.states.dtype))[0]

def last_twice(pooler, batch):
    weights = 1 / (batch.lengths + 1.0).repeat_interleave(batch.lengths)
    weights[batch.lengths.cumsum(0) - 1] *= 2
    return weights

POOLERS.add(PoolerEntry("louder", "Louder", make=Louder, weights=last_twice, colour="#123456"))
'''
LAYER = """
from glot.nn.registry import GNN_LAYERS, GnnLayerEntry

def make(width, hidden):
    from torch import nn

    class SumLayer(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(width, hidden)
        def forward(self, h, graph):
            return graph.neighbour_sum(self.linear(h))
    return SumLayer()

GNN_LAYERS.add(GnnLayerEntry("toy-sum", "Sum", make=make))
"""
RULE = '''
from glot.nn.registry import EDGE_RULES, EdgeRuleEntry

def skip(batch, rule):
    """Each token and the next but one."""
    same = batch.real[:, :, None] & batch.real[:, None, :]
    return same.triu(2) & ~same.triu(3)

EDGE_RULES.add(EdgeRuleEntry("skip", "next but one", joined=skip))
'''
TORCH_FREE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("torch is blocked", name=name)
sys.meta_path.insert(0, Block())
from glot.commands import app
app.main()
"""


def glot(plugins: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run python with some plugins on its path."""
    for name, code in plugins.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "GLOT_PLUGINS": ",".join(plugins)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=folder, env={**environment, "COLUMNS": "200"}
    )


@pytest.mark.parametrize(
    ("code", "settings"),
    [
        pytest.param(POOLER, ["--pooler", "louder"], id="pooler", marks=pytest.mark.slow),
        pytest.param(LAYER, ["--gnn", "toy-sum"], id="layer", marks=pytest.mark.slow),
        pytest.param(RULE, ["--graph", "skip"], id="rule", marks=pytest.mark.slow),
    ],
)
def test_one_file_from_outside_trains_predicts_and_is_explained(
    code: str, settings: list[str], make_fit_cache: MakeCache, tmp_path: Path
) -> None:
    cache = str(make_fit_cache())
    commands = [
        ["fit", "--cache", cache, "--out", "run", *settings, *HEAD],
        ["predict", "--run", "run", "--cache", cache, "--split", "validation", "--output", "new.jsonl"],
        ["explain", "--run", "run", "--cache", cache, "--index", "5", "--out", "page.html"],
    ]
    done = glot({"toy": code}, tmp_path, "-c", COMMANDS, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "new.jsonl").read_text().splitlines()) == 48
    assert FitResult.load(tmp_path / "run").best["validation"]["accuracy"] > 0.6
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    written = json.loads((tmp_path / "run" / "config.json").read_text())["pooler"]
    assert written[settings[0].removeprefix("--")] == settings[1]
    if code is POOLER:
        assert '"Louder"' in page
        assert "#123456" in page
    elif code is RULE:
        assert "next but one" in page
        assert '"ownGraph":"skip"' in page
    else:
        assert "2 × Sum" in page
    gone = glot({}, tmp_path, "-m", "glot", *commands[1])  # without the plugin the run says what it lacks
    assert gone.returncode in (1, 2)
    assert "must be one of" in gone.stderr
    assert "name that in GLOT_PLUGINS" in gone.stderr
    assert gone.stderr.count("\n") == 1


def test_a_plugin_that_needs_no_torch_is_known_without_it(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    cache = str(make_fit_cache())
    done = glot({"toy": RULE}, tmp_path, "-c", TORCH_FREE, "fit", "--cache", cache, "--graph", "skipp")
    assert done.returncode == 2
    assert "graph must be one of cosine, random, chain, knn, skip; got 'skipp'" in done.stderr
    helped = glot({"toy": RULE}, tmp_path, "-c", TORCH_FREE, "fit", "--help")
    assert "cosine|random|chain|knn|skip" in helped.stdout


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("from glot.nn.registry import POOLERS\nPOOLERS.add(POOLERS['mean'])", "there is a pooler 'mean' already"),
    ],
)
def test_a_plugin_that_fails_is_one_line(code: str, reason: str, make_fit_cache: MakeCache, tmp_path: Path) -> None:
    done = glot({"toy": code}, tmp_path, "-m", "glot", "fit", "--cache", str(make_fit_cache()))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("glot: GLOT_PLUGINS names 'toy', which cannot be imported: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_name_is_taken_once() -> None:
    for table in (POOLERS, GNN_LAYERS, EDGE_RULES):
        for entry in table:
            with pytest.raises(ValueError, match=f"there is a {table.kind} '{entry.name}' already"):
                table.add(entry)


def test_the_settings_of_an_entry_are_the_config_s() -> None:
    for table in (POOLERS, GNN_LAYERS, EDGE_RULES):
        for entry in table:
            assert set(entry.settings) <= set(PoolerConfig.__dataclass_fields__), entry.name


def test_every_built_in_entry_names_code_that_is_there() -> None:
    for entry in POOLERS:
        assert callable(load(entry.make))
        assert callable(load(entry.weights))
    assert all(callable(load(entry.make)) for entry in GNN_LAYERS)
    assert all(callable(load(entry.joined)) for entry in EDGE_RULES)


def test_a_plugin_that_failed_fails_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program caught once is not taken for loaded."""
    (tmp_path / "broken_plugin.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GLOT_PLUGINS", "broken_plugin")
    for _ in range(2):
        with pytest.raises(UsageError, match="GLOT_PLUGINS names 'broken_plugin'"):
            POOLERS.names()
