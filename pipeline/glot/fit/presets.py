"""Presets: several settings of stage two under one name. What is said of a single setting overrides them."""

from __future__ import annotations

import math
from typing import Any

from glot.errors import UsageError
from glot.fit.config import FitOptions
from glot.nn.config import PoolerConfig
from glot.registry.tasks import is_known, is_symmetric
from glot.store.layout import StatesIdentity
from glot.store.task_spec import TaskSpec

VERY_FEW = 400  # examples, below which three epochs are too few steps to learn anything
FEW = 2000  # examples, below which a head that trains as fast and as long as with many forgets what it began with
PACE = ("lr", "schedule", "epochs", "averaging")  # the settings that the number of examples decides
FEW_PACE, MANY_PACE = {"lr": 2e-4, "epochs": 3}, {"lr": 1e-3, "epochs": 6}
MEAN_PACE = {**MANY_PACE, "averaging": "polynomial"}  # for classes; scores have not gained by it
UNWATCHED_EPOCHS, UNWATCHED_MEAN_EPOCHS = 3, 4  # of many, where the last epoch is kept, whatever it scores


def select_of(task: TaskSpec, examples: int) -> str:
    """What chooses the epoch of a head on own data: nothing, for the last is kept and all examples are trained on.

    Of many examples with scores, which train without the mean of the weights, a tenth that is kept aside does.
    """
    return "holdout" if task.target == "score" and examples >= FEW else "last"


def preset_of(options: FitOptions, task: TaskSpec) -> str:
    """The preset in force: the one asked for, or of "auto" the one that suits the task."""
    if options["preset"] != "auto":
        return str(options["preset"])
    return "published" if task.target == "contrastive" or is_known(task) else "strong"


def with_preset(options: FitOptions, task: TaskSpec, states: StatesIdentity, examples: int) -> FitOptions:
    """The options with what their preset adds for so many examples of a task, and the layers of their states.

    "published" adds nothing. "strong" begins where a regression ends, at the pace that the number of examples allows,
    over a mix of all layers that the cache keeps, in bfloat16 where there are units for it; for pairs with classes with
    all features, symmetric ones where the task knows no first and second text.

    Raises UsageError for pairs without labels, which a regression cannot begin with.
    """
    if preset_of(options, task) == "published":
        return options
    if task.target == "contrastive":
        raise UsageError("--preset strong begins at a regression on labels, and these pairs have none: leave it out")
    added: dict[str, Any] = {"precision": "auto", **_pace(options, task, examples)}
    if len(states.layers) > 1 and options["backbone_layer"] is None:
        added["mix"] = True
    mixes = options.given.get("mix", "mix" in added)
    pooler = PoolerConfig(
        **options.values(PoolerConfig, {"adapool_hidden": 1}), mixed_layers=len(states.layers) if mixes else 0
    )
    if pooler.entry.may_start_at_regression(pooler):
        added["start"] = "regression"
    if task.num_texts == 2 and task.target != "score":
        added["pair_features"] = "symmetric" if is_symmetric(task) else "full"
    if options["max_steps"] is not None:
        del added["epochs"]  # as many as they take
    return FitOptions(**{**added, **options.given})


def _pace(options: FitOptions, task: TaskSpec, examples: int) -> dict[str, Any]:
    """How fast and how long "strong" trains on so many examples: of very few 2 √examples steps, the rate falling to 0.

    Found on samples of SST-2, CoLA and MRPC (`minilm`): docs/frontier.md.
    """
    if examples >= FEW:
        pace = dict(MANY_PACE if task.target == "score" else MEAN_PACE)
        if options["select"] == "last":
            pace["epochs"] = UNWATCHED_MEAN_EPOCHS if "averaging" in pace else UNWATCHED_EPOCHS
    elif examples >= VERY_FEW:
        pace = dict(FEW_PACE)
    else:
        epochs = max(1, round(2 * math.sqrt(examples) / math.ceil(examples / options["batch_size"])))
        pace = {"lr": MANY_PACE["lr"], "schedule": "linear", "epochs": epochs}
    if task.num_texts == 2 and task.target == "score":
        pace["lr"] = FEW_PACE["lr"]  # the map under a cosine has D² weights that nothing but training sets
    return pace
