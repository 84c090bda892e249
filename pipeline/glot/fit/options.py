"""What a user may ask of a fit or a sweep, and the configs that it comes to, without torch.

So that wrong use is told before torch is loaded. What a config says of the machine (device, backend, whether the states
fit into memory) is filled in by `make_configs`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from glot.errors import UsageError
from glot.fit.run_folder import RunConfig, TrainConfig
from glot.nn.config import ContrastiveConfig, PoolerConfig, readout_width
from glot.store.example_set import group_of, set_name, split_of
from glot.store.layout import StatesIdentity
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec
from glot.tasks import head_defaults
from glot.version import __version__

OBJECTIVES = ("labels", "contrastive")
BACKENDS = ("auto", "dgl", "dense")
# The settings of a token graph and its layers, by the poolers that use them.
USED_BY = {name: ("glot",) for name in ("gnn", "jk", "tau", "graph", "readout")}
USED_BY |= {"layers": ("glot", "mlp"), "hidden": ("glot", "mlp")}


@dataclass(frozen=True)
class Recipe:
    """The general defaults of the settings that a task may have defaults of its own for (`head_defaults`)."""

    layers: int = 2
    hidden: int = 256
    tau: float = 0.6
    lr: float = 2e-4
    epochs: int = 3
    batch_size: int = 32
    adapool_hidden: int = 128


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
        layer: the backbone layer to train on; None: the last that the cache keeps.
        device: None takes a GPU where there is one.
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
    layer: int | None = None
    device: str | None = None
    backend: str = "auto"
    max_memory: int | None = None
    group: str = ""
    objective: str | None = None
    contrastive: ContrastiveConfig | None = None


def draft_configs(cache: Cache, options: FitOptions) -> list[RunConfig]:
    """The config of each seed's run, but for what depends on the machine.

    Device and backend are as they were asked for ("" and "auto" where they were not), and states are in memory.

    Raises UsageError for options out of range, or a cache that is unfit.
    """
    seeds = options.seeds
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise UsageError(f"--seeds must be different numbers from 0 up; got {','.join(map(str, seeds))}")
    if options.backend not in BACKENDS:
        raise UsageError(f"--backend must be one of {', '.join(BACKENDS)}; got {options.backend!r}")
    entry = cache.examples_entry(set_name(options.group, "train"))
    recipe = Recipe(**head_defaults(entry.task))
    if options.class_weights == "balanced" and entry.task.target != "classes":
        raise UsageError(f"--class-weights balanced: {entry.task.name} has no classes: leave it out")

    contrastive = _check_objective(cache, entry.task, options)
    options = _for_objective(options, contrastive)
    pooler = _pooler_config(options, recipe, cache.manifest.states)
    if contrastive is not None:
        contrastive.check_pooler(pooler)
    trains = [_train_config(options, recipe, seed, entry.examples) for seed in seeds]
    return [run_config(cache, pooler, train, options.layer, options.group, contrastive) for train in trains]


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
    """The settings of a fit on so many examples; device and backend as they were asked for."""
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
        device=options.device or "",
        backend=options.backend,
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
    recipe, states, train = Recipe(**head_defaults(config.task)), config.states, config.train
    options = _for_objective(options, config.contrastive)
    layer = options.layer
    if layer is None:
        layer = config.layer
    elif layer < 0:
        layer += states.num_layers + 1
    asked = asdict(_pooler_config(options, recipe, states))
    asked |= asdict(_train_config(options, recipe, options.seeds[0], examples or 1)) | {"layer": layer}
    asked |= {"device": train.device, "window": train.window}
    asked["backend"] = train.backend if options.backend == "auto" else options.backend
    if examples is None and options.max_steps is not None and options.epochs is None:
        asked["epochs"] = train.epochs
    made = {**asdict(config.pooler), **asdict(train), "layer": config.layer}
    return next((f"{name} {made[name]}, now {asked[name]}" for name in made if made[name] != asked[name]), None)


def grid_options(options: FitOptions, grid: dict[str, tuple[Any, ...]]) -> Iterator[tuple[str, FitOptions]]:
    """The folder and the options of every combination; a pooler that does not use a setting comes up once or more.

    Args:
        grid: the name of a field of `FitOptions` -> its values.
    """
    for values in itertools.product(*grid.values()):
        given = dict(zip(grid, values, strict=True))
        pooler = given.get("pooler", options.pooler)
        given = {name: value for name, value in given.items() if pooler in USED_BY.get(name, (pooler,))}
        if given.get("graph", options.graph) in ("chain", "knn"):
            given.pop("tau", None)
        varied = {name: value for name, value in given.items() if len(grid[name]) > 1}
        yield ",".join(f"{name}={value}" for name, value in varied.items()) or "default", replace(options, **given)


def check_comparable(cache: Cache, options: FitOptions) -> None:
    """Raise UsageError where the heads of a sweep would have no scores to be compared by."""
    if options.select == "last" and not validation_names(cache, options.group):
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
