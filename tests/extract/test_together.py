"""Several runs on one cache: parts of it, at the same time, one after the other, with other labels."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from glot.corpus.examples import Corpus
from glot.errors import FaultError, UsageError
from glot.extract import worker
from glot.extract.options import ExtractOptions, is_planned
from glot.extract.run import extract_states
from glot.extract.source import ModelSource
from glot.store.layout import Manifest
from glot.store.reader import Cache

SHARD_BYTES = 24 * 32 * 2  # 24 tokens of width 32 in float16: six shards of the small corpus


@pytest.fixture
def bert(backbone_folders: dict[str, Path]) -> Path:
    return backbone_folders["bert"]


def texts_of(cache: Cache) -> list[str]:
    return cache.plan.texts(0, len(cache.plan))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Parts


@pytest.mark.parametrize("request_", ["", "these data"], ids=["planned by each", "planned once"])
@pytest.mark.parametrize(
    "parts",
    [[(0, 1)], [(2, 3), (0, 3), (1, 3)], [(1, 2), None, (0, 2)], [(0, 9), (8, 9), None], [(0, 2), (1, 3), None]],
)
def test_parts_in_any_order_make_the_same_cache(
    parts: list, request_: str, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    options = {"shard_bytes": SHARD_BYTES, "request": request_}
    extract(make_corpus(), bert, tmp_path / "whole", **options)
    forwarded, missing = 0, 6
    for part in parts:
        summary = extract(make_corpus(), bert, tmp_path / "parts", part=part, **options)
        forwarded += summary.forwarded
        assert summary.missing <= missing
        missing = summary.missing
        if missing:
            with pytest.raises(UsageError, match=rf"unfinished \({6 - missing} of 6 shards\)"):
                Cache(tmp_path / "parts")
    assert (missing, forwarded) == (0, summary.distinct)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_part_makes_its_own_shards_only(extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path) -> None:
    for part, expected in (((1, 3), [1, 4]), ((0, 4), [0, 1, 4]), ((5, 6), [0, 1, 4, 5])):
        summary = extract(make_corpus(), bert, tmp_path, part=part, shard_bytes=SHARD_BYTES)
        there = [int(path.name[6:11]) for path in sorted(tmp_path.glob("shard-*.h5"))]
        assert (there, summary.missing) == (expected, 6 - len(expected))
        assert not list(tmp_path.glob("*.claim"))


def test_the_plan_alone(extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path, forwarded: list) -> None:
    """A job array plans once; each of its jobs takes that plan and needs no corpus."""
    options = {"shard_bytes": SHARD_BYTES, "request": "these data"}
    out = tmp_path / "out"
    assert not is_planned(out, "these data")
    summary = extract(make_corpus(), bert, out, plan_only=True, **options)
    assert (summary.missing, summary.shards, summary.forwarded, forwarded) == (6, 6, 0, [])
    assert (summary.examples, summary.distinct) == ({"train": 12}, 11)
    assert not list(out.glob("shard-*"))
    assert is_planned(out, "these data")
    assert not is_planned(out, "other data")
    assert not is_planned(out, "")
    for part in ((1, 2), (0, 2)):
        summary = extract(None, bert, out, part=part, **options)
    assert (summary.missing, summary.examples) == (0, {"train": 12})
    extract(make_corpus(), bert, tmp_path / "whole", **options)
    assert contents(out) == contents(tmp_path / "whole")


def test_planning_again_counts_what_is_there(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    extract(make_corpus(), bert, tmp_path, part=(0, 2), shard_bytes=SHARD_BYTES)
    summary = extract(make_corpus(), bert, tmp_path, plan_only=True, shard_bytes=SHARD_BYTES)
    assert (summary.missing, len(list(tmp_path.glob("shard-*.h5")))) == (3, 3)


def test_a_worker_without_a_corpus_needs_its_own_plan(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    with pytest.raises(FaultError, match="was changed by another run: run the same command again"):
        extract(None, bert, tmp_path / "out", request="these data")
    extract(make_corpus(), bert, tmp_path / "out", request="other data")
    with pytest.raises(FaultError, match="was changed by another run: run the same command again"):
        extract(None, bert, tmp_path / "out", request="these data")


@pytest.mark.parametrize("turn", [(0, 2), (1, 2), (2, 3)])
def test_wherever_a_worker_begins_the_cache_is_the_same(
    turn: tuple[int, int], extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    options = ExtractOptions(max_tokens=32, shard_bytes=SHARD_BYTES)
    extract_states(make_corpus(), ModelSource(bert.name, str(bert)), tmp_path / "out", options, turn=turn)
    extract(make_corpus(), bert, tmp_path / "whole", shard_bytes=SHARD_BYTES)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# At the same time

PATIENCE = 120  # seconds; a claim of the dead that nobody takes over would last 300
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def work(turn: int, dies: bool, out: Path, corpus: Corpus, bert: Path, ready: Barrier, answers: SimpleQueue) -> None:
    """One of two processes; with `dies` it is killed in the middle of its second shard."""
    forward, calls = worker.forward_batch, []

    def meet(*arguments: object) -> object:
        calls.append(1)
        if dies and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(calls) == 1:
            ready.wait(PATIENCE)  # until both are at work, so that neither makes the whole cache
        return forward(*arguments)

    worker.forward_batch, worker.POLL_SECONDS = meet, 0.05
    source, options = ModelSource(bert.name, str(bert)), ExtractOptions(max_tokens=32, shard_bytes=SHARD_BYTES)
    summary = extract_states(corpus, source, out, options, turn=(turn, 2))
    answers.put((summary.missing, summary.forwarded))


@FORK
@pytest.mark.parametrize("dies", [False, True], ids=["both live", "one is killed"])
def test_two_processes_make_one_cache(
    dies: bool, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    corpus, out = make_corpus(), tmp_path / "out"
    distinct = extract(corpus, bert, tmp_path / "whole", shard_bytes=SHARD_BYTES).distinct
    context = multiprocessing.get_context("fork")
    ready, answers = context.Barrier(2), context.SimpleQueue()
    settings = (out, corpus, bert, ready, answers)
    workers = [context.Process(target=work, args=(turn, dies and turn == 0, *settings)) for turn in range(2)]
    for process in workers:
        process.start()
    try:
        for process in workers:
            process.join(PATIENCE)
    finally:
        for process in workers:
            process.kill()
    assert [process.exitcode for process in workers] == [-signal.SIGKILL if dies else 0, 0]
    found = [answers.get() for _ in workers[dies:]]
    assert [missing for missing, _ in found] == [0] * len(found)
    if not dies:
        assert all(forwarded for _, forwarded in found)
        assert sum(forwarded for _, forwarded in found) == distinct  # nothing was made twice
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_torchrun_starts_two_processes(glot: Callable[..., tuple], bert: Path, table: Path) -> None:
    """As `accelerate launch` does, which calls it: they make one cache, and the first one speaks for both."""
    words = ["extract", "--model", bert, "--data", table, "--text", "sentence", "--label", "kind", "--max-tokens", 24]
    words += ["--device", "cpu", "--shard-mb", 1, "--dtype", "float32", "--layers", "0,1,2"]
    assert glot(*words, "--out", "whole")[0] == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "glot"]
    command += [*map(str, words), "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("out: train ") == 1
    assert contents(Path("out")) == contents(Path("whole"))


# Other labels


def test_a_group_of_examples_over_the_same_texts(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path, forwarded: list
) -> None:
    corpus = make_corpus({"train": 8})
    extract(corpus, bert, tmp_path, shard_bytes=SHARD_BYTES)
    before, old = contents(tmp_path), Cache(tmp_path).manifest
    forwarded.clear()
    split = corpus.splits["train"]
    examples = [example._replace(label=example.index / 2) for example in split.examples[2:7]]
    spec = replace(corpus.spec, name="scores", target="score", classes=(), score_range=(0.0, 5.0))
    other = replace(corpus, spec=spec, splits={"train": replace(split, examples=examples)})
    summary = extract(other, bert, tmp_path, group="other", shard_bytes=SHARD_BYTES)
    assert (summary.examples, summary.forwarded, forwarded) == ({"other.train": 5}, 0, [])
    cache = Cache(tmp_path)
    assert set(cache.manifest.examples) == {"train", "other.train"}
    assert cache.manifest.examples["train"] == old.examples["train"]
    assert cache.manifest.examples["other.train"].task == spec
    made, texts = cache.examples("other.train"), texts_of(cache)
    for row, text_id, label in zip(made.index, made.text_id, made.label, strict=True):
        assert (texts[text_id], label) == (split.examples[row].text, row / 2)
    after = contents(tmp_path)
    assert {name for name in after if after[name] != before.get(name)} == {"manifest.json", "examples/other.train.h5"}
    # A group is held to its own task, as the cache's own sets are to theirs.
    with pytest.raises(UsageError, match=r"holds other\.train examples of another task"):
        extract(corpus, bert, tmp_path, group="other", shard_bytes=SHARD_BYTES)
    fewer = replace(other, splits={"train": replace(split, examples=examples[:3])})
    with pytest.raises(UsageError, match=r"already holds 5 examples of other\.train, more than these 3"):
        extract(fewer, bert, tmp_path, group="other", shard_bytes=SHARD_BYTES)


def test_a_group_of_examples_with_some_new_texts(
    extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path, forwarded: list
) -> None:
    extract(make_corpus({"train": 8}), bert, tmp_path, shard_bytes=SHARD_BYTES)
    shards = {name: data for name, data in contents(tmp_path).items() if name.startswith("shard-")}
    forwarded.clear()
    summary = extract(make_corpus({"train": 12}), bert, tmp_path, group="more", shard_bytes=SHARD_BYTES)
    assert (len(forwarded), summary.forwarded, summary.distinct) == (4, 4, 11)
    after = contents(tmp_path)
    assert {name: after[name] for name in shards} == shards
    cache = Cache(tmp_path)
    assert (len(cache.examples("train")), len(cache.examples("more.train"))) == (8, 12)


@pytest.mark.parametrize("group", ["my labels", "labels-2", "v1.5", "naïve", "../other", "a/b", ".hidden", "(a) b"])
def test_a_cache_is_whole_whatever_its_groups_are_called(
    group: str, extract: Callable, make_corpus: Callable, bert: Path, tmp_path: Path
) -> None:
    """A name that cannot be a file's is refused, before anything is written that no reader takes."""
    out = tmp_path / "out"
    extract(make_corpus({"train": 8}), bert, out)
    for _ in range(2):
        try:
            extract(make_corpus({"train": 8}), bert, out, group=group)
        except UsageError:
            assert group not in ("labels-2", "v1.5", "naïve")
        for name in Cache(out).manifest.examples:
            assert len(Cache(out).examples(name)) == 8
    assert Manifest.load(out).complete
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# States that float16 cannot hold


