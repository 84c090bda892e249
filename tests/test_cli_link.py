"""Linked caches through the `glot` command: one cache of the shards of several, where they lie."""

from __future__ import annotations

import json
import shutil
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
        model = ["--model", backbone_folders["bert"], "--max-tokens", 24, "--text", "sentence", "--label", "kind"]
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


def scores_of(run: str) -> dict[str, list]:
    """Every score of every epoch of the heads of a run."""
    found = {path.relative_to(run).as_posix(): json.loads(path.read_text()) for path in Path(run).rglob("metrics.json")}
    assert found
    return {name: [values["best"], values["epochs"]] for name, values in found.items()}


def test_fit(glot: Glot, parts: list[str]) -> None:
    before = contents("parts")
    print(glot("cache", "link", *parts, "--out", "all"))
    print(glot("cache", "merge", *parts, "joined"))
    print(glot("inspect", "all"))
    print(Path("all/manifest.json").read_text()[-800:])
    for cache in ("all", "joined"):
        print(glot("sweep", "--cache", cache, *FIT, "--out", f"run-{cache}"))
    import subprocess

    print(
        subprocess.run(
            "find run-all; cat run-all/*/metrics.json | head -c 1500; diff -r run-all run-joined",
            shell=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    assert contents("parts") == before
    assert 0
