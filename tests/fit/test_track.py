"""A fit shown as it trains: TensorBoard's own files read back, and a made-up Weights & Biases."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def fit(glot: Callable[..., tuple], extracted: Path) -> Callable[..., tuple]:
    """`fit(*more)` trains two epochs: (exit code, output, errors)."""
    options = ["--epochs", 2, "--hidden", 8, "--device", "cpu", "--out", "run"]
    return lambda *more: glot("fit", "--cache", extracted, *options, *more)


def read_events(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, object]]:
    """Each curve as (step, value), and the hyper-parameters."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    curves, parameters = {}, {}
    for path in folder.rglob("events.out.*"):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            curves[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
        for content in events.summary_metadata.values():
            data = HParamsPluginData.FromString(content.plugin_data.content)
            for name, value in data.session_start_info.hparams.items():
                parameters[name] = getattr(value, value.WhichOneof("kind"))
    return curves, parameters


@pytest.fixture
def needs_tensorboard() -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra: track)")


@pytest.mark.usefixtures("needs_tensorboard")
def test_tensorboard_files_hold_the_fit(fit: Callable[..., tuple]) -> None:
    code, _, err = fit("--track", "tensorboard")
    assert code == 0, err
    curves, parameters = read_events(Path("run/tensorboard"))
    epochs = json.loads(Path("run/metrics.json").read_text())["epochs"]
    steps = 240 // 32 + 1  # of an epoch
    assert curves["loss"][-1] == (2 * steps, pytest.approx(epochs[1]["loss"], rel=1e-5))
    assert [step for step, _ in curves["loss"]] == sorted({step for step, _ in curves["loss"]})
    assert curves["epoch_loss"] == [
        (steps, pytest.approx(epochs[0]["loss"], rel=1e-5)),
        (2 * steps, pytest.approx(epochs[1]["loss"], rel=1e-5)),
    ]
    for number, epoch in enumerate(epochs):
        for metric, value in epoch["scores"]["validation"].items():
            assert curves[f"validation/{metric}"][number] == ((number + 1) * steps, pytest.approx(value, rel=1e-5))
    assert (parameters["pooler.gnn"], parameters["pooler.hidden"], parameters["task.name"]) == ("gat", 8, "train")
    assert parameters["train.lr"] == pytest.approx(1e-3)
    assert parameters["task.classes"] == "animal, water"


@pytest.mark.usefixtures("needs_tensorboard")
def test_each_seed_is_a_run_of_its_own(fit: Callable[..., tuple]) -> None:
    code, _, err = fit("--track", "tensorboard", "--seeds", "0,1")
    assert code == 0, err
    for seed in (0, 1):
        curves, parameters = read_events(Path(f"run/seed-{seed}/tensorboard"))
        assert (parameters["train.init_seed"], len(curves["epoch_loss"])) == (seed, 2)


def test_weights_and_biases_is_told_the_same(fit: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    code, _, err = fit("--track", "wandb")
    assert code == 0, err
    assert wandb.started == {"project": "glot", "name": "run", "dir": "run"}
    assert wandb.parameters["pooler.gnn"] == "gat"
    epochs = json.loads(Path("run/metrics.json").read_text())["epochs"]
    told = [values["validation/accuracy"] for values, _ in wandb.logged if "validation/accuracy" in values]
    assert told == [epoch["scores"]["validation"]["accuracy"] for epoch in epochs]
    assert [step for _, step in wandb.logged] == sorted(step for _, step in wandb.logged)
    assert wandb.is_finished


def test_wrong_uses(glot: Callable[..., tuple], fit: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = fit("--track", "paper")
    assert (code, "--track must be one of tensorboard, wandb" in err) == (2, True)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        for name, install in (("wandb", "pip install wandb"), ("tensorboard", "pip install 'glot-pipeline[track]'")):
            code, _, err = fit("--track", name)
            assert (code, f"--track {name} needs {name}: {install}" in err) == (2, True), err
    assert not Path("run").exists()
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(refusal=RuntimeError("api_key not configured\n(no-tty)")))
    code, _, err = fit("--track", "wandb")
    assert (code, "cannot start: api_key not configured (no-tty); go on with" in err) == (2, True)
    code, _, err = glot("fit", "--resume", "run")
    assert (code, Path("run/metrics.json").exists()) == (0, True), err


class FakeWandb(ModuleType):
    """What accelerate asks of wandb."""

    def __init__(self, refusal: Exception | None = None) -> None:
        super().__init__("wandb")
        self.__spec__ = object()
        self.refusal, self.config = refusal, self
        self.logged: list[tuple[dict, int]] = []
        self.is_finished = False

    def init(self, **options: object) -> FakeWandb:
        if self.refusal:
            raise self.refusal
        self.started = options
        return self

    def update(self, values: dict, allow_val_change: bool) -> None:
        self.parameters = values

    def log(self, values: dict, step: int) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.is_finished = True
