"""Joins the rooms for a head's score on labelled examples: of anybody's file, or of a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from glot.corpus.examples import Example, Split
from glot.errors import FaultError, UsageError
from glot.fit.curve import fit_samples, make_curve
from glot.fit.doubts import texts_of
from glot.fit.ensemble import answers_of, find_heads, mean_estimate, mean_thresholds
from glot.fit.ensemble_run import estimate_heads
from glot.fit.evaluation import Evaluation, Scored, evaluate
from glot.fit.head_model import HeadModel, load_head, new_head
from glot.fit.run import check_device, open_cache
from glot.fit.run_folder import RunConfig
from glot.fit.training_data import labels_of, read_train, training_set
from glot.fit.yardsticks import (
    VALIDATION,
    FittedRegression,
    Means,
    Yardstick,
    fit_regressions,
    majority,
    measure_yardsticks,
)
from glot.inference.labelled import EvaluateOptions
from glot.inference.model import WINDOW, GlotModel, layers_of
from glot.inference.run_checks import check_scorable
from glot.inference.weigh import weigh_cached, weigh_texts
from glot.nn.config import PoolerConfig
from glot.nn.graph import resolve_backend
from glot.store.example_set import split_of
from glot.store.reader import Cache

Report = Callable[[int], None]  # texts done
Say = Callable[[str], None]
DEFAULTS = EvaluateOptions()


def evaluate_cache(
    run: Path,
    cache: Cache,
    split: str,
    options: EvaluateOptions = DEFAULTS,
    source: str | None = None,
    texts: dict[int, tuple[str, ...]] | None = None,
    with_weights: bool = False,
) -> Evaluation:
    """Evaluate a run, or an ensemble, on a labelled example set of a cache; no backbone is loaded.

    Args:
        split: the example set; the yardsticks are made of the set that the run was trained on, which must be there.
        source: what the examples are called; None: the set's name.
        texts: row in the source -> its texts; None takes them from the cache, where it keeps them.
        with_weights: also what the readout weighs the tokens of the worst errors by.

    Raises UsageError where run and cache do not fit, or the set has no labels.
    """
    config, place = check_scorable(run, cache, split), check_device(options.device)
    backend, heads = resolve_backend(options.backend, place), find_heads(run)
    examples = cache.examples(split)
    estimates, thresholds = estimate_heads(heads, cache, examples, str(place), backend)
    name = source or split
    known = texts_of(cache, examples) if texts is None else [texts.get(row, ()) for row in examples.index.tolist()]
    order = np.argsort(examples.index, kind="stable")
    rows, labels, texts_each = examples.index[order], labels_of(examples)[order], [known[place] for place in order]
    scored = Scored(name, config.task, labels, estimates[order], rows, texts_each, thresholds)
    yardsticks: list[Yardstick] = []
    if options.yardsticks:
        train, settings = cache.examples(training_set(config)), (config.layer, config.pooler.tokens)
        sets = {name: examples.subset(order)}
        yardsticks = measure_yardsticks(cache, config.task, train, sets, *settings, config.train.class_weights)
    held_out = _held_out(heads, config, cache, split, str(place), backend)
    found = evaluate(scored, yardsticks, held_out, chose=split == _chooses(config))
    return weigh_cached(found, heads[0], cache, split) if with_weights else found


def evaluate_split(
    folders: Sequence[Path],
    split: Split,
    options: EvaluateOptions = DEFAULTS,
    report: Report = lambda done: None,
    say: Say = lambda line: None,
    for_page: bool = False,
) -> list[Evaluation]:
    """Evaluate runs or ensembles over the same backbone on labelled texts, each forwarded once for all of them.

    The regression that they are compared with, and the examples that a temperature is fitted on, are those of the
    first run's own cache; where that is not there any more both are left out, and `say` is told why.

    Args:
        folders: of runs (of one seed) and ensembles of the same classes. split: as `read_split` reads it.
        for_page: also what the readout weighs the tokens of the worst errors by (of an ensemble its best head's), and
            the learning curve of the regression.

    Raises UsageError where runs do not go together, or a backbone is missing.
    """
    groups = [find_heads(folder) for folder in folders]
    heads = [head for group in groups for head in group]
    configs = [RunConfig.load(head) for head in heads]
    for folder, config in zip(heads, configs, strict=True):
        configs[0].check_states(config.states, str(folder))
    first, place = configs[0], check_device(options.device)
    own = _own_cache(first, heads[0], say)
    fitted: list[FittedRegression] = []
    by_size: list[FittedRegression] = []
    if own is not None and options.yardsticks:
        means, train = Means(own, first.task, first.pooler.tokens, first.train.class_weights), training_set(first)
        fitted = fit_regressions(means, own.examples(train), first.layer)
        by_size = fit_samples(means, own.examples(train), first.layer) if for_page else []
    beside = [regression_head(some, first) for some in [*fitted, *by_size]]
    model = _joined_model(heads, configs, beside, options, split, say)
    fits = iter(zip(_estimate(model, split, report), model.thresholds_each, strict=True))
    of_groups = [list(islice(fits, len(group))) for group in groups]
    answers = [answers_of(first.task, *fit) for fit in fits]
    labels = np.asarray([example.label for example in split.examples])
    rows = np.asarray([example.index for example in split.examples])
    texts = [texts_in(example) for example in split.examples]
    if first.task.target != "score":
        labels = labels.astype(np.int64)
    yardsticks = _majority(own, first, split.name, len(labels)) if fitted else []
    for some, its in zip(fitted, answers, strict=False):
        yardsticks.append(some.yardstick({split.name: its}))
    sized = [(some.name, some.rows, its) for some, its in zip(by_size, answers[len(fitted) :], strict=True)]
    curve = make_curve(first.task.metrics[0], split.name, labels, sized) if sized else None
    found = []
    backend = resolve_backend(options.backend, place)
    for group, own_fits in zip(groups, of_groups, strict=True):
        each, thresholds = zip(*own_fits, strict=True)
        held_out = None if own is None else _held_out(group, first, own, "", str(place), backend)
        mean, above = mean_estimate(each), mean_thresholds(thresholds)
        scored = Scored(split.name, first.task, labels, mean, rows, texts, above)
        evaluation = replace(evaluate(scored, yardsticks, held_out), curve=curve)
        found.append(weigh_texts(evaluation, group[0], model.backbone) if for_page else evaluation)
    if own is not None:
        own.close()
    return found


def _own_cache(config: RunConfig, run: Path, say: Say) -> Cache | None:
    """The cache that a run was trained on; None, and a remark, where it cannot be read any more."""
    try:
        return open_cache(config, None, run)
    except (UsageError, FaultError) as error:
        say(f"no yardsticks: {error}")
        return None


def _chooses(config: RunConfig) -> str | None:
    """The set that chose the head's epoch."""
    if config.train.select != "validation":
        return None
    return next((name for name in config.data if split_of(name).startswith(VALIDATION)), None)


def _held_out(
    heads: list[Path], config: RunConfig, cache: Cache, scored: str, device: str, backend: str
) -> Scored | None:
    """The answers to a validation set that is not the scored one, or to what of train chose the epoch.

    None where there is neither, or no classes.
    """
    if config.task.target != "classes":
        return None
    names = [name for name in config.data if split_of(name).startswith(VALIDATION) and name != scored]
    if names:
        name, examples = names[0], cache.examples(names[0])
    elif config.train.select == "holdout" and len({RunConfig.load(head).train.order_seed for head in heads}) == 1:
        name = "train that chose the epoch"
        _, kept_aside = read_train(cache, training_set(config), config.train, None)
        assert kept_aside is not None
        examples = kept_aside
    else:
        return None
    estimates, _ = estimate_heads(heads, cache, examples, device, backend)
    return Scored(name, config.task, labels_of(examples), estimates)


def _majority(cache: Cache | None, config: RunConfig, name: str, count: int) -> list[Yardstick]:
    if cache is None or config.task.target == "score":
        return []
    return [majority(config.task, labels_of(cache.examples(training_set(config))), {name: count})]


def regression_head(fitted: FittedRegression, config: RunConfig) -> tuple[RunConfig, HeadModel]:
    """A regression on the mean as a head beside a run's, and its config: so its texts are forwarded with the run's."""
    pooler = PoolerConfig(
        pooler="mean", tokens=config.pooler.tokens, token_position=config.pooler.token_position, pair_features="full"
    )
    beside = replace(config, layer=fitted.layer, pooler=pooler)
    model = new_head(beside, "dense")
    weight, bias = map(torch.from_numpy, fitted.regression.line)
    if config.task.score_range is not None:  # the head estimates (score - low) / (high - low)
        low, high = config.task.score_range
        weight, bias = weight / (high - low), (bias - low) / (high - low)
    weights = {"head.linear.weight": weight, "head.linear.bias": bias}
    if fitted.regression.thresholds is not None:
        weights["head.thresholds"] = torch.from_numpy(fitted.regression.thresholds)
    model.load_state_dict(weights)
    return beside, model


def _joined_model(
    heads: list[Path],
    configs: list[RunConfig],
    beside: list[tuple[RunConfig, HeadModel]],
    options: EvaluateOptions,
    split: Split,
    say: Say,
) -> GlotModel:
    """One model of all heads over one backbone."""
    from glot.extract.engine import take_engine
    from glot.inference.encode import BYTES_A_TOKEN
    from glot.inference.forward import load_run_backbone

    layers = layers_of([*configs, *(config for config, _ in beside)])
    backbone = load_run_backbone(
        configs[0].states, heads[0], options.model, options.device, options.trust_remote_code, layers, options.engine
    )
    tokens = sum(len(example.text) + len(example.text_b or "") for example in split.examples) // BYTES_A_TOKEN
    take_engine(backbone, layers, options.engine, tokens, say)
    passes = resolve_backend(options.backend, backbone.device)
    models = [load_head(head, config, passes, backbone.device) for head, config in zip(heads, configs, strict=True)]
    return GlotModel(configs[0], models[0], backbone, [*zip(configs[1:], models[1:], strict=True), *beside])


def _estimate(model: GlotModel, split: Split, report: Report) -> list[np.ndarray]:
    """Of each head the estimates of all examples, in their order."""
    pieces = []
    for start in range(0, len(split.examples), WINDOW):
        window = split.examples[start : start + WINDOW]
        seconds = [example.text_b or "" for example in window] if model.config.texts_each == 2 else None
        pieces.append(model.estimate_each([example.text for example in window], seconds))
        report(start + len(window))
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def texts_in(example: Example) -> tuple[str, ...]:
    """The text of an example, or both of a pair."""
    return (example.text,) if example.text_b is None else (example.text, example.text_b)
