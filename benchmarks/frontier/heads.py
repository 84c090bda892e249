"""The methods that read a cache: regressions on means, and heads that the project trains."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.frontier.measure import Case, Outcome
from glot.fit.config import FitOptions
from glot.fit.head_model import pool_texts
from glot.fit.presets import select_of
from glot.fit.run import make_configs
from glot.fit.run_folder import RunConfig
from glot.fit.states import StreamedStates
from glot.fit.train import fit_head
from glot.fit.training_data import labels_of
from glot.fit.yardsticks import measure_yardsticks
from glot.inference.predictions import predict_examples
from glot.nn.config import PoolerConfig
from glot.nn.heads import features_of
from glot.nn.poolers import make_pooler
from glot.store.example_set import ExampleSet
from glot.store.reader import Cache

TRAIN, VALIDATION = "train", "validation"
OPTIONS = {
    "published": {"preset": "published"},
    "adapool": {"preset": "published", "pooler": "adapool"},
    "strong": {"preset": "strong"},
}


class Opened:
    """The case's cache: its training examples alone for whoever trains, and the validation set for later.

    Nothing of this is written.
    """

    def __init__(self, case: Case) -> None:
        self.cache = Cache(case.spec.cache)
        self.task = self.cache.examples_entry(TRAIN).task
        every, self.dev = self.cache.examples(TRAIN), self.cache.examples(VALIDATION)
        wanted = [case.every_row[row].index for row in case.rows]
        self.train = every.subset(np.flatnonzero(np.isin(every.index, wanted)))
        assert len(self.train) == len(case.rows)
        self.cache.manifest.examples.pop(VALIDATION)
        self.cache.add_examples(TRAIN, self.train, self.task)
        tokens = np.diff(self.cache.plan.token_start)[np.unique(self.train.used_ids())].sum()
        self.extraction_seconds = case.spec.cache_rate * float(tokens)

    def outcome(self, predictions: np.ndarray, parameters: int, chosen: dict) -> Outcome:
        """Of predictions for the validation set."""
        return Outcome(predictions, labels_of(self.dev), parameters, chosen, self.extraction_seconds)


def mean_features(cache: Cache, examples: ExampleSet) -> np.ndarray:
    """(m, f) float32: the means of the last layer's states of each text, of pairs `[a, b, |a - b|, a * b]`."""
    columns = examples.text_columns
    ids, index = np.unique(np.concatenate(columns), return_inverse=True)
    states = StreamedStates(cache, (cache.resolve_layer(None),), torch.device("cpu"), "all")
    vectors = pool_texts(make_pooler(PoolerConfig(pooler="mean"), states.width, "dense"), states, ids)
    return features_of("full", *(vectors[rows] for rows in torch.from_numpy(index).chunk(len(columns)))).numpy()


def logistic(case: Case) -> Outcome:
    """What anyone writes in five lines; its strength by cross-validation on the training examples."""
    warnings.simplefilter("ignore")  # a regression that has not converged is as good here
    opened = Opened(case)
    if case.task.target == "score":
        regression, strength = RidgeCV(np.logspace(-2, 6, 17)), "alpha_"
    else:
        regression, strength = LogisticRegressionCV(Cs=8, cv=4, scoring="accuracy", max_iter=300), "C_"
    pipeline = make_pipeline(StandardScaler(), regression)
    with case.meter.on("training"):
        features = mean_features(opened.cache, opened.train)
        pipeline.fit(features, labels_of(opened.train))
    with case.meter.on("scoring"):
        predictions = pipeline.predict(mean_features(opened.cache, opened.dev))
    chosen = {"strength": float(np.ravel(getattr(regression, strength))[0])}
    return opened.outcome(predictions, features.shape[1] + 1, chosen)


def logistic_best_layer(case: Case) -> Outcome:
    """The project's own yardstick: of the layer that cross-validation on the training examples likes best."""
    opened = Opened(case)
    with case.meter.on("training"):  # the scoring of a linear map over one layer's means is in it
        best = measure_yardsticks(opened.cache, opened.task, opened.train, {VALIDATION: opened.dev})[-1]
    width = (4 if case.task.num_texts == 2 else 1) * opened.cache.manifest.states.width
    chosen = {"layer": best.layer, "strength": best.strength, "rows": best.rows}
    return opened.outcome(best.predictions[VALIDATION], width + 1, chosen)


def fitted(case: Case) -> Outcome:
    """As `glot fit` trains it."""
    opened, spec = Opened(case), case.spec
    select = select_of(opened.task, len(opened.train))  # as `glot train` does
    options = FitOptions(**OPTIONS[spec.method], select=select, seeds=(spec.sample,), device=spec.device)
    run = Path(spec.scratch) / "run"
    with case.meter.on("training"):
        result = fit_head(opened.cache, make_configs(opened.cache, options)[0], run)
    chosen = {"select": select, "epoch": result.best_epoch}
    return _scored(case, opened, run, result.parameters, chosen)


def tuned(case: Case) -> Outcome:
    """As `glot tune` finds it and trains it, the heads beside it counted too."""
    from glot.fit.result import FitResult
    from glot.fit.study import StudyFile
    from glot.fit.tune import Tuner
    from glot.store.files import make_folder

    opened = Opened(case)
    folder = make_folder(Path(case.spec.scratch) / "study")
    with case.meter.on("training"):
        StudyFile.of(opened.cache).save(folder)
        tuner = Tuner(folder, opened.cache, case.spec.device)
        tuner.search(60 * case.spec.minutes)
        run = tuner.finish()
    assert run is not None  # no other process knows of the study
    standing, promise = tuner.standing(), tuner.promise()
    assert promise is not None  # the study is a new one
    chosen = {"candidates": standing.candidates, "expected": asdict(promise), "settings": standing.params}
    return _scored(case, opened, run, FitResult.load(run).parameters, chosen)


def _scored(case: Case, opened: Opened, run: Path, parameters: int, chosen: dict) -> Outcome:
    """The run's head on the validation set, which is looked at now."""
    config = RunConfig.load(run)
    opened.cache.add_examples(VALIDATION, opened.dev, opened.task)
    with case.meter.on("scoring"):
        predictions, _ = predict_examples(run, config, opened.cache, VALIDATION, "cpu", config.train.backend)
    return opened.outcome(predictions, parameters, {**chosen, "lr": config.train.lr, "epochs": config.train.epochs})
