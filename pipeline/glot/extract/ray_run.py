"""Stage one over a cluster of Ray: the plan is made here, once, and its shards are made by Ray's actors."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from glot.cluster.assign import Assigner
from glot.cluster.launch import RayOptions, check_address
from glot.cluster.pool import RayPool, connected, place_workers, wait_until_shown
from glot.cluster.ray_map import map_over_ray, start_processes
from glot.corpus.examples import Corpus, in_template
from glot.errors import FaultError, UsageError
from glot.extract.backbone import Backbone
from glot.extract.options import ExtractOptions, check_folder, check_options
from glot.extract.planning import TOKENIZE_BATCH, tokenize_into
from glot.extract.prepare import Preparation, Progress, Say, states_identity
from glot.extract.run import (
    ExtractSummary,
    finish_cache,
    load_source,
    made_folder,
    summarize,
    tell_of_backbone,
    tell_of_layers,
)
from glot.extract.source import ModelSource
from glot.process import stop_flag
from glot.store.claims import Claims
from glot.store.files import UNFINISHED, find_unfinished
from glot.store.layout import Manifest, shard_file
from glot.store.plan import Plan
from glot.store.shards import finished_shard

LIGHTER = "; a smaller --token-budget needs less"  # memory


def extract_over_ray(
    corpus: Corpus,
    source: ModelSource | Backbone,
    folder: Path,
    options: ExtractOptions,
    cluster: RayOptions,
    progress: Progress = lambda done, total: None,
    planning: Progress = lambda done, total: None,
    say: Say = lambda line: None,
    workers: Callable[[int], None] = lambda count: None,
) -> ExtractSummary:
    """Write (or finish, or extend) a cache as `extract_states` does, by workers that Ray starts and starts again.

    The folder must be the same on every node of the cluster. While it lasts no other process works on the cache.

    Args:
        cluster: where Ray is, and how many workers. workers: told how many of them are at work.

    Raises what `extract_states` raises, UsageError for a backbone in memory, FaultError where Ray cannot be reached or
    another process is at this cache, KeyboardInterrupt after Ctrl-C or SIGTERM, once the workers kept what they had.
    """
    if isinstance(source, Backbone):
        raise UsageError("Ray's workers cannot have a backbone that is in memory here: save it, and pass its folder")
    check_options(options)
    check_address(cluster)
    check_folder(folder)
    corpus, folder = in_template(corpus, options.template), folder.absolute()
    source = replace(source, location=_absolute(source.location))
    with made_folder(folder), Claims(folder) as claims, _alone(claims), connected(cluster):
        manifest = prepare_over_ray(corpus, source, folder, options, planning, say)
        _make_room()
        plan = Plan(folder, manifest.plan.data)
        numbers = (number for number in range(plan.num_shards) if not finished_shard(folder, number, manifest))
        missing = {number: plan.shard_tokens(number) for number in numbers}
        there = plan.tokens - sum(missing.values())
        assigner = Assigner(there, plan.tokens, progress, workers, say, piece="shard", lighter=LIGHTER)
        if missing:
            tell_of_layers(manifest.states, plan, say)
            _assign(assigner, missing, source, folder, options, cluster)
        manifest, now = _finish(folder), time.monotonic()
    texts, tokens = assigner.counts or (0, 0)
    return replace(
        summarize(folder, manifest, corpus, options.group),
        forwarded=texts,
        forwarded_tokens=tokens,
        seconds=now - (assigner.began or now),  # with the backbones loaded, as of one process
    )


def _absolute(location: str) -> str:
    """A model's folder as the nodes find it; a hub id as it is."""
    return str(Path(location).absolute()) if Path(location).is_dir() else location


@contextmanager
def _alone(claims: Claims) -> Iterator[None]:
    """Hold the plan's claim, for as long as the workers work: who shares the folder by claims waits for it.

    Raises FaultError where another process is at this cache, by Ray or not.
    """
    claims.require("plan", f"is working in {claims.folder}")
    for path in claims.folder.glob("shard-*.claim"):
        if not claims.acquire(path.stem):
            raise FaultError(
                f"{claims.owner(path.stem) or 'another process'} is making {path.stem} of {claims.folder}: wait until "
                "it ends, or stop it"
            )
        claims.release(path.stem)
    yield


def prepare_over_ray(
    corpus: Corpus, source: ModelSource, folder: Path, options: ExtractOptions, planning: Progress, say: Say
) -> Manifest:
    """Make or extend the plan, with a backbone of this process; many texts are tokenized all over the cluster.

    To be used while Ray is connected and the plan's claim is held.
    """
    backbone = load_source(source, options)
    identity = states_identity(backbone, options)
    tell_of_backbone(backbone, identity, options, say)
    # A tokenizer of code that its folder brings along is not known elsewhere.
    spread = map if options.trust_remote_code else map_over_ray
    if spread is map_over_ray:
        texts = sum(len(split.examples) for split in corpus.splits.values())
        start_processes(-(-texts // TOKENIZE_BATCH), [tokenize_into.__module__, type(backbone.tokenizer).__module__])
    return Preparation(folder, backbone, identity, options, planning, say, spread).run(corpus)


def _make_room() -> None:
    """Let go of what the plan's backbone took, for one of the workers may need it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _suspects(folder: Path, missing: Iterable[int]) -> list[int]:
    """The shards that a worker of a command that was killed may still have in hand: they have an unfinished file."""
    return [
        number
        for number in missing
        if any(UNFINISHED in path.name for path in find_unfinished(folder, shard_file(number)))
    ]


def _assign(
    assigner: Assigner,
    missing: dict[int, int],
    source: ModelSource,
    folder: Path,
    options: ExtractOptions,
    cluster: RayOptions,
) -> None:
    """Have the missing shards made, of so many tokens each."""
    from glot.extract.ray_worker import ShardMaker

    placement = place_workers(cluster, assigner.say)
    try:
        with RayPool(ShardMaker, (source, folder, options), placement) as pool, stop_flag() as should_stop:
            assigner.run(pool, missing, _suspects(folder, missing), should_stop)
    except BaseException:
        texts, tokens = assigner.counts or (0, 0)
        assigner.say(f"kept of this run: {texts:,} texts, {tokens:,} tokens")
        raise


def _finish(folder: Path) -> Manifest:
    """List the shards in the manifest, once this machine sees all that others have made."""

    def look() -> Manifest | None:
        manifest = finish_cache(folder)
        return manifest if manifest.complete else None

    return wait_until_shown(folder, look)
