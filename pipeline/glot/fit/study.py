"""What `glot tune` searches, and on which data, without torch and without Optuna: `SPACE` is the table of it."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glot.errors import UsageError
from glot.fit.config import FitOptions
from glot.fit.options import draft_configs
from glot.fit.run_folder import RunConfig
from glot.nn.config import PairFeatures
from glot.nn.settings import choices
from glot.store.files import read_versioned, write_json
from glot.store.reader import Cache

if TYPE_CHECKING:
    from optuna.trial import Trial

VERSION = 1
STUDY_FILE, JOURNAL_FILE = "study.json", "study.journal"
TRAIN = "train"  # the set that is searched on; all others are looked at when the search is over
MIX = "mix"  # as a choice of layers
PATIENCE = 3  # epochs after a candidate's best one, where that counts, before it stops
FOLDS, HOLD_OUTS = 5, 3  # parts of train, and how many of them are held out, one after the other, to score a candidate
FEWEST = 2 * FOLDS  # examples
MOST = 4000  # examples of train that a search takes, drawn at random: more would cost it candidates


@dataclass(frozen=True)
class Space:
    """The settings that a candidate may have, each a list of choices or its lowest and highest value.

    A pooler without a graph has none of what follows it, tau is of the cosine graph alone, pair features are of pairs.
    """

    pooler: tuple[str, ...] = ("glot", "adapool", "mean")
    graph: tuple[str, ...] = ("cosine", "chain", "knn")
    tau: tuple[float, float] = (0.0, 0.95)  # in steps of 0.05
    gnn_layers: tuple[int, int] = (1, 4)
    hidden: tuple[int, ...] = (64, 128, 256)
    lr: tuple[float, float] = (1e-4, 1e-2)  # by its logarithm
    dropout: tuple[float, ...] = (0.0, 0.2, 0.5)
    start: tuple[str, ...] = ("regression", "random")
    pair_features: tuple[str, ...] = choices(PairFeatures)


SPACE = Space()


def propose(trial: Trial, cache: Cache) -> dict[str, Any]:
    """Let Optuna choose a candidate's settings, by the names that `FitOptions` takes."""
    states, task = cache.manifest.states, cache.examples_entry(TRAIN).task
    layers = (*([MIX] if len(states.layers) > 1 else []), *map(str, reversed(states.layers)))
    trial.suggest_categorical("layers", layers)
    if trial.suggest_categorical("pooler", SPACE.pooler) == "glot":
        if trial.suggest_categorical("graph", SPACE.graph) == "cosine":
            trial.suggest_float("tau", *SPACE.tau, step=0.05)
        trial.suggest_int("gnn_layers", *SPACE.gnn_layers)
        own = preset_params(cache, "published")["hidden"]  # a task may have its own width
        trial.suggest_categorical("hidden", tuple(sorted({*SPACE.hidden, own})))
    trial.suggest_float("lr", *SPACE.lr, log=True)
    trial.suggest_categorical("dropout", SPACE.dropout)
    trial.suggest_categorical("start", SPACE.start)
    if task.num_texts == 2:
        trial.suggest_categorical("pair_features", SPACE.pair_features)
    return settings_of(trial.params)


def settings_of(params: dict[str, Any]) -> dict[str, Any]:
    """A candidate's settings from the parameters that Optuna keeps of it."""
    layers = params["layers"]
    chosen = {"mix": True} if layers == MIX else {"backbone_layer": int(layers)}
    return chosen | {name: value for name, value in params.items() if name != "layers"}


def preset_params(cache: Cache, preset: str, **given: Any) -> dict[str, Any]:
    """What a preset, with some settings beside it, is as Optuna's parameters."""
    return _params_of(draft_configs(cache, FitOptions(preset=preset, select="holdout", **given))[0])


def _params_of(config: RunConfig) -> dict[str, Any]:
    pooler, train = config.pooler, config.train
    layers = MIX if pooler.mixed_layers else str(config.layer)
    names = ("pooler", "graph", "tau", "gnn_layers", "hidden", "pair_features")
    found = {"layers": layers, "lr": train.lr, "dropout": train.dropout, "start": train.start}
    return found | {name: getattr(pooler, name) for name in names}


