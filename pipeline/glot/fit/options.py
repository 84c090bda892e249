"""The configs that what a user asked of a fit or a sweep comes to, without torch.

So that wrong use is told before torch is loaded. What a config says of the machine (device, backend, whether the states
fit into memory) is filled in by `make_configs`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from glot.errors import UsageError
from glot.fit.config import Asked, FitOptions, TrainConfig, all_settings, is_used
from glot.fit.presets import PACE, preset_of, with_preset
from glot.fit.run_folder import RunConfig
from glot.nn.config import ContrastiveConfig, PoolerConfig, readout_width
from glot.nn.settings import declared
from glot.products import asked_way
from glot.registry.tasks import head_defaults
from glot.store.example_set import group_of, set_name, split_of
from glot.store.layout import StatesIdentity
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec
from glot.version import __version__


def draft_configs(cache: Cache, options: FitOptions) -> list[RunConfig]:
    """The config of each seed's run, but for what depends on the machine.

    Device and backend are as they were asked for ("" and "auto" where they were not), and states are in memory.

    Raises UsageError for options out of range, or a cache that is unfit.
    """
    asked_way()  # now, and not when the run's folder is there
    entry = cache.examples_entry(set_name(options["group"], "train"))
    options = with_preset(options, entry.task, cache.manifest.states, entry.examples)
    asked = Asked(**options.values(Asked, {}))
    if options["class_weights"] == "balanced" and entry.task.target not in ("classes", "labels"):
        raise UsageError(f"--class-weights balanced: {entry.task.name} has no classes: leave it out")
    contrastive = _check_objective(cache, entry.task, options)
    pooler = _pooler_config(options, entry.task, cache.manifest.states)
    if asked.mix:
        _check_mix(cache, asked)
    if contrastive is not None:
        contrastive.check_pooler(pooler)
    trains = [_train_config(options, entry.task, seed, entry.examples) for seed in asked.seeds]
    if contrastive is not None and trains[0].dropout:
        raise UsageError("--dropout needs labels, and these pairs have none: leave it out")
    if trains[0].start == "regression":
        _check_start(pooler, contrastive)
    return [run_config(cache, pooler, train, asked.backbone_layer, asked.group, contrastive) for train in trains]


def _check_mix(cache: Cache, asked: Asked) -> None:
    """Refuse to mix one layer, or all and one of them; raises UsageError."""
    if asked.backbone_layer is not None:
        raise UsageError("--mix takes all layers of the cache, --backbone-layer one: pass one of them")
    if len(cache.manifest.states.layers) < 2:
        raise UsageError(
            f"--mix: {cache.folder} keeps layer {cache.manifest.states.layers[0]} alone; extract several, "
            "as in `glot extract --layers all`, or a list of them"
        )


def _check_start(pooler: PoolerConfig, contrastive: ContrastiveConfig | None) -> None:
    """Refuse to begin at a regression where there is none; raises UsageError."""
    if contrastive is not None:
        raise UsageError("--start regression needs labels, and these pairs have none: leave it out")
    if not pooler.entry.may_start_at_regression(pooler):
        raise UsageError(
            f"--start regression: vectors of {pooler.pooler} with these settings do not hold the mean of the states; "
            "choose --pooler glot with --jk cat, adapool or mean"
        )


def _by_task(task: TaskSpec) -> dict[str, Any]:
    """The task's own defaults; raises UsageError for a name that is no setting: its entry is wrong."""
    return dict(FitOptions(**head_defaults(task)).given)


def _pooler_config(options: FitOptions, task: TaskSpec, states: StatesIdentity) -> PoolerConfig:
    values = options.values(PoolerConfig, _by_task(task))
    if values["adapool_hidden"] == "glot":
        values["adapool_hidden"] = readout_width(states.width + values["gnn_layers"] * values["hidden"])
    mixed = len(states.layers) if options["mix"] else 0
    return PoolerConfig(**values, token_position=states.token_position, mixed_layers=mixed)


