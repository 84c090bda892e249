"""Runs with random heads over the tiny backbones, ready to be exported or served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest


@pytest.fixture
def make_run(tmp_path: Path, backbone_folders: dict[str, Path]) -> Callable[..., Path]:
    """A finished run with random weights: `make(family, name="run", layer=2, template=..., task=None, **pooler)`."""
    import torch

    from glot.extract.backbone import load_backbone
    from glot.extract.options import ExtractOptions
    from glot.extract.prepare import states_identity
    from glot.extract.source import resolve_model
    from glot.fit.head_model import HeadModel
    from glot.fit.result import Epoch, FitResult
    from glot.fit.run_folder import HEAD_FILE, METRICS_FILE, RunConfig, TrainConfig, save_tensors
    from glot.nn.poolers import PoolerConfig
    from glot.store.files import write_json
    from glot.store.layout import StatesIdentity
    from glot.store.task_spec import TaskSpec

    def make(
        family: str,
        name: str = "run",
        layer: int = 2,
        template: str = "{text}",
        task: TaskSpec | None = None,
        **pooler: object,
    ) -> Path:
        backbone = load_backbone(resolve_model(str(backbone_folders[family])), device="cpu")
        identity = states_identity(backbone, ExtractOptions(max_tokens=24, layers=(1, 2), dtype="float32"))
        states = StatesIdentity(**{**asdict(identity), "layers": identity.layers, "template": template})
        position = "first" if states.kind == "encoder" else "last"
        config = RunConfig(
            cache="nowhere",
            states=states,
            layer=layer,
            data={"train": "0" * 32},
            task=task or TaskSpec("made", 1, "classes", ("no", "yes")),
            pooler=PoolerConfig(**{"hidden": 12, "token_position": position, **pooler}),
            train=TrainConfig(1e-3, 1, 8, None, 0, 0, "validation", "cpu", "dense", None),
            created_by="test",
        )
        folder = tmp_path / name
        folder.mkdir()
        config.save(folder)
        torch.manual_seed(0)
        model = HeadModel(config.pooler, config.task, states.width, "dense")
        for parameter_name, parameter in model.named_parameters():
            if ".mix." in parameter_name:  # which begins with equal weights
                torch.nn.init.normal_(parameter)
        save_tensors(folder / HEAD_FILE, model.state_dict())
        scores = {"validation": {metric: 0.75 for metric in config.task.metrics}}
        epochs = [Epoch(1, 0.5, 1.0, scores)]
        result = FitResult("validation", config.task.metrics[0], epochs, 1, scores, scores, scores, 0.2, 1234, 1.0)
        write_json(folder / METRICS_FILE, asdict(result))
        return folder

    return make
