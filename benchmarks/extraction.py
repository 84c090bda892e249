"""Stage one against its peers: a bare loop of forward passes, the obvious script, and itself without deduplication.

    python -m benchmarks.extraction

The backbone is loaded once and is the same object for all. Real texts come from a GLUE folder (`--data-dir`, or the
variable GLUE_DIR); caches are made below `--folder` and removed.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch
from transformers.utils import logging

from benchmarks.ratios import Ratio, describe_machine, seconds_of, speed_ratio, verdict
from glot.corpus.examples import Corpus, Example, Split
from glot.corpus.load import load_task
from glot.extract.backbone import Backbone, load_backbone
from glot.extract.forward import ShardTexts, length_batches, token_budget
from glot.extract.run import ExtractOptions, ExtractSummary, extract_states
from glot.extract.source import ModelSource, resolve_model
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

MAX_TOKENS, BATCH = 128, 32
SHARDS = 6  # a run publishes several, as a large one does
SPEED_TARGETS = {"smollm2-135m": 0.95, "minilm": 0.88}
OBVIOUS_TARGET, SIZE_TARGET = 4.0, 1.02
HYPOTHESES = 3


@dataclass(frozen=True)
class Sizes:
    """How much is forwarded.

    Attributes:
        pairs: MRPC pairs that each backbone forwards beside the bare loop. repeats: how often each way is run.
        obvious_pairs: of the obvious script. premises: of the set with three hypotheses each.
        size_tasks: tasks that are extracted whole for their size.
    """

    pairs: dict[str, int]
    repeats: int = 3
    obvious_pairs: int = 256
    premises: int = 300
    size_tasks: tuple[str, ...] = ("cola", "mrpc")


QUICK = Sizes({"minilm": 1500, "smollm2-135m": 90})
FULL = Sizes({"minilm": 3668, "smollm2-135m": 300}, repeats=5, obvious_pairs=256, premises=1000)


def glue_folder(given: Path | None) -> Path:
    """Where the real texts are."""
    return given or Path(os.environ.get("GLUE_DIR", "../shared/data/glue"))


def load_pairs(data_dir: Path, task: str, count: int | None) -> Corpus:
    """The first pairs (or texts) of a task's training set."""
    return load_task(task, ["train"], data_dir, count)


@contextmanager
def loaded(backbone: Backbone) -> Iterator[None]:
    """`extract_states` takes this backbone, so that no run's time has the loading of weights in it."""
    with mock.patch("glot.extract.run.load_backbone", return_value=backbone):
        yield


def extract(backbone: Backbone, corpus: Corpus | None, folder: Path, **options: object) -> ExtractSummary:
    """Stage one into a folder, forwarded by torch as its peers are; None takes the plan that is there."""
    with loaded(backbone):
        chosen = ExtractOptions(**{"max_tokens": MAX_TOKENS, "engine": "torch", **options})
        return extract_states(corpus, ModelSource(backbone.name, "."), folder, chosen)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A path for one cache, removed with all that is in it."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        yield Path(made) / "cache"


# --- a bare loop over the same batches


def padded_batches(backbone: Backbone, cache: Cache, number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The very batches that stage one forwards for a shard, as padded tensors."""
    budget = token_budget(backbone, cache.manifest.states)
    texts = ShardTexts(cache.plan, number)
    chosen = length_batches(texts.length, budget, backbone.pads)
    batches = [backbone.pad_packed(*texts.packed(some)) for some in chosen]
    return [(ids.to(backbone.device), mask.to(backbone.device)) for ids, mask in batches]


@torch.inference_mode()
def bare_loop(backbone: Backbone, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Forward prepared batches and keep nothing; a GPU is waited for at the end."""
    options = {"use_cache": False} if backbone.kind == "decoder" else {}
    for ids, mask in batches:
        backbone.model(input_ids=ids, attention_mask=mask, **options)
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)


@contextmanager
def timed_model(backbone: Backbone) -> Iterator[list[float]]:
    """Collects the seconds of each of the model's forward passes."""
    seconds: list[float] = []
    began: list[float] = []
    hooks = [
        backbone.model.register_forward_pre_hook(lambda *_: began.append(time.perf_counter())),
        backbone.model.register_forward_hook(lambda *_: seconds.append(time.perf_counter() - began.pop())),
    ]
    yield seconds
    for hook in hooks:
        hook.remove()


def shard_bytes(tokens: int, backbone: Backbone) -> int:
    """A shard size that makes several shards of so many tokens."""
    return max(1, math.ceil(2 * tokens * backbone.width / (SHARDS - 0.5)))


