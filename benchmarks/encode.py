"""`glot encode` against `glot extract` on the same distinct texts: tokens/s, in one process.

    python -m benchmarks.encode

The backbone is loaded once and is the same object for both; extraction's cache is written anew each time.
"""

from __future__ import annotations

import argparse
from itertools import count
from pathlib import Path

from benchmarks.extraction import extract, glue_folder, load_pairs, scratch
from benchmarks.ratios import Ratio, describe_machine, speed_ratio, verdict
from glot.corpus.examples import Corpus
from glot.extract.backbone import Backbone, load_backbone
from glot.extract.source import resolve_model
from glot.fit.head_model import HeadModel
from glot.fit.run import FitOptions, make_configs
from glot.inference.encode import Input, encode_file
from glot.inference.model import GlotModel
from glot.store.reader import Cache

TARGET, REPEATS = 0.9, 5


def main() -> None:
    """Print the ratio for each packaged backbone."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    parser.add_argument("--folder", type=Path, default=Path("cache/bench/encode"))
    given = parser.parse_args()
    data_dir = glue_folder(given.data_dir)
    if not data_dir.is_dir():
        print(f"encode: left out, for there is no GLUE folder at {data_dir}; name one with GLUE_DIR")
        return
    print(f"encode: {describe_machine()}; MRPC, a GLOT head at its default settings with random weights")
    for name, pairs in (("minilm", 1500), ("smollm2-135m", 90)):
        backbone = load_backbone(resolve_model(name))
        given.folder.mkdir(parents=True, exist_ok=True)
        with scratch(given.folder) as folder:
            ratio = against_extraction(backbone, load_pairs(data_dir, "mrpc", pairs), folder)
        print(f"  {name}, tokens/s over extraction's: {ratio}; {verdict(ratio.median, TARGET)}")


def against_extraction(backbone: Backbone, corpus: Corpus, folder: Path) -> Ratio:
    """Seconds of an extraction over those of `glot encode` for its distinct texts."""
    extract(backbone, corpus, folder / "cache")
    cache = Cache(folder / "cache")
    [config] = make_configs(cache, FitOptions(device=str(backbone.device), select="last"))
    model = GlotModel(config, HeadModel(config.pooler, config.task, config.states.width, "dense"), backbone)
    texts = folder / "texts.txt"
    texts.write_text("".join(" ".join(text.split()) + "\n" for text in cache.plan.texts(0, len(cache.plan))))
    number = count()
    return speed_ratio(
        lambda: encode_file(model, Input(str(texts)), folder / "vectors.npy"),
        lambda: extract(backbone, corpus, folder / f"again-{next(number)}"),
        REPEATS,
    )


if __name__ == "__main__":
    main()
