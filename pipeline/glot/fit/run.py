"""From options to finished runs: one run folder a seed, each trained or picked up where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from glot.errors import UsageError
from glot.fit.config import FitOptions
from glot.fit.options import draft_configs
from glot.fit.result import FitResult
from glot.fit.run_folder import (
    CONFIG_FILE,
    METRICS_FILE,
    RunConfig,
    check_new_folder,
    clear_run,
    find_run_cache,
    find_runs,
)
from glot.fit.states import states_bytes
from glot.fit.track import open_tracker
from glot.fit.train import Progress, fit_head
from glot.fit.training_data import read_train, used_text_ids
from glot.nn.graph import resolve_backend
from glot.process import available_memory
from glot.products import has_bfloat16
from glot.store.example_set import set_name
from glot.store.files import make_folder
from glot.store.reader import Cache

STREAM_WINDOW = 4  # shards shuffled together where the states do not fit in memory


def make_configs(cache: Cache, options: FitOptions) -> list[RunConfig]:
    """The config of each seed's run; raises UsageError for options out of range, or a cache that is unfit."""
    configs = draft_configs(cache, options)
    device = check_device(options["device"])
    backend = cast("Literal['dgl', 'dense']", resolve_backend(options["backend"], device))
    budget = options.given.get("max_memory", available_memory() // 2)
    contrastive = configs[0].contrastive
    fits = states_bytes(cache, used_text_ids(cache, options["group"], contrastive), len(configs[0].layers)) <= budget
    window = None if fits else STREAM_WINDOW
    precision = options["precision"]
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16(device) else "float32"
    found: dict[str, Any] = {"device": str(device), "backend": backend, "window": window, "precision": precision}
    trains = [replace(config.train, **found) for config in configs]
    configs = [replace(config, train=train) for config, train in zip(configs, trains, strict=True)]
    for train in {config.train.order_seed: config.train for config in configs}.values():
        read_train(cache, set_name(options["group"], "train"), train, contrastive)
    return configs


def check_device(device: str | None) -> torch.device:
    """The device to train on; None takes a GPU where there is one. Raises UsageError for one that is not there."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        gpus = "".join(f", cuda:{number}" for number in range(torch.cuda.device_count()))
        raise UsageError(f"--device {name} is not there: this machine has cpu{gpus}") from None
    return chosen


def prepare_runs(configs: list[RunConfig], folder: Path) -> None:
    """Make the run folders: `folder` itself for one seed, `folder/seed-<s>` for several, each with its config."""
    check_new_folder(folder)
    for config in configs:
        run = folder if len(configs) == 1 else folder / f"seed-{config.train.init_seed}"
        config.save(make_folder(run))


def finish_runs(
    folder: Path,
    cache: Cache | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    track: str | None = None,
) -> dict[Path, FitResult]:
    """Train every run of a folder that is not finished, each from its checkpoint, if it has one.

    Args:
        cache: the cache to train on; None opens the one that the config names.
        track: tensorboard or wandb; None shows the training nowhere.

    Raises UsageError where the cache no longer holds the examples that the run began with.
    """
    results = {}
    for run in find_runs(folder):
        config = RunConfig.load(run)
        if (run / METRICS_FILE).exists():
            clear_run(run)
            results[run] = FitResult.load(run)
            continue
        opened = open_cache(config, cache, run)
        if track is None:
            results[run] = fit_head(opened, config, run, progress, should_stop)
            continue
        with open_tracker(track, config, run) as tracker:
            both = tracker.beside(progress)
            results[run] = fit_head(opened, config, run, both, should_stop, tracker.epoch)
    return results


def open_cache(config: RunConfig, cache: Cache | None, run: Path) -> Cache:
    """The cache that a run goes on with: the one given, or the one that its config names.

    Raises UsageError where the cache no longer holds the examples that the run began with, or the device is not there.
    """
    resolve_backend(config.train.backend, check_device(config.train.device))
    opened = find_run_cache(config, cache, run)
    config.check_cache(opened)
    for name, fingerprint in config.data.items():
        if opened.examples_entry(name).fingerprint != fingerprint:
            raise UsageError(
                f"{opened.folder} holds other {name} examples than {run / CONFIG_FILE} began with: fit anew"
            )
    return opened
