"""What an extraction will cost, before it runs: bytes from the texts' lengths, hours from a short measurement."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glot.corpus.examples import Corpus, in_template
from glot.extract.backbone import Backbone
from glot.extract.engine import take_engine
from glot.extract.forward import length_batches, token_budget
from glot.extract.options import ExtractOptions
from glot.extract.planning import number_texts, tokenize_filled
from glot.extract.prepare import Say, as_kept
from glot.store.files import nearest_there
from glot.store.layout import MANIFEST_FILE, Manifest, StatesIdentity

SAMPLE_TEXTS = 10_000
MEASURE_SECONDS = 10.0
PLAN_BYTES = 29 + 16 + 8  # a text: hash, length, flags and offsets in the plan, offsets and checksum in its shard
TOKEN_BYTES = 3  # a token: its id and kind in the plan


@dataclass(frozen=True)
class Estimate:
    """What an extraction will come to.

    Attributes:
        texts: with repeats. distinct: those that are forwarded. sampled: how many of them were tokenized to tell.
        tokens: in all distinct texts. bytes: of the cache. free: bytes free where it goes.
        rate: tokens/s of one process on this device. seconds: of one process.
    """

    texts: int
    distinct: int
    sampled: int
    tokens: int
    bytes: int
    free: int
    device: str
    rate: float
    seconds: float


def estimate_extraction(
    corpus: Corpus,
    backbone: Backbone,
    identity: StatesIdentity,
    folder: Path,
    options: ExtractOptions,
    say: Say = lambda line: None,
    seconds: float = MEASURE_SECONDS,
    little: int = 0,
) -> Estimate:
    """Tokenize a sample of the texts, forward some of it for a few seconds, and multiply. No cache is written.

    Args:
        seconds: of forwards. little: of fewer tokens nothing is forwarded, and rate and seconds are 0.
    """
    if (folder / MANIFEST_FILE).exists():
        identity = as_kept(identity, Manifest.load(folder).states, options)
    corpus = in_template(corpus, identity.template)
    numbered = number_texts(corpus, None, 0)
    sample = next(numbered.batches(SAMPLE_TEXTS)).texts()  # texts are numbered in random order: these are a sample
    ids = tokenize_filled(sample, identity.template, backbone, identity.max_tokens).ids
    length = np.asarray([len(item) for item in ids])
    distinct = len(numbered.new)
    scale = distinct / len(sample)
    tokens, text_bytes = int(length.sum() * scale), int(sum(len(text.encode()) for text in sample) * scale)
    rate = 0.0
    if tokens >= little:
        take_engine(backbone, identity.layers, options.engine, tokens, say)
        budget = options.token_budget or token_budget(backbone, identity)
        rate = _measure(backbone, ids, length, identity, budget, seconds)
    return Estimate(
        texts=sum(len(split.examples) * (corpus.spec.num_texts + split.negatives) for split in corpus.splits.values()),
        distinct=distinct,
        sampled=len(sample),
        tokens=tokens,
        bytes=tokens * (identity.bytes_per_token + TOKEN_BYTES) + distinct * PLAN_BYTES + text_bytes,
        free=shutil.disk_usage(nearest_there(folder)).free,
        device=str(backbone.device),
        rate=rate,
        seconds=tokens / rate if rate else 0.0,
    )


def _measure(
    backbone: Backbone,
    ids: list[list[int]],
    length: np.ndarray,
    identity: StatesIdentity,
    budget: int,
    seconds: float,
) -> float:
    """Tokens/s over batches spread over all lengths, after one that warms up."""
    batches = list(length_batches(length, budget, backbone.pads))
    order = np.random.default_rng(0).permutation(len(batches))
    _forward(backbone, [ids[row] for row in batches[order[0]]], identity)
    tokens, started = 0, time.perf_counter()
    for number in order:
        _forward(backbone, [ids[row] for row in batches[number]], identity)
        tokens += int(length[batches[number]].sum())
        if time.perf_counter() - started > seconds:
            break
    return tokens / (time.perf_counter() - started)


def _forward(backbone: Backbone, texts: list[list[int]], identity: StatesIdentity) -> None:
    for hidden in backbone.hidden_states(*backbone.pad(texts), identity.layers):
        hidden[:, -1].cpu()  # waits for the device
