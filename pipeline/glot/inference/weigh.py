"""What a head's readout weighs the tokens of an evaluation's errors by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from glot.errors import UsageError
from glot.extract.backbone import Backbone
from glot.fit.evaluation import Evaluation, Mistake, TokenWeights
from glot.fit.head_model import load_head
from glot.fit.run_folder import RunConfig
from glot.inference.attribution import MAX_TOKENS, TextStates, cache_example, weigh
from glot.inference.explain import forward_each
from glot.inference.run_checks import Run
from glot.store.reader import Cache
from glot.store.template import join_pair, takes_pair


def weigh_texts(evaluation: Evaluation, run: Path, backbone: Backbone) -> Evaluation:
    """The evaluation with the weights of a run's head for the texts of its errors, each forwarded by itself."""
    config = RunConfig.load(run)

    def states_of(mistake: Mistake) -> list[TextStates]:
        texts = [join_pair(*mistake.texts)] if takes_pair(config.states.template) else list(mistake.texts)
        return forward_each(texts, backbone, config.states, config.layers)[0]

    return _weighed(evaluation, run, config, states_of)


def weigh_cached(evaluation: Evaluation, run: Path, cache: Cache, split: str) -> Evaluation:
    """The same from the states of a cache's example set, where it holds the strings of its tokens."""
    config = RunConfig.load(run)
    runs = [Run(run, config)]
    return _weighed(evaluation, run, config, lambda mistake: cache_example(cache, split, mistake.row, runs).texts)


def _weighed(
    evaluation: Evaluation, run: Path, config: RunConfig, states_of: Callable[[Mistake], list[TextStates]]
) -> Evaluation:
    if not config.pooler.has_weights or not evaluation.mistakes:
        return evaluation
    pooler = load_head(run, config, "dense", torch.device("cpu")).pooler

    def weigh_one(mistake: Mistake) -> Mistake:
        try:
            texts = states_of(mistake)
        except UsageError:  # states beyond their type, or a cache without its tokens' strings: the text says enough
            return mistake
        if max(len(text.tokens) for text in texts) > MAX_TOKENS:
            return mistake
        found = weigh(pooler, texts).by_text
        parts = [
            TokenWeights(tuple(text.tokens), tuple(text.special.tolist()), tuple(weights.tolist()))
            for text, weights in zip(texts, found, strict=True)
        ]
        return replace(mistake, weights=tuple(parts))

    return replace(evaluation, mistakes=tuple(map(weigh_one, evaluation.mistakes)))
