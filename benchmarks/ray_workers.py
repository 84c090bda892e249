"""What two workers by Ray gain: their rate of tokens over that of one process, with one thread each.

    python -m benchmarks.ray_workers
    python -m benchmarks.ray_workers --planning 1000000    # the time from a table of so many made texts to their plan

Both make the same cache of GLUE's texts, from a folder (`--data-dir`, or the variable GLUE_DIR), on this machine, which
should have two idle cores at least. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import tempfile
from pathlib import Path
from random import Random
from string import ascii_lowercase
from unittest.mock import patch

# One thread each, before torch and tokenizers: Ray's workers take it from here.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

from benchmarks.extraction import MAX_TOKENS, glue_folder, load_pairs
from benchmarks.ratios import describe_machine, seconds_of, verdict
from glot.cluster.launch import RayOptions
from glot.cluster.pool import connected
from glot.corpus.examples import Corpus
from glot.corpus.load import load_table
from glot.extract.options import ExtractOptions
from glot.extract.prepare import Preparation, states_identity
from glot.extract.ray_run import extract_over_ray, prepare_over_ray
from glot.extract.run import ExtractSummary, extract_states, load_source, made_folder
from glot.extract.source import ModelSource, resolve_model

TARGET, PLANNING_TARGET = 1.8, 0.6
WORDS = 5000  # different ones in made texts
PLANNED = ExtractOptions(max_tokens=MAX_TOKENS, device="cpu")


def rate(summary: ExtractSummary) -> float:
    """Tokens/s, once the backbone is loaded."""
    return summary.forwarded_tokens / summary.seconds


def compare(corpus: Corpus, source: ModelSource, folder: Path, shard_bytes: int) -> tuple[float, float]:
    """Tokens/s of one process, and of two workers."""
    options = ExtractOptions(max_tokens=MAX_TOKENS, device="cpu", engine="torch", shard_bytes=shard_bytes)
    alone = extract_states(corpus, source, folder / "alone", options)
    both = extract_over_ray(corpus, source, folder / "both", options, RayOptions(workers=2))
    return rate(alone), rate(both)


def make_table(path: Path, texts: int) -> None:
    """A table of so many different texts of some 20 tokens, in two classes."""
    random = Random(0)
    words = ["".join(random.choices(ascii_lowercase, k=random.randint(2, 4))) for _ in range(WORDS)]
    with open(path, "w") as file:
        file.write("text,label\n")
        for row in range(texts):
            file.write(f"{' '.join(random.choices(words, k=random.randint(4, 12)))} {row},{row % 2}\n")


def plan_alone(table: Path, source: ModelSource, folder: Path) -> None:
    """As `glot extract` plans."""
    corpus, backbone = load_table(table), load_source(source, PLANNED)
    with made_folder(folder):
        Preparation(folder, backbone, states_identity(backbone, PLANNED), PLANNED, _quiet, _quiet).run(corpus)


def plan_over_ray(table: Path, source: ModelSource, folder: Path) -> None:
    """As `glot extract --launcher ray` plans, with the start of Ray."""
    corpus = load_table(table)
    with made_folder(folder), connected(RayOptions(workers=2)):
        prepare_over_ray(corpus, source, folder, PLANNED, _quiet, _quiet)


def _quiet(*_: object) -> None:
    pass


def compare_planning(texts: int, source: ModelSource, folder: Path) -> tuple[float, float]:
    """Seconds of one process, and over two of Ray's; raises RuntimeError where a byte of their plans differs."""
    table, plans = folder / "made.csv", [folder / "alone", folder / "both"]
    make_table(table, texts)
    with patch.object(Preparation, "_check_room"):  # for states that nobody makes
        seconds = [
            seconds_of(lambda plan=plan, to=to: plan(table, source, to))
            for plan, to in zip((plan_alone, plan_over_ray), plans, strict=True)
        ]
    alone, both = (sorted(path.relative_to(to) for path in to.rglob("*") if path.is_file()) for to in plans)
    if alone != both or filecmp.cmpfiles(*plans, alone, shallow=False)[0] != alone:
        raise RuntimeError("the plans differ")
    return seconds[0], seconds[1]


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--texts", type=int, default=60000, help="of SST-2")
    parser.add_argument("--shard-mb", type=int, default=16)
    parser.add_argument("--planning", type=int, metavar="TEXTS", help="time the planning of so many made texts")
    given = parser.parse_args()
    print(f"ray_workers: {given.model}, {describe_machine()}", flush=True)
    if given.planning:
        with tempfile.TemporaryDirectory() as folder:
            alone, both = compare_planning(given.planning, resolve_model(given.model), Path(folder))
        share = both / alone
        told = verdict(share, PLANNING_TARGET, at_most=True)
        print(f"one process {alone:.1f} s, over Ray {both:.1f}: {share:.2f} of it; {told}")
        return
    corpus = load_pairs(glue_folder(given.data_dir), "sst2", given.texts)
    with tempfile.TemporaryDirectory() as folder:
        alone, both = compare(corpus, resolve_model(given.model), Path(folder), given.shard_mb * 2**20)
    ratio = both / alone
    print(f"one process {alone:,.0f} tokens/s, two workers {both:,.0f}: {ratio:.2f} times; {verdict(ratio, TARGET)}")


if __name__ == "__main__":
    main()