def spoil(folder: Path, word: str, value: float) -> None:
    """Make the embedding of one word of a saved tiny model something that no sane model has."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    number = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(word)
    weights = load_file(folder / "model.safetensors")
    weights[next(name for name in weights if "embed_tokens" in name)][number] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_only_a_shard_that_overflows_is_kept_in_float32(
    extract: Callable, make_corpus: Callable, make_backbone_folder: Callable, tmp_path: Path
) -> None:
    folder, corpus, said = make_backbone_folder("mistral"), make_corpus({"train": 20}), []
    spoil(folder, "Z", 1e6)  # a letter that no other text has
    examples = corpus.splits["train"].examples
    examples[7] = examples[7]._replace(text="Z marks the spot")
    options = {"shard_bytes": 200 * 32 * 2, "layers": (0, -1), "dtype": "float16"}
    with pytest.raises(FaultError, match=r"layer 0: states of text \d+ \('Z marks the spot'\)"):
        extract(corpus, folder, tmp_path / "out", **options)
    summary = extract(corpus, folder, tmp_path / "out", said.append, on_overflow="float32-shard", **options)
    extract(corpus, folder, tmp_path / "full", **{**options, "dtype": "float32", "shard_bytes": 200 * 32 * 4})
    cache, full = Cache(tmp_path / "out"), Cache(tmp_path / "full")
    assert (summary.missing, summary.shards > 2) == (0, True)
    number = int(cache.plan.shard_of(np.asarray([texts_of(cache).index("Z marks the spot")]))[0])
    expected = ["float32" if shard == number else "float16" for shard in range(summary.shards)]
    assert [entry.dtype for entry in cache.manifest.shards.values()] == expected
    assert any(f"shard {number} is kept in float32" in line for line in said)
    ids = np.arange(len(cache.plan))
    for layer in (0, 2):
        states, exact = cache.read_texts(layer, ids), full.read_texts(layer, ids)
        assert states.dtype == "float32"
        np.testing.assert_allclose(states.values, exact.values, rtol=2**-10, atol=2e-5)
        only = cache.plan.shard_range(number)
        inside = slice(*cache.plan.token_start[list(only)].tolist())
        np.testing.assert_array_equal(states.values[inside], exact.values[inside])
    again = extract(corpus, folder, tmp_path / "out", on_overflow="float32-shard", **options)
    assert again.forwarded == 0
    (tmp_path / "out" / "manifest.json").unlink()
    again = extract(corpus, folder, tmp_path / "out", on_overflow="float32-shard", **options)
    assert (again.forwarded, Cache(tmp_path / "out").manifest.shards) == (0, cache.manifest.shards)


def test_tokens_that_the_backbone_does_not_know(
    extract: Callable, make_corpus: Callable, make_backbone_folder: Callable, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = make_backbone_folder("bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"extra{number}" for number in range(400)])
    tokenizer.save_pretrained(folder)
    corpus, out = make_corpus(), tmp_path / "out"
    extract(corpus, folder, tmp_path / "without", plan_only=True)  # a larger vocabulary alone does no harm
    examples = corpus.splits["train"].examples
    examples[5] = examples[5]._replace(text="the extra399 cat")
    with pytest.raises(UsageError, match=r"tiny-bert gives token \d{3}, its embeddings end at 399: pass the tokenizer"):
        extract(corpus, folder, out)
    assert not out.exists() or contents(out) == {}
