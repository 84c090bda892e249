"""What bfloat16 costs: scores of GLOT with the backbone, the training, or both in bfloat16, less those in float32.

    python -m benchmarks.bfloat16 [--device cuda]

Every way trains the same heads, seed by seed, over the same batches; a difference is their mean with its 95 % interval
by Student's t. A processor without units for bfloat16 takes many hours. Caches stay below `--folder`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy import stats

from benchmarks.extraction import extract, glue_folder
from benchmarks.ratios import describe_machine
from glot.corpus.examples import Corpus
from glot.corpus.load import load_task
from glot.extract.backbone import load_backbone
from glot.extract.source import resolve_model
from glot.fit.learner import Job
from glot.fit.run import FitOptions, make_configs
from glot.fit.train import fit_heads
from glot.store.reader import Cache

TASKS, MODELS = ("cola", "mrpc", "stsb", "sst2"), ("minilm", "smollm2-135m")


@dataclass(frozen=True)
class Way:
    """Which dtype the backbone computes in, and which the training does."""

    states: str = "float32"
    training: str = "float32"


WAYS = {
    "float32": Way(),
    "states": Way("bfloat16"),
    "training": Way(training="bfloat16"),
    "both": Way("bfloat16", "bfloat16"),
}


def extract_both(model: str, corpora: list[Corpus], folder: Path, device: torch.device) -> None:
    """Caches of all corpora by the backbone in either dtype."""
    for dtype in ("float32", "bfloat16"):
        backbone = load_backbone(resolve_model(model), dtype, device)
        for corpus in corpora:
            extract(backbone, corpus, cache_folder(folder, corpus.spec.name, dtype), compute_dtype=dtype)


def cache_folder(folder: Path, task: str, dtype: str) -> Path:
    """Where a cache is."""
    return folder / f"{task}-{dtype}"


def scores(cache: Cache, way: Way, seeds: tuple[int, ...], device: torch.device, epochs: int | None) -> list[float]:
    """Of each seed's head after its last epoch, on validation, in points of a hundred."""
    options = FitOptions(
        seeds=seeds, order_seed=0, device=device.type, precision=way.training, select="last", epochs=epochs
    )
    with tempfile.TemporaryDirectory() as made:
        configs = make_configs(cache, options)
        jobs = [Job(config, Path(made) / str(config.train.init_seed)) for config in configs]
        results = fit_heads(cache, jobs, Path(made))
    return [100 * next(iter(result.last.values()))[result.metric] for result in results]


def interval(differences: list[float]) -> tuple[float, float]:
    """The mean of paired differences, and half the width of its 95 % interval."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return mean, float("nan")
    quantile = float(stats.t.ppf(0.975, len(differences) - 1))
    return mean, quantile * statistics.stdev(differences) / len(differences) ** 0.5


def row(task: str, model: str, found: dict[str, list[float]]) -> str:
    """A line of the table."""
    base = found["float32"]
    cells = [f"{statistics.mean(base):.2f}"]
    for name in list(WAYS)[1:]:
        mean, half = interval([b - a for a, b in zip(base, found[name], strict=True)])
        cells.append(f"{mean:+.2f} ± {half:.2f}")
    return f"| {task} | {model} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    parser.add_argument("--folder", type=Path, default=Path("cache/bench/bfloat16"), help="where the caches are kept")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of each training; default: the task's own")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    given = parser.parse_args()
    print(f"bfloat16: {given.device}, {describe_machine()}; {given.seeds} seeds, validation after the last epoch")
    print(f"\n| task | backbone | float32 | {' | '.join(f'bfloat16 {name}' for name in list(WAYS)[1:])} |")
    print("|---" * (3 + len(WAYS) - 1) + "|", flush=True)
    corpora = [load_task(task, ["train", "validation"], glue_folder(given.data_dir)) for task in given.tasks.split(",")]
    for model in given.models.split(","):
        began, folder = time.monotonic(), given.folder / Path(model).stem
        extract_both(model, corpora, folder, given.device)
        print(f"({model}: states in {time.monotonic() - began:.0f} s)", flush=True)
        for corpus in corpora:
            found = {}
            for name, way in WAYS.items():
                cache = Cache(cache_folder(folder, corpus.spec.name, way.states))
                found[name] = scores(cache, way, tuple(range(given.seeds)), given.device, given.epochs)
                cache.close()
            print(row(f"{corpus.spec.name} ({corpus.spec.metrics[0]})", model, found), flush=True)


if __name__ == "__main__":
    main()
