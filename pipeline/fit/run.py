"""From options to finished runs: one run folder a seed, each trained or picked up where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from pipeline.errors import UsageError
from pipeline.fit.contrastive import ContrastiveConfig
from pipeline.fit.graph import resolve_backend
from pipeline.fit.poolers import PoolerConfig
from pipeline.fit.readout import readout_width
from pipeline.fit.result import FitResult
from pipeline.fit.run_folder import CONFIG_FILE, METRICS_FILE, RunConfig, TrainConfig, clear_run, find_runs
from pipeline.fit.states import available_memory, states_bytes
from pipeline.fit.track import open_tracker
from pipeline.fit.train import Progress, fit_head
from pipeline.fit.training_data import read_train, run_config, used_text_ids
from pipeline.store.example_set import set_name
from pipeline.store.files import holds_something, make_folder
from pipeline.store.layout import StatesIdentity
from pipeline.store.reader import Cache
from pipeline.store.task_spec import Recipe, TaskSpec

OBJECTIVES = ("labels", "contrastive")
STREAM_WINDOW = 4  # shards shuffled together where the states do not fit in memory


@dataclass(frozen=True)
class FitOptions:
    """What the user asked of a fit; None means the default of the cache's task (its `Recipe`).

    Attributes:
        pooler, gnn, jk, tau, graph, neighbours, readout, tokens, layers, hidden, gin_batch_norm: see `PoolerConfig`.
        adapool_hidden: likewise; "glot": as wide as the scorer in glot's readout would be.
        lr, epochs, batch_size, patience, select, precision, schedule, class_weights: see `TrainConfig`.
        max_steps: likewise; without `epochs` there are as many as it takes.
        seeds: one run each; a seed sets initialisation and data order.
        order_seed: fixes the data order for all seeds.
        layer: the backbone layer to train on. device: None takes a GPU where there is one.
        backend: auto, dgl or dense.
        max_memory: bytes of states to hold in memory, else they are streamed; None takes half of what is free.
        group: train on the example sets of this name, added with other labels (`glot extract --examples`).
        objective: labels or contrastive; None: what the cache is for.
        contrastive: settings for pairs without labels; None: their defaults.
    """

    pooler: str = "glot"
    gnn: str = "gat"
    jk: str = "cat"
    tau: float | None = None
    graph: str = "cosine"
    neighbours: int = 5
    readout: str = "attention"
    tokens: str = "all"
    layers: int | None = None
    hidden: int | None = None
    gin_batch_norm: bool = False
    adapool_hidden: int | Literal["glot"] | None = None
    lr: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    patience: int | None = None
    select: str = "validation"
    precision: str = "float32"
    schedule: str = "constant"
    class_weights: str = "none"
    max_steps: int | None = None
    seeds: tuple[int, ...] = (0,)
    order_seed: int | None = None
    layer: int = -1
    device: str | None = None
    backend: str = "auto"
    max_memory: int | None = None
    group: str = ""
    objective: str | None = None
    contrastive: ContrastiveConfig | None = None


def make_configs(cache: Cache, options: FitOptions) -> list[RunConfig]:
    """The config of each seed's run; raises UsageError for options out of range, or a cache that is unfit."""
    seeds = options.seeds
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise UsageError(f"--seeds must be different numbers from 0 up; got {','.join(map(str, seeds))}")
    device = check_device(options.device)
    entry = cache.examples_entry(set_name(options.group, "train"))
    recipe = entry.task.recipe
    if options.class_weights == "balanced" and entry.task.target != "classes":
        raise UsageError(f"--class-weights balanced: {entry.task.name} has no classes: leave it out")

    contrastive = _check_objective(cache, entry.task, options)
    options = _for_objective(options, contrastive)
    pooler = _pooler_config(options, recipe, cache.manifest.states)
    if contrastive is not None:
        contrastive.check_pooler(pooler)
    budget = available_memory() // 2 if options.max_memory is None else options.max_memory
    fits = states_bytes(cache, used_text_ids(cache, options.group, contrastive)) <= budget
    trains = [
        replace(
            _train_config(options, recipe, seed, entry.examples),
            device=str(device),
            backend=resolve_backend(options.backend, device),
            window=None if fits else STREAM_WINDOW,
        )
        for seed in seeds
    ]
    configs = [run_config(cache, pooler, train, options.layer, options.group, contrastive) for train in trains]
    for train in {train.order_seed: train for train in trains}.values():
        read_train(cache, set_name(options.group, "train"), train, contrastive)
    return configs


def _for_objective(options: FitOptions, contrastive: ContrastiveConfig | None) -> FitOptions:
    """On pairs a plateau is one of steps, as in the published runs: an epoch of millions of pairs is long."""
    by_steps = contrastive is not None and options.schedule == "plateau"
    return replace(options, schedule="plateau-steps") if by_steps else options


def _choose(value: float | None, default: float) -> float:
    return default if value is None else value


