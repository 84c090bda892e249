"""Joins the rooms for texts that come piece by piece: one cache that grows by those it has not seen."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from glot.corpus.examples import Corpus, Example, Split
from glot.errors import UsageError
from glot.extract.backbone import Backbone
from glot.extract.options import ExtractOptions
from glot.extract.planning import clean
from glot.extract.prepare import Progress, states_identity
from glot.extract.run import extract_states
from glot.store.claims import Claims
from glot.store.files import make_folder
from glot.store.layout import MANIFEST_FILE
from glot.store.plan import Plan, text_hash
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec
from glot.store.template import TEXT, split_pair, takes_pair

GROUP, SPLIT = "texts", "all"  # the one example set of such a cache: every text that it was ever asked for
POLL_SECONDS = 0.1


def open_with_texts(
    folder: Path,
    texts: Sequence[str],
    backbone: Backbone,
    options: ExtractOptions,
    progress: Progress = lambda done, total: None,
) -> tuple[Cache, np.ndarray]:
    """The cache of a backbone's states in a folder, grown by those of the texts that it lacks.

    Any number of processes may share the folder: one at a time grows the cache, so each distinct text is forwarded
    once; what was opened before stays readable meanwhile.

    Args:
        folder: holds a cache for each backbone, layer, length limit and prompt.
        texts: n texts, at least one; for a template of pairs as `join_pair` makes them.
        progress: told of (tokens forwarded, tokens in all).

    Returns:
        The opened cache, and (n,) int64 ids of the texts in it.

    Raises UsageError where the cache there was made with other settings, FaultError where it is damaged, or writing
    fails.
    """
    identity = states_identity(backbone, options)
    layers = "-".join(map(str, identity.layers))
    name = f"{backbone.name}-layer-{layers}-tokens-{identity.max_tokens}"
    if identity.template != TEXT:
        name += f"-prompt-{hashlib.sha256(identity.template.encode()).hexdigest()[:12]}"
    texts = [clean(text) for text in texts]
    with _alone(make_folder(folder), name):
        found = _open(folder / name)
        known, new = _look_up(found.plan if found else None, texts)
        if found is not None and not new and found.manifest.complete:
            cache = found
        else:
            _grow(folder / name, found, new, backbone, options, progress)
            cache = Cache(folder / name)
            known, _ = _look_up(cache.plan, texts)
    difference = cache.manifest.states.difference(identity)
    if difference:
        raise UsageError(f"{cache.folder} was made with other settings ({difference}): choose another folder")
    return cache, np.asarray([known[text] for text in texts], dtype=np.int64)


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Wait until no other process, here or on another host, is in this block for the same name."""
    with Claims(folder) as claims:
        while not claims.acquire(name):
            time.sleep(POLL_SECONDS)
        yield


def _open(folder: Path) -> Cache | None:
    """The cache in a folder, finished or not; None where there is none."""
    if not (folder / MANIFEST_FILE).exists():
        return None
    cache = Cache(folder, allow_unfinished=True)
    cache.plan.hashes()  # opened now: who grows the cache next removes this file
    return cache


def _look_up(plan: Plan | None, texts: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """The ids of the texts that a plan holds, and those that it does not, each once."""
    ids = {} if plan is None else {key.tobytes(): number for number, key in enumerate(plan.hashes())}
    found = {text: ids.get(text_hash(text)) for text in texts}
    known = {text: number for text, number in found.items() if number is not None}
    return known, [text for text, number in found.items() if number is None]


def _grow(
    folder: Path,
    cache: Cache | None,
    new: Sequence[str],
    backbone: Backbone,
    options: ExtractOptions,
    progress: Progress,
) -> None:
    """Extract the new texts beside all that are there, whose states are not made again."""
    old = cache.plan.texts(0, len(cache.plan)) if cache else []
    is_pair = takes_pair(options.template)
    pairs = [split_pair(text) if is_pair else (text, None) for text in [*old, *new]]
    examples = [Example(row, text, text_b, None) for row, (text, text_b) in enumerate(pairs)]
    spec = TaskSpec(GROUP, 2 if is_pair else 1, "classes")
    corpus = Corpus(spec, {SPLIT: Split(SPLIT, examples, "memory")})
    extract_states(corpus, backbone, folder, replace(options, group=GROUP), progress)
