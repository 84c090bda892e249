"""Both stages over texts in memory, a call each: what the commands make of the same table."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel, AutoTokenizer

from glot import Cache, GlotModel, extract_texts, fit_cache
from glot.errors import UsageError
from glot.store.example_set import ExampleSet

SMALL = {"epochs": 1, "hidden": 8, "gnn_layers": 1, "device": "cpu"}


def read(table: Path) -> tuple[list[str], list[str]]:
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["sentence"] for row in rows], [row["kind"] for row in rows]


def contents(examples: ExampleSet, cache: Cache) -> list[tuple]:
    found = zip(examples.text_id, examples.label, strict=True)
    return sorted((cache.plan.texts(number, number + 1)[0], label) for number, label in found)


def test_the_cache_and_the_run_are_those_of_the_commands(
    glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path], forwarded: list
) -> None:
    texts, labels = read(table)
    model = str(backbone_folders["bert"])
    cache = extract_texts(texts, labels, model=model, out="mine", max_tokens=24, layers="all")
    assert len(forwarded) == len(set(texts))
    data = ["--data", table, "--text", "sentence", "--label", "kind", "--max-tokens", 24, "--layers", "all"]
    assert glot("extract", "--model", model, *data, "--out", "theirs")[0] == 0
    theirs = Cache("theirs")
    assert cache.manifest.states == theirs.manifest.states
    for name in ("train", "validation"):
        assert contents(cache.examples(name), cache) == contents(theirs.examples(name), theirs)
        assert cache.examples_entry(name).task.classes == ("animal", "water")

    run = fit_cache(cache, out="runs/mine", **SMALL)
    settings = ["--epochs", 1, "--hidden", 8, "--gnn-layers", 1, "--device", "cpu"]
    assert glot("fit", "--cache", "mine", *settings, "--out", "runs/theirs")[0] == 0
    assert run.config == run.config.load(Path("runs/theirs"))
    assert run.result.best["validation"].keys() == {"accuracy", "f1"}
    np.testing.assert_array_equal(run.model().predict_proba(texts), GlotModel.load("runs/theirs").predict_proba(texts))
    more = extract_texts(
        [*texts, "a new dog"], [*labels, "animal"], model=model, out="mine", max_tokens=24, layers="all"
    )
    assert len(more.plan) == len(set(texts)) + 1


def test_scores_pairs_prompts_and_models_in_memory(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = backbone_folders["bert"]
    held = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pairs = [(f"the dog {'rain ' * (row % 3)}", "the old town") for row in range(30)]
    scores = np.arange(30) % 3 + 0.5
    cache = extract_texts(pairs, scores, model=held, out=tmp_path / "pairs", validation_fraction=None, max_tokens=24)
    assert list(cache.manifest.examples) == ["train"]
    task = cache.examples_entry("train").task
    assert (task.name, task.num_texts, task.target, task.score_range) == ("pairs", 2, "score", (0.5, 2.5))
    run = fit_cache(tmp_path / "pairs", out=tmp_path / "run", select="last", **SMALL)
    assert run.model(backbone=held).predict(["the dog"], ["the old town"]).shape == (1,)
    prompted = extract_texts(
        pairs, scores > 1, model=held, out=tmp_path / "one", prompt="{text} / {text_b}", max_tokens=40
    )
    assert prompted.examples_entry("train").task.num_texts == 1
    assert prompted.examples_entry("train").task.classes == ("false", "true")


def test_texts_without_labels(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    cache = extract_texts(["a dog", "rain"], model=str(backbone_folders["bert"]), out=tmp_path / "c", max_tokens=24)
    assert (len(cache.examples("texts")), cache.examples("texts").label) == (2, None)
    with pytest.raises(UsageError, match="no example set 'train'"):
        fit_cache(cache, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"texts": "one text"}, ValueError, "X must be"),
        ({"labels": ["a"]}, ValueError, "inconsistent"),
        ({"texts": [("x", "a"), ("y", "b")]}, ValueError, "whose second texts are y itself: leave the column"),
        ({"labels": ["a", "a"]}, UsageError, "every label is 'a'"),
        ({"labels": ["a", None]}, UsageError, r"labels\[1\]: no label .*: fill it in$"),
        ({"model": "minilmm"}, UsageError, "did you mean minilm"),
        ({"model": 7}, TypeError, r"pair \(model, tokenizer\)"),
        ({"prompt": "none"}, UsageError, "must hold {text}"),
        ({"prompt": "{text} {text_b}"}, ValueError, "the prompt takes pairs"),
        ({"validation_fraction": 2.0}, UsageError, "between 0 and 1"),
    ],
)
def test_wrong_uses(given: dict, error: type[Exception], match: str, tmp_path: Path) -> None:
    asked = {"texts": ["x", "y"], "labels": ["a", "b"], "model": "nothing/there", "validation_fraction": None, **given}
    with pytest.raises(error, match=match):
        extract_texts(**asked, out=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_wrong_uses_of_stage_two(make_fit_cache: Callable, tmp_path: Path) -> None:
    folder = make_fit_cache()
    for settings, match in (({"temprature": 1}, "no setting temprature"), ({"seeds": (0, 1)}, "trains one head")):
        with pytest.raises(UsageError, match=match):
            fit_cache(folder, out=tmp_path / "run", **settings)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="is not empty"):
        fit_cache(folder, out=tmp_path / "full")
    with pytest.raises(UsageError, match="nowhere"):
        fit_cache(tmp_path / "nowhere", out=tmp_path / "run")
