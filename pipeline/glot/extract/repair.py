"""Repairing a cache: the damaged texts are forwarded again, everything else is copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from glot.errors import FaultError
from glot.extract.backbone import Backbone, load_backbone_of
from glot.extract.engine import take_engine
from glot.extract.forward import ShardTexts, forward_batch, length_batches, token_budget
from glot.store.claims import Claims
from glot.store.layout import TORCH, ShardEntry, shard_name
from glot.store.places import local_folder
from glot.store.reader import Cache
from glot.store.shards import ShardReader, ShardWriter, list_shards, load_manifest, write_sidecar
from glot.store.verify import Damage


def repair_cache(
    cache: Cache,
    damages: list[Damage],
    model: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> int:
    """Make the states of the damaged texts that `verify_cache` found again; returns how many texts were forwarded.

    `model` is the backbone, where it no longer lies where the cache says; see `load_backbone` for the others.

    Raises UsageError for a URL or a linked cache, and where the backbone is not the one that made the cache, FaultError
    where plan or example sets are damaged (an extraction makes those again) or another process works in the folder.
    """
    folder = local_folder(cache.folder, "pull it with `glot cache pull` and repair the copy")
    cache.manifest.refuse_linked(folder, "repair the caches of these")
    small = [damage.file for damage in damages if damage.shard is None]
    if small:
        raise FaultError(f"{folder / small[0]} is damaged: run the same `glot extract` again, it makes it anew")
    backbone = None
    if any(damage.texts for damage in damages):
        made_it = f"that made {cache.folder}"
        backbone = load_backbone_of(cache.manifest.states, made_it, model, device, trust_remote_code)
    forwarded = 0
    with Claims(folder) as claims:
        _claim(claims, "plan")
        for damage in damages:
            number = damage.shard
            assert number is not None  # such were refused above
            _claim(claims, shard_name(number))
            write_sidecar(folder, number, _repair_shard(folder, cache, number, damage, backbone))
            forwarded += len(damage.texts)
        manifest = load_manifest(folder)
        if manifest.complete:
            list_shards(folder, manifest)
    return forwarded


def _claim(claims: Claims, name: str) -> None:
    if not claims.acquire(name):
        raise FaultError(f"{claims.owner(name)} is working in {claims.folder}: repair it afterwards")


def _repair_shard(folder: Path, cache: Cache, number: int, damage: Damage, backbone: Backbone | None) -> ShardEntry:
    """Write a shard anew: good texts from the old file, damaged ones from the backbone."""
    entry, identity = cache.manifest.shards[number], cache.manifest.states
    with ShardWriter(folder, number, cache.plan, identity, entry.dtype, entry.engine, replaces=True) as writer:
        if damage.whole:
            reader = ShardReader(folder, entry, cache.plan, number, identity)
            _copy_good(reader, writer, set(damage.texts))
            reader.close()
        if damage.texts and backbone is not None:  # it was loaded where any text is damaged
            # Of the shard's engine where that is there: another one's states agree to rounding.
            take_engine(backbone, identity.layers, "torch" if entry.engine == TORCH else "auto")
            _forward_texts(cache, number, np.asarray(damage.texts), backbone, writer)
        return writer.finish()


def _copy_good(reader: ShardReader, writer: ShardWriter, damaged: set[int]) -> None:
    for text_id in range(writer.first, writer.stop):
        if text_id not in damaged:
            row = text_id - writer.first
            for layer in reader.layers:
                writer.write(layer, text_id, *reader.read_states(layer, *writer.start[row : row + 2].tolist()))


def _forward_texts(cache: Cache, number: int, text_ids: np.ndarray, backbone: Backbone, writer: ShardWriter) -> None:
    identity = cache.manifest.states
    texts = ShardTexts(cache.plan, number, only=text_ids)
    for chosen in length_batches(texts.length, token_budget(backbone, identity), backbone.pads):
        forward_batch(backbone, texts, chosen, identity, writer.dtype).write(writer, cache.plan)
