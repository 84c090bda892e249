"""Heads in memory as run folders: what `GlotModel.save_pretrained` writes, and what goes to the Hub."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glot.fit.ensemble import Ensemble
from glot.fit.head_model import HeadModel
from glot.fit.run_folder import HEAD_FILE, METRICS_FILE, RunConfig, save_tensors
from glot.registry.backbones import BACKBONES, hub_id
from glot.store.files import atomic_folder, make_folder, write_text

CARD_FILE = "README.md"


def save_heads(folder: Path, heads: Sequence[tuple[RunConfig, HeadModel]], origins: Sequence[Path] = ()) -> None:
    """Write one head as a run, or several as an ensemble of runs; the folder appears whole or not at all.

    Args:
        origins: the folders that the heads were loaded from, whose `metrics.json` goes with them.

    Raises UsageError where the folder is there and not empty, FaultError where it cannot be written.
    """
    with atomic_folder(folder) as temporary:
        if len(heads) > 1:
            Ensemble.of([config for config, _ in heads]).save(temporary)
        for number, (config, model) in enumerate(heads):
            run = temporary if len(heads) == 1 else make_folder(temporary / str(number + 1))
            config.save(run)
            save_tensors(run / HEAD_FILE, model.state_dict())
            metrics = origins[number] / METRICS_FILE if origins else None
            if metrics is not None and metrics.is_file():
                shutil.copyfile(metrics, run / METRICS_FILE)


def without_places(config: RunConfig) -> RunConfig:
    """The same without where things lie on this machine: the cache's folder, and the backbone's where it has one."""
    states = config.states
    is_known = states.source in BACKBONES or hub_id(states.source) is not None
    states = states if is_known else replace(states, source="")
    return replace(config, cache=Path(config.cache).name, states=states)


def write_hub_card(folder: Path, config: RunConfig, repo: str) -> None:
    """Write `README.md` for a run's repository on the Hub: what it is and how it is used."""
    from huggingface_hub import ModelCardData

    source, backbone = hub_id(config.states.source), config.states.backbone
    whose = f"[{source}](https://huggingface.co/{source})" if source else f"`{backbone}`"
    data = ModelCardData(base_model=source, library_name="glot", tags=["glot", config.pooler.pooler])
    load = f'GlotModel.from_pretrained("{repo}")'
    if source is None:
        load = f'GlotModel.from_pretrained("{repo}", backbone="...")  # the model {backbone}, which is not on the Hub'
    lines = [
        f"---\n{data.to_yaml()}\n---",
        f"# {config.pooler.pooler} over {backbone}, trained on {config.task.name}",
        f"A head of GLOT over the frozen states of {whose}, which is not in here. "
        "`metrics.json` has its scores, `config.json` all settings.",
        f"```python\nfrom glot import GlotModel\n\nmodel = {load}\n```",
    ]
    write_text(folder / CARD_FILE, "\n\n".join(lines) + "\n")
