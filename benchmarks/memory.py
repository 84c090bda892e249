"""Memory that stage one and stage two take beyond the model: a child process does the work, this one watches it.

    python -m benchmarks.memory --texts 10000000 --gb 10

Watched are anonymous and shared memory (RssAnon + RssShmem of /proc), which the system cannot drop; pages of files
that it keeps for the next reader are not counted. The child says when its model is loaded: what it has then is the
baseline.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.made import make_cache, spread_lengths

INTERVAL = 0.05  # seconds between looks
EXTRACT_LIMIT, FIT_LIMIT = 2**30, 1.5 * 2**30
WORDS = 400  # of the tiny backbone's vocabulary
WIDTH, MEAN_LENGTH, HIDDEN = 4096, 27, 16  # states as wide as a 7-billion-parameter model's, a head that is quick


@dataclass
class Watched:
    """What was seen of a child.

    Attributes:
        baseline: bytes when it said "ready". peaks: the most bytes after it in each stage, by name.
        at: seconds after "ready" of the highest of all. said: what the child printed at last.
    """

    baseline: int
    peaks: dict[str, int]
    at: float
    said: dict

    @property
    def over(self) -> dict[str, int]:
        """Each stage's peak less the baseline."""
        return {name: peak - self.baseline for name, peak in self.peaks.items()}


def anonymous_bytes(pid: int) -> int:
    """RssAnon + RssShmem of a process; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(values.get(name, "0").split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def watch(arguments: list[str]) -> Watched:
    """Run this module as a child with some arguments and sample its memory until it ends.

    The child prints "ready" once its model is loaded, the name of each stage as it begins, and JSON at the end.
    """
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    root = Path(__file__).parents[1]
    child = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(child.stdout.readline, "")), daemon=True)
    reader.start()
    while "ready\n" not in lines and child.poll() is None:
        time.sleep(INTERVAL)
    seen = Watched(anonymous_bytes(child.pid), {}, 0.0, {})
    child.stdin.write("go\n")
    child.stdin.close()
    started = time.monotonic()
    while child.poll() is None:
        now, stage = anonymous_bytes(child.pid), lines[-1].strip()
        if now > max(seen.peaks.values(), default=0):
            seen.at = time.monotonic() - started
        if stage != "ready" and not stage.startswith("{"):
            seen.peaks[stage] = max(now, seen.peaks.get(stage, 0))
        time.sleep(INTERVAL)
    reader.join()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    seen.said = json.loads(lines[-1])
    return seen


def begin(stage: str) -> None:
    """In the child: say what begins; after "ready" wait until the baseline was taken."""
    print(stage, flush=True)
    if stage == "ready":
        sys.stdin.readline()


# --- stage one


def write_texts(path: Path, count: int) -> None:
    """A table of so many distinct short texts with two labels."""
    random = np.random.default_rng(0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for first in range(0, count, 10_000):
            numbers = random.integers(0, WORDS, (min(10_000, count - first), 8))
            rows = (" ".join(f"w{number}" for number in row) for row in numbers.tolist())
            writer.writerows((f"{text} {first + place}", place % 2) for place, text in enumerate(rows))


def save_backbone(folder: Path) -> Path:
    """A tiny BERT with random weights and a tokenizer of words and digits."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from glot.process import kept_randomness

    digits = [f"{prefix}{digit}" for prefix in ("", "##") for digit in range(10)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *digits, *(f"w{number}" for number in range(WORDS))]
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with kept_randomness(0):
        BertModel(BertConfig(vocab_size=len(pieces), max_position_embeddings=128, **shape)).save_pretrained(folder)
    return folder


