"""Stage one: run the frozen backbone once over each distinct text and keep its token states."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline import __version__
from pipeline.corpus.examples import Corpus
from pipeline.errors import FaultError, UsageError
from pipeline.extract.backbone import Backbone, ModelSource, load_backbone
from pipeline.extract.plan import make_plan
from pipeline.store.example_set import ExampleSet
from pipeline.store.files import file_sha256, make_folder
from pipeline.store.layout import (
    EXAMPLES_FOLDER,
    MANIFEST_FILE,
    PLAN_FILE,
    STORED_AS,
    ExamplesEntry,
    Manifest,
    PlanEntry,
    StatesIdentity,
    next_name,
    shard_file,
)
from pipeline.store.plan import Plan
from pipeline.store.reader import Cache
from pipeline.store.task_spec import TaskSpec
from pipeline.store.writer import ShardWriter, adopt_shard

# The names that a cache's folder may hold before it has a manifest.
OURS = re.compile(r"(manifest\.json\.tmp-\d+|plan(-\d+)?\.h5(\.tmp-\d+)?|shard-\d{5}\.h5(\.tmp-\d+)?|examples)")
Progress = Callable[[int, int], None]  # (tokens done, tokens in all)


@dataclass(frozen=True)
class ExtractOptions:
    """How states are made and kept.

    Attributes:
        max_tokens: longer texts are cut here.
        layers: kept layers; negative numbers count from the last (-1: after the final norm).
        dtype: "auto" (bfloat16 where the backbone computes in it, else float16), or a name of `STORED_AS`.
        compute_dtype: the backbone's arithmetic; "auto" is the checkpoint's own.
        token_budget: padded tokens a forward; None chooses by device.
        shard_bytes: the size at which a shard is closed.
        order_seed: seed of the examples' permutation in a new cache.
        keep_texts: False leaves the texts themselves out of the cache.
        device: where the backbone runs; None lets accelerate choose.
    """

    max_tokens: int = 128
    layers: tuple[int, ...] = (-1,)
    dtype: str = "auto"
    compute_dtype: str = "auto"
    token_budget: int | None = None
    shard_bytes: int = 2**30
    order_seed: int = 0
    keep_texts: bool = True
    device: str | None = None


@dataclass(frozen=True)
class ExtractSummary:
    """What a run did. Counts are of the whole cache; `forwarded` texts and `seconds` are of this run."""

    folder: Path
    examples: dict[str, int]
    texts: int
    distinct: int
    tokens: int
    truncated: int
    empty: int
    bytes: int
    forwarded: int
    forwarded_tokens: int
    seconds: float


def extract_states(
    corpus: Corpus, source: ModelSource, folder: Path, options: ExtractOptions, progress: Progress | None = None
) -> ExtractSummary:
    """Write (or finish, or extend) the cache of a corpus' token states in `folder`.

    A rerun skips finished shards; more splits or more examples add what is missing; other settings are refused.

    Raises UsageError (settings that do not fit, a folder that cannot be written) and FaultError
    (no room, a failed write, states that are not finite). Finished shards are whole in every case.
    """
    backbone = load_backbone(source, options.compute_dtype, options.device)
    identity = states_identity(backbone, options)
    _check_folder(folder)
    manifest = _plan(corpus, backbone, identity, folder, options)
    started = time.monotonic()
    forwarded = _run_shards(backbone, manifest, folder, options, progress or (lambda done, total: None))
    return _summary(folder, manifest, corpus, forwarded, time.monotonic() - started)


def _nearest_there(folder: Path) -> Path:
    """The folder, or the nearest of its parents that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but a cache: what killed runs left is cleaned up in it."""
    there = _nearest_there(folder)
    if not there.is_dir():
        raise UsageError(f"cannot make the folder {folder}: {there} is a file; choose another with --out")
    if there != folder or (folder / MANIFEST_FILE).exists():
        return
    strange = [path.name for path in folder.iterdir() if not OURS.fullmatch(path.name)]
    if strange:
        raise UsageError(f"{folder} is no cache and not empty ({strange[0]} is in it): choose another with --out")


def states_identity(backbone: Backbone, options: ExtractOptions) -> StatesIdentity:
    """All that the states will depend on; raises UsageError for a layer or dtype that does not exist."""
    count = backbone.num_layers
    layers = sorted({layer if layer >= 0 else count + 1 + layer for layer in options.layers})
    if not layers or layers[0] < 0 or layers[-1] > count:
        raise UsageError(
            f"--layers {options.layers}: {backbone.name} has the layers 0 to {count} (or -1 to -{count + 1})"
        )
    if options.dtype not in ("auto", *STORED_AS):
        raise UsageError(f"unknown --dtype {options.dtype!r}: choose auto, {', '.join(STORED_AS)}")
    automatic = "bfloat16" if backbone.compute_dtype == "bfloat16" else "float16"
    return StatesIdentity(
        backbone=backbone.name,
        revision=backbone.revision,
        weights_sha256=backbone.weights_sha256,
        tokenizer_sha256=backbone.tokenizer_sha256,
        kind=backbone.kind,
        width=backbone.width,
        num_layers=count,
        template="{text}",
        max_tokens=options.max_tokens,
        layers=tuple(layers),
        dtype=automatic if options.dtype == "auto" else options.dtype,
        compute_dtype=backbone.compute_dtype,
    )


def _plan(
    corpus: Corpus, backbone: Backbone, identity: StatesIdentity, folder: Path, options: ExtractOptions
) -> Manifest:
    """Make or extend plan, example sets and manifest, in this order, so that the manifest never promises too much."""
    old, manifest = Plan.empty(options.keep_texts), None
    if (folder / MANIFEST_FILE).exists():
        cache = Cache(folder, allow_unfinished=True)
        difference = cache.manifest.states.difference(identity)
        if difference:
            raise UsageError(f"{folder} was made with other settings ({difference}): choose another folder with --out")
        old, manifest = cache.plan, cache.manifest
        if old.texts is not None and not options.keep_texts:
            raise UsageError(f"{folder} already holds its texts: choose another folder with --out for --no-texts")
    shard_tokens = max(1, options.shard_bytes // identity.bytes_per_token)
    order_seed = manifest.plan.order_seed if manifest else options.order_seed  # a cache keeps the seed it began with
    plan, sets, empty = make_plan(corpus, backbone, old, order_seed, identity.max_tokens, shard_tokens)
    for name, examples in sets.items():
        _check_examples(manifest, folder, name, examples, corpus.spec)
    there = _tokens_there(folder, manifest) if manifest else 0
    _check_room(folder, (int(plan.token_start[-1]) - there) * identity.bytes_per_token)
    make_folder(folder / EXAMPLES_FOLDER)
    if manifest is None or len(plan) > len(old):
        file = next_name(manifest.plan.file) if manifest else PLAN_FILE
        entry = PlanEntry(
            file=file,
            sha256=plan.save(folder / file),
            texts=len(plan),
            tokens=int(plan.token_start[-1]),
            truncated=int(plan.truncated.sum()),
            empty=empty + (manifest.plan.empty if manifest else 0),
            shards=plan.num_shards,
            order_seed=order_seed,
        )
        examples, shards = (manifest.examples, manifest.shards) if manifest else ({}, {})
        manifest = Manifest(f"glot {__version__}", identity, entry, examples, shards)
    for name, examples in sets.items():
        _add_examples(manifest, folder, name, examples, corpus, plan)
    manifest.save(folder)
    _remove_leftovers(folder, manifest)
    return manifest


def _check_examples(manifest: Manifest | None, folder: Path, name: str, examples: ExampleSet, task: TaskSpec) -> None:
    """Refuse to shrink an example set, or to mix the labels of two tasks in one cache."""
    if manifest is None:
        return
    old = manifest.examples.get(name)
    if old and old.examples > len(examples):
        raise UsageError(
            f"{folder} already holds {old.examples} examples of {name}, more than these {len(examples)}: "
            "choose another folder with --out for a smaller cache"
        )
    for other, entry in manifest.examples.items():
        if (entry.task.target, entry.task.classes, entry.task.num_texts) != (task.target, task.classes, task.num_texts):
            raise UsageError(
                f"{folder} holds {other} examples of another task ({', '.join(entry.task.classes) or 'scores'}; "
                f"{entry.task.num_texts} text(s) each): choose another folder with --out, or a name with --task"
            )


def _add_examples(
    manifest: Manifest, folder: Path, name: str, examples: ExampleSet, corpus: Corpus, plan: Plan
) -> None:
    fingerprint = examples.fingerprint(plan.hash)
    old = manifest.examples.get(name)
    if old and (old.fingerprint, old.task) == (fingerprint, corpus.spec) and _is_whole(folder / old.file, old.sha256):
        return
    file = next_name(old.file) if old else f"{EXAMPLES_FOLDER}/{name}.h5"
    manifest.examples[name] = ExamplesEntry(
        file=file,
        sha256=examples.save(folder / file),
        fingerprint=fingerprint,
        examples=len(examples),
        labelled=examples.label is not None,
        source=corpus.splits[name].source,
        task=corpus.spec,
    )


def _is_whole(path: Path, sha256: str) -> bool:
    return path.exists() and file_sha256(path) == sha256


def _check_room(folder: Path, needed: int) -> None:
    there = _nearest_there(folder)
    free = shutil.disk_usage(there).free
    if needed > free:
        raise FaultError(
            f"{folder} needs {needed / 2**30:.2f} GiB for these states and {free / 2**30:.2f} GiB are free: "
            "make room, or choose another folder with --out"
        )


def _run_shards(
    backbone: Backbone, manifest: Manifest, folder: Path, options: ExtractOptions, progress: Progress
) -> list[int]:
    """Make every shard that is not there; returns the ids of the texts that were forwarded."""
    plan = Cache(folder, allow_unfinished=True).plan
    done = _tokens_there(folder, manifest)
    progress(done, manifest.plan.tokens)
    forwarded: list[int] = []
    for number in range(plan.num_shards):
        if _is_there(folder, number, manifest):
            continue
        entry = adopt_shard(folder, number, plan, manifest.states)
        if entry is None:
            # `closing` waits for the writing thread before the writer goes, also where `progress` raises.
            with (
                ShardWriter(folder, number, plan, manifest.states) as writer,
                closing(_forward_shard(backbone, plan, writer, options)) as batches,
            ):
                for count in batches:
                    done += count
                    progress(done, manifest.plan.tokens)
                entry = writer.finish()
            forwarded.extend(range(*plan.shard_range(number)))
        else:
            done += entry.tokens
            progress(done, manifest.plan.tokens)
        manifest.shards[number] = entry
        manifest.save(folder)
    return forwarded


def _is_there(folder: Path, number: int, manifest: Manifest) -> bool:
    """Whether a shard is listed and its file has the listed size; else it is made again."""
    path = folder / shard_file(number)
    return number in manifest.shards and path.exists() and path.stat().st_size == manifest.shards[number].size


def _tokens_there(folder: Path, manifest: Manifest) -> int:
    return sum(entry.tokens for number, entry in manifest.shards.items() if _is_there(folder, number, manifest))


def _remove_leftovers(folder: Path, manifest: Manifest) -> None:
    """Remove what killed runs left: temporary files, and plans and example sets that the manifest does not name."""
    named = {manifest.plan.file, *(entry.file for entry in manifest.examples.values())}
    sets = "|".join(map(re.escape, manifest.examples))
    leftover = re.compile(
        rf"(manifest\.json|shard-\d{{5}}\.h5)\.tmp-\d+|(plan|{EXAMPLES_FOLDER}/({sets}))(-\d+)?\.h5(\.tmp-\d+)?"
    )
    for path in [*folder.iterdir(), *(folder / EXAMPLES_FOLDER).iterdir()]:
        name = path.relative_to(folder).as_posix()
        if name not in named and leftover.fullmatch(name):
            path.unlink(missing_ok=True)


def _forward_shard(backbone: Backbone, plan: Plan, writer: ShardWriter, options: ExtractOptions) -> Iterator[int]:
    """Forward a shard's texts in length order; yields the tokens of each batch. One thread writes meanwhile."""
    identity = writer.identity
    budget = options.token_budget or (4096 if backbone.device.type == "cpu" else 65536)
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: Future | None = None
        for batch in length_batches(plan.length[writer.first : writer.stop], budget):
            text_ids = batch + writer.first
            try:
                states = _forward(backbone, plan, text_ids, identity)
            except torch.OutOfMemoryError:
                raise FaultError(
                    f"{backbone.device} has no memory for {budget} tokens a forward: pass a smaller --token-budget, "
                    "or --compute-dtype bfloat16; finished shards are whole"
                ) from None
            if pending is not None:
                pending.result()
            pending = pool.submit(_write_batch, writer, plan, text_ids, states)
            yield int(plan.length[text_ids].sum())
        if pending is not None:
            pending.result()


