"""The plan of the main job: which runs redo the paper's evidence, what cannot run and why, and what it will take."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glot.corpus.request import parse_stress_name
from glot.corpus.stress import GENERATORS
from glot.errors import UsageError
from glot.registry.backbones import BACKBONES
from glot.registry.tasks import find_task
from glot.report.results import BASELINE
from glot.reproduce.backends import BACKENDS, BOTH_FILE
from glot.reproduce.recipe import PROFILES, VARIANTS, Block, load_recipe, recipe_names
from glot.store.layout import MANIFEST_FILE
from glot.store.reader import Cache

ALONE = (BASELINE, "cost")  # settings whose steps are no run folders, but one JSON file each
DUMB_BASELINES = ("length", "bag-of-words")
CONVERGED_EPOCHS, CONVERGED_PATIENCE = 30, 5  # of `glot stress --converged`
# What the profile quick redoes; the others redo all. The paper's asks for a GPU and the hub.
QUICK_RECIPES = ("table1", "backends", "stress")


@dataclass(frozen=True)
class Step:
    """One run of the plan: a pooler with one seed, or a baseline.

    Attributes:
        task: "cola", or "stress-<generator>-<ratio>".
        model: the backbone's name, fit for folders.
        setting: "published" (the task's own settings), "converged", ...; "yardstick" (a baseline); or "cost".
        method: one of VARIANTS or a combination of a recipe's grid; or "<logreg|ridge>-<mean|cls>", "length",
            "bag-of-words"; or "cost".
        options: fields of `FitOptions`, and their values.
        layers: of the backbone, all forwarded at once into one cache.
        location: what `--model` said, where it is no alias: a folder, a GGUF file or a hub id.
    """

    task: str
    model: str
    setting: str
    method: str
    seed: int = 0
    options: tuple[tuple[str, Any], ...] = ()
    layers: tuple[int, ...] = (-1,)
    location: str = ""

    @property
    def cache_name(self) -> str:
        """The folder of the states, below the task's."""
        return self.model if self.layers == (-1,) else f"{self.model}-layers"

    def place(self, runs: Path) -> Path:
        """The file that is there when this step is done."""
        folder = runs / f"{self.task}-{self.model}" / self.setting
        if self.setting in ALONE:
            return folder / f"{self.method}.json"
        done = BOTH_FILE if self.setting == BACKENDS else "metrics.json"
        return folder / self.method / f"seed-{self.seed}" / done


@dataclass(frozen=True)
class Agenda:
    """What will run, and what will not and why."""

    steps: list[Step]
    skipped: list[tuple[str, str]]


COSTS = {entry.name: entry.cost for entry in BACKBONES if entry.cost}
PAPER_BACKBONES = tuple(entry.name for entry in BACKBONES if entry.published)
# Distinct tokens of train and validation, in thousands, and training examples, in thousands.
TASK_SIZES = {
    "cola": (109, 8.6),
    "sst2": (900, 67.3),
    "stsb": (200, 5.7),
    "mrpc": (212, 3.7),
    "qqp": (1600, 20.0),
    "mnli": (1500, 20.0),
    "qnli": (1300, 20.0),
    "rte": (200, 2.5),
    "wnli": (25, 0.6),
    "imdb": (14_000, 25.0),
}
STRESS_TOKENS = {0.2: 100, 0.5: 190, 0.8: 300, 0.9: 320}  # thousands, of 2,500 texts


def make_agenda(profile: str, data_dir: Path | None, recipes: Sequence[str] = ()) -> Agenda:
    """The steps of a profile ("quick", "cpu" or "paper"), or of some recipes in that profile.

    GLUE's tasks need a folder, except on the paper's profile, which takes them from the hub.

    Raises UsageError for an unknown profile or recipe, or a recipe that has nothing for the profile.
    """
    if profile not in PROFILES:
        raise UsageError(f"unknown profile {profile!r}: choose {', '.join(PROFILES)}")
    steps: dict[Path, Step] = {}
    kept: list[Step] = []
    skipped: dict[str, str] = {}
    for name in recipes or (QUICK_RECIPES if profile == "quick" else recipe_names()):
        recipe = load_recipe(name)
        found = [step for block in recipe.blocks if profile in block.profiles for step in block_steps(block)]
        skipped |= dict(recipe.left_out)
        if not found and not recipe.left_out and recipes:
            raise UsageError(f"the recipe {name} has nothing for the profile {profile}: pass another --profile")
        steps |= {step.place(Path()): step for step in found}
    for step in steps.values():
        reason = None if profile == "paper" or step.task.startswith("stress") else _missing(step.task, data_dir)
        if reason is not None:
            skipped[f"{step.task} with {step.model}"] = reason
        elif step.setting == BACKENDS and (reason := missing_dgl()) is not None:
            skipped[f"{step.task} with {step.model}, DGL beside plain torch"] = reason
        else:
            kept.append(step)
    return Agenda(kept, list(skipped.items()))


@functools.cache
def missing_dgl() -> str | None:
    """Why DGL cannot be run here; None where it can. On a GPU it has no wheels, on Python 3.12 and newer neither."""
    from glot.fit.run import check_device
    from glot.nn.graph import resolve_backend

    try:
        resolve_backend("dgl", check_device(None))
    except UsageError as error:
        return str(error)
    return None


def _missing(task: str, data_dir: Path | None) -> str | None:
    """Why a task cannot be read without the hub; None where it can."""
    folder = find_task(task).folder
    if not folder:
        return "it comes from the hub: the profile paper takes it"
    if data_dir is None:
        return "GLUE_DIR is not set"
    return None if (data_dir / folder).is_dir() else f"GLUE_DIR has no {folder}"


def block_steps(block: Block, location: str = "") -> list[Step]:
    """The steps of a recipe's block; raises UsageError for an unknown task."""
    steps = []
    for model, task in itertools.product(block.models, block.tasks):
        if block.setting == "cost":
            steps.append(Step(task, model, "cost", "cost", location=location))
            continue
        steps += [
            Step(task, model, block.setting, method, seed, tuple(options.items()), block.layers, location)
            for method, options in block.trials().items()
            for seed in block.seeds
        ]
        steps += [
            Step(task, model, BASELINE, _baseline(task, name), 0, (), block.layers, location)
            for name in block.baselines
        ]
    return steps


def _baseline(task: str, name: str) -> str:
    if name in DUMB_BASELINES:
        return name
    is_score = not task.startswith("stress") and find_task(task).spec.target == "score"
    return f"{'ridge' if is_score else 'logreg'}-{name}"


def stress_steps(
    model: str,
    generators: Sequence[str],
    ratios: Sequence[float],
    methods: Sequence[str],
    seeds: Sequence[int],
    converged: bool = False,
) -> list[Step]:
    """The steps of the stress test for one backbone, the two dumb baselines among them.

    Raises UsageError for an unknown generator or method, or a ratio outside [0, 1).
    """
    for kind, wanted, known in [("generator", generators, GENERATORS), ("method", methods, tuple(VARIANTS))]:
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            raise UsageError(f"unknown {kind} {', '.join(unknown)!r}: choose from {', '.join(known)}")
    if not ratios or not all(0 <= ratio < 1 for ratio in ratios):
        raise UsageError(f"ratios must lie in [0, 1), as in 0.2,0.9; got {', '.join(map(str, ratios))}")
    name, location = _name_model(model)
    block = Block(
        profiles=(),
        models=(name,),
        tasks=tuple(f"stress-{generator}-{ratio:g}" for generator in generators for ratio in ratios),
        setting="converged" if converged else "published",
        methods=tuple(methods),
        baselines=DUMB_BASELINES,
        seeds=tuple(seeds),
        options={"epochs": CONVERGED_EPOCHS, "patience": CONVERGED_PATIENCE} if converged else {},
    )
    return block_steps(block, location)


def _name_model(model: str) -> tuple[str, str]:
    """A backbone's name for folders, and where it lies; an alias is its own name and needs no location."""
    if model in COSTS:
        return model, ""
    from glot.extract.source import resolve_model

    return resolve_model(model).name, model


def describe_agenda(agenda: Agenda, cache: Path, runs: Path) -> str:
    """The agenda for people: a line a task and backbone with what is done and about how long the rest takes."""
    lines, seconds, disk, downloads = ["task, backbone: runs (done), states, about"], 0.0, 0.0, {}
    groups: dict[tuple[str, str, str], list[Step]] = {}
    for step in agenda.steps:
        groups.setdefault((step.task, step.model, step.cache_name), []).append(step)
    for (task, model, states), steps in groups.items():
        done = sum(step.place(runs).exists() for step in steps)
        folder = cache / task / states
        cached = (folder / MANIFEST_FILE).exists() and Cache(folder, allow_unfinished=True).manifest.complete
        need = _estimate(task, model, [step for step in steps if not step.place(runs).exists()], cached)
        seconds += need
        layers = len(steps[0].layers)
        size = layers * _tokens(task) * 2 * COSTS[model].width / 1e9 if model in COSTS else 0.0
        disk += 0.0 if cached else size
        if not cached and model in PAPER_BACKBONES:
            downloads[model] = COSTS[model].download_gb
        state = "states cached" if cached else f"states {size:.2f} GB"
        gpu = f", {COSTS[model].gpu_gb:.0f} GB on a GPU" if model in PAPER_BACKBONES and not cached else ""
        lines.append(f"  {task}, {states}: {len(steps)} ({done}), {state}, {duration(need)}{gpu}")
    lines += [f"  not run: {name} ({reason})" for name, reason in agenda.skipped]
    if downloads:
        lines.append(f"downloads: {sum(downloads.values()):.1f} GB ({', '.join(downloads)})")
    lines.append(f"in all: {duration(seconds)}, {disk:.1f} GB of states")
    return "\n".join(lines)


def _tokens(task: str) -> float:
    if made := parse_stress_name(task):
        _, ratio, haystack = made
        return 1e3 * min(STRESS_TOKENS.items(), key=lambda item: abs(item[0] - ratio))[1] * haystack.words / 128
    return 1e3 * TASK_SIZES[task][0]


def _estimate(task: str, model: str, steps: list[Step], cached: bool) -> float:
    """Seconds, from rates measured on 2 CPU cores (packaged models) or guessed for a GPU (the paper's)."""
    if model not in COSTS:
        return 0.0
    tokens, facts = _tokens(task), COSTS[model]
    extraction = 0.0 if cached else tokens / facts.tokens_per_second + 10
    on_gpu = model in PAPER_BACKBONES
    fits = sum(_passes(step) * tokens * _seconds_a_token(step.method) for step in steps)
    return extraction + fits * (0.1 if on_gpu else 1) * facts.width / 384


def _passes(step: Step) -> float:
    """Epochs that a step may take; one that trains until no better takes about half of those it may."""
    if step.setting in ALONE:
        return 1
    options = dict(step.options)
    return options.get("epochs", 3) * (0.5 if options.get("patience") else 1)


def _seconds_a_token(method: str) -> float:
    """Seconds a token and epoch, at d = 384 on 2 cores."""
    return 2.2e-5 if method.startswith("glot") else 4e-6 if method.startswith("adapool") else 1e-6


def duration(seconds: float) -> str:
    """Seconds for people, in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