def settings_key(config: RunConfig) -> str:
    """Equal for runs that train the same head: what a pooler does not use does not count."""
    return json.dumps([config.pooler.pooler, config.pooler_settings, config.training_settings], sort_keys=True)


def describe(params: dict[str, Any]) -> str:
    """A candidate's settings in one line."""
    words = {"layers": "layers mixed" if params["layers"] == MIX else f"layer {params['layers']}"}
    for name in ("pooler", "graph", "tau", "gnn_layers", "hidden", "pair_features", "start", "dropout", "lr"):
        if name in params:
            value = params[name]
            shown = f"{value:.3g}" if isinstance(value, float) else str(value)
            words[name] = shown if name in ("pooler", "graph") else f"{name} {shown}"
    return ", ".join(words.values())


@dataclass(frozen=True)
class Standing:
    """How far a study is: `best` is the mean score of the winner so far over `hold_outs`, as a fraction.

    `candidates` are all that trained for an epoch at least, those `pruned` among them.
    """

    candidates: int
    pruned: int
    best: float
    hold_outs: int
    params: dict[str, Any]

    def line(self, metric: str, left: float) -> str:
        """It in a line, with so many seconds left."""
        return (
            f"{self.candidates} candidates ({self.pruned} pruned), {left / 60:.1f} minutes left; best {metric} "
            f"{100 * self.best:.2f} over {self.hold_outs} hold-outs: {describe(self.params)}"
        )


@dataclass(frozen=True)
class StudyFile:
    """`study.json`: what a study searches on, so that nobody goes on with it on other data.

    Attributes:
        cache: the folder it was begun on. train: the fingerprint of its training examples.
        states: the identity of its states, as JSON.
    """

    cache: str
    train: str
    states: dict[str, Any]

    @classmethod
    def of(cls, cache: Cache) -> StudyFile:
        """That of a new study."""
        states = {**asdict(cache.manifest.states), "layers": list(cache.manifest.states.layers)}
        return cls(str(cache.folder), cache.examples_entry(TRAIN).fingerprint, states)

    def save(self, folder: Path) -> None:
        """Write it atomically."""
        write_json(folder / STUDY_FILE, {"version": VERSION, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> StudyFile:
        """Read it; raises UsageError where it is missing or newer, FaultError where it is damaged."""
        path = folder / STUDY_FILE
        if not path.exists():
            raise UsageError(f"{folder} holds no study: begin one with `glot tune --cache`")
        return read_versioned(path, VERSION, lambda data: cls(data["cache"], data["train"], data["states"]))

    def check(self, folder: Path, cache: Cache) -> None:
        """Raise UsageError where a cache holds other states or training examples than the study was begun with."""
        now = StudyFile.of(cache)
        different = [name for name in ("train", "states") if getattr(now, name) != getattr(self, name)]
        if different:
            what = "training examples" if different[0] == "train" else "states"
            raise UsageError(f"{folder} is a study of other {what} than {cache.folder} holds: tune anew with --out")


def check_tunable(cache: Cache) -> None:
    """Raise UsageError where Optuna is missing, or a cache has nothing to tune on."""
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("glot tune needs Optuna: pip install 'glot-pipeline[tune]'")
    config = draft_configs(cache, FitOptions(select="holdout"))[0]
    if config.contrastive is not None:
        raise UsageError(f"{cache.folder} holds pairs without labels: glot tune needs labels to score candidates by")
    count = cache.examples_entry(TRAIN).examples
    if count < FEWEST:
        raise UsageError(f"{cache.folder} has {count} training examples: glot tune needs {FEWEST} or more")


def folds_of(labels: np.ndarray) -> np.ndarray:
    """(m,) the fold of each example, 0 to `FOLDS` - 1: each has its share of every class, or of high and low scores."""
    shuffled = np.random.default_rng(1).permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[by_label] = np.arange(len(labels)) % FOLDS
    return folds
