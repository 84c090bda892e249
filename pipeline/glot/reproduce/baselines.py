"""Honest rivals and dumb baselines: plain scikit-learn models, trained to convergence, over the same cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from glot.errors import UsageError
from glot.fit.head_model import pool_texts
from glot.fit.metrics import compute_metrics
from glot.fit.result import Scores
from glot.fit.states import MemoryStates
from glot.fit.training_data import used_text_ids, validation_names
from glot.nn.config import PoolerConfig
from glot.nn.heads import features_of
from glot.nn.poolers import make_pooler
from glot.store.example_set import ExampleSet
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

STRENGTHS = [1e-3, 1e-2, 1e-1, 1.0]  # inverse regularisation, chosen by 3-fold cross-validation on train
ALPHAS = np.logspace(0, 5, 11)  # ridge's regularisation, chosen by leave-one-out on train


def vector_baseline(cache: Cache, pooler: str) -> Scores:
    """Logistic regression, or ridge for scores, on the mean or the cls vector of each text.

    A pair is described by [a, b, |a - b|, a * b]; features are standardised; the regularisation is chosen on train.
    """
    config = PoolerConfig(pooler=pooler, token_position=cache.manifest.states.token_position)
    text_ids = np.unique(used_text_ids(cache))
    states = MemoryStates(cache, (cache.resolve_layer(None),), text_ids, torch.device("cpu"))
    vectors = pool_texts(make_pooler(config, states.width, "dense"), states, text_ids)  # (texts, d)

    def features(examples: ExampleSet) -> np.ndarray:
        rows = [np.searchsorted(text_ids, ids) for ids in examples.text_columns]
        return features_of("full", *(vectors[torch.from_numpy(some)] for some in rows)).numpy()

    return _fit_and_score(cache, features)


def length_baseline(cache: Cache) -> Scores:
    """Logistic regression on nothing but the number of words: what a leak of length would give."""
    texts = _texts(cache)
    return _fit_and_score(
        cache, lambda examples: np.asarray([[len(texts[i].split())] for i in examples.text_id], float)
    )


def bag_of_words_baseline(cache: Cache) -> Scores:
    """Logistic regression on the words without their order."""
    texts = _texts(cache)
    counter = CountVectorizer(token_pattern=r"\S+")
    counter.fit([texts[i] for i in cache.examples("train").text_id])
    return _fit_and_score(cache, lambda examples: counter.transform([texts[i] for i in examples.text_id]).toarray())


def _texts(cache: Cache) -> list[str]:
    if not cache.plan.has_texts:
        raise UsageError(f"{cache.folder} was made with --no-texts, and this baseline reads words")
    return cache.plan.texts(0, len(cache.plan))


def _fit_and_score(cache: Cache, features: Callable[[ExampleSet], np.ndarray]) -> Scores:
    task: TaskSpec = cache.examples_entry("train").task
    train = cache.examples("train")
    if task.target == "classes":
        model = LogisticRegressionCV(Cs=STRENGTHS, cv=3, max_iter=5000, scoring="accuracy", n_jobs=1)
    else:
        model = RidgeCV(alphas=ALPHAS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scikit-learn announces the next version's defaults
        fitted = make_pipeline(StandardScaler(), model).fit(features(train), train.label)
    scores = {}
    for name in validation_names(cache):
        examples = cache.examples(name)
        assert examples.label is not None, "validation sets have labels"
        scores[name] = compute_metrics(task.metrics, fitted.predict(features(examples)), examples.label)
    return scores
