"""What two workers by Ray gain: their rate of tokens over that of one process, with one thread each.

    python -m benchmarks.ray_workers

Both make the same cache of GLUE's texts, from a folder (`--data-dir`, or the variable GLUE_DIR), on this machine, which
should have two idle cores at least. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: Ray's workers take it from here

from benchmarks.extraction import MAX_TOKENS, glue_folder, load_pairs
from benchmarks.ratios import describe_machine, verdict
from glot.cluster.launch import RayOptions
from glot.corpus.examples import Corpus
from glot.extract.options import ExtractOptions
from glot.extract.ray_run import extract_over_ray
from glot.extract.run import ExtractSummary, extract_states
from glot.extract.source import ModelSource, resolve_model

TARGET = 1.8


def rate(summary: ExtractSummary) -> float:
    """Tokens/s, once the backbone is loaded."""
    return summary.forwarded_tokens / summary.seconds


def compare(corpus: Corpus, source: ModelSource, folder: Path, shard_bytes: int) -> tuple[float, float]:
    """Tokens/s of one process, and of two workers."""
    options = ExtractOptions(max_tokens=MAX_TOKENS, device="cpu", engine="torch", shard_bytes=shard_bytes)
    alone = extract_states(corpus, source, folder / "alone", options)
    both = extract_over_ray(corpus, source, folder / "both", options, RayOptions(workers=2))
    return rate(alone), rate(both)


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--texts", type=int, default=60000, help="of SST-2")
    parser.add_argument("--shard-mb", type=int, default=16)
    given = parser.parse_args()
    print(f"ray_workers: {given.model}, {describe_machine()}", flush=True)
    corpus = load_pairs(glue_folder(given.data_dir), "sst2", given.texts)
    with tempfile.TemporaryDirectory() as folder:
        alone, both = compare(corpus, resolve_model(given.model), Path(folder), given.shard_mb * 2**20)
    ratio = both / alone
    print(f"one process {alone:,.0f} tokens/s, two workers {both:,.0f}: {ratio:.2f} times; {verdict(ratio, TARGET)}")


if __name__ == "__main__":
    main()
