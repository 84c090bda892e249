"""The table of costs in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from glot.errors import FaultError
from glot.report.write import write_section
from glot.reproduce.costs import costs_section, find_costs
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


def test_ours_stands_beside_the_paper_s(runs: Path, tmp_path: Path) -> None:
    page = write_section(costs_section(find_costs([runs])), tmp_path)[0]
    text = page.read_text()
    assert "## minilm, mrpc (3,200 examples, batches of 32), CPU, 2 threads" in text
    # 1.98 s saved a step, 100 steps an epoch: 30 s are saved in 0.15 epochs.
    assert "| full fine-tuning | 1.00 M | 1.00 GiB | 2,000.0 ms | 600 s | 100.0 | 0.15 epochs |" in text
    assert "| GLOT over the cache | 1.00 M | 1.00 GiB | 20.0 ms | 6 s | 1.0 | – |" in text
    assert "| LoRA (r = 64) | 167.8 M | 33.50 GB | 1454 ms |" in text


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
