"""What `glot inspect` shows of a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from glot.store.claims import Owner, read_owner
from glot.store.files import folder_bytes
from glot.store.places import RemoteFolder
from glot.store.reader import Cache
from glot.store.task_spec import describe_labels

TAUS = (0.1, 0.3, 0.6, 0.8)
BINS = 8


@dataclass(frozen=True)
class CacheSummary:
    """A cache in numbers.

    Attributes:
        examples: example set -> its task, size, labelled or not, its labels in words, skipped rows, and source.
        histogram: (first length, last length, texts) a bin of token counts.
        bytes: of all files. bytes_per_token: those over the distinct tokens; states_bytes_per_token: of states alone.
        density: τ -> share of token pairs joined in the token graphs of a sample, self-loops apart; empty while the
            cache is unfinished. density_layer: the layer whose states they join.
        workers: who is working in the folder.
        parts: of a linked cache, the folders of its parts, as it names them. repeated: texts that an earlier part has
            too: `texts`, `truncated` and `empty` leave them out, all other numbers count them again.
    """

    folder: str
    backbone: str
    revision: str
    kind: str
    width: int
    layers: tuple[int, ...]
    num_layers: int
    dtype: str
    compute_dtype: str
    max_tokens: int
    template: str
    complete: bool
    shards: int
    shards_planned: int
    float32_shards: int
    examples: dict[str, dict[str, Any]]
    texts: int
    tokens: int
    truncated: int
    empty: int
    histogram: list[tuple[int, int, int]]
    bytes: int
    bytes_per_token: float
    states_bytes_per_token: int
    density: dict[str, float]
    density_layer: int
    workers: list[str]
    parts: list[str]
    repeated: int


def summarize_cache(cache: Cache, layer: int | None = None) -> CacheSummary:
    """Summarize a cache, an unfinished one too; the density is that of one layer (None: the last that it keeps).

    Raises UsageError where it does not keep that layer, FaultError where the plan or a sampled text is damaged.
    """
    layer = cache.resolve_layer(layer)
    manifest = cache.manifest
    states, plan = manifest.states, manifest.plan
    size, owners = _bytes_and_owners(cache)
    return CacheSummary(
        folder=str(cache.folder),
        backbone=states.backbone,
        revision=states.revision,
        kind=states.kind,
        width=states.width,
        layers=states.layers,
        num_layers=states.num_layers,
        dtype=states.dtype,
        compute_dtype=states.compute_dtype,
        max_tokens=states.max_tokens,
        template=states.template,
        complete=manifest.complete,
        shards=len(manifest.shards),
        shards_planned=plan.shards,
        float32_shards=sum(entry.dtype != states.dtype for entry in manifest.shards.values()),
        examples={name: _describe_set(cache, name) for name in manifest.examples},
        texts=manifest.texts,
        tokens=plan.tokens,
        truncated=plan.truncated,
        empty=plan.empty,
        histogram=length_histogram(cache.plan.length),
        bytes=size,
        bytes_per_token=size / max(1, plan.tokens),
        states_bytes_per_token=states.bytes_per_token,
        density=_density(cache, layer) if manifest.complete and plan.texts else {},
        density_layer=layer,
        workers=[f"{name}: {owner}" for name, owner in owners if owner],
        parts=[part.folder for part in manifest.parts],
        repeated=manifest.repeated,
    )


def _bytes_and_owners(cache: Cache) -> tuple[int, list[tuple[str, Owner | None]]]:
    """Bytes of all files, and who works in the folder; at a URL and in parts what the manifest says, and nobody."""
    if isinstance(cache.folder, RemoteFolder) or cache.manifest.parts:
        return sum(data.size for data in cache.manifest.files), []
    claims = sorted(cache.folder.glob("*.claim"))
    return folder_bytes(cache.folder), [(path.stem, read_owner(path)) for path in claims]


def _describe_set(cache: Cache, name: str) -> dict[str, Any]:
    entry = cache.manifest.examples[name]
    return {
        "task": entry.task.name,
        "examples": entry.examples,
        "labelled": entry.labelled,
        "label": describe_labels(entry.task, cache.examples(name).label),
        "skipped": entry.skipped,
        "source": entry.source,
    }


def length_histogram(length: np.ndarray) -> list[tuple[int, int, int]]:
    """(first, last, texts) of up to eight bins of equal width over the lengths in tokens."""
    if not len(length):
        return []
    low, high = int(length.min()), int(length.max())
    width = -(-(high - low + 1) // BINS)
    counts = np.bincount((length.astype(np.int64) - low) // width)
    return [(low + i * width, min(low + (i + 1) * width - 1, high), int(n)) for i, n in enumerate(counts)]


def _density(cache: Cache, layer: int) -> dict[str, float]:
    import torch

    from glot.fit.states import StreamedStates
    from glot.fit.training_data import graph_density
    from glot.nn.edges import EdgeRule

    states = StreamedStates(cache, (layer,), torch.device("cpu"))
    ids = np.arange(len(cache.plan))
    return {f"{tau:g}": graph_density(states, ids, EdgeRule(tau)) for tau in TAUS}