def length_batches(length: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Cut positions, longest text first, into batches of at most `budget` padded tokens (at least one text each)."""
    order = np.argsort(-length.astype(np.int64), kind="stable")
    start = 0
    while start < len(order):
        count = max(1, budget // int(length[order[start]]))
        yield order[start : start + count]
        start += count


def _forward(backbone: Backbone, plan: Plan, text_ids: np.ndarray, identity: StatesIdentity) -> list[np.ndarray]:
    """The packed states (N, d) of a batch of texts, one array a kept layer, in the stored dtype."""
    lengths = torch.from_numpy(plan.length[text_ids].astype(np.int64))  # (B,)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, L)
    ids = torch.full(mask.shape, backbone.tokenizer.pad_token_id or 0, dtype=torch.long)
    packed = np.concatenate([plan.tokens_of(number) for number in text_ids]).astype(np.int64)
    ids[mask] = torch.from_numpy(packed)
    arrays = []
    for layer, hidden in zip(identity.layers, backbone.hidden_states(ids, mask.long(), identity.layers), strict=True):
        states = hidden[mask.to(hidden.device)]  # (N, d)
        stored = states.to(getattr(torch, identity.dtype))
        _check_finite(stored, states, layer, lengths, text_ids, plan, identity)
        stored = stored.view(torch.uint16) if identity.dtype == "bfloat16" else stored
        arrays.append(stored.cpu().numpy())
    return arrays


def _check_finite(
    stored: torch.Tensor,
    states: torch.Tensor,
    layer: int,
    lengths: torch.Tensor,
    text_ids: np.ndarray,
    plan: Plan,
    identity: StatesIdentity,
) -> None:
    finite = stored.isfinite().all(dim=1)  # (N,)
    if finite.all():
        return
    token = int((~finite).nonzero()[0, 0])
    text = int(torch.searchsorted(lengths.cumsum(0), token, right=True))
    made = bool(states[token].isfinite().all())
    what = f"does not fit {identity.dtype}: extract with --dtype float32" if made else "is NaN or infinite"
    raise FaultError(f"layer {layer} of {plan.name_text(int(text_ids[text]))} {what}; finished shards are whole")


def _write_batch(writer: ShardWriter, plan: Plan, text_ids: np.ndarray, states: list[np.ndarray]) -> None:
    starts = np.concatenate([[0], np.cumsum(plan.length[text_ids], dtype=np.int64)])
    for layer, array in zip(writer.identity.layers, states, strict=True):
        for place, text_id in enumerate(text_ids):
            writer.write(layer, int(text_id), array[starts[place] : starts[place + 1]])


def _summary(folder: Path, manifest: Manifest, corpus: Corpus, forwarded: list[int], seconds: float) -> ExtractSummary:
    plan = Cache(folder).plan
    counts = {name: len(split.examples) for name, split in corpus.splits.items()}
    return ExtractSummary(
        folder=folder,
        examples=counts,
        texts=sum(counts.values()) * corpus.spec.num_texts,
        distinct=len(plan),
        tokens=manifest.plan.tokens,
        truncated=manifest.plan.truncated,
        empty=manifest.plan.empty,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        forwarded=len(forwarded),
        forwarded_tokens=int(plan.length[np.asarray(forwarded, dtype=np.int64)].sum()),
        seconds=seconds,
    )
