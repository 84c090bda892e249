"""Own data through the `glot` command: a dataset of the hub, a share held out, lists of labels, class weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glot.store.reader import Cache

Glot = Callable[..., tuple[int, str, str]]


@pytest.fixture
def news(glot: Glot, monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """A dataset that `datasets` finds here under the bare name "news": one text in ten is about a river."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets.disable_progress_bars()
    rng = np.random.default_rng(0)
    words = ["rain", "falls", "softly", "over", "the", "old", "town"]
    labels = [int(i % 10 == 0) for i in range(200)]
    texts = [" ".join([*rng.choice(words, rng.integers(1, 5)), ["dog", "river"][label]]) for label in labels]
    features = {"sentence": datasets.Value("string"), "kind": datasets.ClassLabel(names=["animal", "water"])}
    columns = {"sentence": texts, "kind": labels}
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    Path("news").mkdir()
    made.to_parquet("news/train-00000-of-00001.parquet")
    made.select(range(20)).to_parquet("news/test-00000-of-00001.parquet")
    return columns


@pytest.fixture
def base(backbone_folders: dict[str, Path]) -> list[object]:
    return ["--model", backbone_folders["bert"], "--text", "sentence", "--label", "kind", "--max-tokens", 24]


def test_from_the_hub_to_predictions(glot: Glot, base: list, news: dict[str, list]) -> None:
    code, out, err = glot("extract", *base, "--data", "hub:news", "--split", "0.25")
    assert (code, "train 150, validation 50, test 20" in out) == (0, True), err
    assert (
        Cache("cache/news").manifest.examples["validation"].source.startswith("hub:news train, 0.25 held out (seed 0")
    )
    options = ["--pooler", "mean", "--lr", 0.01, "--epochs", 6, "--device", "cpu"]
    recalled = {}
    for kind in ("none", "balanced"):
        code, _, err = glot("fit", "--cache", "cache/news", *options, "--class-weights", kind, "--out", kind)
        assert code == 0, err
        config = json.loads(Path(kind, "config.json").read_text())
        assert (config["task"]["classes"], config["train"]["class_weights"]) == (["animal", "water"], kind)
        code, _, err = glot("predict", "--run", kind, "--cache", "cache/news", "--split", "train")
        assert code == 0, err
        rows = [json.loads(line) for line in Path(kind, "train.jsonl").read_text().splitlines()]
        recalled[kind] = sum(row["label"] == "water" and news["kind"][row["index"]] == 1 for row in rows)
    assert recalled["balanced"] > recalled["none"]  # of twenty seeds, 2 to 13 of 15 against 0 (once 1)


def test_a_sweep_over_class_weights(glot: Glot, base: list, table: Path) -> None:
    assert glot("extract", *base, "--data", table)[0] == 0
    options = ["--class-weights", "none,balanced", "--epochs", 1, "--hidden", 8, "--devices", "cpu"]
    code, _, err = glot("sweep", "--cache", "cache/train", *options, "--out", "sweep")
    assert code == 0, err
    assert "class_weights" in Path("sweep/sweep.csv").read_text().splitlines()[0]
    kinds = [
        json.loads(path.read_text())["train"]["class_weights"] for path in Path("sweep").glob("*/seed-0/config.json")
    ]
    assert sorted(kinds) == ["balanced", "none"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "hub:news", "--eval-data", "dev.csv"], "--eval-data does not go with hub:news"),
        (["--data", "hub:a/b/c"], "'hub:a/b/c' names no dataset: write hub:name"),
        (["--data", "hub:news", "--split", "train,test"], "--split train,test does not go with your own --data"),
        (["--data", "train.csv", "--split", "1"], "--split 1: the share of train to keep as validation lies between"),
        (
            ["--data", "train.csv", "--eval-data", "dev.csv", "--split", ".1"],
            "--split 0.1 does not go with --eval-data",
        ),
        (["--data", "many.jsonl"], "many.jsonl line 1: label ['x', 'y'] is a list, and an example has one label"),
        (["--task", "sst2", "--split", "0.1"], "--split 0.1: a share is for your own --data"),
    ],
)
def test_wrong_uses_are_one_line(glot: Glot, base: list, table: Path, words: list[str], message: str) -> None:
    Path("many.jsonl").write_text('{"sentence": "a", "kind": ["x", "y"]}\n')
    given = base if "--data" in words else base[:2]
    code, out, err = glot("extract", *given, *words)
    assert (code, len(err.splitlines()), out) == (2, 1, "")
    assert message in err
    assert not Path("cache").exists()


def test_class_weights_for_scores(glot: Glot, backbone_folders: dict[str, Path]) -> None:
    lines = [f"the cat sat {i},{i / 8}" for i in range(40)]
    Path("scores.csv").write_text("\n".join(["text,label", *lines, ""]))
    assert glot("extract", "--model", backbone_folders["bert"], "--data", "scores.csv", "--max-tokens", 128)[0] == 2
    code, _, err = glot("extract", "--model", backbone_folders["bert"], "--data", "scores.csv", "--max-tokens", 24)
    assert code == 0, err
    for command in ("fit", "sweep"):
        code, _, err = glot(command, "--cache", "cache/scores", "--class-weights", "balanced", "--out", "run")
        assert (code, "scores has no classes" in err, len(err.splitlines())) == (2, True, 1)
        assert not Path("run").exists()
