"""`glot fit --seeds ... --ensemble`: the mean of the seeds' heads, as a folder that gives labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from glot.report.results import collect_own

Glot = Callable[..., tuple[int, str, str]]
QUICK = ("--epochs", 1, "--hidden", 4, "--device", "cpu")


def probabilities(glot: Glot, run: Path, table: Path) -> np.ndarray:
    """(n,) of the class animal, as `glot predict` says it."""
    code, out, err = glot("predict", "--run", run, "--input", table, "--text", "sentence")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    return np.asarray([row["probability"] if row["label"] == "animal" else 1 - row["probability"] for row in rows])


def test_it_is_the_mean_of_the_seeds(glot: Glot, extracted: Path, table: Path) -> None:
    code, out, err = glot("fit", "--cache", extracted, "--seeds", "0,1", *QUICK, "--ensemble", "--out", "runs")
    assert code == 0, err
    made = Path("runs/ensemble")
    assert "\nensemble: validation (40 examples): accuracy " in out
    assert "the ensemble, the mean of 2 heads, gives labels and scores as a run does: `glot evaluate --run " in out
    for seed in (0, 1):
        head = "head.safetensors"
        assert (made / str(seed + 1) / head).read_bytes() == Path("runs", f"seed-{seed}", head).read_bytes()
    new = table.with_name("dev.csv")
    mean = np.mean([probabilities(glot, Path("runs", f"seed-{seed}"), new) for seed in (0, 1)], axis=0)
    np.testing.assert_allclose(probabilities(glot, made, new), mean, atol=2e-6)
    assert len(collect_own([Path("runs")])[0]) == 2  # copies are no results of their own


def test_runs_that_are_there_become_one(glot: Glot, extracted: Path) -> None:
    code, _, err = glot("fit", "--cache", extracted, "--seeds", "0,1", *QUICK, "--no-yardsticks", "--out", "runs")
    assert code == 0, err
    assert not Path("runs/ensemble").exists()
    code, out, err = glot("fit", "--resume", "runs", "--ensemble", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["ensemble"]["folder"] == "runs/ensemble"
    scored = np.load("runs/ensemble/predictions-validation.npy") == np.load("runs/ensemble/labels-validation.npy")
    first = found["ensemble"]["judgements"][0]
    assert (first["metric"], first["score"]["value"]) == ("accuracy", scored.mean())


def test_one_seed_is_refused(glot: Glot, extracted: Path) -> None:
    code, _, err = glot("fit", "--cache", extracted, "--ensemble", "--out", "runs")
    assert (code, err) == (2, "glot: --ensemble averages the heads of several seeds: pass --seeds 0..4 beside it\n")
    assert not Path("runs").exists()
