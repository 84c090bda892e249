"""Heads trained on few sentences of SST-2, scored on its whole validation set, beside a logistic regression.

    python -m benchmarks.few [--sizes 16,64,600,5000]

Each sample has as many sentences of either class; states are extracted once and kept in `--folder`. A row is the mean
accuracy over samples of one size, and the processor seconds of training and scoring a head.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.extraction import glue_folder
from glot.corpus.load import load_task
from glot.inference.classifier import GlotClassifier

SAMPLES = {5000: 1}  # of other sizes three


def methods(folder: Path) -> dict[str, Any]:
    """What is compared."""
    mean_vectors = GlotClassifier("minilm", preset="published", pooler="mean", epochs=1, cache=folder)
    return {
        "logistic regression": make_pipeline(
            mean_vectors, StandardScaler(), LogisticRegressionCV(Cs=8, cv=4, max_iter=300)
        ),
        "published": GlotClassifier("minilm", preset="published", cache=folder),
        "strong": GlotClassifier("minilm", preset="strong", cache=folder),
    }


def sample(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """(size,) indices, half of each class."""
    order = np.random.default_rng([seed, size]).permutation(len(labels))
    return np.concatenate([order[labels[order] == label][: size // 2] for label in (1, 0)])


def main() -> None:
    """Print a line a size and method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    parser.add_argument("--folder", type=Path, default=Path("cache/bench/few"))
    parser.add_argument("--sizes", default="16,64,600,5000")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # a regression that has not converged is as good here
    splits = load_task("sst2", ["train", "validation"], glue_folder(given.data_dir)).splits
    texts, labels = {}, {}
    for name, split in splits.items():
        texts[name] = [example.text for example in split.examples]
        labels[name] = np.asarray([example.label for example in split.examples])
    for size in map(int, given.sizes.split(",")):
        scores: dict[str, list[float]] = {}
        seconds: dict[str, list[float]] = {}
        for seed in range(SAMPLES.get(size, 3)):
            chosen = sample(labels["train"], size, seed)
            for name, method in methods(given.folder).items():
                started = time.process_time()
                method.fit([texts["train"][index] for index in chosen], labels["train"][chosen])
                score = method.score(texts["validation"], labels["validation"])
                seconds.setdefault(name, []).append(time.process_time() - started)
                scores.setdefault(name, []).append(100 * score)
        for name, found in scores.items():
            print(f"n = {size}, {name}: {mean(found):.1f} %, {mean(seconds[name]):.0f} s", flush=True)


if __name__ == "__main__":
    main()
