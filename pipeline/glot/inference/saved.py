"""Heads in memory as run folders: what `GlotModel.save_pretrained` writes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from glot.fit.ensemble import Ensemble
from glot.fit.head_model import HeadModel
from glot.fit.run_folder import HEAD_FILE, METRICS_FILE, RunConfig, save_tensors
from glot.store.files import atomic_folder, make_folder


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
