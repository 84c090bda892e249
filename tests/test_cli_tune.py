"""`glot tune` as a user meets it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("optuna", reason="optuna is not installed (extra: tune)")

from glot.fit import study
from glot.store.reader import Cache


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glot.fit.presets._pace", lambda options, task, examples: {"lr": 1e-3, "epochs": 1})
    monkeypatch.setattr(study, "SPACE", replace(study.SPACE, hidden=(4,)))
    monkeypatch.setattr("glot.fit.regression.STRENGTHS", (0.1,))


def test_a_search_ends_with_a_run_and_what_it_is_worth(glot: Callable[..., tuple], extracted: Path) -> None:
    code, out, err = glot("tune", "--cache", extracted, "--minutes", 0, "--device", "cpu", "--out", "tuned")
    assert code == 0, err
    assert "tuned: 240 training examples; 3 hold-outs of one in 5 score a candidate" in out
    assert "4 candidates (0 pruned), 0.0 minutes left; best accuracy" in out
    assert "winner: layer 2, " in out
    for name in ("winner", "published", "adapool", "mean"):
        assert f"│ {name} " in out
    assert "expected of other examples like these: accuracy" in out
    assert "validation (40 examples): accuracy" in out
    assert re.search(r"validation is \d+\.\d (above|below) the expected \d+", out)
    assert "better than the logistic regression on the mean" in out or "clearly worse than the logistic" in out
    assert "`glot tune --resume tuned` searches on" in out
    code, out, err = glot("evaluate", "--run", "tuned/best", "--cache", extracted)
    assert code == 0, err

    code, out, err = glot("tune", "--resume", "tuned", "--minutes", 0, "--device", "cpu", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["standing"]["candidates"] == 4
    assert set(found["heads"]) == {"winner", "published", "adapool", "mean"}
    assert found["judgements"][0]["set_name"] == "validation"
    assert found["expected"]["learned"] == 192


@pytest.mark.slow
def test_an_ensemble_is_the_mean_of_the_best_heads(glot: Callable[..., tuple], extracted: Path, table: Path) -> None:
    code, _, err = glot("tune", "--cache", extracted, "--minutes", 0, "--device", "cpu", "--out", "tuned")
    assert code == 0, err
    on = ["tune", "--resume", "tuned", "--minutes", 0, "--device", "cpu"]
    code, out, err = glot(*on, "--ensemble", 9)
    assert code == 0, err
    assert "only 4 candidates with different settings were scored: the ensemble is of 4, not 9" in err
    code, out, err = glot(*on, "--ensemble", 3)
    assert code == 0, err
    assert "│ ensemble " in out
    assert "ensemble: validation (40 examples): accuracy" in out
    assert out.count("better than the logistic regression") + out.count("worse than the logistic regression") == 2
    assert "the ensemble, the mean of 3 heads, gives labels and scores as a run does: `glot evaluate --run" in out
    made = Path("tuned/ensemble")

    code, out, err = glot("evaluate", "--run", made, "--run", made / "1", "--cache", extracted)
    assert code == 0, err
    assert [line.split(" on validation")[0] for line in out.splitlines()] == [str(made), str(made / "1")]
    code, out, err = glot(*on, "--ensemble", 3, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["ensemble"]["folder"] == str(made)
    assert found["ensemble"]["judgements"][0]["score"]["value"] == found["heads"]["ensemble"]["validation"]["accuracy"]

    new = ["--input", table.with_name("dev.csv"), "--text", "sentence"]
    mean = np.mean([_probability_of_animal(glot, made / name, new) for name in "123"], axis=0)
    np.testing.assert_allclose(_probability_of_animal(glot, made, new), mean, atol=2e-6)
    code, _, err = glot("predict", "--run", made, "--cache", extracted, "--split", "test")
    assert code == 0, err
    assert len((made / "test.jsonl").read_text().splitlines()) == 10
    with open("tuned/ensemble/ensemble.json") as file:
        assert json.load(file)["members"] == ["1", "2", "3"]


def _probability_of_animal(glot: Callable[..., tuple], run: Path, texts: list) -> np.ndarray:
    """(n,) of the class animal, as `glot predict` says it."""
    code, out, err = glot("predict", "--run", run, *texts)
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    return np.asarray([row["probability"] if row["label"] == "animal" else 1 - row["probability"] for row in rows])


def test_a_stop_says_how_to_go_on(glot: Callable[..., tuple], extracted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glot.commands.tune.stop_flag", lambda: nullcontext(lambda: True))
    code, _, err = glot("tune", "--cache", extracted, "--device", "cpu", "--out", "tuned")
    assert code == 130
    assert "what was finished is kept: `glot tune --resume tuned` goes on, with `--minutes 0` it ends" in err
    code, _, err = glot("tune", "--cache", extracted, "--out", "tuned")
    assert code == 2
    assert "tuned is not empty: choose another with --out, or go on with --resume tuned" in err


def test_examples_of_one_class_leave_no_folder(glot: Callable[..., tuple], extracted: Path) -> None:
    examples = Cache(extracted).examples("train")
    alike = replace(examples, label=np.zeros_like(examples.label))
    with mock.patch.object(Cache, "examples", return_value=alike):
        code, _, err = glot("tune", "--cache", extracted, "--out", "tuned")
    assert code == 2
    assert "are all of one class: there is nothing to learn" in err
    assert not Path("tuned").exists()
