"""The report of runs that are in no table of the paper."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from glot.report.methods import number_of
from glot.report.results import collect
from glot.report.write import write_section
from glot.reproduce.ablations import ablations_section, find_questions
from glot.reproduce.report import write_report

MakeRun = Callable[..., Path]


@pytest.fixture
def runs(make_run: MakeRun, tmp_path: Path) -> Path:
    for tau, score in ((0.1, 0.5), (0.95, 0.6), (0.6, 0.7)):
        for seed in (0, 1):
            scores = {"validation": {"mcc": score + seed / 100}}
            make_run("cola", "minilm", f"glot,tau={tau}", scores, setting="ablation-tau", seed=seed)
    for method, score in (("glot", 0.8), ("glot-random", 0.9)):
        make_run("mrpc", "minilm", method, {"validation": {"f1": score}}, setting="ablation-graph")
    make_run("mrpc", "minilm", "glot", {"validation": {"f1": 0.81, "accuracy": 0.7}})
    return tmp_path / "runs"


def test_each_question_has_a_picture(runs: Path, tmp_path: Path) -> None:
    written = write_section(ablations_section(find_questions(collect(runs))), tmp_path)
    assert [path.name for path in written[2:]] == ["ablation-graph-minilm.png", "ablation-tau-minilm.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written[2:])


def test_each_question_has_a_table(runs: Path, tmp_path: Path) -> None:
    written = write_section(ablations_section(find_questions(collect(runs))), tmp_path)
    assert [path.name for path in written[:2]] == ["ablations.md", "ablations.csv"]
    page = written[0].read_text()
    assert "## ablation-tau, minilm" in page
    assert "| GLOT, tau=0.1 | 50.5 ± 0.7 |" in page
    assert page.index("tau=0.1 ") < page.index("tau=0.6 ") < page.index("tau=0.95 ")  # by number, not by name
    assert "| GLOT | 80.0 (25 %) |" in page  # how much of the graph is joined
    assert "| GLOT, as many random edges | **90.0** |" in page
    rows = list(csv.DictReader(written[1].open()))
    assert {(row["setting"], row["method"], row["mean"]) for row in rows} >= {("ablation-tau", "glot,tau=0.6", "70.50")}
    assert not any(row["setting"] == "published" for row in rows)


def test_ablations_stay_out_of_the_paper_s_tables(runs: Path, tmp_path: Path) -> None:
    write_report(runs, tmp_path / "results")
    table = (tmp_path / "results/table1.csv").read_text()
    assert "published" in table
    assert "ablation" not in table
    assert "ablation-tau" in (tmp_path / "results/README.md").read_text()


def test_no_question_no_page(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("cola", "minilm", "glot", {"validation": {"mcc": 0.5}})
    assert find_questions(collect(tmp_path / "runs")) == []
    assert write_section(ablations_section([]), tmp_path) == []


def test_the_number_at_the_end_of_a_name() -> None:
    assert number_of("glot,tau=0.3") == 0.3
    assert number_of("glot,tau=0.3,layer=-2") == -2
    assert number_of("glot,gnn=gcn") is None
    assert number_of("glot") is None
