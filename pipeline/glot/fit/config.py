"""The settings of stage two, each declared once: those of training here, those of the head in `glot.nn.config`.

What `glot fit` and `glot sweep` take, what the estimator takes, what is refused, what `config.json` holds and what a
report says of the difference between runs all come from these declarations. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from glot.errors import UsageError
from glot.nn.config import ContrastiveConfig, PoolerConfig
from glot.nn.registry import EDGE_RULES, GNN_LAYERS, POOLERS
from glot.nn.settings import Declared, Setting, check_settings, declared

TRAINING, DATA, MACHINE = "Training", "Data", "Machine"  # where the help lists them


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained.

    Beside what is declared: `init_seed` sets the weights. `device` is "cpu", "cuda", ...; `window` None holds all
    states in memory, a number streams them, shuffling so many shards together.

    Raises UsageError for values out of range.
    """

    lr: Annotated[float, Setting("Adam's learning rate.", TRAINING, above=0, most=1000, by_task=True)] = 2e-4
    epochs: Annotated[int, Setting("Passes over the training examples, at most.", TRAINING, least=1, by_task=True)] = 3
    batch_size: Annotated[int, Setting("Examples a step.", TRAINING, least=1, by_task=True)] = 32
    patience: Annotated[
        int | None,
        Setting("Stop after so many epochs without a better score.", TRAINING, least=1, default="never"),
    ] = None
    init_seed: int = 0
    order_seed: Annotated[
        int,
        Setting(
            "One data order for all seeds (a sweep is faster).",
            TRAINING,
            least=0,
            default="each its own",
            lists=False,
            tells_apart=False,
        ),
    ] = 0
    select: Annotated[
        Literal["validation", "holdout", "last"],
        Setting("Keep the best epoch on validation or on holdout (a tenth of train), or the last.", TRAINING),
    ] = "validation"
    device: Annotated[
        str,
        Setting("cpu, cuda, cuda:1, ...", MACHINE, default="a GPU if there is one", lists=False, tells_apart=False),
    ] = ""
    backend: Annotated[
        Literal["auto", "dgl", "dense"],
        Setting("Passes messages: dense (plain torch), dgl, or auto: dense.", MACHINE, lists=False),
    ] = "auto"
    window: int | None = None
    precision: Annotated[
        Literal["float32", "bfloat16", "auto"],
        Setting(
            "bfloat16 is autocast, which changed no score measurably; auto takes it where this GPU or processor has "
            "units for it.",
            TRAINING,
        ),
    ] = "float32"
    start: Annotated[
        Literal["random", "regression"],
        Setting(
            "Begin at random weights, or at the regression on the mean (its strength cross-validated), which is kept "
            "where no epoch scores better.",
            TRAINING,
            by_task=True,
        ),
    ] = "random"
    schedule: Annotated[
        Literal["constant", "linear", "cosine", "plateau", "plateau-steps"],
        Setting(
            "Of the learning rate: linear and cosine end at 0; plateau halves it after 2 epochs without a better "
            "score, plateau-steps takes a tenth after 50 steps without a lower loss (on pairs plateau is this).",
            TRAINING,
            by_task=True,
        ),
    ] = "constant"
    warm_up: Annotated[
        float,
        Setting("Share of the steps in which the learning rate rises from 0.", TRAINING, least=0, most=0.9),
    ] = 0.0
    weight_decay: Annotated[
        float, Setting("What AdamW takes off every weight a step, times the learning rate.", TRAINING, least=0)
    ] = 0.0
    dropout: Annotated[
        float,
        Setting("Share of a text's vector that each step leaves out before the head.", TRAINING, least=0, most=0.9),
    ] = 0.0
    averaging: Annotated[
        Literal["none", "polynomial"],
        Setting(
            "Score and keep the weights of the last step, or polynomial: their mean over all steps, of which the last "
            "sixth counts as much as the rest.",
            TRAINING,
        ),
    ] = "none"
    max_steps: Annotated[int | None, Setting("Steps at most, over all epochs.", TRAINING, least=1, default="all")] = (
        None
    )
    class_weights: Annotated[
        Literal["none", "balanced"],
        Setting("In the loss; balanced: rare classes, or labels, count as much as frequent ones.", TRAINING),
    ] = "none"

    def __post_init__(self) -> None:
        check_settings(self)
        if self.select == "last" and (self.patience is not None or self.schedule == "plateau"):
            raise UsageError("--select last looks at no score: it does not go with --patience or --schedule plateau")
        if self.warm_up and self.schedule == "plateau-steps":
            raise UsageError("--warm-up does not go with --schedule plateau-steps, which sets the rate by the losses")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainConfig:
        """Rebuild a config from a run's JSON; raises KeyError for a name that every run records and this one lacks."""
        recorded = ("lr", "epochs", "batch_size", "patience", "init_seed", "order_seed", "select", "device", "backend")
        return cls(**{**data, **{name: data[name] for name in (*recorded, "window")}})


