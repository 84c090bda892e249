from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from glot.errors import FaultError
from glot.report.results import Result, collect

Make = Callable[..., Path]
SCORES = {"validation": {"mcc": 0.5, "accuracy": 0.75}}


def test_a_run_is_read_from_its_files_and_its_place(tmp_path: Path, make_run: Make) -> None:
    make_run("cola", "smollm2-135m", "glot-loops", SCORES, setting="converged", seed=12, epochs=7)
    assert collect(tmp_path / "runs") == [
        Result(
            task="cola",
            model="smollm2-135m",
            method="glot-loops",
            setting="converged",
            seed=12,
            best=SCORES,
            best_published={"validation": {"mcc": 0.49, "accuracy": 0.74}},
            last={"validation": {"mcc": 0.48, "accuracy": 0.73}},
            epochs=7,
            density=None,
            seconds=60.0,
            path=tmp_path / "runs/cola-smollm2-135m/converged/glot-loops/seed-12",
            kind="decoder",
        )
    ]


def test_a_baseline_scores_the_same_by_every_rule(tmp_path: Path, make_baseline: Make) -> None:
    make_baseline("cola", "minilm", "logreg-mean", SCORES)
    (result,) = collect(tmp_path / "runs")
    assert result.best == result.best_published == result.last == SCORES
    assert (result.method, result.setting, result.seed, result.seconds) == ("logreg-mean", "yardstick", 0, 1.5)


def test_unfinished_runs_and_strangers_are_left_out(tmp_path: Path, make_run: Make) -> None:
    make_run("cola", "minilm", "mean", SCORES, seed=0)
    (make_run("cola", "minilm", "mean", SCORES, seed=1) / "metrics.json").unlink()
    make_run("cola", "minilm", "mean", SCORES, seed=2).rename(tmp_path / "runs/cola-minilm/published/mean/seed-old")
    assert [result.seed for result in collect(tmp_path / "runs")] == [0]


def test_no_folder_gives_no_results(tmp_path: Path) -> None:
    assert collect(tmp_path / "nowhere") == []


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_run_is_named(tmp_path: Path, make_run: Make, content: str) -> None:
    path = make_run("cola", "minilm", "mean", SCORES) / "metrics.json"
    path.write_text(content)
    with pytest.raises(FaultError, match=r"seed-0/metrics\.json .*is damaged"):
        collect(tmp_path / "runs")