def against_bare_loop(backbone: Backbone, corpus: Corpus, folder: Path, repeats: int) -> Ratio:
    """Tokens/s of stage one after planning over the bare loop's, a value a shard; the two take turns with each.

    So a shard's publication is waited for, which a longer run does beside the next shard's forward passes. Prints what
    each stage was busy with, and which share of stage one's own time its forward passes took: the same ratio, but for
    what writing costs them, and without what other jobs do to one way and not to the other.
    """
    with scratch(folder) as place:
        tokens = extract(backbone, corpus, place, plan_only=True).tokens
    options = {"shard_bytes": shard_bytes(tokens, backbone), "request": "benchmark"}
    values, shares, seconds, busy = [], [], {"bare": 0.0, "ours": 0.0}, Counter()
    for repeat in range(repeats):
        with scratch(folder) as place:
            shards = extract(backbone, corpus, place, plan_only=True, **options).shards
            for number in range(shards):
                pair = _one_shard(backbone, place, (number, shards), options, bare_first=(repeat + number) % 2 == 0)
                values.append(pair.bare / pair.ours.seconds)
                shares.append(pair.inside / pair.ours.seconds)
                seconds["bare"] += pair.bare
                seconds["ours"] += pair.ours.seconds
                busy.update(vars(pair.ours.busy))
    stages = ", ".join(f"{name} {value:.2f} s" for name, value in busy.items())
    print(
        f"  {backbone.name}: {repeats} times {tokens:,} tokens in {shards} shards, in all bare {seconds['bare']:.1f} s,"
    )
    print(f"    ours {seconds['ours']:.1f} s (busy: {stages}); inside the model {Ratio(tuple(shares))} of it")
    return Ratio(tuple(values))


@dataclass(frozen=True)
class Pair:
    """One shard, both ways: the bare loop's seconds, our run, and our seconds inside the model."""

    bare: float
    ours: ExtractSummary
    inside: float


def _one_shard(backbone: Backbone, place: Path, part: tuple[int, int], options: dict, bare_first: bool) -> Pair:
    cache = Cache(place, allow_unfinished=True)
    batches = padded_batches(backbone, cache, part[0])
    cache.close()
    bare = seconds_of(lambda: bare_loop(backbone, batches)) if bare_first else 0.0
    with timed_model(backbone) as inside:
        ours = extract(backbone, None, place, part=part, **options)
    return Pair(bare or seconds_of(lambda: bare_loop(backbone, batches)), ours, sum(inside))


# --- the obvious script


