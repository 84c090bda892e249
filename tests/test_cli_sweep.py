"""`glot sweep` and `glot bench cost` as a user meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def test_a_sweep_ends_with_a_table_and_can_be_looked_at_again(glot: Callable[..., tuple], extracted: Path) -> None:
    words = ["--tau", "0.3,0.6", "--layers", "0,1", "--seeds", "0..1", "--epochs", 1, "--hidden", 4, "--out", "swept"]
    code, out, err = glot("sweep", "--cache", extracted, *words)
    assert code == 0, err
    assert "swept: 8 heads" in out
    for heading in ("tau", "layers", "accuracy, %", "density, %"):
        assert heading in out
    assert len(Path("swept/sweep.csv").read_text().splitlines()) == 9
    assert {path.name for path in Path("swept").iterdir()} >= {"tau=0.3,layers=0", "sweep.md"}
    code, out, err = glot("evaluate", "--run", "swept/tau=0.3,layers=1", "--cache", extracted)
    assert code == 0, err
    assert out.count("accuracy") == 2  # a line a seed
    code, again, err = glot("sweep", "--resume", "swept")
    assert code == 0, err
    assert "density, %" in again


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sweep"], "pass --cache (made by `glot extract`), or --resume"),
        (["sweep", "--cache", "{cache}", "--tau", "high"], "--tau takes numbers"),
        (["sweep", "--cache", "{cache}", "--pooler", "median"], "pooler must be one of glot"),
        (["sweep", "--cache", "{cache}", "--schedule", "warm"], "--schedule must be one of constant, linear"),
        (["sweep", "--cache", "{cache}", "--devices", "cpu,cuda:77"], "--device cuda:77 is not there"),
        (["sweep", "--cache", "{cache}", "--select", "never"], "--select must be one of validation, holdout, last"),
        (["fit", "--cache", "{cache}", "--select", "last", "--patience", "2"], "looks at no score"),
        (["sweep", "--resume", "nowhere"], "holds no sweep"),
        (["fit", "--cache", "{cache}", "--precision", "float8"], "--precision must be one of float32, bfloat16"),
        (["fit", "--cache", "{cache}", "--max-steps", "0"], "--max-steps must be at least 1"),
        (["bench", "cost"], "pass --model, or --random-init"),
        (["bench", "cost", "--random-init", "gpt-7"], "knows the shapes of bert, roberta, mistral-7b"),
    ],
)
def test_wrong_use_is_one_line(glot: Callable[..., tuple], extracted: Path, words: list[str], line: str) -> None:
    code, out, err = glot(*(word.format(cache=extracted) for word in words))
    assert code == 2, out
    assert line in " ".join(err.split())
    assert len(err.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_steps_and_schedules_are_options_of_a_fit(glot: Callable[..., tuple], extracted: Path) -> None:
    options = ["--max-steps", 9, "--schedule", "cosine", "--hidden", 4, "--precision", "bfloat16", "--out", "run"]
    code, out, err = glot("fit", "--cache", extracted, *options)
    assert code == 0, err
    assert "bound by" in out