def child_extract(data: Path, backbone_folder: Path, out: Path) -> None:
    """Plan a table of texts, then make one part in a hundred of its states."""
    from unittest import mock

    from glot.corpus.load import load_table
    from glot.extract.backbone import load_backbone
    from glot.extract.run import ExtractOptions, extract_states
    from glot.extract.source import ModelSource

    source = ModelSource("tiny", str(backbone_folder))
    backbone = load_backbone(source)
    options = {"max_tokens": 32, "shard_bytes": 4 * 2**20, "request": "benchmark"}
    begin("ready")
    started = time.monotonic()
    with mock.patch("glot.extract.run.load_backbone", return_value=backbone):
        begin("reading the table")
        corpus = load_table(data)
        begin("planning")
        extract_states(corpus, source, out, ExtractOptions(**options, plan_only=True))
        planned = time.monotonic()
        begin("forwarding a part")
        summary = extract_states(None, source, out, ExtractOptions(**options, part=(0, 100)))
    said = {"distinct": summary.distinct, "tokens": summary.tokens, "shards": summary.shards}
    said |= {"forwarded": summary.forwarded, "plan_seconds": planned - started}
    print(json.dumps(said | {"part_seconds": time.monotonic() - planned}), flush=True)


def extraction(folder: Path, texts: int) -> Watched:
    """Watch the extraction of a table."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        data, backbone = Path(made) / "texts.csv", save_backbone(Path(made) / "tiny")
        write_texts(data, texts)
        return watch(["child-extract", str(data), str(backbone), str(Path(made) / "cache")])


# --- stage two


def child_fit(place: Path, run: Path) -> None:
    """Train one epoch of GLOT over a streamed cache."""
    from glot.fit.run import FitOptions, make_configs
    from glot.fit.train import fit_head
    from glot.store.reader import Cache

    cache = Cache(place)
    options = FitOptions(gnn_layers=1, hidden=HIDDEN, epochs=1, backend="dense", device="cpu", max_memory=0)
    [config] = make_configs(cache, options)
    begin("ready")
    begin("fitting")
    result = fit_head(cache, config, run)
    print(json.dumps({"texts": len(cache.plan), "window": config.train.window, "seconds": result.seconds}), flush=True)


def fitting(folder: Path, size: int, shard_bytes: int = 2**30, width: int = WIDTH) -> Watched:
    """Watch a fit over a made cache of some bytes of states of some width."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        tokens = size // (2 * width)
        make_cache(Path(made) / "cache", width, spread_lengths(tokens, MEAN_LENGTH), shard_bytes // (2 * width))
        return watch(["child-fit", str(Path(made) / "cache"), str(Path(made) / "run")])


def lines_of(what: str, seen: Watched, limit: float) -> Iterator[str]:
    """What is printed of a child."""
    most = max(seen.over.values())
    verdict = "met" if most <= limit else "MISSED"
    said = ", ".join(f"{name} {value:,.0f}" for name, value in seen.said.items())
    yield f"{what}: {said}; {seen.baseline / 2**20:,.0f} MiB before"
    for stage, over in seen.over.items():
        yield f"  {stage}: peak {over / 2**20:,.0f} MiB more"
    yield f"  {most / limit:.2f} of the limit of {limit / 2**30:.1f} GiB: {verdict} (the peak after {seen.at:,.0f} s)"


def main() -> None:
    """Run as the parent, or as one of its children."""
    children = {"child-extract": child_extract, "child-fit": child_fit}
    if sys.argv[1:] and sys.argv[1] in children:
        children[sys.argv[1]](*map(Path, sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("cache/bench"), help="where caches are made and removed")
    parser.add_argument("--texts", type=int, default=1_000_000, help="of the extraction; 0 leaves it out")
    parser.add_argument("--gb", type=float, default=1.0, help="size of the cache that is trained on; 0 leaves it out")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if given.texts:
        seen = extraction(folder, given.texts)
        print("\n".join(lines_of(f"extract, {given.texts:,} texts", seen, EXTRACT_LIMIT)), flush=True)
    if given.gb:
        seen = fitting(folder, int(given.gb * 1e9))
        print("\n".join(lines_of(f"fit, {given.gb:g} GB", seen, FIT_LIMIT)), flush=True)


if __name__ == "__main__":
    main()
