from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glot.store.files import read_json, write_json

MakeRun = Callable[..., Path]


def write_run(
    folder: Path,
    task: str,
    model: str,
    scores: dict[str, dict[str, float]],
    kind: str = "encoder",
    seed: int = 0,
    epochs: int = 3,
    pooler: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
) -> Path:
    """The two files of a run, as `glot fit` leaves them, but for what came later and has a default."""
    folder.mkdir(parents=True)
    states = {"backbone": model, "revision": "", "kind": kind, "width": 8, "num_layers": 2, "layers": [2]}
    states |= {"template": "{text}", "max_tokens": 24, "dtype": "float16", "compute_dtype": "float32"}
    states |= {"weights_sha256": "0" * 64, "tokenizer_sha256": "1" * 64}
    spec = {"name": task, "num_texts": 1, "target": "classes", "classes": ["no", "yes"], "score_range": None}
    spec |= {"metrics": list(next(iter(scores.values()))), "recipe": {}}
    shape = {"pooler": "glot", "gnn": "gat", "jk": "cat", "tau": 0.6, "layers": 2, "hidden": 8, "gin_batch_norm": False}
    training = {"lr": 0.01, "epochs": 3, "batch_size": 8, "patience": None, "init_seed": seed, "order_seed": seed}
    training |= {"select": "validation", "device": "cpu", "backend": "dense", "window": None}
    config = {"version": 1, "cache": "cache", "task": spec, "states": states, "layer": 2, "data": {}}
    config |= {"pooler": shape | (pooler or {}), "train": training | (train or {}), "created_by": "glot 0.1.0"}
    write_json(folder / "config.json", config)
    history = [{"epoch": place + 1, "loss": 0.5, "seconds": 20.0, "scores": scores} for place in range(epochs)]
    metrics = {"select": "validation", "metric": spec["metrics"][0], "epochs": history, "best_epoch": 1}
    metrics |= {"best": scores, "best_published": scores, "last": scores, "density": 0.1, "parameters": 10}
    write_json(folder / "metrics.json", {**metrics, "seconds": 60.0, "own_seconds": 60.0})
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run as `glot reproduce` lays it, below tmp_path/runs."""
    return run_maker(tmp_path)


@pytest.fixture
def make_baseline(tmp_path: Path) -> MakeRun:
    """Writes a baseline's file beside them."""
    return baseline_maker(tmp_path)


def run_maker(root: Path) -> MakeRun:
    """See `make_run`."""

    def make(
        task: str,
        model: str,
        method: str,
        scores: dict[str, dict[str, float]],
        setting: str = "published",
        seed: int = 0,
        epochs: int = 3,
    ) -> Path:
        folder = root / "runs" / f"{task}-{model}" / setting / method / f"seed-{seed}"
        kind = "decoder" if model.startswith("smollm2") else "encoder"
        write_run(folder, task, model, scores, kind=kind, seed=seed, epochs=epochs)
        metrics = {**read_json(folder / "metrics.json"), "density": 0.25 if method == "glot" else None}
        metrics |= {"best_published": _less(scores, 0.01), "last": _less(scores, 0.02)}
        write_json(folder / "metrics.json", metrics)
        return folder

    return make


def baseline_maker(root: Path) -> MakeRun:
    """See `make_baseline`."""

    def make(task: str, model: str, name: str, scores: dict[str, dict[str, float]]) -> Path:
        path = root / "runs" / f"{task}-{model}" / "yardstick" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {"version": 1, "task": task, "model": model, "method": name, "scores": scores, "seconds": 1.5}
        write_json(path, data)
        return path

    return make


def _less(scores: dict[str, dict[str, float]], points: float) -> dict[str, dict[str, float]]:
    return {name: {metric: value - points for metric, value in metrics.items()} for name, metrics in scores.items()}
