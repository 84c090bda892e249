"""Linked caches through the `glot` command: one cache of the shards of several, where they lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glot.store.combine import subset_cache
from glot.store.reader import Cache

Glot = Callable[..., tuple[int, str, str]]
FIT = ("--pooler", "glot,mean", "--hidden", 8, "--epochs", 2)


@pytest.fixture
def parts(glot: Glot, table: Path, backbone_folders: dict[str, Path]) -> list[str]:
    """Two caches in the folder `parts`, of several shards each; 40 rows are in both."""
    head, *rows = table.read_text().splitlines()
    for name, some in (("a", rows[:140]), ("b", rows[100:])):
        Path(f"{name}.csv").write_text("\n".join([head, *some]) + "\n")
        model = ["--model", backbone_folders["bert"], "--max-tokens", 5, "--text", "sentence", "--label", "kind"]
        data = ["--data", f"{name}.csv", "--eval-data", table.with_name("dev.csv")]
        code, _, err = glot("extract", *model, *data, "--out", f"made-{name}")
        assert code == 0, err
        subset_cache(f"made-{name}", Path("parts", name), shard_bytes=2**14)
        assert Cache(f"parts/{name}").manifest.plan.shards > 1
    return ["parts/a", "parts/b"]


def contents(folder: str | Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def answer(glot: Glot, *words: object) -> dict:
    code, out, err = glot(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def predictions(run: str) -> dict[str, np.ndarray]:
    return {path.relative_to(run).as_posix(): np.load(path) for path in Path(run).rglob("predictions-*.npy")}


def test_heads_over_a_link_are_those_over_a_merge(glot: Glot, parts: list[str]) -> None:
    """Texts come in the same order: each text's states are the same bytes, wherever they lie."""
    before = contents("parts")
    code, out, err = glot("cache", "link", *parts, "--out", "all", "--verify")
    assert (code, "all: train 280, validation 40; " in out) == (0, True), err
    assert glot("cache", "merge", *parts, "joined")[0] == 0
    shown = {cache: answer(glot, "inspect", cache) for cache in ("all", "joined")}
    assert shown["all"]["truncated"] > 0 < shown["all"]["repeated"]
    counts = ("texts", "truncated", "empty", "examples")
    assert [shown["all"][name] for name in counts] == [shown["joined"][name] for name in counts]
    assert (shown["all"]["parts"], shown["joined"]["parts"]) == (["../parts/a", "../parts/b"], [])
    for cache in shown:
        code, _, err = glot("sweep", "--cache", cache, *FIT, "--out", f"runs-{cache}")
        assert code == 0, err
    found = {cache: predictions(f"runs-{cache}") for cache in shown}
    assert len(found["all"]) == 2
    for name, values in found["all"].items():
        np.testing.assert_allclose(values, found["joined"][name], atol=1e-3)
    run = ("--run", "runs-all/pooler=mean/seed-0", "--cache", "all")
    assert answer(glot, "evaluate", *run)
    code, out, err = glot("predict", *run, "--split", "validation", "--out", "predicted.csv")
    assert (code, len(Path("predicted.csv").read_text().splitlines())) == (0, 41), err
    assert contents("parts") == before


@pytest.mark.slow
def test_tune_takes_a_link(glot: Glot, parts: list[str]) -> None:
    assert glot("cache", "link", *parts, "--out", "all")[0] == 0
    code, _, err = glot("tune", "--cache", "all", "--minutes", 0, "--device", "cpu", "--out", "tuned")
    assert code == 0, err


def test_what_writes_states_refuses_a_link(glot: Glot, parts: list[str], backbone_folders: dict[str, Path]) -> None:
    assert glot("cache", "link", *parts, "--out", "all")[0] == 0
    before = contents(".")

    data = ("--model", backbone_folders["bert"], "--data", "b.csv", "--text", "sentence", "--label", "kind")
    examples = ("--model", backbone_folders["bert"], "--examples", "b.csv", "--text", "sentence", "--label", "kind")
    refused = {
        ("extract", *data, "--out", "all"): "extract into another folder, and link that with `glot cache link`",
        ("extract", *data, "--out", "all", "--estimate"): "extract into another folder",
        ("extract", *examples, "--out", "all"): "extract into another folder",
        ("inspect", "all", "--repair"): "--verify names the damaged files: repair the caches of these",
        ("cache", "copy", "all", "copied"): "copy it with `glot cache subset`",
        ("cache", "push", "all", "memory://a/b"): "make one of its own of it with `glot cache subset`, and push that",
        ("cache", "link", "parts/a", "--out", "more"): "link takes two caches or more",
        ("cache", "link", *parts, "--out", "all"): "all is there already: choose another place",
        ("cache", "link", *parts, "--out", "memory://a/b"): "cannot write to memory://a/b",
    }
    for words, line in refused.items():
        code, _, err = glot(*words)
        assert (code, err.count("\n"), line in err) == (2, 1, True), (words, err)
    assert contents(".") == before


def test_verify_names_a_damaged_part(glot: Glot, parts: list[str]) -> None:
    assert glot("cache", "link", *parts, "--out", "all")[0] == 0
    path = Path("parts/b/shard-00000.h5")
    data = bytearray(path.read_bytes())
    data[Cache("parts/b").manifest.shards[0].data.columns["hidden/2"].offset] ^= 255
    path.write_bytes(data)
    code, out, err = glot("inspect", "all", "--verify")
    assert (code, err.count("\n")) == (1, 1), err
    assert f"{path.resolve()}: 1 damaged texts" in out
    assert "run `glot inspect --repair` on the caches where they lie" in err