def _train_config(options: FitOptions, task: TaskSpec, seed: int, examples: int) -> TrainConfig:
    """The settings of a fit on so many examples; device and backend as they were asked for."""
    values = options.values(TrainConfig, _by_task(task))
    if options["max_steps"] is not None and "epochs" not in options.given:
        count = max(1, examples - (max(1, examples // 10) if options["select"] == "holdout" else 0))
        values["epochs"] = max(1, -(-options["max_steps"] // -(-count // max(1, values["batch_size"]))))
    if task.target == "contrastive" and values["schedule"] == "plateau":
        values["schedule"] = "plateau-steps"  # as in the published runs: an epoch of millions of pairs is long
    values["order_seed"] = options.given.get("order_seed", seed)
    return TrainConfig(**values, init_seed=seed)


def setting_difference(config: RunConfig, options: FitOptions) -> str | None:
    """The first setting in which a run differs from what one seed's options ask for, as "name old, now new".

    None where there is none. Where and how it computes does not count, but for a backend that was asked for; nor does
    what the number of training examples decides, which is not known here.
    """
    states, train, layer = config.states, config.train, options["backbone_layer"]
    given = options.given
    options = with_preset(options, config.task, states, 1)
    if layer is None:
        layer = config.layer
    elif layer < 0:
        layer += states.num_layers + 1
    asked = asdict(_pooler_config(options, config.task, states))
    asked |= asdict(_train_config(options, config.task, options["seeds"][0], 1)) | {"layer": layer}
    asked |= {"device": train.device, "window": train.window}
    for name in ("backend", "precision"):
        asked[name] = getattr(train, name) if options[name] == "auto" else options[name]
    if options["max_steps"] is not None and "epochs" not in options.given:
        asked["epochs"] = train.epochs
    if preset_of(options, config.task) != "published":
        asked |= {name: getattr(train, name) for name in PACE if name not in given}
    made = {**asdict(config.pooler), **asdict(train), "layer": config.layer}
    return next((f"{name} {made[name]}, now {asked[name]}" for name in made if made[name] != asked[name]), None)


def grid_options(options: FitOptions, grid: dict[str, tuple[Any, ...]]) -> Iterator[tuple[str, FitOptions]]:
    """The folder and the options of every combination; a pooler that does not use a setting comes up once or more.

    Args:
        grid: the name of a setting -> its values.
    """
    settings = all_settings()
    for values in itertools.product(*grid.values()):
        given = dict(zip(grid, values, strict=True))
        made = options.but(**given)
        given = {name: value for name, value in given.items() if is_used(name, made)}
        varied = {name: value for name, value in given.items() if len(grid[name]) > 1}
        yield (
            ",".join(f"{settings[name].key}={value}" for name, value in varied.items()) or "default",
            options.but(**given),
        )


def check_comparable(cache: Cache, options: FitOptions) -> None:
    """Raise UsageError where the heads of a sweep would have no scores to be compared by."""
    if options["select"] == "last" and not validation_names(cache, options["group"]):
        raise UsageError(
            f"{cache.folder} has no labelled validation examples to compare heads on: pass --select holdout"
        )


def run_config(
    cache: Cache,
    pooler: PoolerConfig,
    train: TrainConfig,
    layer: int | None = None,
    group: str = "",
    contrastive: ContrastiveConfig | None = None,
) -> RunConfig:
    """The `RunConfig` of a fit on a cache's example sets; raises UsageError where the cache cannot be trained on.

    `layer` is one that the cache keeps, None the last of them; `group` names sets that were added with other labels
    (`glot extract --examples`); `contrastive` is for pairs that have none.
    """
    entries = cache.manifest.examples
    training = set_name(group, "train")
    if training not in entries or not entries[training].is_trainable:
        raise UsageError(
            f"{cache.folder} has no labelled examples {training!r} (it has {', '.join(entries)}): "
            "extract them with --split train"
        )
    names = [training, *validation_names(cache, group)]
    if len(names) == 1 and train.select == "validation":
        raise UsageError(
            f"{cache.folder} has no labelled validation examples: extract some, or pass --select holdout or last"
        )
    return RunConfig(
        cache=str(cache.folder),
        states=cache.manifest.states,
        layer=cache.resolve_layer(layer),
        data={name: entries[name].fingerprint for name in names},
        task=entries[training].task,
        pooler=pooler,
        train=train,
        created_by=f"glot {__version__}",
        contrastive=contrastive,
    )


def validation_names(cache: Cache, group: str = "") -> list[str]:
    """The cache's validation sets that have labels, or need none; the first is the one that chooses the best epoch."""
    entries = cache.manifest.examples.items()
    return sorted(
        name
        for name, entry in entries
        if group_of(name) == group and split_of(name).startswith("validation") and entry.is_trainable
    )


def _check_objective(cache: Cache, task: TaskSpec, options: FitOptions) -> ContrastiveConfig | None:
    """The settings for pairs without labels, None for labels; raises UsageError where the cache holds the other."""
    if task.target == "contrastive":
        if options["objective"] == "labels":
            raise UsageError(f"{cache.folder} holds pairs without labels: train on them with --objective contrastive")
        return ContrastiveConfig(**options.values(ContrastiveConfig, {}))
    if options["objective"] == "contrastive" or any(name in options.given for name in declared(ContrastiveConfig)):
        raise UsageError(
            f"{cache.folder} holds labelled examples: --objective contrastive and its settings "
            "need a cache of pairs, made by `glot extract --pairs`"
        )
    return None
