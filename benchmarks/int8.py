"""What int8 caches cost and save: scores of GLOT over them against float16 caches, seed by seed.

    python -m benchmarks.int8

The texts are extracted twice. Caches stay below `--folder`, so that a second call only trains.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.extraction import extract, glue_folder
from benchmarks.ratios import describe_machine
from glot.corpus.examples import Corpus
from glot.corpus.load import load_task
from glot.extract.backbone import Backbone, load_backbone
from glot.extract.source import resolve_model
from glot.fit.run import FitOptions, make_configs
from glot.fit.train import fit_head
from glot.store.reader import Cache

TASKS, SEEDS = ("mrpc", "cola", "stsb"), (0, 1, 2)
DTYPES = ("float16", "int8")


@dataclass(frozen=True)
class Comparison:
    """Best scores on validation by dtype, one a seed, and bytes of each cache."""

    metric: str
    scores: dict[str, list[float]]
    size: dict[str, int]

    @property
    def differences(self) -> list[float]:
        """int8 less float16, seed by seed, in points of a hundred."""
        return [100 * (small - large) for large, small in zip(*(self.scores[dtype] for dtype in DTYPES), strict=True)]


def compare(backbone: Backbone, corpus: Corpus, folder: Path, seeds: tuple[int, ...], epochs: int | None) -> Comparison:
    """Extract in both dtypes and train the same heads over both; who trains first changes with each seed."""
    places = {dtype: folder / f"{corpus.spec.name}-{dtype}" for dtype in DTYPES}
    for dtype, place in places.items():
        extract(backbone, corpus, place, dtype=dtype)
    scores: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for number, seed in enumerate(seeds):
        for dtype in DTYPES if number % 2 else reversed(DTYPES):
            scores[dtype].append(best_score(places[dtype], seed, epochs))
    size = {dtype: sum(path.stat().st_size for path in place.rglob("*.h5")) for dtype, place in places.items()}
    return Comparison(corpus.spec.metrics[0], scores, size)


def best_score(place: Path, seed: int, epochs: int | None) -> float:
    """The best epoch's score of a GLOT head with the task's own settings."""
    cache = Cache(place)
    [config] = make_configs(cache, FitOptions(seeds=(seed,), epochs=epochs, device="cpu"))
    with tempfile.TemporaryDirectory() as run:
        result = fit_head(cache, config, Path(run))
    cache.close()
    return next(iter(result.best.values()))[result.metric]


def report(name: str, found: Comparison) -> None:
    """Print the paired difference and the bytes."""
    difference = found.differences
    spread = statistics.stdev(difference) if len(difference) > 1 else 0.0
    means = {dtype: 100 * statistics.mean(values) for dtype, values in found.scores.items()}
    print(
        f"{name} ({found.metric}): float16 {means['float16']:.2f}, int8 {means['int8']:.2f}, difference "
        f"{statistics.mean(difference):+.2f} ± {spread:.2f} over {len(difference)} seeds "
        f"({', '.join(f'{value:+.2f}' for value in difference)}); "
        f"{found.size['int8'] / found.size['float16']:.3f} of the bytes ({found.size['int8']:,})",
        flush=True,
    )


def main() -> None:
    """Parse the arguments and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    parser.add_argument("--folder", type=Path, default=Path("cache/bench/int8"), help="where the caches are kept")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    given = parser.parse_args()
    print(f"int8: {describe_machine()}")
    backbone = load_backbone(resolve_model("minilm"))
    for task in given.tasks.split(","):
        corpus = load_task(task, None, glue_folder(given.data_dir))
        report(task, compare(backbone, corpus, given.folder, tuple(map(int, given.seeds.split(","))), None))


if __name__ == "__main__":
    main()
