"""Stage one: run the frozen backbone once over each distinct text and keep its token states."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from glot.corpus.examples import Corpus, in_template
from glot.extract.backbone import Backbone, load_backbone
from glot.extract.engine import take_engine
from glot.extract.forward import token_budget
from glot.extract.options import ExtractOptions, check_folder, check_options
from glot.extract.prepare import Preparation, Progress, Say, hold_plan, remove_killed, states_identity
from glot.extract.share import FolderShare
from glot.extract.source import ModelSource
from glot.extract.worker import Busy, Worker
from glot.store.claims import Claims
from glot.store.example_set import group_of, split_of
from glot.store.files import folder_bytes, make_folder, remove_leftovers
from glot.store.layout import EXAMPLES_FOLDER, Manifest, StatesIdentity
from glot.store.plan import Plan
from glot.store.shards import finished_shard, list_shards, load_manifest


@dataclass(frozen=True)
class ExtractSummary:
    """What a run did. Counts are of the whole cache; `forwarded` texts and `seconds` are of this run.

    `missing` shards are still to be made by others; `busy` says what this run's time went into.
    """

    folder: Path
    examples: dict[str, int]
    skipped: int
    texts: int
    distinct: int
    tokens: int
    truncated: int
    empty: int
    bytes: int
    shards: int
    missing: int
    forwarded: int = 0
    forwarded_tokens: int = 0
    seconds: float = 0.0
    busy: Busy = field(default_factory=Busy)


def extract_states(
    corpus: Corpus | None,
    source: ModelSource | Backbone,
    folder: Path,
    options: ExtractOptions,
    progress: Progress = lambda done, total: None,
    planning: Progress = lambda done, total: None,
    say: Say = lambda line: None,
    turn: tuple[int, int] = (0, 1),
) -> ExtractSummary:
    """Write (or finish, or extend) the cache of a corpus' token states in `folder`, alone or with others.

    A rerun skips finished shards; more splits or more examples add what is missing; other settings are refused.

    Args:
        progress, planning: told of (tokens forwarded, tokens in all), and before of (texts tokenized, texts in all).
        say: told what people should know.
        source: what `resolve_model` found, or a backbone that is loaded already.
        corpus: None takes the plan that is there for `options.request` (see `is_planned`). Pairs become one text
            each where the template takes both.
        turn: (i, n) for the i-th of n processes that start together: where among the shards to begin.

    Raises UsageError (settings that do not fit, a folder that cannot be written) and FaultError
    (no room, a failed write, states that are not finite). Finished shards are whole in every case.
    """
    check_options(options)
    corpus = None if corpus is None else in_template(corpus, options.template)
    backbone = source if isinstance(source, Backbone) else load_source(source, options)
    identity = states_identity(backbone, options)
    check_folder(folder)
    tell_of_backbone(backbone, identity, options, say)
    with made_folder(folder), Claims(folder) as claims:
        hold_plan(claims, say)
        manifest = Preparation(folder, backbone, identity, options, planning, say).run(corpus)
        claims.release("plan")
        if options.plan_only:
            return summarize(folder, load_manifest(folder), corpus, options.group)
        plan = Plan(folder, manifest.plan.data)
        if not all(finished_shard(folder, number, manifest) for number in range(plan.num_shards)):
            tell_of_layers(manifest.states, plan, say)
            # By all of the plan's tokens: a run that goes on takes what the unbroken one would have taken.
            take_engine(backbone, manifest.states.layers, options.engine, plan.tokens, say)
        started = time.monotonic()
        worker = Worker(
            backbone=backbone,
            folder=folder,
            manifest=manifest,
            plan=plan,
            share=FolderShare(claims, options.part, turn),
            budget=options.token_budget or token_budget(backbone, manifest.states),
            on_overflow=options.on_overflow,
            progress=progress,
            say=say,
        )
        worker.run()
        manifest = _finish(folder, claims, say)
        seconds = time.monotonic() - started
    return replace(
        summarize(folder, manifest, corpus, options.group),
        forwarded=worker.forwarded_texts,
        forwarded_tokens=worker.forwarded_tokens,
        seconds=seconds,
        busy=worker.busy,
    )


def load_source(source: ModelSource, options: ExtractOptions) -> Backbone:
    """The backbone, loaded as the options say; raises whatever `load_backbone` raises."""
    return load_backbone(source, options.compute_dtype, options.device, options.device_map, options.trust_remote_code)


def tell_of_layers(states: StatesIdentity, plan: Plan, say: Say) -> None:
    """What several layers come to, before they are made."""
    if len(states.layers) > 1:
        size = plan.tokens * states.bytes_per_token
        say(
            f"{len(states.layers)} layers as {states.dtype}: {size:,} bytes for {plan.tokens:,} tokens; one forward "
            "gives them all, in about the time of one"
        )


def tell_of_backbone(backbone: Backbone, identity: StatesIdentity, options: ExtractOptions, say: Say) -> None:
    """Say what this backbone makes other than usual."""
    if options.max_tokens is None and identity.max_tokens < options.usual_tokens:
        say(
            f"texts are cut at {identity.max_tokens} tokens, the most that {backbone.name} takes "
            f"(usually at {options.usual_tokens})"
        )
    if not backbone.pads:
        say(
            f"padding would change the states of {backbone.name}: only texts of equal length are forwarded together, "
            "which takes longer"
        )


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """The cache's folder; where nothing came to lie in it, it goes again."""
    make_folder(folder / EXAMPLES_FOLDER)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / EXAMPLES_FOLDER).rmdir()
            folder.rmdir()


def _finish(folder: Path, claims: Claims, say: Say) -> Manifest:
    hold_plan(claims, say)
    try:
        return finish_cache(folder)
    finally:
        claims.release("plan")


def finish_cache(folder: Path) -> Manifest:
    """List all shards in the manifest once the last is there, and remove what is then of no use.

    For the holder of the plan's claim.
    """
    manifest = load_manifest(folder)
    if manifest.complete:
        list_shards(folder, manifest)
        remove_leftovers(folder, ("shard-*.h5", "shard-*.json"))
        for path in folder.glob("shard-*.claim*"):
            path.unlink(missing_ok=True)
        remove_killed(folder, manifest)
    return manifest


def summarize(folder: Path, manifest: Manifest, corpus: Corpus | None, group: str) -> ExtractSummary:
    """What is there after a run, before what the run did is added."""
    # A run without a corpus took a plan that was there: all of its sets are its own.
    entries = {
        name: entry
        for name, entry in manifest.examples.items()
        if corpus is None or (group_of(name) == group and split_of(name) in corpus.splits)
    }
    plan = manifest.plan
    return ExtractSummary(
        folder=folder,
        examples={name: entry.examples for name, entry in entries.items()},
        skipped=sum(entry.skipped for entry in entries.values()),
        texts=sum(entry.examples * entry.texts_each for entry in entries.values()),
        distinct=plan.texts,
        tokens=plan.tokens,
        truncated=plan.truncated,
        empty=plan.empty,
        bytes=folder_bytes(folder),
        shards=plan.shards,
        missing=plan.shards - len(manifest.shards),
    )
