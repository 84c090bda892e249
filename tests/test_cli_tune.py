"""`glot tune` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("optuna", reason="optuna is not installed (extra: tune)")

from glot.fit import study, tune
from glot.store.reader import Cache


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (study, tune):
        monkeypatch.setattr(module, "EPOCHS", 1)
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
    assert "validation (40 examples): accuracy" in out
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
