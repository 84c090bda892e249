"""The table of costs in the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from glot.errors import FaultError
from glot.report.write import write_section
from glot.reproduce.costs import SCORES, costs_section, find_costs
from glot.reproduce.published import read_table
from glot.store.files import write_json

WAYS = (
    ("full fine-tuning", 2.0, 0.0),
    ("frozen backbone in every step", 0.5, 0.0),
    ("GLOT over the cache", 0.02, 30.0),
)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    costs = [
        {"name": name, "parameters": 10**6, "bytes": 2**30, "step": step, "before": before, "training": 300 * step}
        for name, step, before in WAYS
    ]
    folder = tmp_path / "runs/mrpc-minilm/cost"
    folder.mkdir(parents=True)
    record = {"model": "minilm", "task": "mrpc", "device": "CPU", "threads": 2, "examples": 3200, "batch_size": 32}
    write_json(folder / "cost.json", {**record, "epochs": 3, "costs": costs, "version": 1})
    return tmp_path / "runs"


FRONTIER = """\
task,model,method,metric,percent,half_interval,samples,parameters,processor_seconds
mrpc,minilm,full,accuracy,80.1,,1,5,1600
mrpc,minilm,full,F1,86.2,,1,5,1600
mrpc,minilm,published,accuracy,70.0,1.3,5,5,140
mrpc,minilm,published,F1,81.6,1.2,5,5,140
mrpc,minilm,strong,accuracy,80.0,1.8,5,5,240
mrpc,minilm,strong,F1,86.3,1.0,5,5,240
cola,minilm,full,Matthews correlation,40.0,,1,5,900
"""


@pytest.fixture(autouse=True)
def frontier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that were measured elsewhere; the real ones are measured anew now and then."""
    monkeypatch.setattr("glot.reproduce.costs.read_table", lambda path: list(csv.DictReader(FRONTIER.splitlines())))


def test_ours_stands_beside_the_paper_s(runs: Path, tmp_path: Path) -> None:
    page = write_section(costs_section(find_costs([runs])), tmp_path)[0]
    text = page.read_text()
    assert "## minilm, mrpc (3,200 examples, batches of 32), CPU, 2 threads" in text
    # 1.98 s saved a step, 100 steps an epoch: 30 s are saved in 0.15 epochs.
    assert (
        "| full fine-tuning | 1.00 M | 1.00 GiB | 2,000.0 ms | 600 s | 100.0 | 0.15 epochs | 80.1 (1) / 86.2 (1) |"
        in text
    )
    assert "| GLOT over the cache | 1.00 M | 1.00 GiB | 20.0 ms | 6 s | 1.0 | – | 70.0 (5) / 81.6 (5) |" in text
    assert "step over GLOT's | pays after | accuracy / F1 |" in text
    assert "With `--preset strong` GLOT's scores are 80.0 (5) / 86.3 (5)." in text
    assert "| LoRA (r = 64) | 167.8 M | 33.50 GB | 1454 ms |" in text


def test_what_was_not_scored_has_no_score(runs: Path, tmp_path: Path) -> None:
    path = runs / "mrpc-minilm/cost/cost.json"
    write_json(path, {**json.loads(path.read_text()), "task": "sst2"})
    text = write_section(costs_section(find_costs([runs])), tmp_path)[0].read_text()
    assert "| 2,000.0 ms | 600 s | 100.0 | 0.15 epochs | – |" in text
    assert "strong" not in text


def test_the_scores_of_the_package() -> None:
    rows = {(row["task"], row["model"], row["method"]) for row in read_table(SCORES)}
    assert {("mrpc", "minilm", method) for method in ("published", "strong")} <= rows


def test_costs_have_a_picture(runs: Path, tmp_path: Path) -> None:
    _, picture = write_section(costs_section(find_costs([runs])), tmp_path)
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_nothing_measured_nothing_written(tmp_path: Path) -> None:
    assert write_section(costs_section(find_costs([tmp_path])), tmp_path) == []


def test_a_damaged_measurement_is_named(runs: Path) -> None:
    path = runs / "mrpc-minilm/cost/cost.json"
    write_json(path, {"model": "minilm"})
    with pytest.raises(FaultError, match=r"cost\.json is damaged"):
        find_costs([runs])
