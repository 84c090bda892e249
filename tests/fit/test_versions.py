"""Every file that says its version is asked for it: a newer one is refused in one line, none is the first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from glot.errors import FaultError, UsageError
from glot.fit.result import FitResult
from glot.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
from glot.fit.run_folder import RunConfig, load_tensors, save_tensors
from glot.report.results import collect, collect_own
from glot.report.sweep import read_sweep
from glot.reproduce.costs import Cost, CostRecord, find_costs
from glot.store.files import read_json, write_json
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
NEWER = "has version 2, this program reads version 1: use the version of glot that wrote it"


@pytest.fixture
def run(make_fit_cache: MakeCache, tmp_path: Path) -> Path:
    """Laid as `glot reproduce` and `glot sweep` lay theirs."""
    folder = tmp_path / "runs/made-tiny/published/mean/seed-0"
    prepare_runs(make_configs(Cache(make_fit_cache()), FitOptions(pooler="mean", epochs=1, device="cpu")), folder)
    finish_runs(folder)
    return folder


def change(path: Path, **values: object) -> None:
    write_json(path, {**read_json(path), **values})


READERS = {
    "config.json": [RunConfig.load, lambda run: collect(run.parents[3]), lambda run: collect_own([run])],
    "metrics.json": [
        FitResult.load,
        lambda run: collect(run.parents[3]),
        lambda run: read_sweep(run.parents[1]),
    ],
}


@pytest.mark.parametrize(("name", "place"), [(name, place) for name in READERS for place in range(3)])
def test_a_newer_file_of_a_run_is_refused(run: Path, name: str, place: int) -> None:
    read = READERS[name][place]
    read(run)
    change(run / name, version=2)
    with pytest.raises(UsageError, match=NEWER) as caught:
        read(run)
    assert str(run / name) in str(caught.value)


def test_an_own_run_wherever_it_lies(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "mine/elsewhere")
    change(tmp_path / "mine/elsewhere/metrics.json", version=2)
    with pytest.raises(UsageError, match=NEWER):
        collect_own([tmp_path / "mine"])


def test_files_without_a_version_are_of_the_first(run: Path) -> None:
    for name in READERS:
        data = read_json(run / name)
        del data["version"]
        write_json(run / name, data)
    assert FitResult.load(run).version == 1
    assert RunConfig.load(run).pooler.pooler == "mean"


@pytest.mark.parametrize("version", ["2", None, 0, 1.5, [1]])
def test_what_is_no_version_is_damage(run: Path, version: object) -> None:
    for name, load in (("metrics.json", FitResult.load), ("config.json", RunConfig.load)):
        change(run / name, version=version)
        with pytest.raises(FaultError, match="is damaged"):
            load(run)
        change(run / name, version=1)


def test_weights_and_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_tensors(path, {"a": torch.ones(2)}, {"epoch": 3})
    assert load_tensors(path)[1] == {"epoch": 3}
    save_tensors(path, {"a": torch.ones(2)}, {"version": 2})
    with pytest.raises(UsageError, match=NEWER):
        load_tensors(path)


def test_baselines_and_costs(tmp_path: Path) -> None:
    baseline = tmp_path / "runs/made-tiny/yardstick/length.json"
    baseline.parent.mkdir(parents=True)
    scores = {"validation": {"accuracy": 0.5}}
    record = {"version": 2, "task": "made", "model": "tiny", "method": "length", "scores": scores, "seconds": 1.0}
    write_json(baseline, record)
    with pytest.raises(UsageError, match=NEWER):
        collect(tmp_path / "runs")
    ways = [Cost("GLOT over the cache", 1, 1, 1.0, 1.0, 1.0)]
    cost = tmp_path / "costs/cost.json"
    cost.parent.mkdir()
    cost.write_text(json.dumps(asdict(CostRecord("tiny", "made", "CPU", 1, 8, 8, 3, ways))))
    find_costs([tmp_path])
    change(cost, version=2)
    with pytest.raises(UsageError, match=NEWER):
        find_costs([tmp_path])
