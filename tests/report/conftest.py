from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from glot.store.files import write_json

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes the two files that the report reads of a run, below tmp_path/runs."""

    def make(
        task: str,
        model: str,
        method: str,
        scores: dict[str, dict[str, float]],
        setting: str = "published",
        seed: int = 0,
        epochs: int = 3,
    ) -> Path:
        folder = tmp_path / "runs" / f"{task}-{model}" / setting / method / f"seed-{seed}"
        folder.mkdir(parents=True)
        states = {"backbone": model, "kind": "decoder" if model.startswith("smollm2") else "encoder"}
        write_json(folder / "config.json", {"version": 1, "task": {"name": task}, "states": states})
        write_json(
            folder / "metrics.json",
            {
                "epochs": [{"epoch": place + 1} for place in range(epochs)],
                "best": scores,
                "best_published": _less(scores, 0.01),
                "last": _less(scores, 0.02),
                "density": 0.25 if method == "glot" else None,
                "seconds": 60.0,
            },
        )
        return folder

    return make


@pytest.fixture
def make_yardstick(tmp_path: Path) -> MakeRun:
    def make(task: str, model: str, name: str, scores: dict[str, dict[str, float]]) -> Path:
        path = tmp_path / "runs" / f"{task}-{model}" / "yardstick" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {"version": 1, "task": task, "model": model, "method": name, "scores": scores, "seconds": 1.5}
        write_json(path, data)
        return path

    return make


def _less(scores: dict[str, dict[str, float]], points: float) -> dict[str, dict[str, float]]:
    return {name: {metric: value - points for metric, value in metrics.items()} for name, metrics in scores.items()}
