"""Caches through the `glot` command: several workers, growth, estimates, a look inside, copies."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from glot.store.reader import Cache

Glot = Callable[..., tuple[int, str, str]]


@pytest.fixture
def base(table: Path, backbone_folders: dict[str, Path]) -> list[object]:
    """An extraction of the table in several shards: a wide file of few texts a MiB would need a large model."""
    columns = ["--text", "sentence", "--label", "kind", "--max-tokens", 24, "--token-budget", 256]
    return ["--model", backbone_folders["bert"], "--data", table, *columns]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_job_array_makes_what_one_process_makes(glot: Glot, base: list) -> None:
    assert glot("extract", *base, "--out", "one")[0] == 0
    code, out, err = glot("extract", *base, "--out", "many", "--plan")
    assert (code, "forwarded" in out, "still to be made" in out) == (0, False, True), err
    assert not list(Path("many").glob("shard-*"))
    for part in ("2/3", "1/3", "3/3", "1/3"):
        code, out, err = glot("extract", *base, "--out", "many", "--part", part)
        assert code == 0, err
    assert contents(Path("many")) == contents(Path("one"))


def test_a_part_of_a_plan_reads_no_data(glot: Glot, base: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute nodes need neither the data nor the hub."""
    assert glot("extract", *base, "--out", "many", "--plan")[0] == 0

    def unreachable(*_: object) -> None:
        raise AssertionError("the data was read")

    monkeypatch.setattr("glot.corpus.load.load_corpus", unreachable)
    code, out, err = glot("extract", *base, "--out", "many", "--part", "1/1")
    assert (code, "forwarded" in out) == (0, True), err
    assert Cache("many").manifest.complete


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none(glot: Glot, base: list, part: str) -> None:
    code, _, err = glot("extract", *base, f"--part={part}")
    assert (code, "as in 3/8" in err) == (2, True)
    assert not Path("cache").exists()


def test_an_estimate_writes_nothing_and_is_near(glot: Glot, base: list) -> None:
    code, out, err = glot("extract", *base, "--estimate")
    assert code == 0, err
    assert not Path("cache").exists()
    assert "tokens/s, as measured here on cpu" in out
    assert glot("extract", *base)[0] == 0
    plan = Cache("cache/train").manifest.plan
    assert f"{plan.texts:,} distinct, {plan.tokens:,} tokens (all of them tokenized)" in out


def test_an_estimate_counts_in_the_dtype_of_the_cache_that_is_there(glot: Glot, base: list) -> None:
    """Of several layers a new cache would be int8; one that is float16 stays so."""
    layers = ["--layers", "all", "--prompt", "Topic of {text}"]
    new = json.loads(glot("extract", *base, *layers, "--estimate", "--json")[1])
    assert glot("extract", *base, *layers, "--dtype", "float16")[0] == 0
    there = json.loads(glot("extract", *base, *layers, "--estimate", "--json")[1])
    states = Cache("cache/train").manifest.states
    assert there["bytes"] - new["bytes"] == there["tokens"] * (
        states.bytes_per_token - replace(states, dtype="int8").bytes_per_token
    )
    assert "Topic of {text}" in glot("inspect", "cache/train")[1]


def test_other_labels_for_the_same_texts(glot: Glot, base: list) -> None:
    assert glot("extract", *base)[0] == 0
    cache = Cache("cache/train")
    texts = cache.plan.texts(0, len(cache.plan))
    with open("length.csv", "w", newline="") as file:
        rows = [[text, "long" if len(text) > 18 else "short"] for text in [*texts, "one text that is new here"]]
        csv.writer(file).writerows([["text", "label"], *rows])
    model = base[1]
    code, out, err = glot("extract", "--model", model, "--examples", "length.csv", "--out", "cache/train/tiny-bert")
    assert code == 0, err
    assert "forwarded 1 texts" in out
    code, out, err = glot("fit", "--cache", "cache/train", "--examples", "length", "--hidden", 8, "--out", "run")
    assert code == 0, err
    assert "length.validation" in out
    assert json.loads(Path("run/config.json").read_text())["task"]["classes"] == ["long", "short"]
    code, out, err = glot("evaluate", "--run", "run", "--cache", "cache/train", "--split", "length.validation")
    assert (code, "accuracy" in out) == (0, True), err
    code, _, err = glot("fit", "--cache", "cache/train", "--examples", "width")
    assert (code, "no example set 'width.train'" in err) == (2, True)