@dataclass(frozen=True)
class Asked:
    """What a fit is asked for that no config of a run holds under the same name."""

    seeds: Annotated[
        tuple[int, ...], Setting("One run a seed, as in 0,1,2 or 0..4.", TRAINING, lists=False, tells_apart=False)
    ] = (0,)
    backbone_layer: Annotated[
        int | None,
        Setting(
            "Which of the cache's layers; -1 is after the final norm.",
            DATA,
            default="the last that it keeps",
            key="layer",
            old_options=("--layer",),
        ),
    ] = None
    preset: Annotated[
        Literal["auto", "published", "strong"],
        Setting(
            "published: the paper's settings; strong: all layers mixed, begun at the regression, all features of "
            "pairs, 6 epochs (4 where the last is kept) at a learning rate of 0.001, the mean of the weights kept (of "
            "few examples, and of scores, less of this); auto: strong for your own labels, published for the paper's "
            "tasks and for pairs without labels. An option overrides it.",
            TRAINING,
            lists=False,
            tells_apart=False,
        ),
    ] = "auto"
    mix: Annotated[
        bool,
        Setting(
            "Mix all layers of the cache, by weights that train, instead of taking one.",
            DATA,
            lists=False,
            tells_apart=False,
        ),
    ] = False
    group: Annotated[
        str,
        Setting(
            "Train on other labels that `extract --examples NAME.csv` added: their name.",
            DATA,
            option="--examples",
            lists=False,
        ),
    ] = ""
    objective: Annotated[
        Literal["labels", "contrastive"] | None,
        Setting("contrastive: pairs without labels.", DATA, default="what the cache holds", lists=False),
    ] = None
    max_memory: Annotated[
        int | None,
        Setting(
            "GiB of states to hold in memory, else stream.",
            MACHINE,
            least=0,
            default="half of what is free",
            unit=2**30,
            lists=False,
        ),
    ] = None

    def __post_init__(self) -> None:
        check_settings(self)
        seeds = self.seeds
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
            raise UsageError(f"--seeds must be different numbers from 0 up; got {','.join(map(str, seeds))}")


def all_settings() -> dict[str, Declared]:
    """Every setting of stage two by its name, in the order in which the help has them."""
    configs = (PoolerConfig, TrainConfig, ContrastiveConfig, Asked)
    return {name: item for config in configs for name, item in declared(config).items()}


class FitOptions:
    """What the user asked of a fit: settings by their names, or by those that files have.

    None, or none given, means the default of the task.

    As `adapool_hidden` "glot" makes the scorer as wide as the one in glot's readout would be; without `epochs` there
    are as many as `max_steps` takes.

    Raises UsageError for a name that is no setting.
    """

    def __init__(self, **given: Any) -> None:
        settings = all_settings()
        names = {item.key: name for name, item in settings.items()}
        named = {names.get(name, name): value for name, value in given.items()}
        unknown = [name for name in named if name not in settings]
        if unknown:
            near = get_close_matches(unknown[0], settings, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise UsageError(f"a fit has no setting {', '.join(unknown)}{hint}")
        self.given: Mapping[str, Any] = {name: value for name, value in named.items() if value is not None}

    def __getitem__(self, name: str) -> Any:
        """What was asked for, else the general default."""
        return self.given.get(name, all_settings()[name].default)

    def but(self, **given: Any) -> FitOptions:
        """The same with other values of some settings."""
        return FitOptions(**{**self.given, **given})

    def values(self, config: type, by_task: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a config declares: what was asked for, else the task's default, else the general one."""
        return {name: self.given.get(name, by_task.get(name, item.default)) for name, item in declared(config).items()}


def is_used(name: str, options: FitOptions) -> bool:
    """Whether the pooler that was asked for, its layers and its edges use a setting; those of training all do."""
    if options["pooler"] not in POOLERS:
        return True  # which is told when its config is made
    pooler = POOLERS[options["pooler"]]
    if any(name in entry.settings for entry in POOLERS) and name not in pooler.settings:
        return False
    tables = (("gnn", GNN_LAYERS), ("graph", EDGE_RULES))
    for setting, table in tables:
        if options[setting] in table and any(name in entry.settings for entry in table):
            return name in table[options[setting]].settings
    return True


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names that have more than one value, in their order."""
    names = dict.fromkeys(name for found in settings for name in found)
    return [name for name in names if len({repr(found.get(name)) for found in settings}) > 1]
