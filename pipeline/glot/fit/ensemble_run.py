"""Making ensembles: train the members, predict with their mean."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from glot.fit.ensemble import Ensemble, answers_of, mean_estimate, mean_thresholds
from glot.fit.head_model import estimate, load_head
from glot.fit.learner import Job
from glot.fit.metrics import compute_metrics
from glot.fit.predictions_file import PATTERNS, read_predictions
from glot.fit.result import Scores
from glot.fit.run_folder import CONFIG_FILE, ENSEMBLE_FILE, HEAD_FILE, METRICS_FILE, RunConfig, is_ensemble
from glot.fit.states import StreamedStates
from glot.fit.sweep import finish_jobs, remove_checkpoints, remove_others
from glot.fit.train import Progress
from glot.store.example_set import ExampleSet
from glot.store.files import atomic_folder, make_folder, save_array
from glot.store.reader import Cache

RUN_FILES = (CONFIG_FILE, METRICS_FILE, HEAD_FILE, *PATTERNS)


def make_ensemble(
    folder: Path,
    configs: list[RunConfig],
    finished: list[Path],
    cache: Cache,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train the members of an ensemble that are not there yet; what is there of another one is replaced.

    Beside `ensemble.json` and the members, the folder holds the `predictions-*.npy` and `labels-*.npy` of every set
    that the members were scored on, as a run's does.

    Args:
        configs: of the members, the best first. finished: the runs of the first of them, which are trained already:
            their files are copied, so that the folder is whole by itself.

    Raises Stopped after `should_stop` said so; the next call goes on.
    """
    made = Ensemble.of(configs)
    runs = [folder / name for name in made.members]
    members = dict(zip(runs, configs, strict=True))
    is_there = is_ensemble(folder) and len(_runs_in(folder)) == len(runs)
    if is_there and all(_is_finished(run, config) for run, config in members.items()):
        return
    (make_folder(folder) / ENSEMBLE_FILE).unlink(missing_ok=True)  # until all members are there it is none
    remove_others(folder, _runs_in(folder), members)
    for run, config, there in zip(runs, configs, finished, strict=False):
        if not _is_finished(run, config):
            _copy_run(there, run)
    jobs = [Job(config, run) for run, config in members.items() if not _is_finished(run, config)]
    finish_jobs(jobs, folder, cache, progress, should_stop)
    remove_checkpoints(folder)  # also those of a process that was killed when it had all but ended
    _keep_predictions(folder, runs, cache)
    made.save(folder)


def _copy_run(finished: Path, run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
    with atomic_folder(run) as copy:
        for pattern in RUN_FILES:
            for path in finished.glob(pattern):
                shutil.copyfile(path, copy / path.name)


def predict_heads(
    runs: list[Path], cache: Cache, split: str, device: str, backend: str
) -> tuple[np.ndarray, ExampleSet]:
    """(m,) class indices or scores by the mean of some runs for an example set of a cache, in its order, and the set.

    Raises FaultError for damaged files.
    """
    examples = cache.examples(split)
    estimates, thresholds = estimate_heads(runs, cache, examples, device, backend)
    return answers_of(RunConfig.load(runs[0]).task, estimates, thresholds), examples


def estimate_heads(
    runs: list[Path], cache: Cache, examples: ExampleSet, device: str, backend: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """The (m, C) probabilities of the classes, or the (m,) scores, by the mean of some runs; and their thresholds."""
    place, configs = torch.device(device), [RunConfig.load(run) for run in runs]
    estimates, thresholds = [], []
    for run, config in zip(runs, configs, strict=True):
        states = StreamedStates(cache, config.layers, place, config.pooler.tokens)
        model = load_head(run, config, backend, place)
        estimates.append(estimate(model, states, examples, states.lengths))
        thresholds.append(model.thresholds)
    return mean_estimate(estimates), mean_thresholds(thresholds)


def score_ensemble(folder: Path) -> Scores:
    """The scores of what an ensemble keeps its predictions of: example set -> metric -> fraction."""
    metrics = Ensemble.load(folder).task.metrics
    found: Scores = {}
    for path in sorted(folder.glob("labels-*.npy")):
        name = path.stem.removeprefix("labels-")
        kept = read_predictions([folder], name)
        if kept is not None:
            found[name] = compute_metrics(metrics, kept[0][0], kept[1])
    return found


def _keep_predictions(folder: Path, runs: list[Path], cache: Cache) -> None:
    """Predict the sets that the members were scored on, and keep that beside the labels."""
    config = RunConfig.load(runs[0])
    device, backend = config.train.device, config.train.backend
    for name in config.data:
        labels = f"labels-{name}.npy"
        if (runs[0] / labels).exists():
            predicted, _ = predict_heads(runs, cache, name, device, backend)
            save_array(folder / f"predictions-{name}.npy", predicted)
            shutil.copyfile(runs[0] / labels, folder / labels)


def _is_finished(run: Path, config: RunConfig) -> bool:
    return (run / METRICS_FILE).exists() and RunConfig.load(run) == config


def _runs_in(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob(f"*/{CONFIG_FILE}")]
