"""A grid search with and without a cache that all fits share: seconds, and texts forwarded, in one process.

    python -m benchmarks.search

The first 600 sentences of SST-2, four thresholds, three folds: thirteen fits of `GlotClassifier`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest import mock

import torch
from sklearn.model_selection import GridSearchCV

from benchmarks.extraction import glue_folder
from benchmarks.ratios import describe_machine, seconds_of
from glot import GlotClassifier
from glot.corpus.load import load_task
from glot.extract.backbone import Backbone

TEXTS, TAUS, FOLDS = 600, (0.1, 0.3, 0.6, 0.9), 3


def search(texts: list[str], labels: list[int], cache: Path | None) -> tuple[float, int, float]:
    """Seconds, texts forwarded, and the best score."""
    forwarded = 0
    forward = Backbone.hidden_states

    def counting(self: Backbone, ids: torch.Tensor, mask: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        nonlocal forwarded
        forwarded += len(ids)
        return forward(self, ids, mask, layers)

    found = GridSearchCV(
        GlotClassifier("minilm", preset="published", cache=cache, device="cpu"), {"tau": list(TAUS)}, cv=FOLDS
    )
    with mock.patch.object(Backbone, "hidden_states", counting):
        seconds = seconds_of(lambda: found.fit(texts, labels))
    return seconds, forwarded, found.best_score_


def main() -> None:
    """Print both ways, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    data_dir = glue_folder(parser.parse_args().data_dir)
    if not data_dir.is_dir():
        print(f"search: left out, for there is no GLUE folder at {data_dir}; name one with GLUE_DIR")
        return
    examples = load_task("sst2", ["train"], data_dir, TEXTS).splits["train"].examples
    texts, labels = [example.text for example in examples], [example.label for example in examples]
    print(f"search: {describe_machine()}; SST-2, {TEXTS} texts, {len(TAUS)} thresholds, {FOLDS} folds, minilm")
    with tempfile.TemporaryDirectory() as folder:
        shared = search(texts, labels, Path(folder))
    alone = search(texts, labels, None)
    for name, (seconds, forwarded, score) in (("with cache=", shared), ("without", alone)):
        print(f"  {name}: {seconds:.1f} s, {forwarded:,} texts forwarded, best accuracy {score:.4f}")
    print(f"  {alone[0] / shared[0]:.1f} times as fast")


if __name__ == "__main__":
    main()