@torch.inference_mode()
def obvious_script(backbone: Backbone, corpus: Corpus, folder: Path) -> None:
    """Fixed batches, padded to the limit, the two texts of a pair apart, float32 states saved a batch."""
    folder.mkdir(parents=True)
    examples = list(corpus.splits["train"].examples)
    for number, first in enumerate(range(0, len(examples), BATCH)):
        batch = examples[first : first + BATCH]
        states = {}
        for name in ("text", "text_b"):
            texts = [getattr(example, name) for example in batch]
            inputs = backbone.tokenizer(
                texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            output = backbone.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            states[name] = output.last_hidden_state.float()
        torch.save(states, folder / f"batch-{number:05d}.pt")


def against_obvious(backbone: Backbone, corpus: Corpus, folder: Path, repeats: int) -> Ratio:
    """Pairs/s of stage one, planning included, over the obvious script's; prints what both leave on the disk."""
    pairs = len(corpus.splits["train"].examples)
    sizes: dict[str, float] = {}

    def ours() -> None:
        with scratch(folder) as place:
            sizes["ours"] = extract(backbone, corpus, place).bytes

    def obvious() -> None:
        with scratch(folder) as place:
            obvious_script(backbone, corpus, place)
            sizes["obvious"] = sum(path.stat().st_size for path in place.iterdir())

    ratio = speed_ratio(ours, obvious, repeats)
    expected = 4 * backbone.width * MAX_TOKENS
    print(
        f"  the obvious script leaves {sizes['obvious'] / (2 * pairs):,.0f} bytes a text (4 d 128 = {expected:,}), "
        f"{sizes['obvious'] / sizes['ours']:.1f} times as many as ours"
    )
    return ratio


# --- each distinct text once


def with_hypotheses(data_dir: Path, premises: int, distinct: bool) -> Corpus:
    """Pairs as in MNLI: each premise (of MRPC) three times, with three hypotheses (of SST-2).

    `distinct` appends a number to each premise's second and third copy, so that no text occurs twice.
    """
    texts = dict.fromkeys(example.text for example in load_pairs(data_dir, "mrpc", None).splits["train"].examples)
    firsts = list(texts)[:premises]
    phrases = dict.fromkeys(
        example.text for example in load_pairs(data_dir, "sst2", 2 * HYPOTHESES * premises).splits["train"].examples
    )
    return pair_up(firsts, [text for text in phrases if text not in texts], distinct)


def pair_up(premises: list[str], hypotheses: list[str], distinct: bool) -> Corpus:
    """Each premise with three hypotheses of its own."""
    examples = []
    for row in range(HYPOTHESES * len(premises)):
        premise, copy = premises[row // HYPOTHESES], row % HYPOTHESES
        text = f"{premise} {copy}" if distinct and copy else premise
        examples.append(Example(row, text, hypotheses[row], row % 2))
    return Corpus(TaskSpec("made", 2, "classes", ("no", "yes")), {"train": Split("train", examples, "made")})


def deduplication(backbone: Backbone, shared: Corpus, apart: Corpus, folder: Path, repeats: int) -> None:
    """Print what each distinct text once saves: texts, tokens and time."""
    summaries: dict[str, ExtractSummary] = {}

    def run(name: str, corpus: Corpus) -> None:
        with scratch(folder) as place:
            summaries[name] = extract(backbone, corpus, place)

    times = speed_ratio(lambda: run("shared", shared), lambda: run("apart", apart), repeats)
    seen, all_of_it = summaries["shared"], summaries["apart"]
    tokens = all_of_it.forwarded_tokens / seen.forwarded_tokens
    print(
        f"  each premise with three hypotheses: {seen.texts:,} texts, {seen.forwarded:,} forwarded; with every premise "
        f"made distinct {all_of_it.forwarded:,}"
    )
    print(f"  tokens {tokens:.3f} times as many, time {times}: {times.median / tokens:.3f} of the tokens' ratio")


# --- size


def size_ratio(backbone: Backbone, corpus: Corpus, folder: Path) -> float:
    """Bytes of a cache's folder over those of its distinct tokens' float16 states."""
    with scratch(folder) as place:
        summary = extract(backbone, corpus, place)
        there = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    ratio = there / (2 * backbone.width * summary.tokens)
    mean = summary.tokens / summary.distinct
    print(
        f"  {corpus.spec.name}: {summary.distinct:,} distinct texts of {mean:.1f} tokens, {there:,} bytes, "
        f"{ratio:.4f} of 2 d T; {verdict(ratio, SIZE_TARGET, at_most=True)}",
        flush=True,
    )
    return ratio


def run_all(data_dir: Path, folder: Path, sizes: Sizes) -> None:
    """All of it."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"extraction: {describe_machine()}")
    logging.disable_progress_bar()
    backbones = {name: load_backbone(resolve_model(name)) for name in sizes.pairs}
    started = time.monotonic()
    for name, backbone in backbones.items():
        corpus = load_pairs(data_dir, "mrpc", sizes.pairs[name])
        ratio = against_bare_loop(backbone, corpus, folder, sizes.repeats)
        target = SPEED_TARGETS[name]
        print(f"  {name}: tokens/s over the bare loop's: {ratio}; {verdict(ratio.median, target)}", flush=True)
    backbone = next(iter(backbones.values()))
    ratio = against_obvious(backbone, load_pairs(data_dir, "mrpc", sizes.obvious_pairs), folder, sizes.repeats)
    print(f"  pairs/s over the obvious script's: {ratio}; {verdict(ratio.median, OBVIOUS_TARGET)}", flush=True)
    corpora = [with_hypotheses(data_dir, sizes.premises, distinct) for distinct in (False, True)]
    deduplication(backbone, *corpora, folder, sizes.repeats)
    for task in sizes.size_tasks:
        size_ratio(backbone, load_task(task, None, data_dir), folder)
    print(f"  in {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Parse the arguments and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    parser.add_argument("--folder", type=Path, default=Path("cache/bench"), help="where caches are made and removed")
    parser.add_argument("--full", action="store_true", help="larger sizes, more repeats")
    parser.add_argument("--repeats", type=int)
    parser.add_argument(
        "--models",
        default=",".join(QUICK.pairs),
        help="backbones beside the bare loop; the first is the one of all other parts",
    )
    given = parser.parse_args()
    data_dir = glue_folder(given.data_dir)
    if not data_dir.is_dir():
        print(f"extraction: left out, for there is no GLUE folder at {data_dir}; name one with GLUE_DIR")
        return
    sizes = FULL if given.full else QUICK
    pairs = {name: sizes.pairs[name] for name in given.models.split(",")}
    sizes = replace(sizes, pairs=pairs, repeats=given.repeats or sizes.repeats)
    run_all(data_dir, given.folder, sizes)


if __name__ == "__main__":
    main()