def test_bad_rows_are_left_out_and_counted(glot: Glot, base: list, table: Path) -> None:
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:7], "a row,with,too many cells", *lines[7:], ""]))
    code, _, err = glot("extract", *base)
    assert (code, "train.csv line 8" in err) == (2, True)
    code, out, err = glot("extract", *base, "--on-bad-row", "skip")
    assert (code, "1 rows skipped" in out) == (0, True), err
    assert "rows skipped, the first: train.csv line 8" in err
    code, out, _ = glot("inspect", "cache/train", "--json")
    assert sum(entry["skipped"] for entry in json.loads(out)["examples"].values()) == 1


def test_a_backbone_spread_over_devices(glot: Glot, base: list) -> None:
    assert glot("extract", *base, "--out", "plain")[0] == 0
    code, _, err = glot("extract", *base, "--out", "spread", "--device-map", "auto")
    assert code == 0, err
    assert contents(Path("spread")) == contents(Path("plain"))
    code, _, err = glot("extract", *base, "--out", "both", "--device-map", "auto", "--device", "cpu")
    assert (code, "pass one of them" in err) == (2, True)


def test_a_look_inside(glot: Glot, base: list) -> None:
    assert glot("extract", *base, "--dtype", "int8", "--layers", "0,-1")[0] == 0
    code, out, err = glot("inspect", "cache/train")
    assert code == 0, err
    for shown in ("tiny-bert", "int8", "layers 0, 2 of 0 to 2", "train.csv", "τ 0.6", "1 of 1", "tokens a text"):
        assert shown in out
    code, out, _ = glot("inspect", "cache/train", "--json")
    summary = json.loads(out)
    assert (summary["complete"], summary["layers"], summary["states_bytes_per_token"]) == (True, [0, 2], 2 * (32 + 4))
    assert sum(count for _, _, count in summary["histogram"]) == summary["texts"]
    assert list(summary["density"].values()) == sorted(summary["density"].values(), reverse=True)
    code, out, _ = glot("inspect", "cache/train", "--list-texts")
    assert len(out.splitlines()) == summary["texts"]
    code, _, err = glot("inspect", "nowhere")
    assert (code, "there is no cache at nowhere" in err) == (2, True)


def test_a_cache_without_the_last_layer(glot: Glot, base: list) -> None:
    """The layer that nobody named is the last that is there; one that was named must be there."""
    assert glot("extract", *base, "--layers", "0,1")[0] == 0
    code, out, err = glot("inspect", "cache/train")
    assert (code, "layers 0, 1 of 0 to 2" in out, "graph density, layer 1" in out) == (0, True, True), err
    code, out, err = glot("inspect", "cache/train", "--layer", 0, "--json")
    assert (code, json.loads(out)["density_layer"]) == (0, 0), err
    fit = ["--cache", "cache/train", "--epochs", 1, "--hidden", 8, "--preset", "published"]
    code, _, err = glot("fit", *fit, "--out", "run")
    assert (code, json.loads(Path("run/config.json").read_text())["layer"]) == (0, 1), err
    assert "layer 1 of 0 to 2: the last that cache/train/tiny-bert keeps" in err
    code, _, err = glot("sweep", *fit, "--out", "sweep")
    assert (code, "layer 1 of 0 to 2" in err) == (0, True), err
    for command in (["inspect", "cache/train"], ["fit", *fit, "--out", "other"], ["sweep", *fit, "--out", "other"]):
        code, _, err = glot(*command, "--layer=-1")
        assert (code, "has no layer -1: it keeps 0, 1 of 0 to 2" in err) == (2, True), command


def test_copies_and_cuts(glot: Glot, base: list) -> None:
    assert glot("extract", *base)[0] == 0
    source = "cache/train/tiny-bert"
    code, _, err = glot("cache", "copy", source, "copied", "--verify")
    assert code == 0, err
    assert contents(Path("copied")) == contents(Path(source))
    for target, split in [("a", "train"), ("b", "validation")]:
        code, out, err = glot("cache", "subset", source, target, "--split", split, "--limit", 20)
        assert (code, f"{split} 20" in out) == (0, True), err
    code, out, err = glot("cache", "merge", "a", "b", "joined", "--verify")
    assert (code, "train 20, validation 20" in out) == (0, True), err
    code, _, err = glot("fit", "--cache", "joined", "--hidden", 8, "--out", "run")
    assert code == 0, err
    code, _, err = glot("cache", "copy", source, "joined")
    assert (code, "is there already" in err) == (2, True)


@pytest.mark.slow
def test_two_launched_processes_make_what_one_makes(glot: Glot, base: list, tmp_path: Path) -> None:
    assert glot("extract", *base, "--out", "one")[0] == 0
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]  # which on a CPU starts two too
    command = [sys.executable, "-m", *launcher, "-m", "glot", "extract", *map(str, base), "--out", "two"]
    root = Path(__file__).parents[1] / "pipeline"
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train 216, validation 24") == 1  # one speaks for both
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
