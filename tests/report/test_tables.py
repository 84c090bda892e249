from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from glot.report.cells import cells_csv, group_cells, methods_of, signed
from glot.report.methods import method_name
from glot.report.results import collect
from glot.report.sections import entry_of
from glot.report.write import write_section
from glot.reproduce.published import comparison_note
from glot.reproduce.stress import parse_task, stress_cells, stress_section
from glot.reproduce.table1 import table1_cells, table1_section
from glot.store.files import read_json, write_json

Make = Callable[..., Path]


def row_of(markdown: str, first: str) -> list[str]:
    """The cells of the one table row that starts with `first`, its heading row if that is what it is."""
    (line,) = [line for line in markdown.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_cell_is_mean_and_sample_deviation_beside_the_paper(tmp_path: Path, make_run: Make) -> None:
    for seed, mcc in enumerate((0.40, 0.44, 0.48)):
        make_run("cola", "bert", "glot", {"validation": {"mcc": mcc, "accuracy": 0.9}}, seed=seed)
    (cell,) = table1_cells(collect(tmp_path / "runs"))
    assert (cell.seeds, cell.metric, cell.paper) == (3, "mcc", 47.49)
    assert (cell.mean, cell.std) == pytest.approx((44.0, 4.0))
    assert (cell.best_published, cell.last, cell.difference) == pytest.approx((43.0, 42.0, -3.49))
    assert str(entry_of(cell, with_paper=True)) == "44.0 ± 4.0 [47.5, −3.5]"
    assert str(entry_of(cell)) == "44.0 ± 4.0"


def test_runs_on_a_part_of_the_rows_stand_beside_no_paper(tmp_path: Path, make_run: Make) -> None:
    for method, examples in (("glot", 600), ("mean", 8551), ("max", 7696)):  # the last but for what was kept aside
        run = make_run("cola", "bert", method, {"validation": {"mcc": 0.4, "accuracy": 0.9}})
        write_json(run / "metrics.json", {**read_json(run / "metrics.json"), "examples": examples})
    part, whole, most = (
        next(cell for cell in table1_cells(collect(tmp_path / "runs")) if cell.method == method)
        for method in ("glot", "mean", "max")
    )
    assert (part.paper, part.examples, part.of_examples) == (None, 600, 8551)
    assert whole.paper is not None
    assert most.paper is not None
    write_section(table1_section([part, whole, most]), tmp_path)
    told = (tmp_path / "table1.md").read_text(encoding="utf-8")
    assert "**Trained on a part:** cola on 600 of 8,551 training rows. The paper's numbers are left out there." in told
    assert "| 40.0 |" in told


def test_one_seed_has_no_deviation_and_some_methods_no_paper(tmp_path: Path, make_run: Make) -> None:
    make_run("rte", "minilm", "glot-loops", {"validation": {"accuracy": 0.6}})
    (cell,) = table1_cells(collect(tmp_path / "runs"))
    assert (cell.std, cell.paper, cell.difference, cell.paper_model) == (None, None, None, "bert")
    assert str(entry_of(cell, with_paper=True)) == "60.0"
    assert str(entry_of(None)) == "–"


def test_every_task_is_judged_by_its_own_metric(tmp_path: Path, make_run: Make) -> None:
    every = {"mcc": 0.1, "spearman": 0.2, "f1": 0.3, "accuracy": 0.4, "pearson": 0.9}
    expected = {"cola": 10, "sst2": 40, "stsb": 20, "mrpc": 30, "qqp": 30, "qnli": 40, "rte": 40, "wnli": 40}
    for task in expected:
        make_run(task, "bert", "mean", {"validation": every})
    cells = table1_cells(collect(tmp_path / "runs"))
    assert {cell.task: cell.mean for cell in cells} == pytest.approx(expected)


def test_mnli_has_two_columns(tmp_path: Path, make_run: Make) -> None:
    both = {"validation": {"accuracy": 0.5}, "validation_mismatched": {"accuracy": 0.4}}
    make_run("mnli", "bert", "glot", both)
    cells = table1_cells(collect(tmp_path / "runs"))
    assert [(cell.task, cell.mean, cell.paper) for cell in cells] == [("mnli", 50.0, 54.39), ("mnli_mm", 40.0, 54.47)]


def test_methods_stand_in_the_papers_order_and_decoders_say_eos(tmp_path: Path, make_run: Make) -> None:
    for method in ("mlp", "length", "glot", "mean", "cls", "glot-loops"):
        make_run("rte", "bert", method, {"validation": {"accuracy": 0.6}})
    cells = table1_cells(collect(tmp_path / "runs"))
    assert methods_of(cells) == ["cls", "mean", "glot", "glot-loops", "length", "mlp"]
    assert [cell.method for cell in cells] == methods_of(cells)
    assert [method_name("cls", kind) for kind in ("encoder", None, "decoder")] == ["CLS", "CLS", "EOS"]


def test_table1_page(tmp_path: Path, make_run: Make, make_baseline: Make) -> None:
    make_run("cola", "minilm", "glot", {"validation": {"mcc": 0.5}})
    make_run("rte", "minilm", "cls", {"validation": {"accuracy": 0.6}}, seed=0)
    make_run("rte", "minilm", "cls", {"validation": {"accuracy": 0.5}}, seed=1)
    make_baseline("rte", "minilm", "logreg-mean", {"validation": {"accuracy": 0.55}})
    paths = write_section(table1_section(table1_cells(collect(tmp_path / "runs"))), tmp_path)
    assert [path.name for path in paths] == ["table1.md", "table1.csv", "table1.png"]
    page = paths[0].read_text()
    assert "## minilm, published settings (3 epochs)" in page
    assert "The paper has no `minilm`" in page
    assert row_of(page, "method") == ["method", "CoLA (MCC)", "RTE (acc.)"]
    assert row_of(page, "CLS") == ["CLS", "–", "55.0 ± 7.1 [50.9, +4.1]"]
    assert row_of(page, "GLOT") == ["GLOT", "50.0 [47.5, +2.5]", "–"]
    assert row_of(page, "logistic regression on mean")[1:] == ["–", "55.0"]


def test_csv_holds_each_cell_once_and_leaves_gaps_empty(tmp_path: Path, make_run: Make, make_baseline: Make) -> None:
    for setting, epochs in (("published", 3), ("converged", 10)):
        make_run("rte", "bert", "glot", {"validation": {"accuracy": 0.6}}, setting=setting, epochs=epochs)
    make_baseline("rte", "bert", "logreg-mean", {"validation": {"accuracy": 0.55}})
    cells = table1_cells(collect(tmp_path / "runs"))
    found = group_cells(cells)
    titles = [group.title for group in found]
    assert titles == ["bert, published settings (3 epochs)", "bert, converged (10 epochs)"]
    assert [len(group.cells) for group in found] == [2, 2]
    assert "another setting" in comparison_note("bert", found[1].setting)
    assert "another setting" not in comparison_note("bert", found[0].setting)
    rows = list(csv.DictReader(io.StringIO(cells_csv(cells))))
    assert [(row["setting"], row["method"]) for row in rows] == [
        ("published", "glot"),
        ("yardstick", "logreg-mean"),
        ("converged", "glot"),
    ]
    assert rows[0] == {
        "model": "bert",
        "setting": "published",
        "task": "rte",
        "method": "glot",
        "metric": "accuracy",
        "seeds": "1",
        "epochs": "3",
        "mean": "60.00",
        "std": "",
        "best_published": "59.00",
        "last": "58.00",
        "paper_model": "bert",
        "paper": "59.21",
        "set_name": "validation",
        "difference": "0.79",
        "examples": "",
        "of_examples": "",
    }
    assert rows[1]["paper"] == rows[1]["difference"] == ""


def test_stress_tasks_are_told_from_others() -> None:
    assert parse_task("stress-published-0.9") == ("published", 0.9)
    assert parse_task("stress-paired-0") == ("paired", 0.0)
    assert parse_task("stress-mine-0.9") is None
    assert parse_task("cola") is None


def test_stress_page(tmp_path: Path, make_run: Make, make_baseline: Make) -> None:
    for seed, accuracy in enumerate((0.78, 0.80)):
        make_run("stress-published-0.9", "minilm", "glot", {"validation": {"accuracy": accuracy}}, seed=seed)
    make_run("stress-published-0.2", "minilm", "mean", {"validation": {"accuracy": 0.7}})
    make_run("stress-paired-0.9", "minilm", "glot", {"validation": {"accuracy": 0.66}})
    make_baseline("stress-published-0.9", "minilm", "length", {"validation": {"accuracy": 1.0}})
    make_run("rte", "minilm", "glot", {"validation": {"accuracy": 0.6}})
    paths = write_section(stress_section(stress_cells(collect(tmp_path / "runs"))), tmp_path)
    assert [path.name for path in paths] == ["stress.md", "stress.csv", "stress.png"]
    published, paired = paths[0].read_text().split("### Generator ")[1:]
    assert row_of(published, "distractors") == ["distractors", "mean", "GLOT", "length alone"]
    assert row_of(published, "20 %") == ["20 %", "70.0 [68.0, +2.0]", "–", "–"]
    assert row_of(published, "90 %") == ["90 %", "–", "79.0 ± 1.4 [98.8, −19.8]", "**100.0**"]
    assert paired.startswith("`paired`")
    assert row_of(paired, "90 %") == ["90 %", "66.0"]
    assert "**leaks**" in paths[0].read_text()
    rows = list(csv.DictReader(paths[1].open()))
    assert [(row["generator"], row["ratio"], row["method"]) for row in rows] == [
        ("paired", "0.9", "glot"),
        ("published", "0.2", "mean"),
        ("published", "0.9", "glot"),
        ("published", "0.9", "length"),
    ]


def test_only_the_published_generator_compares_with_the_paper(tmp_path: Path, make_run: Make) -> None:
    for generator in ("published", "balanced", "paired"):
        make_run(f"stress-{generator}-0.5", "smollm2-135m", "glot", {"validation": {"accuracy": 0.9}})
    cells = stress_cells(collect(tmp_path / "runs"))
    assert {cell.task: cell.paper for cell in cells} == {
        "stress-published-0.5": 93.6,
        "stress-balanced-0.5": None,
        "stress-paired-0.5": None,
    }


def test_what_rounds_to_nothing_has_no_sign() -> None:
    assert [signed(value) for value in (-0.04, 0.04, 0.0, -0.06, 12.34)] == ["0.0", "0.0", "0.0", "−0.1", "+12.3"]
