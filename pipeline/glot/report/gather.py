"""What the page of an evaluation shows beside it, collected from the run and the cache that it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from glot.errors import FaultError, UsageError
from glot.fit.curve import learning_curve
from glot.fit.doubts import Doubts, Duplicate, find_doubts, find_duplicates, texts_of
from glot.fit.ensemble import find_heads
from glot.fit.evaluation import Evaluation
from glot.fit.result import FitResult
from glot.fit.run import open_cache
from glot.fit.run_folder import METRICS_FILE, RunConfig
from glot.fit.training_data import labels_of, training_set
from glot.fit.yardsticks import Means
from glot.report.environment import collect_environment
from glot.report.evaluation_page import Page
from glot.store.label_sets import to_indicator
from glot.store.reader import Cache
from glot.store.template import TEXT


def gather_page(
    run: Path,
    evaluation: Evaluation,
    cache: Cache | None = None,
    name: str = "",
) -> Page:
    """The page of a run, or an ensemble, that was evaluated; seconds, and of large training sets more.

    Args:
        cache: what the run was trained on; None opens the one that its config names, and where that is not there any
            more leaves out duplicates, doubtful labels, the learning curve and the counts of train.
        name: of the page; "" takes the task's.
    """
    heads = find_heads(run)
    config = RunConfig.load(heads[0])
    title = name or config.task.name
    settings, environment = describe_run(heads, config), collect_environment([])
    try:
        opened = open_cache(config, cache, heads[0])
    except (UsageError, FaultError):  # whoever evaluated has been told
        return Page(evaluation, title, settings=settings, environment=environment)
    curve = evaluation.curve
    if curve is None and len(config.data) > 1:
        scored = evaluation.scored.source
        there = scored if scored in opened.manifest.examples else None
        curve = learning_curve(opened, config, there)
    page = Page(
        evaluation,
        title,
        duplicates=_duplicates(evaluation, opened, config),
        doubts=_doubts(opened, config),
        curve=curve,
        counts=_counts(evaluation, opened, config),
        settings=settings,
        environment=environment,
    )
    if cache is None:
        opened.close()
    return page


def _duplicates(evaluation: Evaluation, cache: Cache, config: RunConfig) -> tuple[Duplicate, ...] | None:
    scored = evaluation.scored
    if scored.texts is None or not cache.plan.has_texts:
        return None
    train = cache.examples(training_set(config))
    rows = range(len(scored.labels)) if scored.rows is None else scored.rows.tolist()
    known = zip(train.index.tolist(), texts_of(cache, train), labels_of(train).tolist(), strict=True)
    return find_duplicates(config.task, list(zip(rows, scored.texts, scored.labels.tolist(), strict=True)), list(known))


def _doubts(cache: Cache, config: RunConfig) -> Doubts | None:
    means = Means(cache, config.task, config.pooler.tokens, config.train.class_weights)
    return find_doubts(cache, cache.examples(training_set(config)), means, cache.resolve_layer(config.layer))


def _counts(evaluation: Evaluation, cache: Cache, config: RunConfig) -> dict[str, list[int]]:
    sets = {name: labels_of(cache.examples(name)) for name in config.data}
    sets[evaluation.scored.source] = evaluation.scored.labels
    classes = len(config.task.classes)
    if not classes:
        return {name: [len(labels)] for name, labels in sets.items()}
    if config.task.target == "labels":
        return {name: to_indicator(labels, classes).sum(axis=0).tolist() for name, labels in sets.items()}
    return {name: np.bincount(labels, minlength=classes).tolist() for name, labels in sets.items()}


def describe_run(heads: list[Path], config: RunConfig) -> list[tuple[str, str]]:
    """(name, value) of what a run, or the best of an ensemble, was made with; for people."""
    states = config.states
    found: list[tuple[str, object]] = [
        ("backbone", states.backbone),
        ("layers mixed" if config.pooler.mixed_layers else "layer", ", ".join(map(str, config.layers))),
        ("longest text", f"{states.max_tokens} tokens"),
        ("pooler", config.pooler.entry.title),
    ]
    if states.template != TEXT:
        found.append(("prompt", states.template))
    if len(heads) > 1:
        found.append(("heads", f"{len(heads)}, whose mean answers; settings of the best"))
    if (heads[0] / METRICS_FILE).exists():
        result = FitResult.load(heads[0])
        found += [
            ("numbers trained", f"{result.parameters:,}"),
            ("trained in", f"{result.seconds:.1f} s"),
            ("epoch kept", result.best_epoch),
        ]
    found += [*config.pooler_settings.items(), *config.training_settings.items()]
    known = dict(found[:1])
    for name, value in found[1:]:  # a name once: the layer is both a fact of the states and a setting
        known.setdefault(name.replace("_", " "), value)
    return [(name, str(value)) for name, value in known.items() if value is not None]
