"""Runs that were stopped: what goes on with them ignores no option, and what uses them says what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from glot.errors import Stopped
from glot.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
from glot.fit.run_folder import load_tensors
from glot.store.reader import Cache

Glot = Callable[..., tuple]
OPTIONS = {"hidden": 4, "device": "cpu"}


def stop_in_epoch(folder: Path, epoch: int) -> None:
    reached = []
    with pytest.raises(Stopped):
        finish_runs(folder, progress=lambda now, *_: reached.append(now), should_stop=lambda: epoch in reached)


@pytest.fixture
def stopped(extracted: Path) -> Path:
    """A fit of five epochs that was stopped in its third."""
    folder = Path("runs/stopped")
    prepare_runs(make_configs(Cache(extracted), FitOptions(**OPTIONS, epochs=5)), folder)
    stop_in_epoch(folder, 3)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ["--epochs", 50],
        ["--lr", 0.1, "--epochs", 50],
        ["--pooler", "glot"],  # what the run has: one rule for all
        ["--out", "runs/other"],
        ["--device", "cpu"],
        ["--gin-batch-norm"],
        ["--seeds", "1,2"],
    ],
)
def test_resume_ignores_no_option(glot: Glot, stopped: Path, options: list) -> None:
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    code, out, err = glot("fit", "--resume", stopped, *options)
    assert (code, out) == (2, "")
    names = ", ".join(name for name in map(str, options) if name.startswith("--"))
    verb = "do" if "," in names else "does"
    assert err == (
        f"glot: {names} {verb} not go with --resume, which goes on with the run's own settings: leave it out\n"
    )
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before


def test_resume_takes_what_it_can_honour(glot: Glot, stopped: Path, extracted: Path) -> None:
    code, out, err = glot("--quiet", "fit", "--resume", stopped, "--cache", extracted, "--json")
    assert code == 0, err
    (run,) = json.loads(out)["runs"]
    assert run["select"] == "validation"


def test_resume_of_a_sweep_ignores_no_option(glot: Glot, extracted: Path) -> None:
    options = ["--tau", "0.3,0.6", "--hidden", 4, "--epochs", 1, "--out", "swept"]
    assert glot("sweep", "--cache", extracted, *options)[0] == 0
    code, _, err = glot("sweep", "--resume", "swept", "--tau", "0.1,0.9", "--epochs", 9)
    assert code == 2
    assert "--tau, --epochs do not go with --resume" in err
    assert glot("sweep", "--resume", "swept", "--cache", extracted)[0] == 0


def used_epoch(run: Path) -> int:
    return load_tensors(run / "head.safetensors")[1]["epoch"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--cache", "CACHE"],
        ["predict", "--cache", "CACHE", "--split", "test"],
        ["predict", "--input", "new.csv", "--text", "sentence", "--model", "MODEL"],
        ["encode", "--input", "new.csv", "--text", "sentence", "--output", "v.npy", "--model", "MODEL"],
        ["explain", "--cache", "CACHE", "--index", 0],
        pytest.param(["export", "head.onnx", "--to", "onnx", "--head-only"], marks=pytest.mark.slow),
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:2])),
)
def test_what_uses_a_run_that_has_not_finished_says_so(
    glot: Glot, stopped: Path, extracted: Path, table: Path, backbone_folders: dict[str, Path], arguments: list
) -> None:
    if "onnx" in arguments:
        for package in ("sentence_transformers", "onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package)
    table.with_name("test.csv").rename("new.csv")
    there = {"CACHE": extracted, "MODEL": backbone_folders["bert"]}
    command, *options = [there.get(word, word) for word in arguments]
    remark = f"{stopped} is not finished: its head is that of epoch {used_epoch(stopped)}, the best so far; "
    remark += f"`glot fit --resume {stopped}` goes on"
    code, out, err = glot(command, "--run", stopped, *options)
    assert code == 0, err
    assert remark in err.splitlines()
    assert remark not in out
    assert glot("fit", "--resume", stopped)[0] == 0
    Path("head.onnx").unlink(missing_ok=True)
    code, _, err = glot(command, "--run", stopped, *options)
    assert code == 0, err
    assert "not finished" not in err


def test_a_run_without_results_is_not_exported(glot: Glot, stopped: Path) -> None:
    for kind in ("sentence-transformers", "onnx"):
        code, _, err = glot("export", "folder", "--run", stopped, "--to", kind)
        assert code == 2
        assert err == f"glot: {stopped} is not finished: go on with `glot fit --resume {stopped}`\n"
        assert not Path("folder").exists()


def test_a_head_of_a_stopped_sweep_names_the_sweep(glot: Glot, extracted: Path) -> None:
    from glot.fit.sweep import finish_sweep, make_candidates, prepare_sweep

    options = FitOptions(**OPTIONS, epochs=5, preset="published")
    prepare_sweep(make_candidates(Cache(extracted), options, {"tau": (0.3, 0.6)}), Path("swept"))
    reached: list[int] = []
    with pytest.raises(Stopped):
        finish_sweep(Path("swept"), progress=lambda now, *_: reached.append(now), should_stop=lambda: 2 in reached)
    _, _, err = glot("evaluate", "--run", "swept/tau=0.3/seed-0", "--cache", extracted)
    assert "is that of epoch 1, the best so far; `glot sweep --resume swept` goes on" in err
