"""The main job: runs what the agenda asks for and what is not there yet.

Joins the rooms: corpus and extract make caches, fit trains heads, and `glot.report` reads what they leave.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from glot.corpus.examples import Corpus
from glot.corpus.load import load_stress, load_task
from glot.corpus.request import parse_stress_name
from glot.errors import GlotError, Stopped, UsageError
from glot.registry.tasks import find_task
from glot.report.results import BASELINE
from glot.reproduce.backends import BACKENDS, BOTH_FILE
from glot.reproduce.plan import ALONE, Step, duration
from glot.store.example_set import split_of
from glot.store.files import make_folder, write_json
from glot.store.layout import MANIFEST_FILE
from glot.store.reader import Cache

if TYPE_CHECKING:
    from glot.fit.config import FitOptions
    from glot.fit.result import FitResult
    from glot.fit.train import Job

COMPUTE_DTYPE = "float32"  # as the published runs


@dataclass(frozen=True)
class Watch:
    """Who looks on: `say` prints a line, `tokens` shows (done, total) of an extraction, `should_stop` asks to end."""

    say: Callable[[str], None]
    tokens: Callable[[int, int], None]
    should_stop: Callable[[], bool]


def run_steps(
    steps: list[Step],
    cache: Path,
    runs: Path,
    data_dir: Path | None,
    watch: Watch,
    trust_remote_code: bool = False,
    device: str | None = None,
) -> list[tuple[str, str]]:
    """Run every step that is not done; a step that cannot run is told with its reason, and the others go on.

    `trust_remote_code` runs the code that a model's folder brings along; else it is never run. `device` is where states
    are made and runs begin, None a GPU where there is one; what is measured by itself, as the cost, has its own.

    Returns (step, reason) of those that could not run. Raises Stopped between two steps or inside one, UsageError where
    runs are there that were made with other settings than the steps have.
    """
    _check_runs(steps, runs)
    failed: dict[str, str] = {}
    caches: dict[str, Cache] = {}
    todo = [step for step in steps if not step.place(runs).exists()]
    watch.say(f"{len(steps)} runs, {len(steps) - len(todo)} done before")
    started, number = time.monotonic(), 0
    for some in _side_by_side(todo):
        step = some[0]
        group = f"{step.task} with {step.cache_name}"
        if group in failed:
            continue
        if watch.should_stop():
            raise Stopped("stopped; the same command goes on where it was")
        try:
            if step.setting == "cost":
                scores = [_run_cost(step, step.place(runs), data_dir)]
            else:
                if group not in caches:
                    caches[group] = _open_cache(step, cache, data_dir, watch, trust_remote_code, device)
                scores = _run_together(some, caches[group], runs, device, watch.should_stop)
        except Stopped:
            raise Stopped("stopped; the same command goes on where it was") from None
        except GlotError as error:
            failed[group] = str(error)
            watch.say(f"skipped {group}: {error}")
            continue
        for step, score in zip(some, scores, strict=True):
            number += 1
            left = duration((time.monotonic() - started) / number * (len(todo) - number))
            name = f"{step.task} {step.model} {step.setting} {step.method} seed {step.seed}"
            watch.say(f"[{number}/{len(todo)}, {left} left] {name}: {score}")
    return list(failed.items())


def _side_by_side(steps: list[Step]) -> list[list[Step]]:
    """The steps in groups that see the same batches: such heads train at once. A baseline is a group by itself."""
    groups: dict[tuple, list[Step]] = {}
    for step in steps:
        alone = step.method if step.setting in ALONE else ""
        groups.setdefault((step.task, step.cache_name, step.setting, step.seed, alone), []).append(step)
    return list(groups.values())


def _open_cache(
    step: Step, root: Path, data_dir: Path | None, watch: Watch, trust_remote_code: bool, device: str | None
) -> Cache:
    """The step's cache; extracted first, where it is missing, unfinished, or holds fewer examples than the data."""
    folder, corpus = root / step.task / step.cache_name, _corpus(step.task, data_dir)
    if (folder / MANIFEST_FILE).exists():
        cache = Cache(folder, allow_unfinished=True)
        held = {name: entry.examples for name, entry in cache.manifest.examples.items()}
        if cache.manifest.complete and all(held.get(name) == len(s.examples) for name, s in corpus.splits.items()):
            _check_settings(cache, step)
            return cache
    from glot.extract.run import ExtractOptions, extract_states
    from glot.extract.source import resolve_model

    def report(done: int, total: int) -> None:
        watch.tokens(done, total)
        if watch.should_stop():
            raise Stopped("stopped while extracting")

    watch.say(f"extracting {step.task} with {step.model}")
    options = ExtractOptions(
        max_tokens=_max_tokens(step.task),
        compute_dtype=COMPUTE_DTYPE,
        layers=step.layers,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    summary = extract_states(corpus, resolve_model(step.location or step.model), folder, options, report)
    watch.say(f"  {summary.distinct:,} distinct texts, {summary.tokens:,} tokens in {summary.seconds:.0f} s")
    return Cache(folder)


def _check_settings(cache: Cache, step: Step) -> None:
    """Refuse states that were not made as the published runs made theirs."""
    states = cache.manifest.states
    wanted = {"max_tokens": _max_tokens(step.task), "compute_dtype": COMPUTE_DTYPE}
    for name, value in wanted.items():
        if getattr(states, name) != value:
            raise UsageError(
                f"{cache.folder} was made with {name} {getattr(states, name)}, the published settings ask for {value}: "
                "remove it, or pass another --cache"
            )
    for layer in step.layers:
        cache.resolve_layer(layer)


def _max_tokens(task: str) -> int:
    made = parse_stress_name(task)
    return made[2].words if made else find_task(task).max_tokens


def _corpus(task: str, data_dir: Path | None) -> Corpus:
    if made := parse_stress_name(task):
        generator, ratio, haystack = made
        return load_stress(generator, ratio, haystack=haystack)
    return load_task(task, data_dir=data_dir)


def _run_together(
    steps: list[Step], cache: Cache, runs: Path, device: str | None, should_stop: Callable[[], bool]
) -> list[str]:
    """Run steps that differ in their methods alone; what each scored, in words."""
    if steps[0].setting == BASELINE:
        return [_run_baseline(step, cache, step.place(runs)) for step in steps]
    from glot.fit.result import FitResult
    from glot.fit.run_folder import RunConfig
    from glot.fit.sweep import finish_jobs
    from glot.fit.train import Job

    folders = [_prepare_run(step, cache, runs, device) for step in steps]
    # A run that was stopped goes on with the settings that it began with.
    jobs = [Job(RunConfig.load(folder), folder) for folder in folders]
    finish_jobs(jobs, folders[0].parents[1], cache, should_stop=should_stop)
    if steps[0].setting == BACKENDS:
        for job in jobs:
            _evaluate_with_both(job, cache)
    return [_in_words(FitResult.load(folder)) for folder in folders]


def _prepare_run(step: Step, cache: Cache, runs: Path, device: str | None) -> Path:
    """The step's run folder, with its config."""
    from glot.fit.run import make_configs
    from glot.fit.run_folder import CONFIG_FILE

    folder = step.place(runs).parent
    if not (folder / CONFIG_FILE).exists():
        make_configs(cache, _fit_options(step).but(device=device))[0].save(make_folder(folder))
    return folder


def _fit_options(step: Step) -> FitOptions:
    from glot.fit.config import FitOptions

    return FitOptions(**{"preset": "published", "seeds": (step.seed,), **dict(step.options)})


def _check_runs(steps: list[Step], runs: Path) -> None:
    """Refuse runs that are there, finished or not, and were begun with other settings than their steps have now."""
    there = [step for step in steps if step.setting not in ALONE and step.place(runs).with_name("config.json").exists()]
    if not there:
        return
    from glot.fit.options import setting_difference
    from glot.fit.run_folder import RunConfig

    for step in there:
        folder = step.place(runs).parent
        difference = setting_difference(RunConfig.load(folder), _fit_options(step))
        if difference is not None:
            raise UsageError(
                f"{folder} was made with other settings ({difference}): remove it to train anew, or pass other --runs"
            )


def _evaluate_with_both(job: Job, cache: Cache) -> None:
    """Leave the scores of a head by each backend beside it."""
    from glot.inference.predictions import evaluate_head

    train, sets = job.config.train, [name for name in job.config.data if split_of(name) != "train"]
    scores = {
        backend: {name: evaluate_head(job.folder, cache, name, train.device, backend) for name in sets}
        for backend in ("dense", "dgl")
    }
    write_json(job.folder / BOTH_FILE, {"version": 1, "trained": train.backend, "scores": scores})


def _in_words(result: FitResult) -> str:
    value = next(iter(result.best.values()))[result.metric]
    return f"{result.metric} {100 * value:.2f} ({len(result.epochs)} epochs, {result.own_seconds:.0f} s)"


def _run_cost(step: Step, path: Path, data_dir: Path | None) -> str:
    from glot.fit.run import check_device
    from glot.nn.config import PoolerConfig
    from glot.reproduce.cost import measure_task

    device, config = check_device(None), PoolerConfig(hidden=128)  # h as in the paper's table of costs
    record = measure_task(step.location or step.model, step.task, data_dir, 32, 6, config, device)
    write_json(make_folder(path.parent) / path.name, asdict(replace(record, model=step.model)))
    first, ours = record.costs[0], record.costs[-1]
    return f"GLOT {1e3 * ours.step:.1f} ms a step, {first.name} {1e3 * first.step:.1f} ms"


def _run_baseline(step: Step, cache: Cache, path: Path) -> str:
    from glot.reproduce import baselines

    started = time.monotonic()
    if step.method == "length":
        scores = baselines.length_baseline(cache)
    elif step.method == "bag-of-words":
        scores = baselines.bag_of_words_baseline(cache)
    else:
        scores = baselines.vector_baseline(cache, "mean" if step.method.endswith("-mean") else "cls")
    make_folder(path.parent)
    record = {"version": 1, "task": step.task, "model": step.model, "method": step.method, "scores": scores}
    record |= {"kind": cache.manifest.states.kind, "seconds": time.monotonic() - started}
    write_json(path, record)
    metric, value = next(iter(next(iter(scores.values())).items()))
    return f"{metric} {100 * value:.2f}"