def _pooler_config(options: FitOptions, recipe: Recipe, states: StatesIdentity) -> PoolerConfig:
    layers, hidden = _choose(options.layers, recipe.layers), _choose(options.hidden, recipe.hidden)
    adapool_hidden = _choose(options.adapool_hidden, recipe.adapool_hidden)
    if adapool_hidden == "glot":
        adapool_hidden = readout_width(states.width + layers * hidden)
    return PoolerConfig(
        pooler=options.pooler,
        gnn=options.gnn,
        jk=options.jk,
        tau=_choose(options.tau, recipe.tau),
        graph=options.graph,
        neighbours=options.neighbours,
        readout=options.readout,
        tokens=options.tokens,
        layers=layers,
        hidden=hidden,
        gin_batch_norm=options.gin_batch_norm,
        adapool_hidden=adapool_hidden,
        token_position="first" if states.kind == "encoder" else "last",
    )


def _train_config(options: FitOptions, recipe: Recipe, seed: int, examples: int) -> TrainConfig:
    """The settings of a fit on so many examples, but for where and how it computes."""
    batch_size, epochs = _choose(options.batch_size, recipe.batch_size), _choose(options.epochs, recipe.epochs)
    if options.max_steps is not None and options.epochs is None:
        count = max(1, examples - (max(1, examples // 10) if options.select == "holdout" else 0))
        epochs = max(1, -(-options.max_steps // -(-count // max(1, batch_size))))
    return TrainConfig(
        lr=_choose(options.lr, recipe.lr),
        epochs=epochs,
        batch_size=batch_size,
        patience=options.patience,
        init_seed=seed,
        order_seed=_choose(options.order_seed, seed),
        select=options.select,
        device="",
        backend="",
        window=None,
        precision=options.precision,
        schedule=options.schedule,
        max_steps=options.max_steps,
        class_weights=options.class_weights,
    )


def setting_difference(config: RunConfig, options: FitOptions, examples: int | None) -> str | None:
    """The first setting in which a run differs from what one seed's options ask for, as "name old, now new".

    None where there is none. Where and how it computes does not count, but for a backend that was asked for; nor does
    what is not known without the number of training `examples`.
    """
    recipe, states, train = config.task.recipe, config.states, config.train
    options = _for_objective(options, config.contrastive)
    layer = options.layer if options.layer >= 0 else states.num_layers + 1 + options.layer
    asked = asdict(_pooler_config(options, recipe, states))
    asked |= asdict(_train_config(options, recipe, options.seeds[0], examples or 1)) | {"layer": layer}
    asked |= {"device": train.device, "window": train.window}
    asked["backend"] = train.backend if options.backend == "auto" else options.backend
    if examples is None and options.max_steps is not None and options.epochs is None:
        asked["epochs"] = train.epochs
    made = {**asdict(config.pooler), **asdict(train), "layer": config.layer}
    return next((f"{name} {made[name]}, now {asked[name]}" for name in made if made[name] != asked[name]), None)


def _check_objective(cache: Cache, task: TaskSpec, options: FitOptions) -> ContrastiveConfig | None:
    """The settings for pairs without labels, None for labels; raises UsageError where the cache holds the other."""
    if options.objective not in (None, *OBJECTIVES):
        raise UsageError(f"--objective must be one of {', '.join(OBJECTIVES)}; got {options.objective!r}")
    if task.target == "contrastive":
        if options.objective == "labels":
            raise UsageError(f"{cache.folder} holds pairs without labels: train on them with --objective contrastive")
        return options.contrastive or ContrastiveConfig()
    if options.objective == "contrastive" or options.contrastive is not None:
        raise UsageError(
            f"{cache.folder} holds labelled examples: --objective contrastive and its settings "
            "need a cache of pairs, made by `glot extract --pairs`"
        )
    return None


def check_device(device: str | None) -> torch.device:
    """The device to train on; None takes a GPU where there is one. Raises UsageError for one that is not there."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"--device {name} is not there: this machine has cpu{_gpus()}") from None
    return chosen


def _gpus() -> str:
    return "".join(f", cuda:{number}" for number in range(torch.cuda.device_count()))


def prepare_runs(configs: list[RunConfig], folder: Path) -> None:
    """Make the run folders: `folder` itself for one seed, `folder/seed-<s>` for several, each with its config."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: choose another place with --out")
    if folder.exists() and holds_something(folder):
        raise UsageError(f"{folder} is not empty: choose another with --out, or go on with --resume {folder}")
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
    if cache is None and not Path(config.cache).exists():
        raise UsageError(f"{run} was trained on {config.cache}, which is not there: name its cache with --cache")
    opened = cache or Cache(config.cache)
    config.check_cache(opened)
    for name, fingerprint in config.data.items():
        if opened.examples_entry(name).fingerprint != fingerprint:
            raise UsageError(
                f"{opened.folder} holds other {name} examples than {run / CONFIG_FILE} began with: fit anew"
            )
    return opened
