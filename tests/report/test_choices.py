"""What choices were worth: points by hand from a few made runs, in Markdown, on the page and in the JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from glot.report.results import collect
from glot.reproduce.choices import find_choices
from glot.reproduce.report import write_report
from glot.reproduce.table1 import table1_cells


def mcc(value: float) -> dict[str, dict[str, float]]:
    return {"validation": {"mcc": value}}


@pytest.fixture
def runs(make_run: Callable[..., Path], tmp_path: Path) -> Path:
    for seed, value in enumerate((0.50, 0.40)):
        make_run("cola", "minilm", "glot", mcc(value), seed=seed)
        make_run("cola", "minilm", "glot", mcc(value - 0.03), "holdout", seed)
        make_run("cola", "minilm", "glot,tau=0.6", mcc(value), "ablation-tau", seed)
        make_run("cola", "minilm", "glot,tau=0.9", mcc(value + 0.07), "ablation-tau", seed)
        make_run("cola", "minilm", "glot,tau=0.1", mcc(value - 0.07), "ablation-tau", seed)
    make_run("cola", "minilm", "mean", mcc(0.3))
    make_run("cola", "minilm", "max", mcc(0.3))
    return tmp_path / "runs"


def test_points_by_hand(runs: Path) -> None:
    results = collect(runs)
    mean, glot = find_choices(results, table1_cells(results))
    assert (mean.method, glot.method) == ("mean", "glot")
    assert glot.epoch == pytest.approx(2)
    assert glot.published_rule == pytest.approx(1)
    assert glot.holdout == pytest.approx(3)
    assert glot.seed == pytest.approx(5)
    assert (glot.tau, glot.best_tau) == (pytest.approx(7), 0.9)
    assert (mean.holdout, mean.seed, mean.tau) == (None, None, None)
    assert glot.row()[3:] == ["+2.0", "+1.0", "+3.0", "+5.0", "+7.0 (0.9)"]


def test_in_every_format(runs: Path, tmp_path: Path) -> None:
    write_report(runs, tmp_path / "out", [])
    line = "| cola (mcc) | minilm | GLOT | +2.0 | +1.0 | +3.0 | +5.0 | +7.0 (0.9) |"
    assert line in (tmp_path / "out/choices.md").read_text(encoding="utf-8")
    assert "+7.0 (0.9)" in (tmp_path / "out/index.html").read_text(encoding="utf-8")
    choices = json.loads((tmp_path / "out/results.json").read_text())["choices"]
    assert [choice["method"] for choice in choices] == ["mean", "glot"]


def test_nothing_to_choose(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("stress-paired-0.9", "minilm", "glot", {"validation": {"accuracy": 0.9}})
    paths = write_report(tmp_path / "runs", tmp_path / "out", [])
    assert "choices.md" not in [path.name for path in paths]
