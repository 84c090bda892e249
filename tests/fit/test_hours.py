"""Heads that train side by side share the seconds: what a report adds up is what was spent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from glot.fit.run import FitOptions
from glot.fit.sweep import finish_sweep, make_candidates, prepare_sweep
from glot.report.results import collect_own
from glot.store.files import read_json, write_json
from glot.store.reader import Cache

Make = Callable[..., Path]


def test_hours_of_a_sweep_are_counted_once(make_fit_cache: Make, tmp_path: Path) -> None:
    cache = Cache(make_fit_cache())
    options = FitOptions(device="cpu", epochs=8, patience=1, backend="dense")
    prepare_sweep(make_candidates(cache, options, {"tau": (0.1, 0.3, 0.6), "lr": (1e-2, 1e-4)}), tmp_path / "sweep")
    finish_sweep(tmp_path / "sweep")
    metrics = [read_json(path) for path in (tmp_path / "sweep").glob("*/seed-0/metrics.json")]
    assert {found["heads"] for found in metrics} == {6}
    spent: dict[int, float] = {}  # by epoch: all heads that are still at work have its seconds
    for found in metrics:
        spent |= {epoch["epoch"]: epoch["seconds"] for epoch in found["epochs"]}
    results, _ = collect_own([tmp_path / "sweep"])
    assert sum(result.seconds for result in results) == pytest.approx(sum(spent.values()))
    for found, path in zip(metrics, (tmp_path / "sweep").glob("*/seed-0/metrics.json"), strict=True):
        del found["own_seconds"]  # as it was recorded before
        for epoch in found["epochs"]:
            del epoch["heads"]
        write_json(path, found)
    results, _ = collect_own([tmp_path / "sweep"])
    assert sum(result.seconds for result in results) == pytest.approx(sum(found["seconds"] for found in metrics) / 6)
