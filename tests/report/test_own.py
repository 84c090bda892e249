"""`glot report`: a page from anyone's runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from glot.errors import FaultError, UsageError
from glot.nn.config import ContrastiveConfig
from glot.nn.poolers import MeanPooler
from glot.nn.registry import POOLERS, PoolerEntry
from glot.report.results import collect_own
from glot.reproduce.report import write_own_report
from tests.report.conftest import write_run
from tests.report.test_page import Page

Make = Callable[..., Path]


def own_run(folder: Path, seed: int = 0, pooler: str = "glot", score: float = 0.8, **settings: object) -> Path:
    """The two files of a run of `glot fit`; settings of the pooler or of training by their names."""
    train = {name: settings.pop(name) for name in ("lr",) if name in settings}
    scores = {"validation": {"accuracy": score, "f1": score}}
    write_run(folder, "made", "tiny", scores, seed=seed, pooler={"pooler": pooler, **settings}, train=train)
    return folder


def test_methods_are_named_by_what_differs_and_seeds_are_averaged(tmp_path: Path) -> None:
    for seed in (0, 1):
        own_run(tmp_path / f"a/seed-{seed}", seed, tau=0.3, score=0.7 + 0.1 * seed)
        own_run(tmp_path / f"deep/er/seed-{seed}", seed, tau=0.6)
    own_run(tmp_path / "mean", pooler="mean", tau=0.9)  # which has no threshold
    results, skipped = collect_own([tmp_path, tmp_path / "a"])
    assert {(result.method, result.seed) for result in results} == {
        *(("glot, tau=0.3", seed) for seed in (0, 1)),
        *(("glot, tau=0.6", seed) for seed in (0, 1)),
        ("mean", 0),
    }
    assert skipped == []
    own_run(tmp_path / "long", pooler="mean", lr=0.5)
    names = {result.method for result in collect_own([tmp_path])[0]}
    assert names == {"glot, tau=0.3, lr=0.01", "glot, tau=0.6, lr=0.01", "mean, lr=0.01", "mean, lr=0.5"}


def test_runs_that_differ_in_any_setting_are_different_methods(tmp_path: Path) -> None:
    own_run(tmp_path / "before")  # of a time without these settings
    changes = {"class_weights": ("train", "balanced"), "tokens": ("pooler", "content"), "graph": ("pooler", "chain")}
    contrastive = {"temperature": 0.1, "proj_dim": 8, "matryoshka": [2, 4]}
    changes["contrastive"] = (None, {**asdict(ContrastiveConfig()), **contrastive})
    for name, (part, value) in changes.items():
        path = own_run(tmp_path / name) / "config.json"
        config = json.loads(path.read_text())
        (config if part is None else config[part])[name] = value
        path.write_text(json.dumps(config))
    defaults = own_run(tmp_path / "now") / "config.json"
    config = json.loads(defaults.read_text())
    config["train"] |= {"class_weights": "none", "precision": "float32", "schedule": "constant"}
    config["pooler"] |= {"tokens": "all", "graph": "cosine", "readout": "attention"}
    defaults.write_text(json.dumps(config))
    results, skipped = collect_own([tmp_path])
    assert {result.path.name: result.method for result in results} == {
        "before": "glot, graph=cosine, class_weights=none, tokens=all",
        "class_weights": "glot, graph=cosine, class_weights=balanced, tokens=all",
        "contrastive": "glot, graph=cosine, class_weights=none, tokens=all, temperature=0.1, "
        "similarity=cos, proj_dim=8, matryoshka=2+4",
        "graph": "glot, graph=chain, class_weights=none, tokens=all",
        "tokens": "glot, graph=cosine, class_weights=none, tokens=content",
    }
    assert skipped == [(str(tmp_path / "now"), f"the same settings and seeds as {tmp_path / 'before'}")]


def test_a_run_with_a_holdout_is_reported(tmp_path: Path) -> None:
    path = own_run(tmp_path / "runs/a") / "metrics.json"
    metrics = json.loads(path.read_text())
    for rule in ("best", "last"):  # the published rule looks at validation alone
        metrics[rule] = {"holdout": {"accuracy": 0.5, "f1": 0.5}, **metrics[rule]}
    path.write_text(json.dumps(metrics))
    write_own_report([tmp_path / "runs"], tmp_path / "out")
    page = (tmp_path / "out/other.md").read_text()
    assert "made: validation accuracy" in page
    assert "made: holdout accuracy" in page


def test_a_pooler_from_outside_is_compared_with_the_best_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = PoolerEntry("louder", "Louder", make=MeanPooler, settings=("tau",), colour="#123456")
    monkeypatch.setitem(POOLERS._entries, "louder", entry)
    labels = np.arange(500) % 2
    for place, (pooler, score, settings) in enumerate(
        (("glot", 0.7, {}), ("mean", 0.6, {}), ("louder", 0.9, {"tau": 0.3}), ("louder", 0.5, {"tau": 0.9}))
    ):
        run = own_run(tmp_path / f"runs/{place}", pooler=pooler, score=score, **settings)
        right = np.random.default_rng(place).random(500) < score
        np.save(run / "predictions-validation.npy", np.where(right, labels, 1 - labels))
        np.save(run / "labels-validation.npy", labels)
    write_own_report([tmp_path / "runs"], tmp_path / "out")
    found = [one for one in json.loads((tmp_path / "out/results.json").read_text())["outside"] if one["metric"] == "f1"]
    assert {(one["method"], one["baseline"]) for one in found} == {
        ("louder, tau=0.3", "glot"),
        ("louder, tau=0.9", "glot"),
    }
    better, worse = sorted(found, key=lambda one: one["method"])
    assert 10 < better["low"] < better["difference"] < better["high"] < 30
    assert worse["high"] < 0
    text = Page(tmp_path / "out/index.html").text
    assert "Poolers from outside" in text
    assert "A pooler from outside is clearly better than the best of the others in 2 of 4 comparisons" in text
    assert "Louder, tau=0.3" in text
    ours = json.loads((tmp_path / "out/results.json").read_text())["comparisons"]
    assert {one["baseline"] for one in ours} == {"mean"}  # one of this package


def test_a_run_made_twice_counts_once_and_an_unfinished_one_is_told(tmp_path: Path) -> None:
    own_run(tmp_path / "a")
    own_run(tmp_path / "b")
    (own_run(tmp_path / "c", 1) / "metrics.json").unlink()
    results, skipped = collect_own([tmp_path])
    assert len(results) == 1
    assert skipped == [
        (str(tmp_path / "b"), f"the same settings and seeds as {tmp_path / 'a'}"),
        (str(tmp_path / "c"), f"not finished: go on with `glot fit --resume {tmp_path / 'c'}`"),
    ]


@pytest.mark.parametrize("setting", ["converged", "holdout", "ablation-graph"])
def test_reproduced_runs_among_them_keep_their_place(
    tmp_path: Path, make_run: Make, make_baseline: Make, setting: str
) -> None:
    make_run("rte", "minilm", "glot-loops", {"validation": {"accuracy": 0.6}}, setting=setting, seed=3)
    make_baseline("rte", "minilm", "logreg-mean", {"validation": {"accuracy": 0.5}})
    own_run(tmp_path / "runs/mine")
    results, _ = collect_own([tmp_path])
    assert {(r.task, r.setting, r.method) for r in results} == {
        ("rte", setting, "glot-loops"),
        ("rte", "yardstick", "logreg-mean"),
        ("made", "own", "glot"),
    }


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"epochs": [], "best": {"validation": {"f1": NaN}}}'])
def test_damaged_runs_are_named_together(tmp_path: Path, content: str) -> None:
    for name in ("a", "b", "c"):
        own_run(tmp_path / name)
    (tmp_path / "a/metrics.json").write_text(content)
    (tmp_path / "c/config.json").write_text(content)
    with pytest.raises(FaultError, match=r"damaged runs, .*a/metrics\.json.*c/(config|metrics)\.json") as error:
        write_own_report([tmp_path], tmp_path / "out")
    assert "b/" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_no_run_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")  # a backbone's folder has one too
    with pytest.raises(UsageError, match=r"no finished run .* below .*: make one with `glot fit`"):
        collect_own([tmp_path])
    with pytest.raises(UsageError, match="there is no folder"):
        collect_own([tmp_path / "nowhere"])


def test_the_command_on_runs_that_were_fitted(glot: Callable[..., tuple], extracted: Path) -> None:
    code, _, err = glot("report", "runs")
    assert (code, "there is no folder runs" in err) == (2, True)
    common = ["--cache", extracted, "--epochs", 2, "--hidden", 4]
    for words in (
        ["fit", *common, "--pooler", "mean", "--seeds", "0,1", "--out", "runs/mean"],
        ["sweep", *common, "--tau", "0.3,0.6", "--seeds", "0..1", "--out", "runs/swept"],
    ):
        code, _, err = glot(*words)
        assert code == 0, err
    code, out, err = glot("report", "runs/mean", "runs/swept", "--out", "here")
    assert code == 0, err
    names = ["README.md", "index.html", "results.json", "other.md", "other.csv"]
    assert out.split() == [f"here/{name}" for name in names]
    cells = json.loads(Path("here/results.json").read_text())["cells"]["other"]
    found = {cell["method"]: cell["seeds"] for cell in cells if cell["metric"] == cells[0]["metric"]}
    assert found == {"mean": 2, "glot, tau=0.3": 2, "glot, tau=0.6": 2}
    page = Path("here/index.html").read_text()
    assert "GLOT, tau=0.3" in page
    assert 'href="../runs/swept/tau%3D0.3"' in page
    assert "| GLOT, tau=0.3 |" in Path("here/README.md").read_text()
    Path("runs/swept/tau=0.3/seed-0/metrics.json").write_text("{")
    code, _, err = glot("report", "runs")
    assert code == 1
    assert "tau=0.3/seed-0/metrics.json" in err
    assert len(err.strip().splitlines()) == 1
